"""Dropout as in 2012 (section 4.2)."""

from __future__ import annotations

from importlib import util
from typing import Literal

import torch

from alexnet.config import Dropout
from alexnet.ops import fast
from alexnet.ops.dropout_mask import Mask


def dropout(
    x: torch.Tensor,
    mask: Mask | torch.Tensor | None,
    rate: float = Dropout.rate,
    form: Literal["2012", "inverted"] = Dropout.form,
) -> torch.Tensor:
    """Apply a mask, or without one do what the layer does at test time.

    Form "2012": no rescaling in training, x * (1 - rate) at test time. Form "inverted":
    x / (1 - rate) in training, x at test time.

    Args:
        mask: True where a unit is kept, in the shape of x; a `Mask` is drawn.
    """
    if mask is None:
        return x * (1 - rate) if form == "2012" else x
    kept = x * mask.view_as(x) if isinstance(mask, torch.Tensor) else _masked(x, mask)
    return kept if form == "2012" else kept / (1 - rate)


def _masked(x: torch.Tensor, mask: Mask) -> torch.Tensor:
    """x where the mask keeps a unit, and 0 elsewhere."""
    if _triton_takes(x):
        # Triton exists only beside PyTorch's builds for CUDA, and takes a second to import.
        from alexnet.ops.triton_dropout import masked

        return masked(x, mask)
    return x * mask.draw(tuple(x.shape), x.device)


def _triton_takes(x: torch.Tensor) -> bool:
    """Whether the Triton kernel can take x."""
    return (
        x.is_cuda and x.numel() > 0 and fast.unobserved(x) and util.find_spec("triton") is not None
    )
