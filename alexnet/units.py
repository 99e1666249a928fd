"""Units of a layer: the strongest patches of a store, and the image that maximises a unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from alexnet.architecture import Op
from alexnet.config import FullyConnected
from alexnet.data.augment import Preprocess
from alexnet.data.image import Rgb
from alexnet.data.loader import batches
from alexnet.data.store import Split
from alexnet.errors import RunError
from alexnet.inference import activation
from alexnet.model import Network, evaluation_mode
from alexnet.progress import Progress
from alexnet.receptive_field import Box, field, operations_until, seen
from alexnet.trained import Trained

BATCH = 64  # images
PATCHES, UNITS = 9, 10
"""Patches of a unit, as in Zeiler and Fergus, and units, where the user names none."""
