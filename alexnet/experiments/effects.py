"""What is measured of finished runs: functions from a claim's runs to one number a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUARTER = 0.25


@dataclass(frozen=True)
class Done:
    """What one run gave. Errors are shares of the pictures."""

    test_error: float
    """By the recipe's own test: ten patches, say."""
    centre_error: float
    train_error: float
    """Of up to 2,000 training pictures, tested as the validation pictures are: centre patch, no dropout."""
    images_per_s: float
    rate: float
    """The learning rate it began with."""
    colour: tuple[tuple[float, ...], ...]
    """Of each column, of each kernel of the first layer: how much of it is colour (`kernels.colourfulness`)."""
    epochs: tuple[dict[str, Any], ...]
    """The run's own metrics of each epoch."""
    probabilities: NDArray[np.float32]
    """(N, classes) of the validation pictures by the recipe's own test."""
    labels: NDArray[np.int64]
    """Theirs."""
    also: Mapping[str, float] = field(default_factory=dict)
    """What the claim has measured besides."""

    @property
    def gap(self) -> float:
        """How much worse on new pictures than on those it was trained on."""
        return self.centre_error - self.train_error


Results = Mapping[str, Sequence[Done]]  # the runs of each arm, by seed


def more(
    arm: str, than: str = "base", of: Callable[[Done], float] = lambda d: d.test_error
) -> Callable[..., Any]:
    """In percentage points, seed by seed."""
    return lambda results: [
        100 * (of(a) - of(b)) for a, b in zip(results[arm], results[than], strict=True)
    ]


def by_ten_patches(results: Results) -> list[float]:
    return [100 * (done.centre_error - done.test_error) for done in results["base"]]


def slower(results: Results) -> list[float]:
    """Seconds an image of the one column over those of the two."""
    return [
        b.images_per_s / a.images_per_s
        for a, b in zip(results["one column"], results["base"], strict=True)
    ]


def first_loss(results: Results) -> list[float]:
    pairs = zip(results["biases 0"], results["base"], strict=True)
    return [a.epochs[0]["train_loss"] - b.epochs[0]["train_loss"] for a, b in pairs]


def epochs_to(error: float, done: Done) -> float:
    """Epochs until the validation error is `error`, between two epochs by a line; all of them where it never is."""
    before = 1.0
    for number, epoch in enumerate(done.epochs):
        if epoch["val_error"] <= error:
            return float(number + (before - error) / (before - epoch["val_error"]))
        before = epoch["val_error"]
    return float(len(done.epochs))


def sooner(results: Results) -> list[float]:
    pairs = zip(results["tanh"], results["relu"], strict=True)
    return [epochs_to(QUARTER, a) / epochs_to(QUARTER, b) for a, b in pairs]


def dropout_epochs(results: Results) -> list[float]:
    """Epochs to the training loss that the net with dropout ends with, as a ratio."""
    ratios = []
    for without, base in zip(results["no dropout"], results["base"], strict=True):
        goal = base.epochs[-1]["train_loss"]
        reached = [i for i, epoch in enumerate(without.epochs, 1) if epoch["train_loss"] <= goal]
        ratios.append(len(base.epochs) / (reached[0] if reached else len(without.epochs)))
    return ratios


def together(results: Results) -> list[float]:
    """How much worse each net is than the plain average of all."""
    nets = results["base"]
    average = np.mean([net.probabilities for net in nets], axis=0)
    return [100 * (net.test_error - _error(average, net.labels)) for net in nets]


def plain_over_weighted(results: Results) -> list[float]:
    """How much worse the plain average of all nets is than the one whose weights were found on half of the validation
    pictures, both on the other half. So many draws of halves as there are nets.
    """
    p = np.stack([net.probabilities for net in results["base"]]).astype(
        np.float64
    )  # (nets, N, classes)
    labels = results["base"][0].labels
    values = []
    for seed in range(len(p)):
        order = np.random.default_rng(seed).permutation(len(labels))
        known, new = order[: len(order) // 2], order[len(order) // 2 :]
        weights = mixture(p[:, known, labels[known]])
        weighted = np.tensordot(weights, p[:, new], 1)
        values.append(
            100 * (_error(p[:, new].mean(0), labels[new]) - _error(weighted, labels[new]))
        )
    return values


def mixture(likelihood: NDArray[np.float64], rounds: int = 500) -> NDArray[np.float64]:
    """The weights, positive and of sum 1, under which labels are likeliest; by expectation and maximisation.

    likelihood: (nets, N), what each net gives each picture's own class.
    """
    weights = np.full(len(likelihood), 1 / len(likelihood))
    for _ in range(rounds):
        shares = weights[:, None] * np.maximum(likelihood, 1e-30)
        weights = (shares / shares.sum(0)).mean(1)
    return weights


def _error(p: NDArray[Any], labels: NDArray[np.int64]) -> float:
    return float((p.argmax(1) != labels).mean())


def of_masks(results: Results) -> list[float]:
    """Points more with halving than with the average over many masks."""
    return [
        100 * (done.also["halved_error"] - done.also["masked_error"]) for done in results["base"]
    ]


def nearer(results: Results) -> list[float]:
    """Points more of neighbours that are of the same class, by the last hidden layer than by pixels."""
    return [
        100 * (done.also["same_class_by_hidden"] - done.also["same_class_by_pixels"])
        for done in results["base"]
    ]


def apart(columns: Sequence[Sequence[float]], shuffles: int = 1000) -> tuple[float, float]:
    """How far two columns' mean colour lies apart, less what chance puts between two halves of the same kernels;
    and the share of random halves that lie as far apart or farther.
    """
    one, two = map(np.asarray, columns)
    every, rng = np.concatenate([one, two]), np.random.default_rng(0)

    def distance(kernels: NDArray[Any]) -> float:
        return float(abs(kernels[: len(one)].mean() - kernels[len(one) :].mean()))

    seen = distance(every)
    by_chance = [distance(rng.permutation(every)) for _ in range(shuffles)]
    return seen - float(np.mean(by_chance)), float(np.mean([d >= seen for d in by_chance]))


def specialised(results: Results) -> list[float]:
    return [apart(done.colour)[0] for done in results["base"]]
