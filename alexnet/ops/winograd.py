"""Convolutions of 3x3 at stride 1 with a quarter of the multiplications (Winograd).

A tile of 4x4 results needs 6x6 pixels. With fixed matrices A, B, G its results are
A^T [(G g G^T) * (B^T d B)] A: 36 products for each pair of maps in place of 144, and summed over
maps they are 36 matrix products. The gradients are of the same kind. In float32 the result is about
four times as far from the exact one as a direct convolution's: 2e-6 of its size. A tile may reach
from one image into the next, so the rounding of an image depends on its neighbors in the batch;
therefore only training uses this path.

Source: Lavin and Gray, Fast Algorithms for Convolutional Neural Networks (2015).
"""

from __future__ import annotations

from ctypes import byref
from typing import Any

import torch
import torch.nn.functional as F

from alexnet import native
from alexnet.ops import fast
from alexnet.ops.registration import operator

MIN_MAPS = 64
"""Maps of a column, in and out. With fewer, the transformations cost more than they save."""
MIN_PIXELS = 4096
"""Pixels of all images of the batch together, for the same reason."""
IMAGES_AT_ONCE = 32
"""Number of images that are transformed and multiplied together: their tiles stay in the cache."""
# Divided once, so that each entry is rounded once.
_G_TIMES_24 = torch.tensor(
    [[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]],
    # Whatever the defaults are when the module is imported.
    dtype=torch.float32,
    device="cpu",
)
G = _G_TIMES_24 / 24
G_BOTH = torch.kron(G, G)
"""G for the rows and the columns of a filter at once: (36, 9)."""


def takes(
    x: torch.Tensor, weight: torch.Tensor, stride: int, pad: tuple[int, int], columns: int
) -> bool:
    """Whether this path was measured to be faster: float32 on CPUs, many maps, many pixels.

    Arguments as in `linear.convolution`.
    """
    fits = x.device.type == "cpu" and x.dtype == torch.float32
    # A small batch of small maps is done before the transformations have paid for themselves.
    large = x.numel() >= MIN_PIXELS * x.shape[1]
    return fits and large and suits(tuple(weight.shape), stride, pad, columns)


