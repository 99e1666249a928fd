"""Dropout as in 2012 (section 4.2).

A mask is a function of (seed, step, layer), so a resumed run draws the same masks.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import torch

from alexnet.config import Dropout


def dropout_mask(
    shape: tuple[int, ...], rate: float, seed: int, step: int, layer: str, device: torch.device
) -> torch.Tensor:
    """Draw the mask of a layer for a full batch: True where a unit is kept.

    The mask depends only on the arguments, never on earlier random calls.

    Args:
        shape: (N, units).
        rate: Probability that a unit is dropped.
    """
    # A hash, because neighboring seeds of a generator can give correlated numbers.
    key = hashlib.blake2b(f"{seed}/{step}/{layer}".encode(), digest_size=8).digest()
    generator = torch.Generator(device)
    # Shifted by a bit, so that the seed stays below 2**63.
    generator.manual_seed(int.from_bytes(key, "little") >> 1)
    return torch.rand(shape, generator=generator, device=device) >= rate


def dropout(
    x: torch.Tensor,
    mask: torch.Tensor | None,
    rate: float = Dropout.rate,
    form: Literal["2012", "inverted"] = Dropout.form,
) -> torch.Tensor:
    """Apply a mask, or without one do what the layer does at test time.

    Form "2012": no rescaling in training, x * (1 - rate) at test time. Form "inverted":
    x / (1 - rate) in training, x at test time.
    """
    if mask is None:
        return x * (1 - rate) if form == "2012" else x
    kept = x * mask.view_as(x)
    return kept if form == "2012" else kept / (1 - rate)
