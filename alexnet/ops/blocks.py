"""A strided convolution as one of stride 1 over blocks of stride x stride pixels (space to depth).

Three channels fill a fifth of a vector and stride 4 visits every sixteenth place, so the gradient of conv1's kernels is
the slowest of the network for its size. Over 4x4 blocks it has 48 channels, kernels of 3x3 and stride 1. Kernels of 11
are widened to 12 by zeros: a fifth more multiply-adds in half the time.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

FEW_CHANNELS = 4


def wins(x: torch.Tensor, weight: torch.Tensor, stride: int) -> bool:
    """Where it was measured to be faster: float32 on CPUs, with a gradient."""
    fits = (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and stride > 1
        and x.shape[1] <= FEW_CHANNELS
    )
    return fits and weight.requires_grad and torch.is_grad_enabled()


def conv2d(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, stride: int, pad: tuple[int, int]
) -> torch.Tensor:
    """The convolution of x: (N, C, H, W), padded before and after each side, with weight: (K, C, S, S)."""
    before, after = pad
    size = weight.shape[2]
    wide = -(-size // stride) * stride  # the kernels' side in whole blocks
    reach = [(side + before + after - size) // stride * stride + wide for side in x.shape[2:]]
    ends = [
        end - before - side for end, side in zip(reach, x.shape[2:], strict=True)
    ]  # below 0 it cuts
    x = _blocks(F.pad(x, (before, ends[1], before, ends[0])), stride)
    return F.conv2d(x, _blocks(F.pad(weight, (0, wide - size, 0, wide - size)), stride), bias)


def _blocks(x: torch.Tensor, side: int) -> torch.Tensor:
    """(N, C, H, W) to (N, side * side * C, H / side, W / side), channels last."""
    n, c, h, w = x.shape
    apart = x.permute(0, 2, 3, 1).reshape(n, h // side, side, w // side, side * c)
    return (
        apart.transpose(2, 3).reshape(n, h // side, w // side, side * side * c).permute(0, 3, 1, 2)
    )
