"""The compiled normalisations as PyTorch operators, `alexnet::lrn` and `alexnet::spatial_norm`, with their gradients.

For channels-last float32 or bfloat16 tensors on a CPU and beta = 3/4; `normalise.py` decides when to use them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.library import custom_op

from alexnet.ops import native


def usable(x: torch.Tensor, beta: float) -> bool:
    """Whether the compiled operators can take x: (N, C, H, W)."""
    fits = x.device.type == "cpu" and x.dtype in native.SUFFIX and beta == 0.75 and x.numel() > 0
    return fits and x.is_contiguous(memory_format=torch.channels_last) and native.compiled() is not None


def _call(name: str, tensors: tuple[torch.Tensor, ...], *numbers: float) -> None:
    operators = native.compiled()
    assert operators is not None
    pointers = [tensor.data_ptr() for tensor in tensors]
    getattr(operators, f"{name}_{native.SUFFIX[tensors[0].dtype]}")(*pointers, *numbers)


def _last(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


@custom_op("alexnet::lrn", mutates_args=(), device_types="cpu")
def lrn(x: torch.Tensor, half: int, k: float, alpha: float, columns: int) -> torch.Tensor:
    """x: (N, C, H, W) channels last; half: maps on either side; beta is 3/4."""
    y = torch.empty_like(x)
    _call("lrn_forward", (x, y), x.numel() // x.shape[1], x.shape[1], columns, half, k, alpha)
    return y


@custom_op("alexnet::lrn_backward", mutates_args=(), device_types="cpu")
def lrn_backward(x: torch.Tensor, dy: torch.Tensor, half: int, k: float, alpha: float, columns: int) -> torch.Tensor:
    dx = torch.empty_like(x)
    _call("lrn_backward", (x, _last(dy), dx), x.numel() // x.shape[1], x.shape[1], columns, half, k, alpha)
    return dx


@custom_op("alexnet::spatial_norm", mutates_args=(), device_types="cpu")
def spatial_norm(x: torch.Tensor, half: int, k: float, alpha: float) -> torch.Tensor:
    """x: (N, C, H, W) channels last; half: pixels on either side; beta is 3/4."""
    y = torch.empty_like(x)
    _call("spatial_forward", (x, y), *_sizes(x), half, k, alpha)
    return y


@custom_op("alexnet::spatial_norm_backward", mutates_args=(), device_types="cpu")
def spatial_norm_backward(x: torch.Tensor, dy: torch.Tensor, half: int, k: float, alpha: float) -> torch.Tensor:
    dx = torch.empty_like(x)
    _call("spatial_backward", (x, _last(dy), dx), *_sizes(x), half, k, alpha)
    return dx


def _sizes(x: torch.Tensor) -> tuple[int, int, int, int]:
    """Images, height, width, maps: the order in memory."""
    return x.shape[0], x.shape[2], x.shape[3], x.shape[1]


def _like_first(x: torch.Tensor, *others: Any) -> torch.Tensor:
    return torch.empty_like(x)


for _operator in (lrn, lrn_backward, spatial_norm, spatial_norm_backward):
    _operator.register_fake(_like_first)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.constants = inputs[1:]


def _lrn_gradient(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
    return lrn_backward(ctx.saved_tensors[0], dy, *ctx.constants), None, None, None, None


def _spatial_gradient(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
    return spatial_norm_backward(ctx.saved_tensors[0], dy, *ctx.constants), None, None, None


lrn.register_autograd(_lrn_gradient, setup_context=_keep)
spatial_norm.register_autograd(_spatial_gradient, setup_context=_keep)
