"""What is measured of finished runs. Each measure takes one run of each arm it compares, all of the
same seed, and is larger where the paper is right; ensembles take the runs of their members.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.config import Plateau, Schedule

QUARTER = 0.25
ENSEMBLE = 5
"""Networks in an ensemble (section 6)."""
HALVES = 5
"""Random halves of the test images on which the weights of an ensemble are searched."""


@dataclass(frozen=True)
class Done:
    """What one run gave. Errors are shares of the images."""

    test_error: float
    """By the recipe's own test (ten patches, for instance), on `val_split`. Where that is the
    training split, as in claim relu, it is a training error."""
    centre_error: float
    train_error: float
    """Of up to 2,000 training images, tested as the validation images are: centre patch, no
    dropout."""
    images_per_s: float
    rate: float
    """The learning rate it began with."""
    colour: tuple[tuple[float, ...], ...]
    """Of each column, of each kernel of the first layer: how much of it is colour
    (`kernels.colourfulness`)."""
    epochs: tuple[dict[str, Any], ...]
    """The run's own metrics of each epoch."""
    steady_epochs: int
    """Epochs before the schedule changes anything (`steady_epochs`)."""
    probabilities: NDArray[np.float32]
    """(N, classes) of the validation images by the recipe's own test."""
    labels: NDArray[np.int64]
    """(N,) their classes."""
    also: Mapping[str, float] = field(default_factory=dict)
    """What the claim has measured besides."""

    @property
    def gap(self) -> float:
        """How much larger the error is on new images than on those of the training set."""
        return self.centre_error - self.train_error


Measure = Callable[..., float]
Results = Mapping[str, Sequence[Done]]  # the runs of each arm, by seed


def steady_epochs(schedule: Schedule) -> int:
    """Epochs before a schedule first changes a learning rate or the augmentation.

    Raises ValueError for a Plateau, whose first fall is not known beforehand.
    """
    if isinstance(schedule, Plateau):
        raise ValueError("the falls of a Plateau depend on the run; claims need a Steps schedule")
    changes = [*schedule.drops, *(rate.epoch for rate in schedule.layer_rates)]
    if schedule.colour_until is not None:
        changes.append(schedule.colour_until)
    return min([schedule.epochs, *changes])


def difference(of: Callable[[Done], float]) -> Measure:
    """A measure: how much larger a share is in the first run than in the second, in percentage
    points.
    """
    return lambda first, second: 100 * (of(first) - of(second))


test_error = difference(lambda run: run.test_error)
centre_error = difference(lambda run: run.centre_error)
gap = difference(lambda run: run.gap)


def own_gap(run: Done) -> float:
    """The gap of one run, in percentage points."""
    return 100 * run.gap


def centre_minus_ten(run: Done) -> float:
    """Error with the centre patch minus error with ten patches, in percentage points."""
    return 100 * (run.centre_error - run.test_error)


def first_val_loss(ablated: Done, base: Done) -> float:
    """Difference of the validation losses after the first epoch.

    The training loss of the first epoch would mostly measure the height of the start: hidden biases
    of 1 begin with larger random logits, above ln(classes).
    """
    return float(ablated.epochs[0]["val_loss"] - base.epochs[0]["val_loss"])


def epochs_to(error: float, done: Done) -> float:
    """Epochs until the validation error is `error`, linear between two epochs; all of the run's
    epochs where it is never reached.
    """
    before = 1.0
    for number, epoch in enumerate(done.epochs):
        if epoch["val_error"] <= error:
            return float(number + (before - error) / (before - epoch["val_error"]))
        before = epoch["val_error"]
    return float(len(done.epochs))


def tanh_over_relu(tanh: Done, relu: Done) -> float:
    """Epochs of tanh to the error of a quarter, over those of ReLU."""
    return epochs_to(QUARTER, tanh) / epochs_to(QUARTER, relu)


