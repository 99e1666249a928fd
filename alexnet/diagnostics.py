"""Measures of a network's state: the signal before training, and the filters after it.

The signal is how much of the difference between two images reaches a layer. A network that gives
nearly the same features for every image has a loss of ln(classes), and hardly any gradient that
could change it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from alexnet.config import Architecture
from alexnet.errors import RunError
from alexnet.layers import BatchNorm
from alexnet.model import Network, evaluation_mode

BLIND = 0.02
"""Relative difference in the last hidden layer below which a network starts nearly blind.

On photographs it is 0.015 with the settings of the paper's text and 0.18 with the original's
(`records/imagenette-signal`).
"""


@dataclass(frozen=True)
class Signal:
    """The signal in one layer.

    Attributes:
        layer: Name of the layer.
        difference: Mean distance of the features of two images, divided by their mean norm.
        rms: Root mean square of the features.
    """

    layer: str
    difference: float
    rms: float


@torch.no_grad()
def signal(net: Network, images: torch.Tensor, batch_statistics: bool = False) -> list[Signal]:
    """Measure the signal in the output of every layer, after its activation function.

    The difference is the mean of ||f_i - f_j|| over pairs of images, divided by the mean ||f_i||.

    Args:
        images: Preprocessed images, (N, 3, input_px, input_px), N at least 2.
        batch_statistics: Batch normalization as in training, for an untrained network, whose
            running statistics are those of no image. False: as in a prediction.

    Raises:
        RunError: If there are fewer than two images.
    """
    if len(images) < 2:
        raise RunError("the signal check compares images; it needs at least 2")
    # The bare name of a layer stands for its neurons' output; other operations have longer names.
    layers = {op.layer.name for op in net.plan}
    result = []
    statistics = {name: values.clone() for name, values in net.named_buffers()}
    with evaluation_mode(net):
        for module in net.modules():
            module.train(batch_statistics and isinstance(module, BatchNorm))
        activations = net.activations(images)
    for name, values in net.named_buffers():
        values.copy_(statistics[name])
    for name, value in activations.items():
        if name not in layers:
            continue
        # float64, because the distances are small differences of large numbers.
        features = value.flatten(1).cpu().double()
        size = features.norm(dim=1).mean()
        apart = torch.pdist(features).mean()
        # A layer whose features are all 0 tells no images apart.
        difference = float(apart / size) if size > 0 else 0.0
        result.append(Signal(name, difference, float(features.square().mean().sqrt())))
    return result


def warning(signals: list[Signal], architecture: Architecture) -> str | None:
    """Return the message for a network that starts nearly blind; None if it does not.

    Args:
        signals: The signal of each layer, as `signal` returns them.
        architecture: The network that was measured; the mend names its settings.
    """
    # The last layer is linear, so it can tell apart only what the last hidden layer tells apart.
    hidden = signals[:-1] or signals
    last = hidden[-1]
    if last.difference >= BLIND:
        return None
    return (
        f"the untrained network is nearly blind: two images differ by {last.difference:.2%} in "
        f"{last.layer} ({hidden[0].difference:.0%} in {hidden[0].layer}); the loss may stay at "
        f"ln(classes) for long. {_mend(hidden, architecture)}, and so does --init RUN."
    )


def _mend(hidden: list[Signal], architecture: Architecture) -> str:
    """Return what helps a blind network: larger initial weights where the difference is lost."""
    if architecture.width < 1 and not architecture.scale_std:
        return "Initial weights that fit its width help (--architecture.scale-std True)"
    # The image itself differs by about 1; of layers that lose everything the first one counts.
    before = [1.0, *(max(layer_signal.difference, 1e-12) for layer_signal in hidden)]
    worst = min(zip(hidden, before, strict=False), key=lambda pair: pair[0].difference / pair[1])[0]
    numbers = {layer.name: number for number, layer in enumerate(architecture.layers)}
    std = architecture.layers[numbers[worst.layer]].std
    # PyTorch's own initialization (None) has no deviation that could be set higher.
    larger = 0.03 if std is None else 2 * std
    return (
        f"Most is lost in {worst.layer}: larger initial weights there help "
        f"(--architecture.layers.{numbers[worst.layer]}.std {larger:g})"
    )


def colourfulness(net: Network) -> list[list[float]]:
    """Return how colored each filter of the first layer is, in a list for each column."""
    return colour_shares(net.first_weight().double().cpu(), net.architecture.columns)


def colour_shares(filters: torch.Tensor, columns: int) -> list[list[float]]:
    """Return the share of each filter's energy that is not gray, 0 to 1, a list for each column.

    Args:
        filters: (K, 3, S, S), with the channels in any order.
    """
    weight = filters.flatten(2)  # (K, 3, pixels)
    # The gray part of a pixel has its mean in all three channels, hence the factor 3.
    grey = 3 * weight.mean(1).square().sum(1)
    # The lower bound serves filters that are all 0.
    share = 1 - grey / weight.square().sum((1, 2)).clamp_min(1e-30)
    return [part.tolist() for part in share.chunk(columns)]


def orientedness(net: Network) -> list[list[float]]:
    """Return how oriented each filter of the first layer is, in a list for each column.

    It is how much the gradients of the filter's gray part share one direction, 0 to 1: the
    coherence of the structure tensor J, the difference of its eigenvalues divided by their sum.
    """
    grey = net.first_weight().double().cpu().mean(1)  # (K, S, S)
    dy, dx = torch.gradient(grey, dim=(1, 2))
    yy, xx, xy = ((a * b).sum((1, 2)) for a, b in ((dy, dy), (dx, dx), (dx, dy)))
    # For J = [[xx, xy], [xy, yy]] the difference is sqrt((xx - yy)^2 + 4 xy^2), the sum xx + yy.
    share = ((xx - yy).square() + 4 * xy.square()).sqrt() / (xx + yy).clamp_min(1e-30)
    return [part.tolist() for part in share.chunk(net.architecture.columns)]


def new_shares(net: Network, start: Network) -> dict[str, float]:
    """Return how much of each layer's weights its start does not explain, 0 to 1.

    It is the sine of the angle between the two, so that weight decay alone, which shrinks the
    start, counts as nothing.
    """
    shares = {}
    for name, weight in net.named_parameters():
        layer, _, parameter = name.rpartition(".")
        if parameter != "weight":
            continue
        now = weight.detach().cpu().double().flatten()
        then = start.get_parameter(name).detach().double().flatten()
        # The part of the weights that has the direction of the start. Not 1 - cos^2, whose rounding
        # would show as a share of 1e-8.
        along = (now @ then) / (then @ then).clamp_min(1e-30) * then
        shares[layer] = float((now - along).norm() / now.norm().clamp_min(1e-30))
    return shares


def smoothness(filters: torch.Tensor) -> tuple[float, int]:
    """Return the correlation of neighboring weights of filters, and the number of pairs.

    Independent numbers have a correlation of 0 with a deviation of 1 / sqrt(pairs). Filters that
    have learned edges and colors are smooth.

    Args:
        filters: (K, C, S, S), S at least 2.
    """
    w = filters.double().cpu()
    # Each plane less its mean: a constant plane is no pattern.
    w = w - w.mean((2, 3), keepdim=True)
    products = (w[..., 1:] * w[..., :-1]).sum() + (w[..., 1:, :] * w[..., :-1, :]).sum()
    pairs = 2 * w[..., 1:].numel()
    correlation = float(products / pairs / w.square().mean().clamp_min(1e-30))
    # The mean that was subtracted makes independent numbers of a plane negatively correlated: by
    # -1 / (n - 1) for n numbers, since their sum is 0.
    return correlation + 1 / (w.shape[2] * w.shape[3] - 1), pairs
