"""Convolutions of 3x3 at stride 1 with a quarter of the multiplications (Winograd; Lavin and Gray 2015).

A tile of 4x4 results needs 6x6 pixels. With fixed matrices A, B, G its results are A^T [(G g G^T) * (B^T d B)] A: 36
products for each pair of maps in place of 144, and summed over maps they are 36 matrix products. The gradients are of
the same kind. In float32 the result is about four times as far from the exact one as a direct convolution's, 2e-6 of
its size; since a tile may reach from one picture into the next, rounding depends on a picture's neighbours too.
"""

from __future__ import annotations

from ctypes import byref
from typing import Any

import torch
from torch.library import custom_op

from alexnet import native

LEAST_MAPS, LEAST_PIXELS = 64, 4096
"""Of a group's maps, in and out, and of all pictures together: below, what stands around the products costs more."""
AT_ONCE = 32
"""Pictures whose tiles are made, multiplied and put together before the next ones': so long they stay in the cache."""
_IN_24THS = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]])
G = _IN_24THS / 24
BOTH = torch.kron(G, G)  # (36, 9): of the rows and of the columns of a kernel at once


def wins(
    x: torch.Tensor, weight: torch.Tensor, stride: int, pad: tuple[int, int], columns: int
) -> bool:
    """Where it was measured to be faster: float32 on CPUs, many maps, many pixels."""
    kernels, own, size, _ = weight.shape
    fits = (
        size == 3
        and stride == 1
        and pad == (1, 1)
        and x.device.type == "cpu"
        and x.dtype == torch.float32
    )
    maps = own, kernels // columns
    large = min(maps) >= LEAST_MAPS and not any(m % native.LANES for m in maps)
    return (
        fits and large and x.numel() >= LEAST_PIXELS * x.shape[1] and native.winograd() is not None
    )


def conv2d(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, columns: int = 1
) -> torch.Tensor:
    """x: (N, C, H, W) with a border of a pixel of zeros; weight: (K, C / columns, 3, 3); bias: (K,). Float32, CPU."""
    out: torch.Tensor = _Convolution.apply(x, weight, bias, columns)  # type: ignore[no-untyped-call]
    return out


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, columns: int
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.columns = columns
        return _convolved(x, weight, bias, columns)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x, weight), columns, dy = ctx.saved_tensors, ctx.columns, gradients[0]
        dx = dweight = dbias = None
        kernels, own = weight.shape[:2]
        if ctx.needs_input_grad[0]:
            apart = weight.reshape(columns, kernels // columns, own, 3, 3)
            turned = apart.transpose(1, 2).flip(3, 4).flatten(0, 1)
            dx = _convolved(dy, turned, dy.new_zeros(own * columns), columns)
        if ctx.needs_input_grad[1]:
            sums = dy.new_zeros((columns, 36, kernels // columns, own))
            for part, its_dy in zip(torch.split(x, AT_ONCE), torch.split(dy, AT_ONCE), strict=True):
                for into, seen, wanted in zip(
                    sums, spread(part, columns, False), spread(its_dy, columns, True), strict=True
                ):
                    into.baddbmm_(wanted.transpose(1, 2), seen)
            nine = torch.matmul(BOTH.T, sums.transpose(1, 2).reshape(kernels, 36, own))
            dweight = nine.view(kernels, 3, 3, own).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[2]:
            dbias = dy.sum((0, 2, 3))
        return dx, dweight, dbias, None


def _convolved(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, columns: int
) -> torch.Tensor:
    flat = weight.permute(0, 2, 3, 1).flatten(1, 2)  # (K, 9, C')
    kernels = torch.matmul(BOTH, flat).permute(1, 2, 0)  # (36, C', K)
    images, _, height, width = x.shape
    out = x.new_empty((images, len(weight), height, width)).contiguous(
        memory_format=torch.channels_last
    )
    for part, there in zip(torch.split(x, AT_ONCE), torch.split(out, AT_ONCE), strict=True):
        seen = spread(part, columns, False)
        sums = seen.new_empty((*seen.shape[:3], len(weight) // columns))
        for one, own, its_sums in zip(seen, kernels.chunk(columns, 2), sums, strict=True):
            torch.bmm(one, own, out=its_sums)
        collect(sums, bias, there)
    return out


def _canvas(pictures: torch.Tensor, groups: int) -> native.Canvas:
    """Four pictures in a row where that leaves no tile half empty."""
    images, maps, height, width = pictures.shape
    across = next(count for count in (4, 2, 1) if images % count == 0 or count == 1)
    rows, columns = -(-images // across) * (height + 1) - 1, across * (width + 1) - 1
    return native.Canvas(
        images, height, width, maps, groups, across, -(-rows // 4), -(-columns // 4)
    )


def _call(name: str, *given: Any) -> None:
    operators = native.winograd()
    assert operators is not None
    getattr(operators, name)(
        *(value.data_ptr() if isinstance(value, torch.Tensor) else byref(value) for value in given)
    )


@custom_op("alexnet::winograd_spread", mutates_args=(), device_types="cpu")
def spread(x: torch.Tensor, groups: int, gradient: bool) -> torch.Tensor:
    """B^T d B of every tile, or A d A^T of a gradient's: (N, C, H, W) -> (groups, 36, tiles, C / groups)."""
    out = _room(x, groups)
    last = x.contiguous(memory_format=torch.channels_last)
    _call("spread_gradients" if gradient else "spread_inputs", last, out, _canvas(x, groups))
    return out


def _room(x: torch.Tensor, groups: int) -> torch.Tensor:
    canvas = _canvas(x, groups)
    return x.new_empty((groups, 36, canvas.tile_rows * canvas.tile_columns, x.shape[1] // groups))


@spread.register_fake
def _fake_spread(x: torch.Tensor, groups: int, gradient: bool) -> torch.Tensor:
    return _room(x, groups)


@custom_op("alexnet::winograd_collect", mutates_args=("out",), device_types="cpu")
def collect(sums: torch.Tensor, bias: torch.Tensor, out: torch.Tensor) -> None:
    """A^T m A of every tile, plus bias, into out: (groups, 36, tiles, K / groups) -> (N, K, H, W), channels last."""
    _call("collect", sums.contiguous(), bias.contiguous(), out, _canvas(out, len(sums)))


@collect.register_fake
def _fake_collect(sums: torch.Tensor, bias: torch.Tensor, out: torch.Tensor) -> None:
    return None
