"""The whole preprocessing of a batch on CUDA in one Triton kernel, `alexnet::crop_triton`.

Indexing in PyTorch (`Preprocess.plain`) launches 18 kernels, which move 5.4 MB for each image of
224 pixels. This kernel reads the uint8 pixels and the mean once and writes the input of the network
once, 0.45 MB in bfloat16. All random numbers of a batch reach it in one small tensor on the device
(`Augmentation.packed`), so that a CUDA graph that contains it can be replayed with other numbers.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
from __future__ import annotations

import torch
import triton
import triton.language as tl

from alexnet.ops.registration import operator

VALUES = 1024
"""Values of the input that one program computes."""


@triton.jit
def _pixel(image, mean, row, column, colour, inside, stored: tl.constexpr, subtract: tl.constexpr):
    """Load a value of the stored image, minus that of the mean image where `subtract`."""
    offset = (row * stored + column) * 3 + colour
    value = tl.load(image + offset, mask=inside, other=0).to(tl.float32)
    if subtract:
        value -= tl.load(mean + offset, mask=inside, other=0.0)
    return value


@triton.jit
def _crop(
    images, mean, packed, deviation, out,
    stored: tl.constexpr, px: tl.constexpr, covered: tl.constexpr, side: tl.constexpr,
    before: tl.constexpr, zoomed: tl.constexpr, mean_moves: tl.constexpr, divides: tl.constexpr,
    VALUES: tl.constexpr,
):  # fmt: skip
    """Compute VALUES values of one image, in the order in which they lie in the output."""
    number = tl.program_id(1) * VALUES + tl.arange(0, VALUES)
    exists = number < 3 * covered * covered
    # A block is side x side pixels, with its rows, columns and colors in this order.
    colour, block = number % 3, number // (3 * side * side)
    y = block // (covered // side) * side + number // (3 * side) % side - before
    x = block % (covered // side) * side + number // 3 % side - before
    # What lies outside of the input is the padding of conv1.
    inside = exists & (y >= 0) & (y < px) & (x >= 0) & (x < px)

    # An image's address may need 64 bits; offsets within it do not.
    n = tl.program_id(0).to(tl.int64)
    image, its = images + n * (stored * stored * 3), packed + n * 8
    row = tl.load(its) + tl.load(its + 1) * y
    column = tl.load(its + 2) + tl.load(its + 3) * x
    # Outside of the image only where a rescaled crop touches its edge, or for padding.
    row = tl.minimum(tl.maximum(row, 0.0), stored - 1.0)
    column = tl.minimum(tl.maximum(column, 0.0), stored - 1.0)
    top, left = row.to(tl.int32), column.to(tl.int32)
    value = _pixel(image, mean, top, left, colour, inside, stored, mean_moves)
    if zoomed:
        bottom, right = tl.minimum(top + 1, stored - 1), tl.minimum(left + 1, stored - 1)
        down, along = row - top, column - left
        beside = _pixel(image, mean, top, right, colour, inside, stored, mean_moves)
        below = _pixel(image, mean, bottom, left, colour, inside, stored, mean_moves)
        across = _pixel(image, mean, bottom, right, colour, inside, stored, mean_moves)
        # Rows first, as the compiled code does.
        value = (1 - down) * value + down * below
        beside = (1 - down) * beside + down * across
        value = (1 - along) * value + along * beside
    if not mean_moves:
        value -= tl.load(mean + (y * px + x) * 3 + colour, mask=inside, other=0.0)
    value += tl.load(its + 4 + colour)
    value *= tl.load(its + 7)
    if divides:
        # Triton's `/` is only an approximation.
        value = tl.div_rn(value, tl.load(deviation + colour))
    value = tl.where(inside, value, 0.0)
    to = out + n * (3 * covered * covered) + number
    tl.store(to, value.to(out.dtype.element_ty), mask=exists)


def _empty_result(
    images: torch.Tensor,
    mean: torch.Tensor,
    packed: torch.Tensor,
    deviation: torch.Tensor | None,
    px: int,
    zoomed: bool,
    mean_moves: bool,
    dtype: torch.dtype,
    side: int = 1,
    covered: int = 0,
    before: int = 0,
) -> torch.Tensor:
    covered = covered or px
    shape = len(images), 3 * side * side, covered // side, covered // side
    return torch.empty(shape, dtype=dtype, device=images.device, memory_format=torch.channels_last)


@operator("crop_triton", _empty_result, "default")
def crop_triton(
    images: torch.Tensor,
    mean: torch.Tensor,
    packed: torch.Tensor,
    deviation: torch.Tensor | None,
    px: int,
    zoomed: bool,
    mean_moves: bool,
    dtype: torch.dtype,
    side: int = 1,
    covered: int = 0,
    before: int = 0,
) -> torch.Tensor:
    """Crop, reflect, center and shift a batch.

    Args:
        images: (N, S, S, 3) uint8, contiguous.
        mean: Gray levels to subtract, float32: (S, S, 3) where `mean_moves`, else (px, px, 3).
        packed: (N, 8) float32, from `Augmentation.packed`. Crops must lie inside the images.
        deviation: Divisors of R, G and B, (3,) float32, or None.
        px: Side of the input, in pixels.
        zoomed: Crops are rescaled to the input, bilinearly.
        mean_moves: The mean is cropped and reflected with its image.
        dtype: Of the result, float32 or bfloat16.
        side, covered, before: For `blocks`: side of a block, and of all blocks together, in pixels;
            zeros before the first row and column.

    Returns:
        (N, 3 * side**2, covered / side, covered / side), channels last. Without blocks (N, 3, px,
        px).
    """
    covered = covered or px
    out = _empty_result(
        images, mean, packed, deviation, px, zoomed, mean_moves, dtype, side, covered
    )
    grid = len(images), triton.cdiv(3 * covered * covered, VALUES)
    # The GPU of the images need not be PyTorch's current one.
    with torch.cuda.device_of(images):
        _crop[grid](
            images, mean, packed, deviation, out, images.shape[1], px, covered, side, before,
            zoomed, mean_moves, deviation is not None, VALUES,
        )  # fmt: skip
    return out
