"""The normalizations written as their formulas in PyTorch operations.

These are what transforms and tracers see, and what gives second derivatives. They keep every
intermediate value, so the paths of `normalise` are several times faster; the two are tested
against each other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from alexnet.architecture import pooled_px
from alexnet.config import Lrn, Pool, SpatialNorm

FAST_BETA = 0.75
"""The exponent that the fast paths have: that of section 3.3. They take d^-3/4 by square roots, and
have no other power."""
MAX_WINDOW_PX = 15
"""The largest window of the fast paths: they keep the position of a maximum in one byte, of which
255 is no position."""


class Pass(NamedTuple):
    """What stands between two convolutions beside the bias, each part optional, in this order.

    Attributes:
        relu: Whether ReLU comes first.
        columns: Number of groups of maps that the normalization does not cross.
    """

    relu: bool = False
    norm: Lrn | None = None
    window: Pool | None = None
    relu_after: bool = False
    columns: int = 1

    @property
    def half(self) -> int:
        """Number of maps on either side that the normalization sums over; -1 without one."""
        return self.norm.n // 2 if self.norm else -1

    def pooled_px(self, side: int) -> int:
        """Side of the result, in pixels."""
        if self.window is None:
            return side
        return pooled_px(side, self.window.size_px, self.window.stride, self.window.partial)


def lrn(x: torch.Tensor, norm: Lrn, columns: int = 1) -> torch.Tensor:
    """Local response normalization; see `normalise.lrn`."""
    a, half = _at_least_float32(x), norm.n // 2
    # (N, columns, maps, H, W)
    squares = torch.unflatten(a * a, 1, (columns, -1))
    maps = squares.shape[2]
    # Maps of zeros on either side of each column: the sum is cut at the first and the last map.
    squares = F.pad(squares, (0, 0, 0, 0, half, half))
    total = squares[:, :, :maps]
    for shift in range(1, 2 * half + 1):
        total = total + squares[:, :, shift : shift + maps]
    return (a * (norm.k + norm.alpha * total.flatten(1, 2)) ** -norm.beta).to(x.dtype)


def spatial_norm(x: torch.Tensor, norm: SpatialNorm) -> torch.Tensor:
    """The original code's normalization over a square; see `normalise.spatial_norm`."""
    a = _at_least_float32(x)
    sums = sum_over_square(a * a, norm.size_px)
    return (a * (norm.k + norm.alpha * sums) ** -norm.beta).to(x.dtype)


def sum_over_square(x: torch.Tensor, size_px: int) -> torch.Tensor:
    """Sum over the square around each position, cut at the border. x: (N, C, H, W)."""
    half = size_px // 2
    # Rows, then columns: 2 size_px additions in place of size_px squared.
    rows = F.avg_pool2d(x, (size_px, 1), 1, (half, 0), divisor_override=1)
    return F.avg_pool2d(rows, (1, size_px), 1, (0, half), divisor_override=1)


def norm_pool(x: torch.Tensor, bias: torch.Tensor | None, between: Pass) -> torch.Tensor:
    """Bias, activation, normalization, maximum, activation; see `normalise.norm_pool`."""
    x = x if bias is None else add_bias(x, bias)
    x = F.relu(x) if between.relu else x
    x = lrn(x, between.norm, between.columns) if between.norm else x
    x = max_pool(x, between.window) if between.window else x
    return F.relu(x) if between.relu_after else x


def add_bias(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Add the bias of each map, (C,), in the dtype of x: (N, C, H, W)."""
    return x + bias.to(x.dtype)[:, None, None]


def max_pool(x: torch.Tensor, window: Pool) -> torch.Tensor:
    """Take the maximum over overlapping windows (section 3.4). x: (N, C, H, W)."""
    return F.max_pool2d(x, window.size_px, window.stride, ceil_mode=window.partial)


def _at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """Squares of bfloat16 values are added in float32; float64 stays float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
