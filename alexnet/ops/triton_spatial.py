"""The original code's spatial normalization on CUDA in Triton, forward and gradient.

For channels-last tensors and beta = 3/4; the formula is in `normalise.py`. A program computes a row
of an image in some of its maps: it adds the rows of the square, pixel by pixel, and then sums over
neighboring pixels of the row by a product (`triton_band`). Arithmetic is float32 inside.

The gradient takes two kernels, because the sum over the square of what the first one computes needs
rows above and below. What lies between is kept in the dtype of x.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
from __future__ import annotations

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl

from alexnet.config import SpatialNorm
from alexnet.ops import fast, plain
from alexnet.ops.triton_band import MIN_TILE, band, launch, parts_of, sum_neighbors

MAX_PX = 15
"""Largest square. The tiles of wide rows would be halo for the most part with a larger one."""
MAX_TILE = 64
"""Pixels of a row, and maps, that a program loads at most."""


@triton.jit
def _place(
    height: tl.constexpr, width: tl.constexpr, maps: tl.constexpr, tile: tl.constexpr,
    inner: tl.constexpr, half: tl.constexpr, map_tile: tl.constexpr,
):  # fmt: skip
    """Where a program's row begins, its number in the image, offsets in it, and two masks.

    The masks say which pixels and maps exist, and which ones this program computes. A row of many
    pixels is cut into parts, whose tiles begin `half` pixels before them.
    """
    parts: tl.constexpr = (width + inner - 1) // inner
    row = tl.program_id(0) // parts
    first = tl.program_id(0) % parts * inner
    pixel = first - half + tl.arange(0, tile)
    map_index = tl.program_id(1) * map_tile + tl.arange(0, map_tile)
    exists = ((pixel >= 0) & (pixel < width))[:, None] & (map_index < maps)[None, :]
    computed = exists & ((pixel >= first) & (pixel < first + inner))[:, None]
    offset = pixel[:, None] * maps + map_index[None, :]
    # A vector of equal entries: the interpreter cannot combine a mask with a condition on a scalar.
    y_px = row % height + tl.zeros((tile,), tl.int32)
    return row.to(tl.int64) * (width * maps), y_px, offset, exists, computed


@triton.jit
def _sum_over_square(
    values, start, y_px, offset, exists, height: tl.constexpr, line: tl.constexpr,
    tile: tl.constexpr, map_tile: tl.constexpr, half: tl.constexpr, squared: tl.constexpr,
    parts: tl.constexpr,
):  # fmt: skip
    """Sum over a square around each pixel, squared if asked. line: values of a row in memory."""
    sums = tl.zeros((tile, map_tile), tl.float32)
    for down in tl.static_range(-half, half + 1):
        valid = exists & ((y_px + down >= 0) & (y_px + down < height))[:, None]
        v = tl.load(values + start + down * line + offset, mask=valid, other=0.0).to(tl.float32)
        sums += v * v if squared else v
    return sum_neighbors(sums, band(tile, half), False, parts)


@triton.jit
def _forward(
    x, y, k, alpha, height: tl.constexpr, width: tl.constexpr, maps: tl.constexpr,
    tile: tl.constexpr, inner: tl.constexpr, map_tile: tl.constexpr, half: tl.constexpr,
    parts: tl.constexpr,
):  # fmt: skip
    start, y_px, offset, exists, computed = _place(height, width, maps, tile, inner, half, map_tile)
    sums = _sum_over_square(
        x, start, y_px, offset, exists, height, width * maps, tile, map_tile, half, True, parts
    )
    root = tl.rsqrt(k + alpha * sums)  # d^-3/4 = d^-1/2 sqrt(d^-1/2)
    a = tl.load(x + start + offset, mask=computed, other=0.0).to(tl.float32)
    tl.store(y + start + offset, (a * root * tl.sqrt(root)).to(y.dtype.element_ty), mask=computed)


@triton.jit
def _backward(
    x, dy, indirect, dx, k, alpha, height: tl.constexpr, width: tl.constexpr, maps: tl.constexpr,
    tile: tl.constexpr, inner: tl.constexpr, map_tile: tl.constexpr, half: tl.constexpr,
    parts: tl.constexpr, last: tl.constexpr,
):  # fmt: skip
    """Compute `indirect`, dy a d^(-beta - 1), or in the last kernel dx from it."""
    start, y_px, offset, exists, computed = _place(height, width, maps, tile, inner, half, map_tile)
    squares = _sum_over_square(
        x, start, y_px, offset, exists, height, width * maps, tile, map_tile, half, True, parts
    )
    root = tl.rsqrt(k + alpha * squares)
    a = tl.load(x + start + offset, mask=computed, other=0.0).to(tl.float32)
    g = tl.load(dy + start + offset, mask=computed, other=0.0).to(tl.float32)
    g = g * root * tl.sqrt(root)
    if last:
        through = _sum_over_square(
            indirect, start, y_px, offset, exists, height, width * maps, tile, map_tile, half,
            False, parts,
        )  # fmt: skip
        g -= 1.5 * alpha * a * through  # 2 alpha beta = 1.5 alpha
        tl.store(dx + start + offset, g.to(dx.dtype.element_ty), mask=computed)
    else:
        g = g * a * root * root
        tl.store(indirect + start + offset, g.to(indirect.dtype.element_ty), mask=computed)


def _launch(kernel: Any, tensors: tuple[torch.Tensor, ...], norm: SpatialNorm, **rest: Any) -> None:
    """Run a kernel over all rows and maps of the first tensor, (N, C, H, W)."""
    images, maps, height, width = tensors[0].shape
    half = norm.size_px // 2
    tile = max(MIN_TILE, triton.next_power_of_2(width + half))
    inner = width
    if tile > MAX_TILE:
        tile, inner = MAX_TILE, MAX_TILE - 2 * half
    map_tile = min(MAX_TILE, max(MIN_TILE, triton.next_power_of_2(maps)))
    launch(
        kernel,
        (images * height * triton.cdiv(width, inner), triton.cdiv(maps, map_tile)),
        *tensors,
        norm.k,
        norm.alpha,
        height=height,
        width=width,
        maps=maps,
        tile=tile,
        inner=inner,
        map_tile=map_tile,
        half=half,
        parts=parts_of(tensors[0].dtype),
        num_warps=8,
        **rest,
    )


class _Spatial(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, norm: SpatialNorm) -> torch.Tensor:
        y = torch.empty_like(x)
        _launch(_forward, (x, y), norm)
        ctx.save_for_backward(x)
        ctx.norm = norm
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x,), norm = ctx.saved_tensors, ctx.norm
        if fast.gradient_observed(gradients[0]):
            formula = partial(plain.spatial_norm, norm=norm)
            return *fast.plain_gradients(formula, (x,), (True,), gradients[0]), None
        x, dy = map(fast.channels_last, (x, gradients[0]))
        indirect, dx = torch.empty_like(x), torch.empty_like(x)
        for last in (False, True):
            _launch(_backward, (x, dy, indirect, dx), norm, last=last)
        return dx, None


def takes(norm: SpatialNorm) -> bool:
    """Whether the kernels have this normalization."""
    return norm.beta == plain.FAST_BETA and norm.size_px <= MAX_PX


def spatial_norm(x: torch.Tensor, norm: SpatialNorm) -> torch.Tensor:
    """Normalize over a square inside each map; x: (N, C, H, W), channels last."""
    y: torch.Tensor = _Spatial.apply(x, norm)
    return y
