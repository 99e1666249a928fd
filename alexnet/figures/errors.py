"""What a run confuses: the confusion matrix, and its surest mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from alexnet.errors import RunError
from alexnet.evaluation import OwnTest, Result, worst_mistakes
from alexnet.figures.answers import stored_image
from alexnet.figures.style import INK, SOFT, TRAIN, VAL, finish, shortened

MOST_CLASSES = 50
"""Most classes of a confusion matrix that can be read."""

NUMBERED_CLASSES = 25
"""Up to here the cells of the matrix are large enough for a number."""

MISTAKES, PER_ROW = 12, 4


def confusion(result: Result, names: Sequence[str]) -> Figure:
    """Draw the confusion matrix: true classes in rows, predicted classes in columns.

    Args:
        names: The name of each class to display.

    Raises:
        RunError: There are too many classes for a figure.
    """
    if len(names) > MOST_CLASSES:
        raise RunError(
            f"a confusion matrix of {len(names)} classes cannot be read; `alexnet report` lists "
            "the most confused pairs"
        )
    counts = np.array(result.confusion)
    # Shares of the true class, so that a class with few images is seen as well as one with many.
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(11.0, max(4.2, 2.6 + 0.42 * len(names)))
    figure = Figure(figsize=(side, side), dpi=150, layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 9 if len(names) <= NUMBERED_CLASSES else 6.5
    labels = [shortened(name, 22) for name in names]
    style: dict[str, Any] = {"fontsize": size, "parse_math": False}
    # Only short names of a few classes have room beside each other.
    turn = 90 if len(names) > 8 or max(map(len, labels)) > 6 else 0
    ax.set_xticks(range(len(names)), labels, rotation=turn, **style)
    ax.set_yticks(range(len(names)), labels, **style)
    finish(ax, "predicted class", "true class")
    if len(names) <= NUMBERED_CLASSES:
        for (row, column), count in np.ndenumerate(counts):
            # Zeros are left out, so that the confusions stand out.
            if count:
                color = "white" if shares[row, column] > 0.55 else INK
                ax.text(
                    column, row, count, ha="center", va="center", fontsize=size - 1, color=color
                )
    numbers = "numbers: images; " if len(names) <= NUMBERED_CLASSES else ""
    bar = figure.colorbar(image, ax=ax, fraction=0.046, pad=0.02, format=_percent)
    bar.ax.tick_params(labelsize=7)
    bar.set_label(f"{numbers}color: share of the true class", fontsize=8, color=SOFT)
    return figure


def _percent(share: float, _: int) -> str:
    """Label a tick as the tables of `run_report` write a share."""
    return f"{100 * share:.0f}\u00a0%"


def mistakes(test: OwnTest) -> Figure:
    """Draw the twelve images on which a run was surest of a wrong class.

    Red is the true class, as in Figure 4 of the paper.

    Raises:
        RunError: The run makes no mistake.
    """
    shown = worst_mistakes(test, MISTAKES)
    if not shown:
        raise RunError("there are no mistakes to draw: every validation image is predicted right")
    columns = min(PER_ROW, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.3 * columns, 2.85 * rows), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, mistake in zip(axes.flat, shown, strict=False):
        ax.imshow(stored_image(test.split, mistake.index))
        lines = (
            (f"true: {shortened(mistake.true, 24)}", 0.03, VAL, 8),
            (f"{shortened(mistake.predicted, 24)} {mistake.probability:.0%}", 0.13, TRAIN, 8),
            (shortened(mistake.name, 34), 0.22, SOFT, 6),
        )
        for text, below, color, size in lines:
            ax.text(
                0,
                -below,
                text,
                transform=ax.transAxes,
                va="top",
                fontsize=size,
                color=color,
                parse_math=False,
            )
    return figure
