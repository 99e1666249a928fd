"""Dropout on CUDA in Triton, `alexnet::dropout_triton`: x where its mask keeps a unit, else 0.

The mask is that of `Mask.draw`, bit for bit. It is drawn in registers, once forward and
once backward, and is never in memory; neither is x kept for the gradient. The key is read from
device memory, so that a CUDA graph draws a new mask at each replay.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch.library import register_autograd

from alexnet.ops.dropout_mask import Mask
from alexnet.ops.registration import operator

COUNTERS = 256
"""Calls of Philox of one program; each is for four units."""


@triton.jit
def _masked(x, key, y, length, first, distance, threshold, counters: tl.constexpr):
    """Program (i, j): the i-th piece of the j-th stretch of consecutive units."""
    stretch = tl.program_id(1).to(tl.int64)
    begin = first + stretch * distance
    # A stretch may begin and end between two calls of Philox.
    call = begin // 4 + tl.program_id(0).to(tl.int64) * counters + tl.arange(0, counters)
    # The counter is wider than a word only where more than 2**34 units were numbered.
    low, high = call.to(tl.uint32), (call >> 32).to(tl.uint32)
    a, b, c, d = tl.philox(tl.load(key), low, high, high * 0, high * 0)
    # In the order of the units: the four words of the first call, those of the second, and so on.
    words = tl.interleave(tl.interleave(a, c), tl.interleave(b, d))
    unit = (
        (begin // 4 + tl.program_id(0).to(tl.int64) * counters) * 4
        + tl.arange(0, 4 * counters)
        - begin
    )
    inside = (unit >= 0) & (unit < length)
    at = stretch * length + unit
    value = tl.load(x + at, mask=inside, other=0.0)
    # As 64 bits, because the threshold of rate 1 is 2**32.
    kept = words.to(tl.uint32).to(tl.int64) >= threshold
    # Multiplied as the plain version does, so that a NaN that is dropped stays one.
    tl.store(y + at, value * kept.to(value.dtype), mask=inside)


def _like_contiguous(x: torch.Tensor, *others: Any) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@operator("dropout_triton", _like_contiguous, "default")
def dropout_triton(
    x: torch.Tensor,
    key: torch.Tensor,
    stretches: int,
    length: int,
    first: int,
    distance: int,
    threshold: int,
) -> torch.Tensor:
    """Return x * mask, contiguous.

    Args:
        x: Activations of `stretches` * `length` units, float64, float32 or bfloat16.
        key: One int64 on the device.
        stretches, length, first, distance: The numbers of the units (`Mask.stretches`).
        threshold: A unit is kept if its random bits are at least this (`Mask.threshold`).
    """
    # The numbers follow the indices of x; channels-last memory would have them in another order.
    x = x.contiguous()
    y = torch.empty_like(x)
    # Three units more than the stretch has, because it may begin within a call.
    # CUDA allows 65,535 programs in the second dimension, and many more pieces in the first.
    grid = triton.cdiv(length + 3, 4 * COUNTERS), stretches
    # The GPU of x need not be PyTorch's current one.
    with torch.cuda.device_of(x):
        _masked[grid](x, key, y, length, first, distance, threshold, COUNTERS)
    return y


def _save(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.settings = inputs[2:]


def _gradient(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    # The operator is linear in x, so its gradient is itself, and has gradients of any order.
    (key,) = ctx.saved_tensors
    return dropout_triton(dy, key, *ctx.settings), *(None,) * 6


register_autograd("alexnet::dropout_triton", _gradient, setup_context=_save)


def masked(x: torch.Tensor, mask: Mask) -> torch.Tensor:
    """Return x where the mask keeps a unit, and 0 elsewhere."""
    key = mask.key
    if not isinstance(key, torch.Tensor):
        # A kernel writes the value. A copy from the host would wait for the device.
        key = torch.full((1,), key, dtype=torch.int64, device=x.device)
    stretches = mask.stretches(tuple(x.shape))
    y: torch.Tensor = dropout_triton(x, key, *stretches, mask.threshold)
    return y
