"""All that stands between two convolutions on CUDA, in CUDA C++: `native/between.cu`.

The same pass as in `triton_between.py`, for bfloat16. It keeps normalized values in shared memory,
where Triton computes those of overlapping windows again, at the price of being compiled for each
shape by NVRTC. `normalise.norm_pool` takes the faster of the two by a trial.

It differs in rounding: normalized values are rounded to bfloat16 before the maximum, as in a chain
of PyTorch's operations. Of several NaNs in a window the first one has the gradient.
"""

# mypy: disable-error-code="no-untyped-call"
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from alexnet.native import nvrtc
from alexnet.ops import fast, plain
from alexnet.ops.plain import Pass

ALIGNED_BYTES = 16
"""A thread loads and stores as many at once."""
MAX_HALF = 4
"""Maps on either side that a thread holds beside its own eight."""
THREADS = 192
"""About as many to a block, so that several blocks share a multiprocessor."""
MAX_THREADS = 1024
SHARED_BYTES = 64 << 10
"""About as much for a block of the forward pass: three share a multiprocessor of an H100."""
MAX_SHARED_BYTES = 96 << 10
"""Every card since compute capability 8.0 has as much for a block."""
PIXELS_OF_A_BLOCK = 2048
"""About as many in the forward pass, where there is no window and nothing is shared."""
EXCHANGED_BYTES = 32
"""Shared memory of a thread of the backward pass."""
TURNS = 8
"""Pixels that a thread of the backward pass computes one after the other, for one sum of biases."""


@dataclass(frozen=True)
class _Kernels:
    """The kernels of one shape, and how they are launched; the names are those of `between.cu`."""

    functions: nvrtc.Kernels
    threads: int
    blocks: int
    """Of the forward pass, for one image."""
    shared_bytes: int
    """Of a block of the forward pass."""
    pixels_at_once: int
    out_sides: tuple[int, int]


def takes(x: torch.Tensor, bias: torch.Tensor | None, between: Pass) -> bool:
    """Whether the kernels have this pass, and compile here."""
    if x.dtype != torch.bfloat16 or bias is None or bias.dtype != torch.float32:
        return False
    if x.data_ptr() % ALIGNED_BYTES:
        return False
    norm, window = between.norm, between.window
    if norm and (norm.beta != plain.FAST_BETA or between.half > MAX_HALF):
        return False
    # Values below 0 cannot be compared as bits; without a window the second ReLU is not there.
    if window is None and between.relu_after:
        return False
    if window is not None and not (between.relu or between.relu_after):
        return False
    # A window of one pixel stands for none.
    if window and not 1 < window.size_px <= plain.MAX_WINDOW_PX:
        return False
    column_maps = x.shape[1] // between.columns
    if column_maps % 8 or column_maps // 8 > MAX_THREADS:
        return False
    return _kernels(*_sizes_and_gpu(x), between) is not None


def norm_pool(x: torch.Tensor, bias: torch.Tensor, between: Pass) -> torch.Tensor:
    """Bias, activation, normalization, maximum, activation; see `normalise.norm_pool`.

    Args:
        x: (N, C, H, W), channels last, bfloat16; `takes` is true of it.
        bias: (C,), float32.
    """
    y: torch.Tensor = _Between.apply(x, bias, between)
    return y


def _sizes_and_gpu(x: torch.Tensor) -> tuple[tuple[int, int, int], int]:
    """The sizes of the maps of x, and the index of its GPU."""
    return (x.shape[1], x.shape[2], x.shape[3]), x.device.index or 0


