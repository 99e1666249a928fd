"""What the Triton kernels share: sums over neighbors on the tensor cores of a GPU.

The sum over the neighbors of each entry of a vector is a product with a banded matrix of zeros
and ones. A value is the sum of two or three bfloat16 numbers, whose products with ones are exact,
so nothing is lost but the rounding of float32 sums. Loading each neighbor at a shift would take
several times as many instructions.

Zero times infinity is NaN, so a NaN or an infinity reaches every value that stands in the same
product, and not only its neighbors. None is ever lost.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
from __future__ import annotations

import os
from typing import Any

import torch
import triton
import triton.language as tl

MIN_TILE = 16
"""Smallest side of a matrix that Triton multiplies."""

# Triton's interpreter (3.6 and 3.9) multiplies the bits of bfloat16 values as if they were
# integers; there the same values are multiplied as float32.
AS_FLOAT32 = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")


@triton.jit
def band(side: tl.constexpr, half: tl.constexpr):
    """The (side, side) matrix of 1 where two indices are at most `half` apart, and 0 elsewhere."""
    index = tl.arange(0, side)
    apart = index[:, None] - index[None, :]
    # By way of float32: the interpreter turns the bits of a boolean into a tiny bfloat16 value.
    return ((apart <= half) & (apart >= -half)).to(tl.float32).to(tl.bfloat16)


@triton.jit
def _multiply(left, right, sums):
    if AS_FLOAT32:
        return tl.dot(left.to(tl.float32), right.to(tl.float32), acc=sums, input_precision="ieee")
    return tl.dot(left, right, acc=sums)


@triton.jit
def _add_product(values, ones, sums, along_rows: tl.constexpr):
    return _multiply(values, ones, sums) if along_rows else _multiply(ones, values, sums)


@triton.jit
def sum_neighbors(values, ones, along_rows: tl.constexpr, parts: tl.constexpr):
    """The sums over neighbors in each row of `values`, or in each column.

    ones: what `band` returned. parts: number of bfloat16 numbers that stand for a value: two have
    16 of its bits, three all 24.
    """
    high = values.to(tl.bfloat16)
    rest = values - high.to(tl.float32)
    low = rest.to(tl.bfloat16)
    sums = tl.zeros(values.shape, tl.float32)
    # The smallest parts are added first.
    if parts == 3:
        lowest = (rest - low.to(tl.float32)).to(tl.bfloat16)
        sums = _add_product(lowest, ones, sums, along_rows)
    sums = _add_product(low, ones, sums, along_rows)
    return _add_product(high, ones, sums, along_rows)


def parts_of(dtype: torch.dtype) -> int:
    """Number of parts for `sum_neighbors`, by the dtype of what is squared and summed."""
    return 3 if dtype == torch.float32 else 2


def launch(kernel: Any, grid: tuple[int, int], *tensors: Any, num_warps: int, **rest: Any) -> None:
    """Run a kernel on the GPU of the first tensor, which need not be PyTorch's current one."""
    with torch.cuda.device_of(tensors[0]):
        # Fused multiply-adds are named because Triton 3.10 will not use them unless told.
        kernel[grid](*tensors, num_warps=num_warps, enable_fp_fusion=True, **rest)
