"""The weighted sums of the layers: convolutions and fully connected layers, in columns.

Weights keep their own dtype, float32 in training, and are cast at each use to the dtype of the
activations, so that small updates are not rounded away as they would be in bfloat16. How a CPU
multiplies is decided by `trial.way`.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F

from alexnet.ops import blocks, cuda_trial, fast, onednn, trial, winograd
from alexnet.ops.trial import Way


def convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int = 1,
    pad: tuple[int, int] = (0, 0),
    columns: int = 1,
    training: bool = False,
) -> torch.Tensor:
    """Convolve the maps of each column with the filters of that column.

    Args:
        x: (N, C, H, W); or in blocks with its padding, see `blocks.is_cut`.
        weight: (K, C / columns, S, S).
        bias: (K,), or None for the products alone.
        pad: Pixels of zeros at (left and top, right and bottom). The original's conv1 is padded on
            the right and at the bottom alone.
        training: Allow the ways that only training takes, such as Winograd's tiles, whose rounding
            depends on the other images of the batch. In evaluation mode the result for an image
            must not depend on them; its last bits may depend on their number.

    Returns:
        (N, K, H', W'), in the dtype of x.
    """
    # Before the trials, which are for an x of pixels.
    if blocks.is_cut(x, weight, stride, columns):
        bias = None if bias is None else bias.to(x.dtype)
        return blocks.conv2d(x, weight.to(x.dtype), bias, stride, pad)
    compute = partial(_convolution, stride=stride, pad=pad, columns=columns)
    way = trial.way("convolution", compute, x, weight, bias, training, stride, pad, columns)
    return _convolution(x, weight, bias, way, stride, pad, columns)


def _convolution(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    way: Way,
    stride: int,
    pad: tuple[int, int],
    columns: int,
) -> torch.Tensor:
    """Compute `convolution` in this way."""
    dtype = x.dtype
    x, weight, bias = _cast(way, x, weight, bias)
    # The fast paths are those of a CPU, where a convolution always adds its bias.
    if bias is not None and fast.unobserved(x, weight, bias):
        if way.method == "blocks" and blocks.takes(x, weight, stride, columns):
            return blocks.conv2d(x, weight, bias, stride, pad).to(dtype)
        by_tiles = way.method in ("tiles", "own tiles")
        if by_tiles and winograd.takes(x, weight, stride, pad, columns):
            return winograd.conv2d(x, weight, bias, columns, way.method == "own tiles").to(dtype)
    on_cuda: cuda_trial.CudaWay = _grouped
    # Tiles are allowed in training, and only there a trial is worth its time.
    if way.method == "tiles" and cuda_trial.possible(x) and fast.unobserved(x, weight):
        ways = cuda_ways(x, stride, columns)
        on_cuda = cuda_trial.fastest(ways, x, weight, None, stride, pad, columns)
    return on_cuda(x, weight, bias, stride, pad, columns).to(dtype)


def cuda_ways(x: torch.Tensor, stride: int, columns: int) -> dict[str, cuda_trial.CudaWay]:
    """The ways to compute a convolution of x on CUDA; a trial finds the fastest one.

    cuDNN may have no kernels with tensor cores for groups, nor for three channels.
    """
    ways: dict[str, cuda_trial.CudaWay] = {"grouped": _grouped}
    if columns > 1:
        ways["column by column"] = _column_by_column
    elif blocks.suits(x.shape[1], stride):
        ways["in blocks"] = _in_blocks
    return ways


def _grouped(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    pad: tuple[int, int],
    columns: int,
) -> torch.Tensor:
    """All columns in one call."""
    before, after = pad
    # F.conv2d pads both sides alike. Padding apart copies the input, so it is done only where the
    # two differ.
    if before != after:
        x = F.pad(x, (before, after, before, after))
        before = 0
    return F.conv2d(x, weight, bias, stride, before, groups=columns)


def _column_by_column(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    pad: tuple[int, int],
    columns: int,
) -> torch.Tensor:
    """A dense convolution for each column."""
    biases = [None] * columns if bias is None else bias.chunk(columns)
    parts = zip(x.chunk(columns, 1), weight.chunk(columns), biases, strict=True)
    return torch.cat([_grouped(*part, stride, pad, 1) for part in parts], dim=1)


def _in_blocks(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    pad: tuple[int, int],
    columns: int,
) -> torch.Tensor:
    """A convolution of stride 1 over blocks of pixels; there is one column."""
    return blocks.conv2d(x, weight, bias, stride, pad)


def fully_connected(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    columns: int = 1,
    training: bool = False,
) -> torch.Tensor:
    """Multiply the inputs of each column by the weights of that column.

    Args:
        x: (N, ...), flattened to (N, inputs).
        weight: (units, inputs / columns).
        bias: (units,), or None for the products alone.
        training: Choose the way to multiply by the time with the gradients.

    Returns:
        (N, units), in the dtype of x.
    """
    x = x.flatten(1)
    way = way_of_fully_connected(x, weight, bias, columns, training)
    return fully_connected_by(x, weight, bias, way, columns)


def way_of_fully_connected(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    columns: int = 1,
    training: bool = False,
) -> Way:
    """The way in which `fully_connected` multiplies; x is flattened."""
    compute = partial(fully_connected_by, columns=columns)
    return trial.way("fully connected", compute, x, weight, bias, training, columns=columns)


def fully_connected_by(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    way: Way,
    columns: int = 1,
) -> torch.Tensor:
    """Compute `fully_connected` in this way."""
    dtype = x.dtype
    x, weight, bias = _cast(way, x, weight, bias)
    if columns == 1:
        # A rank may have no image of the last batch.
        by_onednn = (
            way.method == "oneDNN"
            and len(x) > 0
            and fast.unobserved(x, weight, *([] if bias is None else [bias]))
        )
        return (onednn.linear if by_onednn else F.linear)(x, weight, bias).to(dtype)
    # Block-diagonal weights: each column of units sees the units of its own column.
    biases = [None] * columns if bias is None else bias.chunk(columns)
    parts = zip(x.chunk(columns, 1), weight.chunk(columns), biases, strict=True)
    return torch.cat([F.linear(*part) for part in parts], dim=1).to(dtype)


def _cast(
    way: Way, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Cast x, weight and bias to the dtype in which they are multiplied."""
    return x.to(way.dtype), weight.to(way.dtype), None if bias is None else bias.to(way.dtype)
