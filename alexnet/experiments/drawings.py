"""Figures of records: Figure 1, effects with their intervals, and errors of a ladder."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

import numpy as np
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from alexnet.evaluation import QUARTER
from alexnet.experiments.record import Record, Row, where
from alexnet.experiments.table import REPEATED
from alexnet.figures import INK, TRAIN, VAL
from alexnet.figures.style import SOFT
from alexnet.ladder import RUNGS, kept


def crossing(record: Record) -> Figure:
    """Training error against epochs; ReLU solid, tanh dashed, as in Figure 1."""
    figure = Figure((5.8, 3.4))
    axes = figure.subplots()
    for name, style in (("relu", "-"), ("tanh", "--")):
        for seed, run in enumerate(record.results[name]):
            errors = [epoch["val_error"] for epoch in run.epochs]
            label = {"relu": "ReLU", "tanh": "tanh"}[name] if seed == 0 else None
            axes.plot(
                range(1, len(errors) + 1),
                errors,
                style,
                color=INK,
                linewidth=1.2,
                alpha=0.8,
                label=label,
            )
    axes.axhline(QUARTER, color=VAL, linewidth=0.8)
    axes.text(0.2, QUARTER - 0.04, "25 % training error", color=VAL, fontsize=9)
    axes.set(xlabel="epochs", ylabel="training error", xlim=(0, None), ylim=(0, 0.8))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def by_images(record: Record) -> Figure:
    """The effect of each regularizer against the number of training images."""
    figure = Figure((5.8, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0, color=INK, linewidth=0.8)
    at_one_number = [row for row in record.rows if row.effect.images]
    compared = dict.fromkeys(row.effect.pair for row in at_one_number)
    for number, (pair, color) in enumerate(zip(compared, (TRAIN, VAL, SOFT), strict=True)):
        rows = [row for row in at_one_number if row.effect.pair == pair]
        # A little apart, so that the intervals of one number of images can be told from each other.
        x = [row.effect.images * 1.03 ** (number - 1) for row in rows]
        single = all(row.estimate.low is None for row in rows)
        # Only means are joined: the steps between single runs are mostly chance.
        line, face = ("o", "white") if single else ("o-", color)
        means = [row.estimate.mean for row in rows]
        axes.plot(x, means, line, color=color, markerfacecolor=face, label=pair)
        for at, row in zip(x, rows, strict=True):
            if row.estimate.low is not None and row.estimate.high is not None:
                axes.plot((at, at), (row.estimate.low, row.estimate.high), color=color, linewidth=2)
    images = sorted({row.effect.images for row in at_one_number})
    axes.set(xscale="log", xlabel="training images", ylabel="difference, percentage points")
    axes.set_xticks(images, [f"{number:,}" for number in images])
    axes.minorticks_off()
    axes.spines[["top", "right"]].set_visible(False)
    # Above the axes, where no curve can be.
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
    return figure


def ladder(record: Record) -> Figure:
    """The errors of each rung of claim `ladder`."""
    figure = Figure((5.8, 0.8 + 0.42 * len(record.results)), layout="constrained")
    axes = figure.subplots()
    left_out = {rung.name for rung in RUNGS} - {rung.name for rung in kept()}
    for height, (name, runs) in enumerate(record.results.items()):
        errors = [100 * run.centre_error for run in runs]
        face = "white" if name in left_out else TRAIN
        axes.plot(errors, [height] * len(errors), "o", color=SOFT, markersize=3)
        axes.plot(mean(errors), height, "o", color=TRAIN, markerfacecolor=face, markersize=7)
    axes.set_yticks(range(len(record.results)), list(record.results), fontsize=8.5)
    axes.invert_yaxis()
    axes.set(xlabel="error with the center crop, %")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def bars(points: Sequence[tuple[Record, Row]]) -> Figure:
    """Differences of test error with their intervals; the paper's numbers as diamonds."""
    # Narrow, so that the text can be read where a telephone shrinks the figure.
    figure = Figure((5.8, 0.9 + 0.42 * len(points)))
    axes = figure.subplots()
    # The names stand above the intervals; beside the axis they would take half of the width.
    left = blended_transform_factory(axes.transAxes, axes.transData)
    for height, (record, row) in enumerate(reversed(points)):
        e = row.estimate
        assert e.low is not None
        assert e.high is not None
        axes.plot((e.low, e.high), (height, height), color=TRAIN, linewidth=2)
        axes.plot(e.mean, height, "o", color=TRAIN, markersize=6)
        if row.effect.number is not None:
            axes.plot(row.effect.number, height, "D", color=VAL, markersize=5)
        name = row.effect.compared.removeprefix("test error, ").removesuffix(", percentage points")
        on = f" ({where(record.raw)})"
        mark = f" {REPEATED}" if row.repeat else ""
        label = f"{record.claim.id}{on}: {name}{mark}"
        axes.text(0, height + 0.3, label, transform=left, fontsize=8.5)
    axes.set(yticks=[], ylim=(-0.7, len(points)), xlabel="percentage points of test error")
    # The line of no effect beside the intervals only, because elsewhere it would cross the words.
    heights = np.arange(len(points))
    axes.vlines(np.zeros(len(points)), heights - 0.25, heights + 0.2, color=INK, linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure
