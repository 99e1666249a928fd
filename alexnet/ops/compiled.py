"""The compiled normalizations as PyTorch operators: `alexnet::norm_pool`, `alexnet::spatial_norm`.

They take channels-last float32 or bfloat16 tensors on a CPU, with beta = 3/4; `normalise.py`
decides when to use them. Being PyTorch operators, they have gradients, and shapes for the compiler.
"""

from __future__ import annotations

import functools
from ctypes import byref
from typing import Any

import torch
from torch.library import register_autograd

from alexnet import native
from alexnet.architecture import pooled_px
from alexnet.config import Lrn, Pool, SpatialNorm
from alexnet.ops import fast, plain
from alexnet.ops.registration import operator


def takes(x: torch.Tensor, beta: float = plain.FAST_BETA) -> bool:
    """Whether the compiled operators can take x: (N, C, H, W) with this exponent."""
    return (
        x.device.type == "cpu"
        and x.dtype in native.SUFFIX
        and beta == plain.FAST_BETA
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
        and native.kernels() is not None
    )


def _call(name: str, tensors: tuple[torch.Tensor, ...], *others: Any) -> None:
    """Call the function of `kernels.cpp` for the dtype of the first tensor."""
    library = native.kernels()
    # `takes` has made sure of the library; a caller that did not ask has a bug.
    assert library is not None
    pointers = [tensor.data_ptr() for tensor in tensors]
    getattr(library, f"{name}_{native.SUFFIX[tensors[0].dtype]}")(*pointers, *others)


def _sizes(x: torch.Tensor) -> tuple[int, int, int, int]:
    """Images, height, width, maps: the order in memory."""
    return x.shape[0], x.shape[2], x.shape[3], x.shape[1]


def _empty_results(
    x: torch.Tensor,
    relu: bool,
    columns: int,
    half: int,
    size_px: int,
    stride: int,
    partial: bool,
    *others: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Uninitialized results of `norm_pool`; without a pool the positions are empty."""
    # An operator must return two tensors in every case, so the second one may be empty.
    if size_px == 0:
        return torch.empty_like(x), torch.empty_like(x[:0], dtype=torch.uint8)
    sides = (pooled_px(side, size_px, stride, partial) for side in x.shape[2:])
    shape, last = (*x.shape[:2], *sides), torch.channels_last
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=last)
    return y, torch.empty_like(y, dtype=torch.uint8)


def _like_first(x: torch.Tensor, *others: Any) -> torch.Tensor:
    return torch.empty_like(x)


@operator("norm_pool", _empty_results)
def norm_pool(
    x: torch.Tensor,
    relu: bool,
    columns: int,
    half: int,
    size_px: int,
    stride: int,
    partial: bool,
    relu_after: bool,
    k: float,
    alpha: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute ReLU, LRN, maximum and ReLU in one pass over memory; each one is optional.

    Args:
        x: (N, C, H, W), channels last.
        half: Number of maps on either side that LRN sums over; -1 for no LRN. beta is 3/4.
        size_px: Side of the pooling window; 0 for no pool.

    Returns:
        The result, and for the gradient the position of each maximum in its window, uint8.
    """
    y, position = _empty_results(x, relu, columns, half, size_px, stride, partial)
    settings = native.PassSettings(
        *_sizes(x), relu, columns, half, size_px, stride, *y.shape[2:], relu_after, k, alpha
    )
    _call("pass_forward", (x, y, position), byref(settings))
    return y, position


@operator("norm_pool_backward", _like_first)
def norm_pool_backward(
    x: torch.Tensor,
    dy: torch.Tensor,
    position: torch.Tensor,
    relu: bool,
    columns: int,
    half: int,
    size_px: int,
    stride: int,
    k: float,
    alpha: float,
) -> torch.Tensor:
    """The gradient of `norm_pool` with respect to x, from the position of each maximum."""
    # `empty_like` keeps the channels-last format, which the kernel writes.
    dx = torch.empty_like(x)
    # No second ReLU: a maximum that it cuts off has no position.
    settings = native.PassSettings(
        *_sizes(x), relu, columns, half, size_px, stride, *dy.shape[2:], False, k, alpha
    )
    _call("pass_backward", (x, fast.channels_last(dy), position, dx), byref(settings))
    return dx


@operator("spatial_norm", _like_first)
def spatial_norm(x: torch.Tensor, half: int, k: float, alpha: float) -> torch.Tensor:
    """Normalize over a square of `half` pixels on either side. x: (N, C, H, W), channels last."""
    y = torch.empty_like(x)
    _call("spatial_forward", (x, y), *_sizes(x), half, k, alpha)
    return y


@operator("spatial_norm_backward", _like_first)
def spatial_norm_backward(
    x: torch.Tensor, dy: torch.Tensor, half: int, k: float, alpha: float
) -> torch.Tensor:
    """The gradient of `spatial_norm` with respect to x."""
    dx = torch.empty_like(x)
    _call("spatial_backward", (x, fast.channels_last(dy), dx), *_sizes(x), half, k, alpha)
    return dx


def _save_pass(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]
) -> None:
    # Neither y nor the normalized maps are kept: the backward pass computes them again from x, and
    # a batch needs less memory.
    ctx.save_for_backward(inputs[0], output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.settings = inputs[1:]


def _pass_gradient(ctx: Any, dy: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
    x, position = ctx.saved_tensors
    relu, columns, half, size_px, stride, partial, relu_after, k, alpha = ctx.settings
    if fast.gradient_observed(dy):
        # LRN over n maps looks at n // 2 on either side, so 2 half + 1 is an n of the same sum.
        norm = Lrn(2 * half + 1, k, alpha) if half >= 0 else None
        window = Pool(size_px, stride, partial) if size_px else None
        between = plain.Pass(relu, norm, window, relu_after, columns)
        formula = functools.partial(plain.norm_pool, bias=None, between=between)
        return *fast.plain_gradients(formula, (x,), (True,), dy), *(None,) * 9
    x, position = map(fast.channels_last, (x, position))
    dx = norm_pool_backward(x, dy, position, relu, columns, half, size_px, stride, k, alpha)
    return dx, *(None,) * 9


def _save_spatial(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.settings = inputs[1:]


def _spatial_gradient(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    (x,), (half, k, alpha) = ctx.saved_tensors, ctx.settings
    if fast.gradient_observed(dy):
        formula = functools.partial(plain.spatial_norm, norm=SpatialNorm(2 * half + 1, k, alpha))
        return *fast.plain_gradients(formula, (x,), (True,), dy), None, None, None
    return spatial_norm_backward(fast.channels_last(x), dy, half, k, alpha), None, None, None


register_autograd("alexnet::norm_pool", _pass_gradient, setup_context=_save_pass)
register_autograd("alexnet::spatial_norm", _spatial_gradient, setup_context=_save_spatial)
