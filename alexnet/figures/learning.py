"""How runs learned: error and loss by epoch, Figure 1, and the signal before the first step."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from alexnet.checkpoint import read_config
from alexnet.diagnostics import BLIND
from alexnet.errors import RunError
from alexnet.evaluation import QUARTER
from alexnet.figures.style import (
    INK,
    SOFT,
    TRAIN,
    VAL,
    finish,
    legend,
    legend_below,
    legend_label,
    run_names,
)
from alexnet.train.run_log import read_metrics

Epochs = list[dict[str, Any]]
"""The epoch lines of a run's metrics.jsonl."""

FEW_EPOCHS = 3
"""Up to here a curve has markers: the line of a single epoch has no length and is not seen."""

MOST_FALLS = 10
"""Up to this number, the epochs at which the learning rate fell are marked."""

STYLES = "-", "--", ":", "-."
COLORS = INK, TRAIN, VAL, "#b07d2b"
PALER = 0.65
"""Contrast of a line with the paper, where an earlier one has the same color and style; relative
to that one's."""


def curves(runs: Sequence[Path]) -> Figure:
    """Draw error and loss of runs by epoch. Raises RunError for a folder without metrics."""
    named = _epochs_of(runs)
    # Inside the axes there is room for the legend of two runs.
    below = len(runs) > 2
    height = 3.6 + (0.2 * len(runs) if below else 0)
    figure = Figure(figsize=(9, height), dpi=150, layout="constrained")
    error, loss = figure.subplots(1, 2)
    _draw_error(error, named)
    _draw_loss(loss, named)
    if below:
        legend_below(figure, error)
    else:
        legend(error)
        legend(loss)
    return figure


def single_curves(run: Path) -> list[Figure]:
    """Draw each half of `curves` as a figure, for pages that are narrow."""
    drawn = []
    for draw in (_draw_error, _draw_loss):
        figure = Figure(figsize=(4.6, 3.4), dpi=150, layout="constrained")
        ax = figure.subplots()
        draw(ax, _epochs_of([run]))
        legend(ax)
        drawn.append(figure)
    return drawn


def _epochs_of(runs: Sequence[Path]) -> list[tuple[str, Epochs]]:
    """Return name and epochs of each run. Raises RunError for a run without a finished epoch."""
    named = []
    for name, run in zip(run_names(runs), runs, strict=True):
        if not (epochs := read_metrics(run, "epoch")):
            raise RunError(f"{run} has no finished epoch to draw")
        named.append((name, epochs))
    return named


def _draw_error(ax: Axes, runs: Sequence[tuple[str, Epochs]]) -> None:
    _draw_pairs(ax, runs, "error", 100)
    finish(ax, "epoch", "error, %")


def _draw_loss(ax: Axes, runs: Sequence[tuple[str, Epochs]]) -> None:
    _draw_pairs(ax, runs, "loss", 1)
    finish(ax, "epoch", "loss (cross-entropy)")


def _draw_pairs(ax: Axes, runs: Sequence[tuple[str, Epochs]], what: str, factor: int) -> None:
    """Plot the training and validation values of runs, and mark where the learning rate fell.

    Args:
        what: "error" or "loss".
        factor: Of the values; 100 makes percent.
    """
    marked = False
    for number, (name, epochs) in enumerate(runs):
        mark = f"{name}, " if len(runs) > 1 else ""
        for split, text, color in (("train", "training", TRAIN), ("val", "validation", VAL)):
            # Color tells training from validation, so the rest must tell the runs apart.
            ax.plot(
                [m["epoch"] for m in epochs],
                [factor * m[f"{split}_{what}"] for m in epochs],
                label=legend_label(f"{mark}{text}"),
                linewidth=1.4,
                marker="o" if len(epochs) <= FEW_EPOCHS else "",
                **_look(number, [color]),
            )
        falls = [a["epoch"] for a, b in itertools.pairwise(epochs) if b["lr"] < a["lr"]]
        # A smooth schedule falls in nearly every epoch, which needs no marks.
        few = len(falls) <= min(MOST_FALLS, len(epochs) / 2)
        for epoch in falls if few else []:
            # Between the epochs: the new rate applies from the beginning of the next one.
            line = ax.axvline(epoch + 0.5, color="#bbbbbb", linewidth=0.8, zorder=0)
            # One entry in the legend for all lines of all runs.
            if not marked:
                line.set_label("learning rate falls")
                marked = True
    _set_limits(ax, max(epoch["epoch"] for _, epochs in runs for epoch in epochs))