def dropout_over_none(base: Done, without: Done) -> float:
    """Epochs with dropout over epochs without, to a validation loss that both reach.

    Validation has no masks on either side. Only epochs before the schedule changes anything count,
    since a fall of the learning rate would set the epoch at which the goal is reached. The goal is
    the larger of the two lowest losses of those epochs.
    """
    steady = min(base.steady_epochs, without.steady_epochs)
    losses = [[epoch["val_loss"] for epoch in run.epochs[:steady]] for run in (base, without)]
    goal = max(min(own) for own in losses)
    with_dropout, none = (_crossing(own, goal) for own in losses)
    return with_dropout / none


def _crossing(losses: Sequence[float], goal: float) -> float:
    """The epoch, counted from 1, at which the loss falls to a goal that it reaches; linear between
    two epochs.
    """
    after = next(number for number, loss in enumerate(losses) if loss <= goal)
    if after == 0:
        return 1.0
    return after + (losses[after - 1] - goal) / (losses[after - 1] - losses[after])


def single_minus_ensemble(*members: Done) -> float:
    """Mean error of the members minus the error of their ensemble, in percentage points."""
    single = float(np.mean([net.test_error for net in members]))
    return 100 * (single - members[0].also["ensemble_error"])


def plain_minus_weighted(*members: Done) -> float:
    """Error of the plain average minus that of a weighted one, in percentage points."""
    return 100 * members[0].also["weighted_gain"]


def ensemble(members: Sequence[Done]) -> dict[str, float]:
    """Errors of an ensemble, as each of its members keeps them in `also`.

    Returns:
        ensemble_error: Of the plain average of the members' probabilities.
        weighted_gain: Error of the plain average minus error of a weighted one, the weights found
            on a random half of the images and both tested on the other half; the mean of `HALVES`
            such halves.
    """
    labels = members[0].labels
    p = np.stack([net.probabilities for net in members]).astype(np.float64)  # (nets, N, classes)
    gains = []
    for seed in range(HALVES):
        order = np.random.default_rng(seed).permutation(len(labels))
        known, new = order[: len(order) // 2], order[len(order) // 2 :]
        weights = mixture(p[:, known, labels[known]])
        weighted = np.tensordot(weights, p[:, new], 1)
        gains.append(_error(p[:, new].mean(0), labels[new]) - _error(weighted, labels[new]))
    average = np.mean([net.probabilities for net in members], axis=0)
    return {"ensemble_error": _error(average, labels), "weighted_gain": float(np.mean(gains))}


def mixture(likelihood: NDArray[np.float64], rounds: int = 500) -> NDArray[np.float64]:
    """The weights, positive and of sum 1, under which labels are likeliest; by expectation and
    maximisation.

    likelihood: (nets, N), what each net gives each image's own class.
    """
    weights = np.full(len(likelihood), 1 / len(likelihood))
    for _ in range(rounds):
        shares = weights[:, None] * np.maximum(likelihood, 1e-30)
        weights = (shares / shares.sum(0)).mean(1)
    return weights


def _error(p: NDArray[Any], labels: NDArray[np.int64]) -> float:
    return float((p.argmax(1) != labels).mean())


def halving_minus_masks(run: Done) -> float:
    """Error with halved outputs minus error of the average over many masks, in percentage points."""
    return 100 * (run.also["halved_error"] - run.also["masked_error"])


def hidden_minus_pixels(run: Done) -> float:
    """Share of nearest neighbours of the same class, in the last hidden layer minus in pixels, in
    percentage points.
    """
    return 100 * (run.also["same_class_by_hidden"] - run.also["same_class_by_pixels"])


def apart(columns: Sequence[Sequence[float]], shuffles: int = 1000) -> tuple[float, float]:
    """How far two columns' mean colour lies apart, less what chance puts between two halves of the
    same kernels; and the share of random halves that lie as far apart or farther.
    """
    one, two = map(np.asarray, columns)
    every, rng = np.concatenate([one, two]), np.random.default_rng(0)

    def distance(kernels: NDArray[Any]) -> float:
        return float(abs(kernels[: len(one)].mean() - kernels[len(one) :].mean()))

    seen = distance(every)
    by_chance = [distance(rng.permutation(every)) for _ in range(shuffles)]
    return seen - float(np.mean(by_chance)), float(np.mean([d >= seen for d in by_chance]))


def specialised(run: Done) -> float:
    """How far the two columns' colour lies apart, beyond chance."""
    return apart(run.colour)[0]
