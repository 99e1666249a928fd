"""The measures of finished runs.

A measure takes one run of each arm it compares, all with the same seed, and is larger where the
claim is right, if that has a side. A measure of an ensemble takes the runs of its members.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.config import Config, Plateau, Schedule, SmoothSchedule
from alexnet.errors import AlexNetError
from alexnet.evaluation import QUARTER

ENSEMBLE = 5
"""Networks in an ensemble (section 6)."""
HALVES = 5
"""Random halves of the test images on which the weights of an ensemble are searched."""
ROUNDS = 500
"""Rounds of expectation-maximization in this search."""
SHUFFLES = 1000
"""Random divisions of the filters into two halves."""


@dataclass(frozen=True)
class RunResult:
    """The result of one run. Errors are shares of the images, from 0 to 1."""

    test_error: float
    """Error of the recipe's own test, for example ten crops, on `val_split`. In claim relu that is
    the training split, and this a training error."""
    centre_error: float
    """Error with the center crop on `val_split`."""
    train_error: float
    """Error on up to 2,000 training images, tested like the validation images: center crop, no
    dropout."""
    images_per_s: float
    """Median training speed of the epochs."""
    rate: float
    """Initial learning rate."""
    colour: tuple[tuple[float, ...], ...]
    """For each column and each filter of the first layer, the share of its energy that is color
    (`diagnostics.colourfulness`)."""
    epochs: tuple[dict[str, Any], ...]
    """The metrics of each epoch."""
    steady_epochs: int
    """Number of epochs before the schedule changes anything (`steady_epochs`)."""
    extra_metrics: Mapping[str, float] = field(default_factory=dict)
    """Further measurements of a claim, by name."""
    top5_error: float | None = None
    """Top-5 error of the recipe's own test on `val_split`; None with too few classes to mean
    anything (`evaluation.TOP5_CLASSES`)."""
    products: Mapping[str, str] = field(default_factory=dict)
    """The way of each product that a trial decided (`ops/trial.py`); it decides the last digits."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """What made the run: `code`, `torch`, `machine`, `threads`, `instructions`, `device` and
    `precision`. Runs that were made before one of them was kept lack it."""
    predictions: Path | None = None
    """File with the predictions of the recipe's own test for `val_split`: `probabilities`,
    (N, classes) float32, and `labels`, (N,) int64. They are read where they are needed, because
    those of all runs would not fit into memory. None for a run that was read from a record."""

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], config: Config, predictions: Path | None = None
    ) -> RunResult:
        """The result of a run from its JSON form.

        Args:
            data: What result.json holds, or a run of a record.
            config: The configuration of the run.
            predictions: As in `RunResult`.
        """
        tuples = {"epochs": tuple(data["epochs"]), "colour": tuple(map(tuple, data["colour"]))}
        fields = {**data, **tuples}
        # Records that were written under the old name of the field stay readable.
        extra_metrics = fields.pop("also", {})
        steady = steady_epochs(config.schedule)
        return cls(
            **fields, steady_epochs=steady, extra_metrics=extra_metrics, predictions=predictions
        )

    @property
    def gap(self) -> float:
        """Error on new images minus error on training images."""
        return self.centre_error - self.train_error


Measure = Callable[..., float]
Results = Mapping[str, Sequence[RunResult]]  # the runs of each arm, by seed


def steady_epochs(schedule: Schedule) -> int:
    """The number of epochs before a schedule first changes a learning rate or the augmentation.

    Raises AlexNetError for a Plateau, whose first drop is not known beforehand.
    """
    if isinstance(schedule, Plateau):
        raise AlexNetError("the drops of a Plateau depend on the run; claims need a StepSchedule")
    if isinstance(schedule, SmoothSchedule):
        return 0
    changes = [*schedule.drops, *(rate.epoch for rate in schedule.layer_lrs)]
    if schedule.colour_until is not None:
        changes.append(schedule.colour_until)
    # Without any change the whole schedule is steady.
    return min([schedule.epochs, *changes])


def difference(of: Callable[[RunResult], float]) -> Measure:
    """Make a measure: a share of the first run minus that of the second, in percentage points."""
    return lambda first, second: 100 * (of(first) - of(second))


test_error = difference(lambda run: run.test_error)
centre_error = difference(lambda run: run.centre_error)
gap = difference(lambda run: run.gap)


def more_with_few(
    few: RunResult, base_of_few: RunResult, many: RunResult, base_of_many: RunResult
) -> float:
    """What a change does to the error with few training images minus what it does with many.

    With the center crop: ten crops with reflections would give a net that was trained without them
    part of what its training lacked.
    """
    return centre_error(few, base_of_few) - centre_error(many, base_of_many)


def top5_error(first: RunResult, second: RunResult) -> float:
    """Top-5 error of the first run minus that of the second, in percentage points.

    Both are of data with enough classes (`Effect.top5`).
    """
    assert first.top5_error is not None
    assert second.top5_error is not None
    return 100 * (first.top5_error - second.top5_error)


def centre_minus_ten(run: RunResult) -> float:
    """Error with the center crop minus error with ten crops, in percentage points."""
    return 100 * (run.centre_error - run.test_error)


def first_val_loss(ablated: RunResult, base: RunResult) -> float:
    """Difference of the validation losses after the first epoch.

    The training loss of the first epoch would mostly measure the initial loss: hidden biases of 1
    give larger random logits and an initial loss above ln(classes).
    """
    return float(ablated.epochs[0]["val_loss"] - base.epochs[0]["val_loss"])


def epochs_to(error: float, run: RunResult) -> float:
    """The number of epochs until the validation error is `error`, linear between two epochs.

    It is the length of the run if the error is never reached, which is then a lower bound.
    """
    # Before the first epoch the error counts as 1, the largest possible.
    return _first_at([epoch["val_error"] for epoch in run.epochs], error, before=1.0)


def _first_at(values: Sequence[float], goal: float, before: float | None = None) -> float:
    """The number of epochs until a value has fallen to a goal, linear between two epochs.

    It is the number of values if none is so small.

    Args:
        values: The value after each epoch.
        before: The value before the first epoch; None: there is none, and the first epoch counts
            in full.
    """
    for number, value in enumerate(values):
        if value <= goal:
            share = 1.0 if before is None else (before - goal) / (before - value)
            return float(number + share)
        before = value
    return float(len(values))


def tanh_over_relu(tanh: RunResult, relu: RunResult) -> float:
    """Epochs of tanh to an error of 25 %, divided by those of ReLU."""
    return epochs_to(QUARTER, tanh) / epochs_to(QUARTER, relu)


def dropout_over_none(base: RunResult, without: RunResult) -> float:
    """Epochs with dropout divided by epochs without, to a validation loss that both reach.

    Validation uses no dropout masks in either arm. Only epochs before the first change of the
    schedule count, since a drop of the learning rate would otherwise decide when the loss is
    reached. The target is the larger of the two lowest losses of those epochs.
    """
    steady = min(base.steady_epochs, without.steady_epochs)
    losses = [[epoch["val_loss"] for epoch in run.epochs[:steady]] for run in (base, without)]
    goal = max(map(min, losses))
    with_dropout, none = (_first_at(of_arm, goal) for of_arm in losses)
    return with_dropout / none


def single_minus_ensemble(*members: RunResult) -> float:
    """Mean error of the members minus the error of their ensemble, in percentage points."""
    single = float(np.mean([net.test_error for net in members]))
    return 100 * (single - members[0].extra_metrics["ensemble_error"])


def plain_minus_weighted(*members: RunResult) -> float:
    """Error of the plain average minus that of a weighted one, in percentage points."""
    return 100 * members[0].extra_metrics["weighted_gain"]


OF_TEST_ERROR: tuple[Measure, ...] = (
    test_error,
    centre_minus_ten,
    single_minus_ensemble,
    plain_minus_weighted,
)
"""The measures in percentage points of test error, which one figure compares."""


def ensemble(members: Sequence[RunResult]) -> dict[str, float]:
    """Measure an ensemble; each member keeps the result in its `extra_metrics`.

    Returns:
        ensemble_error: Error of the plain average of the members' probabilities.
        weighted_gain: Error of the plain average minus error of a weighted average. The weights are
            found on a random half of the images and both are tested on the other half; the mean
            over `HALVES` such halves.
    """
    probabilities = []
    for net in members:
        assert net.predictions is not None
        with np.load(net.predictions) as file:
            probabilities.append(file["probabilities"])
            labels: NDArray[np.int64] = file["labels"]
    p = np.stack(probabilities).astype(np.float64)  # (nets, N, classes)
    gains = []
    for seed in range(HALVES):
        order = np.random.default_rng(seed).permutation(len(labels))
        # Weights tested on the images that they were fitted to would look better than they are.
        known, new = order[: len(order) // 2], order[len(order) // 2 :]
        weights = mixture(p[:, known, labels[known]])
        weighted = np.tensordot(weights, p[:, new], 1)
        gains.append(_error(p[:, new].mean(0), labels[new]) - _error(weighted, labels[new]))
    return {"ensemble_error": _error(p.mean(0), labels), "weighted_gain": float(np.mean(gains))}


def mixture(likelihood: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mixture weights that maximize the likelihood of the labels, by expectation-maximization.

    Args:
        likelihood: The probability that each network gives the true class, shape (nets, N).

    Returns:
        Positive weights with a sum of 1, shape (nets,).
    """
    weights = np.full(len(likelihood), 1 / len(likelihood))
    for _ in range(ROUNDS):
        # The lower bound keeps an image that no network gets right from dividing by zero.
        shares = weights[:, None] * np.maximum(likelihood, 1e-30)
        weights = (shares / shares.sum(0)).mean(1)
    return weights


