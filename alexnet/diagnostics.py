"""How much of the difference between pictures reaches each layer: a network that starts blind stays at ln(classes)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alexnet.errors import RunError
from alexnet.model import Network, evaluation_mode

BLIND = 0.02
"""Below this relative difference in the last hidden layer a network starts nearly blind. On photographs it is
0.015 with the paper's words and 0.18 with the original's (`records/imagenette-signal`)."""


@dataclass(frozen=True)
class Signal:
    """One layer's: how far two pictures' features are apart, as a share of their size, and the size."""

    layer: str
    difference: float
    rms: float


@torch.no_grad()
def signal(net: Network, images: torch.Tensor) -> list[Signal]:
    """Of every layer's neurons, on preprocessed images: (N, 3, input_px, input_px), N at least 2.

    difference: mean over pairs of ||f_i - f_j|| / mean ||f_i||.
    """
    if len(images) < 2:
        raise RunError("the signal check compares pictures; it needs at least 2")
    bare = {op.layer.name for op in net.plan}
    result = []
    with evaluation_mode(net):
        activations = net.activations(images)
    for name, value in activations.items():
        if name not in bare:
            continue
        features = value.flatten(1).cpu().double()
        size = features.norm(dim=1).mean()
        apart = torch.pdist(features).mean()
        difference = float(apart / size) if size > 0 else 0.0
        result.append(Signal(name, difference, float(features.square().mean().sqrt())))
    return result


def warning(signals: list[Signal]) -> str | None:
    """What to say before training when the last hidden layer hardly sees the pictures; None when it does."""
    hidden = signals[-2] if len(signals) > 1 else signals[-1]
    if hidden.difference >= BLIND:
        return None
    return (
        f"the untrained network is nearly blind: two pictures differ by {hidden.difference:.2%} in {hidden.layer} "
        f"({signals[0].difference:.0%} in {signals[0].layer}); the loss may stay at ln(classes) for long. "
        "The original's larger start of conv3 to conv5 (std 0.03, recipe `original`) helps; so does --init."
    )


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
    return net.get_parameter(f"{net.plan[0].layer.name}.weight").detach().double().cpu()
