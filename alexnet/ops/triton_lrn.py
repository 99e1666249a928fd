"""Unit and local response normalisation on CUDA, `alexnet::lrn_triton`: one pass over memory forward, one backward.

For channels-last tensors and beta = 3/4. A program takes some positions and one column's maps. Neighbouring maps are
loaded again at a shift, from the nearest cache; arithmetic is float32 inside. Nothing but x is kept for the gradient.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.library import custom_op

VALUES = 2048  # a program's maps times positions


@triton.jit
def _shifted(x, place, maps, shift: tl.constexpr, inside, own: tl.constexpr, relu: tl.constexpr):
    """Values of the maps `shift` further in the same column, 0 outside of it."""
    there = inside & (maps + shift >= 0) & (maps + shift < own)
    a = tl.load(x + place + shift, mask=there, other=0.0).to(tl.float32)
    return tl.where(a < 0, 0.0, a) if relu else a  # a NaN stays one


@triton.jit
def _place(
    rows, own: tl.constexpr, width: tl.constexpr, positions: tl.constexpr, columns: tl.constexpr
):
    """Where this program's values stand, the number of each in its column, and which of them there are."""
    row = tl.program_id(0) * positions + tl.arange(0, positions)
    maps = tl.arange(0, width)[None, :]
    place = row[:, None].to(tl.int64) * (own * columns) + tl.program_id(1) * own + maps
    return place, maps, (row[:, None] < rows) & (maps < own)


@triton.jit
def _forward(
    x, y, rows, k, alpha,
    own: tl.constexpr, columns: tl.constexpr, half: tl.constexpr, relu: tl.constexpr,
    width: tl.constexpr, positions: tl.constexpr,
):  # fmt: skip
    place, maps, inside = _place(rows, own, width, positions, columns)
    squares = tl.zeros((positions, width), tl.float32)
    for shift in tl.static_range(-half, half + 1):
        a = _shifted(x, place, maps, shift, inside, own, relu)
        squares += a * a
    root = tl.rsqrt(k + alpha * squares)  # d^-3/4 = d^-1/2 sqrt(d^-1/2)
    a = _shifted(x, place, maps, 0, inside, own, relu)
    tl.store(y + place, (a * root * tl.sqrt(root)).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    x, dy, dx, rows, k, alpha,
    own: tl.constexpr, columns: tl.constexpr, half: tl.constexpr, relu: tl.constexpr,
    width: tl.constexpr, positions: tl.constexpr,
):  # fmt: skip
    place, maps, inside = _place(rows, own, width, positions, columns)
    through = tl.zeros((positions, width), tl.float32)
    direct = tl.zeros((positions, width), tl.float32)
    for shift in tl.static_range(-half, half + 1):
        squares = tl.zeros((positions, width), tl.float32)
        for further in tl.static_range(-half, half + 1):
            a = _shifted(x, place, maps, shift + further, inside, own, relu)
            squares += a * a
        root = tl.rsqrt(k + alpha * squares)
        g = _shifted(dy, place, maps, shift, inside, own, False) * root * tl.sqrt(root)
        through += g * _shifted(x, place, maps, shift, inside, own, relu) * root * root
        if shift == 0:
            direct = g
    a = _shifted(x, place, maps, 0, inside, own, relu)
    d = direct - 1.5 * alpha * a * through
    if relu:
        d = tl.where(a > 0, d, 0.0)
    tl.store(dx + place, d.to(dx.dtype.element_ty), mask=inside)


def _launch(
    kernel: Any, x: torch.Tensor, others: tuple[torch.Tensor, ...], constants: tuple[Any, ...]
) -> None:
    relu, columns, half, k, alpha = constants
    rows, own = x.numel() // x.shape[1], x.shape[1] // columns
    width = triton.next_power_of_2(own)
    positions = max(1, VALUES // width)
    grid = triton.cdiv(rows, positions), columns
    kernel[grid](x, *others, rows, k, alpha, own, columns, half, relu, width, positions)


@custom_op("alexnet::lrn_triton", mutates_args=())
def lrn_triton(
    x: torch.Tensor, relu: bool, columns: int, half: int, k: float, alpha: float
) -> torch.Tensor:
    """x: (N, C, H, W) channels last, float32 or bfloat16; half: maps on either side."""
    y = torch.empty_like(x)
    _launch(_forward, x, (y,), (relu, columns, half, k, alpha))
    return y


@custom_op("alexnet::lrn_triton_backward", mutates_args=())
def lrn_triton_backward(
    x: torch.Tensor, dy: torch.Tensor, relu: bool, columns: int, half: int, k: float, alpha: float
) -> torch.Tensor:
    dx = torch.empty_like(x)
    _launch(
        _backward,
        x,
        (dy.contiguous(memory_format=torch.channels_last), dx),
        (relu, columns, half, k, alpha),
    )
    return dx


def _like_first(x: torch.Tensor, *others: Any) -> torch.Tensor:
    return torch.empty_like(x)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.constants = inputs[1:]


def _gradient(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    return lrn_triton_backward(ctx.saved_tensors[0], dy, *ctx.constants), *(None,) * 5


lrn_triton.register_fake(_like_first)
lrn_triton_backward.register_fake(_like_first)
lrn_triton.register_autograd(_gradient, setup_context=_keep)
