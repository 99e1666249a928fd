"""A strided convolution as a convolution of stride 1 over blocks of pixels (space to depth).

conv1 has three input channels, which fill a fifth of a vector register, and stride 4, so the
gradient of its filters is the slowest of the network for its size. Over blocks of 4x4 pixels it has
48 channels, filters of 3x3 blocks, and stride 1. Filters of 11x11 pixels are widened to 12x12 by
zeros: a fifth more multiply-adds in half the time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

MAX_CHANNELS = 4
"""With more input channels the direct convolution fills its vectors well enough."""


def takes(x: torch.Tensor, weight: torch.Tensor, stride: int, columns: int) -> bool:
    """Whether a CPU can gain by this path: float32, with a gradient of the filters.

    Arguments as in `linear.convolution`.
    """
    is_trained = weight.requires_grad and torch.is_grad_enabled()
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    return on_cpu and is_trained and suits(x.shape[1], stride, columns)


def suits(channels: int, stride: int, columns: int = 1) -> bool:
    """Whether blocks can gain anything, on any device: strides, few channels, and one column."""
    return stride > 1 and channels <= MAX_CHANNELS and columns == 1


def covered_px(side_px: int, size: int, stride: int, pad: tuple[int, int]) -> int:
    """Side of all blocks together that the windows of a convolution cover, padding included.

    Args:
        side_px: Side of the input, in pixels.
        size, stride, pad: Of the convolution.
    """
    last = (side_px + sum(pad) - size) // stride * stride  # where the last window begins
    return last + _whole_blocks(size, stride)


def shape(
    channels: int, side_px: int, size: int, stride: int, pad: tuple[int, int]
) -> tuple[int, int, int]:
    """The shape of an image in blocks: (stride**2 * channels, blocks, blocks)."""
    across = covered_px(side_px, size, stride, pad) // stride
    return stride**2 * channels, across, across


def is_cut(x: torch.Tensor, weight: torch.Tensor, stride: int, columns: int) -> bool:
    """Whether x is in blocks already: training on CUDA crops images so (`data.preprocess`)."""
    # An x of pixels has as many channels as a filter, so that its shape tells the two apart.
    return columns == 1 and stride > 1 and x.shape[1] == stride**2 * weight.shape[1]


def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    pad: tuple[int, int],
) -> torch.Tensor:
    """Convolve x: (N, C, H, W), padded before and after each side, with weight: (K, C, S, S).

    An x that is in blocks already has its padding.
    """
    size = weight.shape[2]
    if not is_cut(x, weight, stride, columns=1):
        (before, _), (height, width) = pad, x.shape[2:]
        # A negative padding crops: the last window may end before the image does.
        below, right = (
            covered_px(side, size, stride, pad) - before - side for side in (height, width)
        )
        x = _blocks(F.pad(x, (before, right, before, below)), stride)
    widened = _whole_blocks(size, stride) - size
    return F.conv2d(x, _blocks(F.pad(weight, (0, widened, 0, widened)), stride), bias)


def _whole_blocks(size: int, stride: int) -> int:
    """The side of a filter, rounded up to whole blocks."""
    return -(-size // stride) * stride


def _blocks(x: torch.Tensor, side: int) -> torch.Tensor:
    """Reshape (N, C, H, W) to (N, side * side * C, H / side, W / side), channels last."""
    n, c, h, w = x.shape
    apart = x.permute(0, 2, 3, 1).reshape(n, h // side, side, w // side, side * c)
    return (
        apart.transpose(2, 3).reshape(n, h // side, w // side, side * side * c).permute(0, 3, 1, 2)
    )
