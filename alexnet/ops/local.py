"""The locally connected layer of the CIFAR-10 nets: different weights at every position."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from alexnet.errors import ConfigError
from alexnet.ops import fast, trial
from alexnet.ops.trial import Way


class _BatchedProduct(torch.autograd.Function):
    """`torch.bmm` of contiguous tensors, whose gradient is made contiguous, too.

    Given the transposed views of this layer, `torch.bmm` would copy each matrix separately, forward
    and backward.
    """

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        # The inputs themselves, not copies of them: to second derivatives a copy is a constant.
        ctx.save_for_backward(a, b)
        return torch.bmm(a, b)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = ctx.saved_tensors
        g = gradients[0].contiguous()
        return torch.bmm(g, b.transpose(1, 2)), torch.bmm(a.transpose(1, 2), g)


def locally_connected(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    pad: tuple[int, int] = (0, 0),
    training: bool = False,
) -> torch.Tensor:
    """Convolve with a filter of its own for every position of the result, at stride 1.

    Args:
        x: (N, C, H, W).
        weight: (K, C, S, S, H', W').
        bias: (K, H', W').
        pad: Pixels of zeros at (left and top, right and bottom).
        training: As in `fully_connected`.

    Returns:
        (N, K, H', W'), in the dtype of x.

    Raises:
        ConfigError: If the positions of the weights are not those of x.
    """
    _, channels, size, _, height, width = weight.shape
    x = F.pad(x, (pad[0], pad[1], pad[0], pad[1]))
    if x.shape[1] != channels or x.shape[2] - size + 1 != height or x.shape[3] - size + 1 != width:
        raise ConfigError(
            f"filters of shape {tuple(weight.shape)} do not fit a padded input {tuple(x.shape)}"
        )
    way = trial.way("locally connected", _valid, x, weight, bias, training)
    return _valid(x, weight, bias, way)


def _valid(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, way: Way
) -> torch.Tensor:
    """Compute `locally_connected` of a padded x in this way."""
    assert bias is not None  # every locally connected layer has one
    filters, _, size, _, height, width = weight.shape
    dtype = x.dtype
    x, weight, bias = (tensor.to(way.dtype) for tensor in (x, weight, bias))
    # With the positions first, the windows of all images at one position are one matrix.
    by_position = x.permute(2, 3, 0, 1).contiguous()  # (H, W, N, C)
    windows = by_position.unfold(0, size, 1).unfold(1, size, 1).flatten(0, 1).flatten(2)
    filters_by_position = weight.flatten(4).flatten(1, 3).permute(2, 1, 0)
    # (H'W', N, C S S) times (H'W', C S S, K)
    product = _BatchedProduct.apply if fast.unobserved(x, weight, bias) else torch.bmm
    sums: torch.Tensor = product(windows.contiguous(), filters_by_position.contiguous())
    return (sums.permute(1, 2, 0).reshape(-1, filters, height, width) + bias).to(dtype)
