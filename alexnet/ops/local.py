"""The locally connected layer of the CIFAR-10 nets: a convolution whose kernels differ at every position."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from alexnet.errors import ConfigError


class _Products(torch.autograd.Function):
    """As torch.bmm, of tensors that lie in memory as they are read: else every matrix is copied, both ways."""

    @staticmethod
    def forward(ctx: Any, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        a, b = a.contiguous(), b.contiguous()
        ctx.save_for_backward(a, b)
        return torch.bmm(a, b)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = ctx.saved_tensors
        g = gradients[0].contiguous()
        return torch.bmm(g, b.transpose(1, 2)), torch.bmm(a.transpose(1, 2), g)


def locally_connected(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, pad: tuple[int, int] = (0, 0)
) -> torch.Tensor:
    """x: (N, C, H, W); weight: (K, C, S, S, H', W'), a kernel for every output position; bias: (K, H', W').

    pad: zeros at (left and top, right and bottom). Returns (N, K, H', W') with stride 1. Raises ConfigError when the
    positions of the weight are not those of x.
    """
    kernels, channels, size, _, height, width = weight.shape
    x = F.pad(x, (pad[0], pad[1], pad[0], pad[1]))
    if x.shape[1] != channels or x.shape[2] - size + 1 != height or x.shape[3] - size + 1 != width:
        raise ConfigError(
            f"kernels of shape {tuple(weight.shape)} do not fit a padded input {tuple(x.shape)}"
        )
    whole = x.permute(
        2, 3, 0, 1
    ).contiguous()  # (H, W, N, C): a position's patches of all pictures lie together
    patches = (
        whole.unfold(0, size, 1).unfold(1, size, 1).flatten(0, 1).flatten(2)
    )  # (H'*W', N, C*S*S)
    each = weight.flatten(4).flatten(1, 3)  # (K, C*S*S, H'*W')
    sums: torch.Tensor = _Products.apply(patches, each.permute(2, 1, 0))  # type: ignore[no-untyped-call]
    return sums.permute(1, 2, 0).reshape(-1, kernels, height, width) + bias