def suits(weight_shape: tuple[int, ...], stride: int, pad: tuple[int, int], columns: int) -> bool:
    """Whether this path can compute a layer, given enough pixels, and has enough maps for it."""
    filters, channels, size, _ = weight_shape
    maps = channels, filters // columns
    return (
        (size, stride, pad) == (3, 1, (1, 1))
        and min(maps) >= MIN_MAPS
        and not any(m % native.LANES for m in maps)
        and native.winograd() is not None
    )


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    columns: int = 1,
    native_products: bool = False,
) -> torch.Tensor:
    """Convolve x with a border of one pixel of zeros.

    Args:
        x: (N, C, H, W), float32, on a CPU.
        weight: (K, C / columns, 3, 3).
        bias: (K,).
        native_products: Multiply the tiles with `products`, and not with PyTorch's `bmm`.

    Returns:
        (N, K, H, W), channels last.
    """
    apply = _Convolution.apply
    y: torch.Tensor = apply(x, weight, bias, columns, native_products)  # type: ignore[no-untyped-call]
    return y


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor,
        columns: int,
        native_products: bool,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight, bias)
        ctx.columns, ctx.native_products = columns, native_products
        return _convolve(x, weight, bias, columns, native_products)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (x, weight, bias), columns, dy = ctx.saved_tensors, ctx.columns, gradients[0]
        if fast.gradient_observed(dy):

            def direct(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
                return F.conv2d(x, weight, bias, padding=1, groups=columns)

            needed = ctx.needs_input_grad[:3]
            return *fast.plain_gradients(direct, (x, weight, bias), needed, dy), None, None
        dx = dweight = dbias = None
        filters, channels = weight.shape[:2]
        if ctx.needs_input_grad[0]:
            # The gradient is a convolution too: with the filters rotated by half a turn, and inputs
            # and outputs exchanged inside each column.
            grouped = weight.reshape(columns, filters // columns, channels, 3, 3)
            rotated = grouped.transpose(1, 2).flip(3, 4).flatten(0, 1)
            # There is no bias in a gradient; the kernel adds zeros.
            dx = _convolve(
                dy, rotated, dy.new_zeros(channels * columns), columns, ctx.native_products
            )
        if ctx.needs_input_grad[1]:
            sums = dy.new_zeros((columns, 36, filters // columns, channels))
            for x_part, dy_part in zip(
                torch.split(x, IMAGES_AT_ONCE), torch.split(dy, IMAGES_AT_ONCE), strict=True
            ):
                x_tiles, dy_tiles = spread(x_part, columns, False), spread(dy_part, columns, True)
                if ctx.native_products:
                    add_transposed_products(dy_tiles, x_tiles, sums)
                    continue
                for column in range(columns):
                    sums[column].baddbmm_(dy_tiles[column].transpose(1, 2), x_tiles[column])
            # Back from 36 products to the nine weights of each filter.
            nine = torch.matmul(G_BOTH.T, sums.flatten(2))
            dweight = nine.view(columns, 3, 3, filters // columns, channels)
            dweight = dweight.permute(0, 3, 4, 1, 2).reshape(weight.shape)
        if ctx.needs_input_grad[2]:
            dbias = dy.sum((0, 2, 3))
        return dx, dweight, dbias, None, None


def _convolve(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, columns: int, native_products: bool
) -> torch.Tensor:
    """The forward pass; see `conv2d`."""
    nine = weight.reshape(columns, len(weight) // columns, -1, 9).permute(0, 3, 2, 1)
    filters = torch.matmul(G_BOTH, nine.flatten(2)).view(columns, 36, *nine.shape[2:])
    images, _, height, width = x.shape
    shape = images, len(weight), height, width
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    for x_part, y_part in zip(
        torch.split(x, IMAGES_AT_ONCE), torch.split(y, IMAGES_AT_ONCE), strict=True
    ):
        tiles = spread(x_part, columns, False)
        # Written into by each column, so that nothing is concatenated afterwards.
        sums = tiles.new_empty((*tiles.shape[:3], len(weight) // columns))
        if native_products:
            products(tiles, filters, sums)
        else:
            for column in range(columns):
                torch.bmm(tiles[column], filters[column], out=sums[column])
        collect(sums, bias, y_part)
    return y


def _canvas(images: torch.Tensor, groups: int) -> native.Canvas:
    """Lay the images out on one canvas that is cut into tiles.

    Four images stand in a row where the batch allows it. Alone, an image of 13x13 pixels would
    leave the tiles at its border half empty.
    """
    count, maps, height, width = images.shape
    across = next(n for n in (4, 2, 1) if count % n == 0 or n == 1)
    # A row and a column of zeros stand between two images: the padding of both.
    rows, columns = -(-count // across) * (height + 1) - 1, across * (width + 1) - 1
    return native.Canvas(
        count, height, width, maps, groups, across, -(-rows // 4), -(-columns // 4)
    )


def _call(name: str, *arguments: torch.Tensor | native.Canvas | int) -> None:
    """Call a function of `winograd.cpp` with its sizes, and pointers to its other arguments."""
    library = native.winograd()
    assert library is not None

    def passed(value: torch.Tensor | native.Canvas | int) -> object:
        if isinstance(value, torch.Tensor):
            return value.data_ptr()
        return value if isinstance(value, int) else byref(value)

    getattr(library, name)(*map(passed, arguments))


def _empty_tiles(x: torch.Tensor, groups: int, gradient: bool) -> torch.Tensor:
    """An uninitialized result of `spread`."""
    canvas = _canvas(x, groups)
    return x.new_empty((groups, 36, canvas.tile_rows * canvas.tile_columns, x.shape[1] // groups))


@operator("winograd_spread", _empty_tiles)
def spread(x: torch.Tensor, groups: int, gradient: bool) -> torch.Tensor:
    """Transform every tile: B^T d B of an input, or A d A^T of a gradient.

    Returns:
        (groups, 36, tiles, C / groups) for x: (N, C, H, W).
    """
    out = _empty_tiles(x, groups, gradient)
    x = x.contiguous(memory_format=torch.channels_last)
    _call("spread_gradients" if gradient else "spread_inputs", x, out, _canvas(x, groups))
    return out


@operator("winograd_products", mutates_args=("sums",))
def products(a: torch.Tensor, b: torch.Tensor, sums: torch.Tensor) -> None:
    """Write the product of each of the matrices into `sums`.

    Args:
        a: (groups, 36, M, N), contiguous.
        b: (groups, 36, N, L), contiguous; L is a multiple of `native.LANES`.
        sums: (groups, 36, M, L), contiguous.
    """
    groups, count, rows, terms = a.shape
    _call("products", a, b, sums, groups * count, rows, terms, b.shape[-1])


@operator("winograd_add_transposed_products", mutates_args=("sums",))
def add_transposed_products(a: torch.Tensor, b: torch.Tensor, sums: torch.Tensor) -> None:
    """Add a^T b of each of the matrices to `sums`.

    Args:
        a: (groups, 36, N, M), contiguous.
        b: (groups, 36, N, L), contiguous; L is a multiple of `native.LANES`.
        sums: (groups, 36, M, L), contiguous.
    """
    groups, count, terms, rows = a.shape
    name = "add_transposed_products"
    _call(name, a, b, sums, groups * count, rows, terms, b.shape[-1])


@operator("winograd_collect", mutates_args=("out",))
def collect(sums: torch.Tensor, bias: torch.Tensor, out: torch.Tensor) -> None:
    """Write A^T m A of every tile, plus the bias, into `out`.

    Args:
        sums: (groups, 36, tiles, K / groups).
        out: (N, K, H, W), channels last.
    """
    _call("collect", sums.contiguous(), bias.contiguous(), out, _canvas(out, len(sums)))