def _look(number: int, colors: Sequence[str]) -> dict[str, Any]:
    """Return how the line of a run is drawn: no two runs have the same color and style.

    Args:
        number: Number of the run in the figure, from 0.
        colors: Taken in turn.
    """
    turn, color = divmod(number, len(colors))
    # Mixed with white, since a transparent line takes the hue of those below it.
    paler = PALER ** (turn // len(STYLES))
    return {
        "color": tuple(1 - paler * (1 - part) for part in to_rgb(colors[color])),
        # The style differs from run to run, too, for those who print without color. In the next
        # turn, each color has another one.
        "linestyle": STYLES[(color + turn) % len(STYLES)],
    }


def _merged(orders: Iterable[Iterable[str]]) -> list[str]:
    """Merge the layers of several networks into one list that has each network's order."""
    merged: list[str] = []
    for order in orders:
        place = 0
        for layer in order:
            if layer not in merged:
                merged.insert(place, layer)
            place = merged.index(layer) + 1
    return merged


def _set_limits(ax: Axes, epochs: int) -> None:
    """Let both axes begin at 0, with whole epochs on the horizontal one."""
    # From zero, so that the distance between two curves is not exaggerated. A single epoch has the
    # margins of no curve, hence the place above and on both sides of its markers.
    ax.set_ylim(0, 1.06 * ax.dataLim.y1)
    ax.set_xlim(0, max(2.0, 1.02 * epochs))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def training_error(runs: Sequence[Path]) -> Figure:
    """Draw the training error of runs by epoch, and when each reaches 25 %, as in Fig. 1.

    It is the error over the whole training set after each epoch where a run was validated on its
    training split, as in `alexnet reproduce relu`. Else it is the error of the training steps, with
    dropout and random crops.

    Raises:
        RunError: A folder is not a run, or the run has no finished epoch.
    """
    named = []
    for run, (name, epochs) in zip(runs, _epochs_of(runs), strict=True):
        config = read_config(run)
        key = "val_error" if config.val_split == config.train_split else "train_error"
        named.append((name, [(m["epoch"], m[key]) for m in epochs]))
    return _draw_training_error(named)


def _draw_training_error(named: Sequence[tuple[str, Sequence[tuple[int, float]]]]) -> Figure:
    """Draw errors, as fractions, by epoch. Args: Name, and (epoch, error) for each curve."""
    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained")
    ax = figure.subplots()
    for number, (name, points) in enumerate(named):
        reached = next((epoch for epoch, error in points if error <= QUARTER), None)
        when = "not reached" if reached is None else f"after epoch {reached}"
        ax.plot(
            [epoch for epoch, _ in points],
            [100 * error for _, error in points],
            linewidth=1.4,
            marker="o" if len(points) <= FEW_EPOCHS else "",
            # The name of a single run explains nothing.
            label=legend_label(f"{f'{name}: ' if len(named) > 1 else ''}{QUARTER:.0%} {when}"),
            **_look(number, COLORS),
        )
    # Its text is in the legend, which lies where no curve is: a curve crosses every place near the
    # line sooner or later.
    note = f"{QUARTER:.0%}, the line of Figure 1"
    ax.axhline(100 * QUARTER, color="#bbbbbb", linewidth=0.8, zorder=0, label=note)
    _set_limits(ax, max(epoch for _, points in named for epoch, _ in points))
    finish(ax, "epoch", "training error, %")
    legend(ax)
    return figure


def signals(runs: Sequence[Path]) -> Figure:
    """Draw what the untrained networks saw, layer by layer. Raises RunError without a signal."""
    # A logarithmic scale: in a network that starts nearly blind the difference shrinks by a
    # factor in each layer.
    figure = Figure(figsize=(7, 3.8), dpi=150, layout="constrained")
    ax = figure.subplots()
    ax.set_yscale("log")
    found: list[dict[str, Any]] = []
    for run in runs:
        # A run that was killed before its first step has none.
        if not (lines := read_metrics(run, "start")):
            raise RunError(f"{run} has no signal in its metrics.jsonl; it was not yet begun")
        found.append(lines[0]["signal"])
    # Otherwise a layer that the first run lacks would stand behind its last one.
    axis: Any = ax.xaxis
    axis.update_units(_merged(found))
    for number, (name, layers) in enumerate(zip(run_names(runs), found, strict=True)):
        differences = [100 * difference for difference, _ in layers.values()]
        look = _look(number, [f"C{color}" for color in range(10)])
        ax.plot(list(layers), differences, marker="o", label=legend_label(name), **look)
    ax.axhline(100 * BLIND, color="#bbbbbb", linewidth=0.8, zorder=0)
    ax.annotate(
        f"below {BLIND:.0%} in the last hidden layer the network is nearly blind",
        (0.01, 100 * BLIND),
        xycoords=("axes fraction", "data"),
        xytext=(0, -9),
        textcoords="offset points",
        fontsize=7,
        color=SOFT,
    )
    # The line must be on the figure, and its text below it.
    ax.set_ylim(bottom=min(ax.get_ylim()[0], 60 * BLIND))
    # Percent as one writes them, and not powers of ten.
    ax.yaxis.set_major_formatter("{x:g}")
    ax.set_title(
        "How far apart two images are in each layer before training", fontsize=9, color=INK
    )
    finish(ax, "layer, from the image to the classes", "mean distance of two images,\n% of size")
    # The name of a single run explains nothing.
    if len(runs) > 1:
        legend(ax)
    return figure
