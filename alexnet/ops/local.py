"""The locally connected layer of the CIFAR-10 nets: a convolution whose kernels differ at every position."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def locally_connected(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, pad: tuple[int, int] = (0, 0)
) -> torch.Tensor:
    """x: (N, C, H, W); weight: (K, C, S, S, H', W'), a kernel for every output position; bias: (K, H', W').

    pad: zeros at (left and top, right and bottom). Returns (N, K, H', W') with stride 1. Raises ValueError when the
    positions of the weight are not those of x.
    """
    kernels, channels, size, _, height, width = weight.shape
    x = F.pad(x, (pad[0], pad[1], pad[0], pad[1]))
    if x.shape[1] != channels or x.shape[2] - size + 1 != height or x.shape[3] - size + 1 != width:
        raise ValueError(f"kernels of shape {tuple(weight.shape)} do not fit a padded input {tuple(x.shape)}")
    patches = F.unfold(x, size)  # (N, C*S*S, H'*W')
    each = weight.flatten(4).flatten(1, 3)  # (K, C*S*S, H'*W')
    sums = torch.bmm(patches.permute(2, 0, 1), each.permute(2, 1, 0))  # (H'*W', N, K)
    return sums.permute(1, 2, 0).reshape(-1, kernels, height, width) + bias
