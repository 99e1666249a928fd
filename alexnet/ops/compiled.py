"""The compiled operators as PyTorch's: `alexnet::norm_pool` and `alexnet::spatial_norm`, with their gradients.

For channels-last float32 or bfloat16 tensors on a CPU and beta = 3/4; `normalise.py` decides when to use them.
"""

from __future__ import annotations

from ctypes import byref
from typing import Any

import torch
from torch.library import custom_op

from alexnet import native
from alexnet.ops.pool import pooled_px

MOST_WINDOW_PX = 15  # a maximum's place in its window is kept in a byte


def usable(x: torch.Tensor, beta: float = 0.75) -> bool:
    """Whether the compiled operators can take x: (N, C, H, W)."""
    fits = x.device.type == "cpu" and x.dtype in native.SUFFIX and beta == 0.75 and x.numel() > 0
    return (
        fits and x.is_contiguous(memory_format=torch.channels_last) and native.kernels() is not None
    )


def _call(name: str, tensors: tuple[torch.Tensor, ...], *others: Any) -> None:
    operators = native.kernels()
    assert operators is not None
    pointers = [tensor.data_ptr() for tensor in tensors]
    getattr(operators, f"{name}_{native.SUFFIX[tensors[0].dtype]}")(*pointers, *others)


def _last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _sizes(x: torch.Tensor) -> tuple[int, int, int, int]:
    """Images, height, width, maps: the order in memory."""
    return x.shape[0], x.shape[2], x.shape[3], x.shape[1]


@custom_op("alexnet::norm_pool", mutates_args=(), device_types="cpu")
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
    """relu, normalisation over `half` maps on either side (-1: none), maximum over windows (size_px 0: none), relu.

    x: (N, C, H, W) channels last; beta is 3/4. Returns y, and for the gradient each maximum's place in its window.
    """
    y, which = _results(x, size_px, stride, partial)
    given = native.Pass(
        *_sizes(x), relu, columns, half, size_px, stride, *y.shape[2:], relu_after, k, alpha
    )
    _call("pass_forward", (x, y, which), byref(given))
    return y, which


@norm_pool.register_fake
def _fake_norm_pool(
    x: torch.Tensor,
    relu: bool,
    columns: int,
    half: int,
    size_px: int,
    stride: int,
    partial: bool,
    *others: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    return _results(x, size_px, stride, partial)


def _results(
    x: torch.Tensor, size_px: int, stride: int, partial: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    if size_px == 0:
        return torch.empty_like(x), x.new_empty(0, dtype=torch.uint8)
    sides = (pooled_px(side, size_px, stride, partial) for side in x.shape[2:])
    y = x.new_empty(*x.shape[:2], *sides).contiguous(memory_format=torch.channels_last)
    return y, torch.empty_like(y, dtype=torch.uint8)


@custom_op("alexnet::norm_pool_backward", mutates_args=(), device_types="cpu")
def norm_pool_backward(
    x: torch.Tensor,
    dy: torch.Tensor,
    which: torch.Tensor,
    relu: bool,
    columns: int,
    half: int,
    size_px: int,
    stride: int,
    k: float,
    alpha: float,
) -> torch.Tensor:
    dx = torch.empty_like(x)
    given = native.Pass(
        *_sizes(x), relu, columns, half, size_px, stride, *dy.shape[2:], False, k, alpha
    )
    _call("pass_backward", (x, _last(dy), which, dx), byref(given))
    return dx


@custom_op("alexnet::spatial_norm", mutates_args=(), device_types="cpu")
def spatial_norm(x: torch.Tensor, half: int, k: float, alpha: float) -> torch.Tensor:
    """x: (N, C, H, W) channels last; half: pixels on either side; beta is 3/4."""
    y = torch.empty_like(x)
    _call("spatial_forward", (x, y), *_sizes(x), half, k, alpha)
    return y


@custom_op("alexnet::spatial_norm_backward", mutates_args=(), device_types="cpu")
def spatial_norm_backward(
    x: torch.Tensor, dy: torch.Tensor, half: int, k: float, alpha: float
) -> torch.Tensor:
    dx = torch.empty_like(x)
    _call("spatial_backward", (x, _last(dy), dx), *_sizes(x), half, k, alpha)
    return dx


def _like_first(x: torch.Tensor, *others: Any) -> torch.Tensor:
    return torch.empty_like(x)


for _operator in (norm_pool_backward, spatial_norm, spatial_norm_backward):
    _operator.register_fake(_like_first)


def _keep_pass(
    ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, relu, columns, half, size_px, stride, _, _, k, alpha = inputs
    ctx.save_for_backward(x, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.constants = relu, columns, half, size_px, stride, k, alpha


def _pass_gradient(ctx: Any, dy: torch.Tensor, _: Any) -> tuple[torch.Tensor | None, ...]:
    x, which = ctx.saved_tensors
    return norm_pool_backward(x, dy, which, *ctx.constants), *(None,) * 9


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.constants = inputs[1:]


def _spatial_gradient(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
    return spatial_norm_backward(ctx.saved_tensors[0], dy, *ctx.constants), None, None, None


norm_pool.register_autograd(_pass_gradient, setup_context=_keep_pass)
spatial_norm.register_autograd(_spatial_gradient, setup_context=_keep)