def _error(p: NDArray[Any], labels: NDArray[np.int64]) -> float:
    return float((p.argmax(1) != labels).mean())


def halving_minus_masks(run: RunResult) -> float:
    """Error with halved outputs minus error of the average over masks, in percentage points."""
    error = run.extra_metrics
    return 100 * (error["halved_error"] - error["masked_error"])


def hidden_minus_pixels(run: RunResult) -> float:
    """Share of nearest neighbors of the same class, by the last hidden layer minus by pixels.

    In percentage points.
    """
    share = run.extra_metrics
    return 100 * (share["same_class_by_hidden"] - share["same_class_by_pixels"])


def apart(columns: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Compare the color of two columns with that of random halves of the same filters.

    Args:
        columns: The color of each filter, for both columns.

    Returns:
        The distance of the columns' means minus the mean distance of random halves, and the share
        of random halves that are at least as far apart.
    """
    first, second = map(np.asarray, columns)
    # A fixed seed, so that a run has the same effect whenever it is computed.
    pooled, rng = np.concatenate([first, second]), np.random.default_rng(0)

    def distance(filters: NDArray[Any]) -> float:
        return float(abs(filters[: len(first)].mean() - filters[len(first) :].mean()))

    # A permutation test: were the columns alike, every division of the filters would be as likely.
    measured = distance(pooled)
    by_chance = [distance(rng.permutation(pooled)) for _ in range(SHUFFLES)]
    share = float(np.mean([d >= measured for d in by_chance]))
    return measured - float(np.mean(by_chance)), share


def specialised(run: RunResult) -> float:
    """The distance of the two columns in color, beyond chance."""
    return apart(run.colour)[0]
