"""A file of weights as all formats have it: its arrays, and the operations of its network."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from alexnet.files import parse_json

Array = NDArray[np.float32]
Arrays = dict[str, Array]

KINDS = frozenset(
    [
        *("linear", "activation", "lrn", "spatial_norm", "max_pool", "avg_pool", "dropout"),
        *("softmax", "add", "sub", "mul", "div"),
    ]
)
"""Operations that are understood."""


@dataclass(frozen=True)
class Operation:
    """One operation of a network in a file.

    Attributes:
        kind: A name of `KINDS`, or, of what is not understood, what the file calls it.
        name: The file's own name of it.
        settings: Its numbers, by the names `group`, `stride`, `pad`, `pad_after`, `size`,
            `ceil_mode`, `columns` (in which an LRN sums), `n`, `k`, `beta` and `alpha` (a factor
            of the mean, as Caffe and ONNX have it; of a spatial norm, of the sum); those that the
            file gives.
        weight: Name of its weights among the arrays; empty if it has none.
        bias: Name of its biases; empty if it has none.
        is_convolution: Of a linear operation, whether it is a convolution.
        transposed: The weights are (inputs, outputs).
        constant: Name of the array that is added, subtracted, multiplied or divided by.
    """

    kind: str
    name: str = ""
    settings: dict[str, float] = field(default_factory=dict)
    weight: str = ""
    bias: str = ""
    is_convolution: bool = False
    transposed: bool = False
    constant: str = ""


@dataclass(frozen=True)
class WeightFile:
    """The content of a file of weights.

    Attributes:
        path: The file.
        form: The format in words.
        arrays: By name, in the order of the file.
        operations: What the network does, in order; empty where the file has weights alone.
        metadata: Text by name, of formats that have it.
        input_px: Side of the input; None where the file does not say.
        mean: Mean of each channel, or of all, that the file subtracts, in the order of the input;
            empty if it has none. An ONNX file has it among its operations.
        scale: What the file multiplies an image by after that.
    """

    path: Path
    form: str
    arrays: Arrays
    operations: tuple[Operation, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    input_px: int | None = None
    mean: tuple[float, ...] = ()
    scale: float = 1.0

    def stated(self, part: str, key: str) -> int | None:
        """A number of pixels in the metadata `input` of our own ONNX files; None without it.

        Args:
            part, key: As `export.description` names them.
        """
        try:
            said = parse_json(self.metadata.get("input", "").encode())[part][key]
        # No metadata of ours.
        except (ValueError, TypeError, KeyError):
            return None
        return said if type(said) is int and said > 0 else None
