"""Overlapping pooling (section 3.4); windows may be partial at the right and bottom border, as in the CIFAR-10 nets."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from alexnet.config import Pool


def max_pool(
    x: torch.Tensor,
    size_px: int = Pool.size_px,
    stride: int = Pool.stride,
    partial: bool = Pool.partial,
) -> torch.Tensor:
    """Maximum over size_px x size_px windows, stride apart. x: (N, C, H, W). partial: as `pooled_px`."""
    return F.max_pool2d(x, size_px, stride, ceil_mode=partial)


def avg_pool(
    x: torch.Tensor,
    size_px: int = Pool.size_px,
    stride: int = Pool.stride,
    partial: bool = Pool.partial,
) -> torch.Tensor:
    """Mean over the part of each window that lies inside. x: (N, C, H, W). partial: as `pooled_px`."""
    return F.avg_pool2d(x, size_px, stride, ceil_mode=partial)


def pooled_px(side_px: int, size_px: int, stride: int, partial: bool) -> int:
    """The side of the pooled map. partial: a window may start inside and end outside (32, 3/2 gives 16, not 15)."""
    span = side_px - size_px
    if not partial:
        return span // stride + 1
    count = -(-span // stride) + 1
    return count - 1 if (count - 1) * stride >= side_px else count  # a window must start inside