@lru_cache(maxsize=64)
def _kernels(sizes: tuple[int, int, int], device: int, between: Pass) -> _Kernels | None:
    """The kernels for one shape; None if they cannot be made here.

    Args:
        sizes: Number of maps, their height and width.
        device: Index of the GPU.
    """
    (maps, height, width), norm, window = sizes, between.norm, between.window
    # No window is one of one pixel.
    size_px, stride = (window.size_px, window.stride) if window else (1, 1)
    out_height, out_width = between.pooled_px(height), between.pooled_px(width)
    column_maps = maps // between.columns
    groups = column_maps // 8
    # A thread keeps the same group of maps for all its pixels, and so loads its biases once.
    threads = groups * max(1, THREADS // groups)
    row_bytes = width * column_maps * torch.bfloat16.itemsize
    if window:
        # As many rows as shared memory holds: the rows that two blocks share are computed twice.
        out_rows = max(1, min(out_height, (SHARED_BYTES // row_bytes - size_px) // stride + 1))
        shared_bytes = ((out_rows - 1) * stride + size_px) * row_bytes
    else:
        out_rows, shared_bytes = max(1, min(height, PIXELS_OF_A_BLOCK // width)), 0
    if shared_bytes > MAX_SHARED_BYTES:
        return None
    macros = {
        "HEIGHT": height,
        "WIDTH": width,
        "OUT_HEIGHT": out_height,
        "OUT_WIDTH": out_width,
        "COLUMN_MAPS": column_maps,
        "COLUMNS": between.columns,
        "HALF": between.half,
        "K": norm.k if norm else 1.0,
        "ALPHA": norm.alpha if norm else 0.0,
        "SIZE_PX": size_px,
        "STRIDE": stride,
        "RELU": int(between.relu),
        "RELU_AFTER": int(between.relu_after),
        "THREADS": threads,
        "OUT_ROWS": out_rows,
        "TURNS": TURNS,
    }
    kernels = nvrtc.kernels(
        "between.cu",
        ("between_forward", "between_backward"),
        tuple((name, str(value)) for name, value in macros.items()),
        (shared_bytes, EXCHANGED_BYTES * threads),
        device,
    )
    if kernels is None:
        return None
    return _Kernels(
        functions=kernels,
        threads=threads,
        blocks=-(-out_height // out_rows),
        shared_bytes=shared_bytes,
        pixels_at_once=threads // groups,
        out_sides=(out_height, out_width),
    )


def _readable(x: torch.Tensor) -> torch.Tensor:
    """Return x: (N, C, H, W) as the kernels read it; x itself where it is so already."""
    x = fast.channels_last(x)
    # A gradient, or what a hook on saved tensors returns, may be a view, at any address.
    return x.clone(memory_format=torch.channels_last) if x.data_ptr() % ALIGNED_BYTES else x


class _Between(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor, between: Pass) -> torch.Tensor:
        compiled = _kernels(*_sizes_and_gpu(x), between)
        assert compiled is not None  # `takes` has looked
        images, maps = x.shape[:2]
        y = x.new_empty((images, *compiled.out_sides, maps)).permute(0, 3, 1, 2)
        # Without a window the kernel writes no position.
        position = torch.empty_like(y if between.window else y[:0], dtype=torch.uint8)
        with torch.cuda.device_of(x):
            nvrtc.ensure_context(x.device.index or 0)
            compiled.functions["between_forward"](
                grid=(images * compiled.blocks, between.columns, 1),
                block=(compiled.threads, 1, 1),
                args=[x, bias, y, position],
                shared_mem=compiled.shared_bytes,
            )
        ctx.save_for_backward(x, bias, position)
        ctx.compiled, ctx.between = compiled, between
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x, bias, position), compiled, between = ctx.saved_tensors, ctx.compiled, ctx.between
        if fast.gradient_observed(gradients[0]):
            exact = fast.plain_gradients(
                lambda x, bias: plain.norm_pool(x, bias, between),
                (x, bias),
                ctx.needs_input_grad[:2],
                gradients[0],
            )
            return *exact, None
        x, dy, position = map(_readable, (x, gradients[0], position))
        maps, pixels = x.shape[1], x.numel() // x.shape[1]
        blocks = -(-pixels // (compiled.pixels_at_once * TURNS))
        dx, dbias = torch.empty_like(x), bias.new_empty((blocks, maps))
        with torch.cuda.device_of(x):
            nvrtc.ensure_context(x.device.index or 0)
            compiled.functions["between_backward"](
                grid=(blocks, between.columns, 1),
                block=(compiled.threads, 1, 1),
                args=[x, bias, dy, position, dx, dbias, pixels],
                shared_mem=EXCHANGED_BYTES * compiled.threads,
            )
        # Each block has written its own sum: atomic additions would differ in the last bits.
        return dx, dbias.sum(0), None
