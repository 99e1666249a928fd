"""ReLU and local response normalization on CUDA in Triton, `alexnet::lrn_triton`.

One pass over memory forward, and one backward, for channels-last tensors and beta = 3/4. A program
takes some positions and the maps of one column. Neighboring maps are loaded again at a shift, from
the nearest cache. Arithmetic is float32 inside; nothing but x is kept for the gradient.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.library import custom_op

from alexnet.config import Lrn
from alexnet.ops import fast, plain

VALUES = 2048
"""Maps times positions of one program."""


@triton.jit
def _shifted(
    x, offset, maps, shift: tl.constexpr, inside, column_maps: tl.constexpr, relu: tl.constexpr
):
    """Load the maps `shift` further in the same column; 0 outside of it."""
    valid = inside & (maps + shift >= 0) & (maps + shift < column_maps)
    a = tl.load(x + offset + shift, mask=valid, other=0.0).to(tl.float32)
    return tl.where(a < 0, 0.0, a) if relu else a  # a NaN stays one


@triton.jit
def _offsets(
    rows,
    column_maps: tl.constexpr,
    width: tl.constexpr,
    positions: tl.constexpr,
    columns: tl.constexpr,
):
    """Offsets of this program's values in memory, their maps in the column, and which exist."""
    row = tl.program_id(0) * positions + tl.arange(0, positions)
    maps = tl.arange(0, width)[None, :]
    offset = (
        row[:, None].to(tl.int64) * (column_maps * columns) + tl.program_id(1) * column_maps + maps
    )
    return offset, maps, (row[:, None] < rows) & (maps < column_maps)


@triton.jit
def _forward(
    x, y, rows, k, alpha,
    column_maps: tl.constexpr, columns: tl.constexpr, half: tl.constexpr, relu: tl.constexpr,
    width: tl.constexpr, positions: tl.constexpr,
):  # fmt: skip
    offset, maps, inside = _offsets(rows, column_maps, width, positions, columns)
    squares = tl.zeros((positions, width), tl.float32)
    for shift in tl.static_range(-half, half + 1):
        a = _shifted(x, offset, maps, shift, inside, column_maps, relu)
        squares += a * a
    root = tl.rsqrt(k + alpha * squares)  # d^-3/4 = d^-1/2 sqrt(d^-1/2)
    a = _shifted(x, offset, maps, 0, inside, column_maps, relu)
    tl.store(y + offset, (a * root * tl.sqrt(root)).to(y.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    x, dy, dx, rows, k, alpha,
    column_maps: tl.constexpr, columns: tl.constexpr, half: tl.constexpr, relu: tl.constexpr,
    width: tl.constexpr, positions: tl.constexpr,
):  # fmt: skip
    offset, maps, inside = _offsets(rows, column_maps, width, positions, columns)
    through = tl.zeros((positions, width), tl.float32)
    direct = tl.zeros((positions, width), tl.float32)
    for shift in tl.static_range(-half, half + 1):
        squares = tl.zeros((positions, width), tl.float32)
        for further in tl.static_range(-half, half + 1):
            a = _shifted(x, offset, maps, shift + further, inside, column_maps, relu)
            squares += a * a
        root = tl.rsqrt(k + alpha * squares)
        g = _shifted(dy, offset, maps, shift, inside, column_maps, False) * root * tl.sqrt(root)
        through += g * _shifted(x, offset, maps, shift, inside, column_maps, relu) * root * root
        if shift == 0:
            direct = g
    a = _shifted(x, offset, maps, 0, inside, column_maps, relu)
    # 2 alpha beta = 1.5 alpha
    d = direct - 1.5 * alpha * a * through
    if relu:
        d = tl.where(a > 0, d, 0.0)
    tl.store(dx + offset, d.to(dx.dtype.element_ty), mask=inside)


def _launch(
    kernel: Any, x: torch.Tensor, others: tuple[torch.Tensor, ...], constants: tuple[Any, ...]
) -> None:
    relu, columns, half, k, alpha = constants
    """Run a kernel over all positions and columns of x."""
    rows, column_maps = x.numel() // x.shape[1], x.shape[1] // columns
    # Triton's ranges have lengths that are powers of two; the maps beyond the column are masked.
    width = triton.next_power_of_2(column_maps)
    positions = max(1, VALUES // width)
    grid = triton.cdiv(rows, positions), columns
    kernel[grid](x, *others, rows, k, alpha, column_maps, columns, half, relu, width, positions)


@custom_op("alexnet::lrn_triton", mutates_args=())
def lrn_triton(
    x: torch.Tensor, relu: bool, columns: int, half: int, k: float, alpha: float
) -> torch.Tensor:
    """Compute ReLU (optional) and LRN.

    Args:
        x: (N, C, H, W), channels last, float32 or bfloat16.
        half: Number of maps on either side that the sum covers.
    """
    y = torch.empty_like(x)
    _launch(_forward, x, (y,), (relu, columns, half, k, alpha))
    return y


@custom_op("alexnet::lrn_triton_backward", mutates_args=())
def lrn_triton_backward(
    x: torch.Tensor, dy: torch.Tensor, relu: bool, columns: int, half: int, k: float, alpha: float
) -> torch.Tensor:
    """The gradient of `lrn_triton` with respect to x."""
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


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.settings = inputs[1:]


def _gradient(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    (x,), (relu, columns, half, k, alpha) = ctx.saved_tensors, ctx.settings
    # Gradients are recorded here only for `create_graph=True`; see `fast.plain_gradients`.
    if torch.is_grad_enabled():
        norm = Lrn(2 * half + 1, k, alpha)

        def formula(x: torch.Tensor) -> torch.Tensor:
            return plain.norm_pool(x, relu, norm, None, False, columns)

        return *fast.plain_gradients(formula, (x,), (True,), dy), *(None,) * 5
    return lrn_triton_backward(x, dy, *ctx.settings), *(None,) * 5


lrn_triton.register_fake(_like_first)
lrn_triton_backward.register_fake(_like_first)
lrn_triton.register_autograd(_gradient, setup_context=_save)
