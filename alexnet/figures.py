"""Pictures of a run: its filters (Fig. 3), its answers and neighbours (Fig. 4), its learning curves, what an untrained
network sees. Each a matplotlib Figure, for `savefig`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alexnet.model import Network
from alexnet.signal import BLIND, Signal

INK, TRAIN, VAL = "#333333", "#1f6f8b", "#d1495b"
GAP_PX, KERNELS_A_ROW = 1, 16


def filters(net: Network) -> Figure:
    """The kernels of the first layer, each column's apart, as in Fig. 3."""
    first = net.steps[0]
    weight = net.get_parameter(f"{first.layer.name}.weight").detach().float().cpu()
    if weight.dim() != 4:
        raise ValueError(f"{first.layer.name} has no kernels to draw")
    columns = net.architecture.columns
    figure = Figure(
        figsize=(9, 0.8 + 0.62 * columns * -(-len(weight) // columns // KERNELS_A_ROW)), dpi=150
    )
    axes = figure.subplots(columns, 1, squeeze=False)[:, 0]
    for number, (ax, part) in enumerate(zip(axes, weight.chunk(columns), strict=True), 1):
        ax.imshow(_tiles(part), interpolation="nearest")
        ax.set_axis_off()
        name = f"{first.layer.name}: {len(part)} kernels of {part.shape[2]}x{part.shape[3]}"
        ax.set_title(
            name if columns == 1 else f"column {number}, {name}", fontsize=9, color=INK, loc="left"
        )
    figure.tight_layout()
    return figure


def _tiles(kernels: torch.Tensor) -> NDArray[np.float32]:
    """(K, 3, S, S) weights as one picture; each kernel scaled to its own largest weight, zero is grey."""
    each = kernels.permute(0, 2, 3, 1).numpy()
    most = np.abs(each).max(axis=(1, 2, 3), keepdims=True)
    each = 0.5 + 0.5 * each / np.maximum(most, 1e-12)
    side = each.shape[1] + GAP_PX
    rows = -(-len(each) // KERNELS_A_ROW)
    sheet = np.ones((rows * side + GAP_PX, KERNELS_A_ROW * side + GAP_PX, 3), np.float32)
    for i, kernel in enumerate(each):
        y, x = i // KERNELS_A_ROW * side + GAP_PX, i % KERNELS_A_ROW * side + GAP_PX
        sheet[y : y + side - GAP_PX, x : x + side - GAP_PX] = kernel
    return sheet


def curves(runs: Sequence[tuple[str, list[dict[str, Any]]]]) -> Figure:
    """Error and loss against epochs, with the moments at which the rate fell. runs: (name, epoch metrics)."""
    figure = Figure(figsize=(9, 3.6), dpi=150)
    error, loss = figure.subplots(1, 2)
    for number, (name, epochs) in enumerate(runs):
        if not epochs:
            raise ValueError(f"{name} has no finished epoch to draw")
        style = dict(linestyle=("-", "--", ":", "-.")[number % 4], linewidth=1.4)
        x = [m["epoch"] for m in epochs]
        mark = f"{name} " if len(runs) > 1 else ""
        error.plot(
            x,
            [100 * m["train_error"] for m in epochs],
            color=TRAIN,
            label=f"{mark}training",
            **style,
        )
        error.plot(
            x, [100 * m["val_error"] for m in epochs], color=VAL, label=f"{mark}validation", **style
        )
        loss.plot(x, [m["train_loss"] for m in epochs], color=TRAIN, **style)
        loss.plot(x, [m["val_loss"] for m in epochs], color=VAL, **style)
        for before, after in itertools.pairwise(epochs):
            if after["rate"] < before["rate"]:
                for ax in (error, loss):
                    ax.axvline(before["epoch"] + 0.5, color="#bbbbbb", linewidth=0.8, zorder=0)
    _finish(error, "epoch", "error, %")
    _finish(loss, "epoch", "loss")
    error.set_ylim(bottom=0)
    error.legend(frameon=False, fontsize=8)
    error.set_title("grey lines: the learning rate falls", fontsize=8, color="#888888", loc="right")
    figure.tight_layout()
    return figure


def signals(runs: Sequence[tuple[str, list[Signal]]]) -> Figure:
    """How far two pictures are apart in each layer of an untrained network."""
    figure = Figure(figsize=(7, 3.6), dpi=150)
    ax = figure.subplots()
    for name, signals in runs:
        ax.plot(
            [s.layer for s in signals],
            [100 * s.difference for s in signals],
            marker="o",
            label=name,
        )
    ax.axhline(100 * BLIND, color="#bbbbbb", linewidth=0.8, zorder=0)
    ax.set_yscale("log")
    ax.legend(frameon=False, fontsize=8)
    _finish(ax, "layer", "difference of two pictures, %")
    figure.tight_layout()
    return figure


@dataclass(frozen=True)
class Answer:
    """A picture (H, W, 3) uint8, its class, and the likeliest classes with their probabilities, best first."""

    picture: NDArray[np.uint8]
    own: str
    best: tuple[tuple[str, float], ...]


def answers(found: Sequence[Answer], columns: int = 4) -> Figure:
    """Test pictures and their five likeliest classes, the right one marked (Fig. 4, left)."""
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(2.25 * columns, 3.0 * rows), dpi=150)
    axes = figure.subplots(
        2 * rows, columns, squeeze=False, gridspec_kw={"height_ratios": [2.4, 1] * rows}
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for number, answer in enumerate(found):
        row, column = divmod(number, columns)
        above, below = axes[2 * row, column], axes[2 * row + 1, column]
        above.imshow(answer.picture)
        above.set_title(answer.own, fontsize=9, color=INK)
        for place, (name, p) in enumerate(answer.best):
            below.barh(
                -place, p, height=0.8, color=VAL if name == answer.own else TRAIN, alpha=0.55
            )
            below.text(0.02, -place, name, fontsize=7.5, va="center", color=INK)
        below.set_xlim(0, 1)
    figure.tight_layout()
    return figure


def neighbours(rows: Sequence[tuple[NDArray[np.uint8], Sequence[NDArray[np.uint8]]]]) -> Figure:
    """A test picture a row, then the training pictures nearest to it (Fig. 4, right)."""
    most = max(len(near) for _, near in rows)
    figure = Figure(figsize=(9, 9 / (most + 1.3) * len(rows)), dpi=150)
    widths = {"width_ratios": [1, 0.15, *[1] * most], "wspace": 0.04, "hspace": 0.04}
    axes = figure.subplots(len(rows), most + 2, squeeze=False, gridspec_kw=widths)
    for ax in axes.flat:
        ax.set_axis_off()
    for places, (asked, near) in zip(axes, rows, strict=True):
        for ax, picture in zip((places[0], *places[2:]), (asked, *near), strict=False):
            ax.imshow(picture)
    return figure


def _finish(ax: Axes, x: str, y: str) -> None:
    ax.set_xlabel(x, color=INK)
    ax.set_ylabel(y, color=INK)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
