"""What the kernels of the first layer respond to (Fig. 3): a column that turned to colour, one that did not."""

from __future__ import annotations

import torch

from alexnet.model import Network


def colourfulness(net: Network) -> list[list[float]]:
    """Of each column, of each kernel: the share of its energy that is not grey, 0 to 1."""
    weight = _first(net).flatten(2)  # (K, 3, pixels)
    grey = 3 * weight.mean(1).square().sum(1)
    share = 1 - grey / weight.square().sum((1, 2)).clamp_min(1e-30)
    return [part.tolist() for part in share.chunk(net.architecture.columns)]


def orientedness(net: Network) -> list[list[float]]:
    """Of each column, of each kernel: how much the gradients of its grey part share one direction, 0 to 1.

    The coherence of the structure tensor J: the difference of its eigenvalues over their sum.
    """
    grey = _first(net).mean(1)  # (K, S, S)
    dy, dx = torch.gradient(grey, dim=(1, 2))
    yy, xx, xy = ((a * b).sum((1, 2)) for a, b in ((dy, dy), (dx, dx), (dx, dy)))
    share = ((xx - yy).square() + 4 * xy.square()).sqrt() / (xx + yy).clamp_min(1e-30)
    return [part.tolist() for part in share.chunk(net.architecture.columns)]


def _first(net: Network) -> torch.Tensor:
    """(K, 3, S, S) float64."""
    return net.get_parameter(f"{net.steps[0].layer.name}.weight").detach().double().cpu()
