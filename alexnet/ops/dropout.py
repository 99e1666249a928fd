"""Dropout as in 2012 (section 4.2): a function of (seed, step, layer), so that resuming or placing changes nothing."""

from __future__ import annotations

import hashlib
from typing import Literal

import torch

from alexnet.config import Dropout


def dropout_mask(
    shape: tuple[int, ...], rate: float, seed: int, step: int, layer: str, device: torch.device
) -> torch.Tensor:
    """True where a unit stays, drawn for the whole batch. shape: (N, units). The draw depends on nothing else."""
    key = hashlib.blake2b(f"{seed}/{step}/{layer}".encode(), digest_size=8).digest()
    generator = torch.Generator(device)
    generator.manual_seed(int.from_bytes(key, "little") >> 1)
    return torch.rand(shape, generator=generator, device=device) >= rate


def dropout(
    x: torch.Tensor,
    mask: torch.Tensor | None,
    rate: float = Dropout.rate,
    form: Literal["2012", "inverted"] = Dropout.form,
) -> torch.Tensor:
    """x where the mask stays and 0 elsewhere; without a mask, what the layer does at test.

    form "2012": no rescaling in training, x * (1 - rate) at test. "inverted": x / (1 - rate) in training, x at test.
    """
    if mask is None:
        return x * (1 - rate) if form == "2012" else x
    kept = x * mask.view_as(x)
    return kept if form == "2012" else kept / (1 - rate)
