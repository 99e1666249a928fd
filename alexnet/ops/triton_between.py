"""All that stands between two convolutions on CUDA, in one Triton kernel each way.

Bias, ReLU, local response normalization, maximum over windows, ReLU, each one optional, for
channels-last tensors and beta = 3/4. Arithmetic is float32 inside; nothing is rounded to bfloat16
between the parts. Kept for the gradient are the input and, in one byte, the position of each
maximum in its window. The bias is added here because PyTorch's convolution on CUDA would add it in
a kernel of its own, and its gradient is summed here because it would be one more pass over the
gradient. Nothing is added atomically, so the result has the same bits every time.

As in PyTorch, the first of equal values is the maximum, a NaN replaces any value and the last NaN
of a window has its position, and ReLU lets a NaN and its gradient through. `triton_band` says how
far a NaN reaches in the normalization.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from alexnet.ops import fast, plain
from alexnet.ops.plain import Pass
from alexnet.ops.triton_band import MIN_TILE, band, launch, parts_of, sum_neighbors

POSITIONS = 32
"""Pixels that a program computes."""
NO_GRADIENT = tl.constexpr(255)
"""The position of a maximum that the ReLU after it set to 0."""
MAX_N = 17
"""With a wider sum the tiles of a wide column would be halo for the most part; see `_maps`."""
MAX_TILE = 128
"""Maps that a program normalizes at most: the band of more would not fit the memory of a core."""


@triton.jit
def _maps(column_maps: tl.constexpr, tile: tl.constexpr, inner: tl.constexpr, halo: tl.constexpr):
    """Of a tile's maps: their indices, which ones exist, and which ones this program computes.

    A column of many maps is cut into parts of `inner` maps. A part's tile begins `halo` maps before
    it, so that the maps of the part see all of their neighbors.
    """
    parts: tl.constexpr = (column_maps + inner - 1) // inner
    first = tl.program_id(1) % parts * inner
    in_column = first - halo + tl.arange(0, tile)
    exists = (in_column >= 0) & (in_column < column_maps)
    computed = exists & (in_column >= first) & (in_column < first + inner)
    return tl.program_id(1) // parts * column_maps + in_column, exists, computed


@triton.jit
def _activations(x, bias, offset, valid, maps, exists, relu: tl.constexpr, has_bias: tl.constexpr):
    """Load x, add the bias, and apply ReLU; 0 where `valid` is false."""
    a = tl.load(x + offset, mask=valid, other=0.0).to(tl.float32)
    if has_bias:
        a += tl.load(bias + maps, mask=exists, other=0.0).to(tl.float32)[None, :]
        a = tl.where(valid, a, 0.0)
    return tl.where(a < 0, 0.0, a) if relu else a  # a NaN stays one


@triton.jit
def _forward(
    x, bias, y, position, rows, k, alpha,
    height: tl.constexpr, width: tl.constexpr, out_height: tl.constexpr, out_width: tl.constexpr,
    maps: tl.constexpr, column_maps: tl.constexpr, tile: tl.constexpr, inner: tl.constexpr,
    halo: tl.constexpr, positions: tl.constexpr, half: tl.constexpr, size_px: tl.constexpr,
    stride: tl.constexpr, relu: tl.constexpr, has_bias: tl.constexpr, parts: tl.constexpr,
    has_positions: tl.constexpr, relu_after: tl.constexpr,
):  # fmt: skip
    """Compute `positions` pixels of y in one tile of maps. rows: number of pixels of y."""
    row = tl.program_id(0) * positions + tl.arange(0, positions)
    map_index, exists, computed = _maps(column_maps, tile, inner, halo)
    pixel = row % (out_height * out_width)
    top, left = pixel // out_width * stride, pixel % out_width * stride
    image = (row // (out_height * out_width)).to(tl.int64)
    first = (image * height + top) * width + left
    if half >= 0:
        ones = band(tile, half)
    best = tl.full((positions, tile), -float("inf"), tl.float32)
    best_at = tl.zeros((positions, tile), tl.int32)
    # Not unrolled: the values of all pixels of a window together would not fit the registers.
    for number in tl.range(size_px * size_px, num_stages=1):
        down, right = number // size_px, number % size_px
        inside = (row < rows) & (top + down < height) & (left + right < width)
        valid = inside[:, None] & exists[None, :]
        offset = (first + down * width + right)[:, None] * maps + map_index[None, :]
        a = _activations(x, bias, offset, valid, map_index, exists, relu, has_bias)
        if half >= 0:
            # d^-3/4 = d^-1/2 sqrt(d^-1/2)
            root = tl.rsqrt(k + alpha * sum_neighbors(a * a, ones, True, parts))
            a = a * root * tl.sqrt(root)
        wins = valid & ((a > best) | (a != a))
        best = tl.where(wins, a, best)
        best_at = tl.where(wins, number, best_at)
    if relu_after:
        best_at = tl.where(best <= 0, NO_GRADIENT, best_at)
        best = tl.where(best < 0, 0.0, best)
    offset = row.to(tl.int64)[:, None] * maps + map_index[None, :]
    written = (row[:, None] < rows) & computed[None, :]
    tl.store(y + offset, best.to(y.dtype.element_ty), mask=written)
    if has_positions:
        tl.store(position + offset, best_at.to(tl.uint8), mask=written)


@triton.jit
def _gradient_of_maximum(
    dy, position, row, valid, map_index, height: tl.constexpr, width: tl.constexpr,
    out_height: tl.constexpr, out_width: tl.constexpr, maps: tl.constexpr, tile: tl.constexpr,
    positions: tl.constexpr, size_px: tl.constexpr, stride: tl.constexpr,
):  # fmt: skip
    """Add the gradients of the windows whose maximum each value is."""
    pixel = row % (height * width)
    y, x = pixel // width, pixel % width
    image = (row // (height * width)).to(tl.int64) * out_height
    g = tl.zeros((positions, tile), tl.float32)
    for up in tl.static_range((size_px - 1) // stride + 1):
        for back in tl.static_range((size_px - 1) // stride + 1):
            top, left = y // stride - up, x // stride - back
            down, right = y - top * stride, x - left * stride
            inside = (down < size_px) & (right < size_px) & (top >= 0) & (left >= 0)
            inside &= (top < out_height) & (left < out_width)
            offset = ((image + top) * out_width + left)[:, None] * maps + map_index[None, :]
            held = valid & inside[:, None]
            best_at = tl.load(position + offset, mask=held, other=NO_GRADIENT).to(tl.int32)
            from_window = tl.load(dy + offset, mask=held, other=0.0).to(tl.float32)
            g += tl.where(best_at == (down * size_px + right)[:, None], from_window, 0.0)
    return g


@triton.jit
def _backward(
    x, bias, dy, position, dx, dbias, rows, k, alpha,
    height: tl.constexpr, width: tl.constexpr, out_height: tl.constexpr, out_width: tl.constexpr,
    maps: tl.constexpr, column_maps: tl.constexpr, tile: tl.constexpr, inner: tl.constexpr,
    halo: tl.constexpr, positions: tl.constexpr, half: tl.constexpr, size_px: tl.constexpr,
    stride: tl.constexpr, relu: tl.constexpr, has_bias: tl.constexpr, parts: tl.constexpr,
    has_positions: tl.constexpr,
):  # fmt: skip
    """Compute `positions` pixels of dx, and in dbias, (programs, maps), their sum."""
    row = tl.program_id(0) * positions + tl.arange(0, positions)
    map_index, exists, computed = _maps(column_maps, tile, inner, halo)
    valid = (row[:, None] < rows) & exists[None, :]
    offset = row.to(tl.int64)[:, None] * maps + map_index[None, :]
    if has_positions:
        g = _gradient_of_maximum(
            dy, position, row, valid, map_index, height, width, out_height, out_width, maps, tile,
            positions, size_px, stride,
        )  # fmt: skip
    else:
        g = tl.load(dy + offset, mask=valid, other=0.0).to(tl.float32)
    if relu or half >= 0:
        a = _activations(x, bias, offset, valid, map_index, exists, relu, has_bias)
        if half >= 0:
            ones = band(tile, half)
            root = tl.rsqrt(k + alpha * sum_neighbors(a * a, ones, True, parts))
            g = g * root * tl.sqrt(root)
            # 0 where there is no map: with k = 0 it would be a NaN there.
            indirect = tl.where(valid, g * a * root * root, 0.0)
            # 2 alpha beta = 1.5 alpha
            g -= 1.5 * alpha * a * sum_neighbors(indirect, ones, True, parts)
        if relu:
            g = tl.where(a <= 0, 0.0, g)  # a NaN lets the gradient through, as in PyTorch
    written = valid & computed[None, :]
    tl.store(dx + offset, g.to(dx.dtype.element_ty), mask=written)
    if has_bias:
        sums = tl.sum(tl.where(written, g, 0.0), 0)
        tl.store(dbias + tl.program_id(0).to(tl.int64) * maps + map_index, sums, mask=computed)


class _Tiles(NamedTuple):
    """How pixels and maps are dealt to programs; see `_maps`."""

    column_maps: int
    tile: int
    inner: int
    halo: int
    num_warps: int

    def grid(self, rows: int, maps: int) -> tuple[int, int]:
        """Number of programs for `rows` pixels and for all maps."""
        parts = triton.cdiv(self.column_maps, self.inner)
        return triton.cdiv(rows, POSITIONS), maps // self.column_maps * parts


def _tiles(maps: int, columns: int, half: int) -> _Tiles:
    """Choose tiles whose values fit the registers of a program (`test_triton.py` measures it)."""
    if half < 0:
        # Without LRN no map has neighbors. The tile leaves as few of its lanes empty as possible.
        tile = min((64, 32, MIN_TILE), key=lambda tile: triton.cdiv(maps, tile) * tile)
        return _Tiles(maps, tile, tile, 0, num_warps=4)
    column_maps = maps // columns
    tile = max(MIN_TILE, triton.next_power_of_2(column_maps))
    # A thread has 16 values or fewer. With 32, those of 128 maps are spilled, and those of 64 leave
    # the registers of a core to two programs.
    num_warps = 4 if tile < MAX_TILE else 8
    if tile <= MAX_TILE:
        return _Tiles(column_maps, tile, column_maps, 0, num_warps)
    # The gradient needs the sums of a map's neighbors, and so sees maps twice as far. A multiple of
    # eight maps keeps accesses to memory aligned.
    halo = triton.cdiv(2 * half, 8) * 8
    return _Tiles(column_maps, MAX_TILE, MAX_TILE - 2 * halo, halo, num_warps)


def _launch(
    kernel: Any,
    rows: int,
    tensors: tuple[torch.Tensor | None, ...],
    between: Pass,
    tiles: _Tiles,
    **rest: Any,
) -> None:
    """Run a kernel over `rows` pixels; the first two tensors are x and its bias."""
    x, bias = tensors[:2]
    assert x is not None
    maps, height, width = x.shape[1:]
    norm, window = between.norm, between.window
    launch(
        kernel,
        tiles.grid(rows, maps),
        *tensors,
        rows,
        norm.k if norm else 1.0,
        norm.alpha if norm else 0.0,
        height=height,
        width=width,
        out_height=between.pooled_px(height),
        out_width=between.pooled_px(width),
        maps=maps,
        column_maps=tiles.column_maps,
        tile=tiles.tile,
        inner=tiles.inner,
        halo=tiles.halo,
        positions=POSITIONS,
        half=between.half,
        # No window is one of one pixel, whose position is not kept.
        size_px=window.size_px if window else 1,
        stride=window.stride if window else 1,
        has_positions=window is not None,
        relu=between.relu,
        has_bias=bias is not None,
        parts=parts_of(x.dtype),
        num_warps=tiles.num_warps,
        **rest,
    )


class _Between(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, bias: torch.Tensor | None, between: Pass
    ) -> torch.Tensor:
        images, maps, *sides = x.shape
        height, width = (between.pooled_px(side) for side in sides)
        y = x.new_empty((images, height, width, maps)).permute(0, 3, 1, 2)
        position = torch.empty_like(y, dtype=torch.uint8) if between.window else None
        tiles = _tiles(maps, between.columns, between.half)
        _launch(
            _forward,
            images * height * width,
            (x, bias, y, position),
            between,
            tiles,
            relu_after=between.relu_after,
        )
        # The result is not kept: the backward pass computes it again from x.
        ctx.save_for_backward(x, bias, position)
        ctx.between = between
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x, bias, position), between = ctx.saved_tensors, ctx.between
        if fast.gradient_observed(gradients[0]):
            formula, needed = partial(plain.norm_pool, between=between), ctx.needs_input_grad[:2]
            return *fast.plain_gradients(formula, (x, bias), needed, gradients[0]), None
        x, dy = map(fast.channels_last, (x, gradients[0]))
        position = None if position is None else fast.channels_last(position)
        maps, rows = x.shape[1], x.numel() // x.shape[1]
        tiles = _tiles(maps, between.columns, between.half)
        dx, dbias = torch.empty_like(x), None
        if bias is not None:
            programs = tiles.grid(rows, maps)[0]
            dbias = x.new_empty((programs, maps), dtype=torch.float32)
        _launch(_backward, rows, (x, bias, dy, position, dx, dbias), between, tiles)
        if bias is None or dbias is None:
            return dx, None, None
        return dx, dbias.sum(0).to(bias.dtype), None


def takes(between: Pass) -> bool:
    """Whether the kernels have this pass: beta, sizes, and no second ReLU without a window."""
    norm, window = between.norm, between.window
    fits_norm = norm is None or (norm.beta == plain.FAST_BETA and norm.n <= MAX_N)
    return fits_norm and (
        window.size_px <= plain.MAX_WINDOW_PX if window else not between.relu_after
    )


def norm_pool(x: torch.Tensor, bias: torch.Tensor | None, between: Pass) -> torch.Tensor:
    """Bias, activation, normalization, maximum, activation; see `normalise.norm_pool`.

    Args:
        x: (N, C, H, W), channels last, float32 or bfloat16.
        bias: (C,), or None.
    """
    y: torch.Tensor = _Between.apply(x, bias, between)
    return y
