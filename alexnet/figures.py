"""Figures of a run, each a matplotlib Figure for `savefig`.

They show the filters of the first layer (Fig. 3), answers and neighbors (Fig. 4), learning curves,
and what an untrained network sees.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alexnet.data.loader import batches, epoch_order
from alexnet.data.store import Split, Store
from alexnet.diagnostics import BLIND, Signal
from alexnet.errors import RunError
from alexnet.files import write_whole
from alexnet.inference import activation
from alexnet.model import Network
from alexnet.progress import Progress
from alexnet.train.metrics import read_metrics
from alexnet.trained import Trained, load, probabilities

INK, TRAIN, VAL = "#333333", "#1f6f8b", "#d1495b"
GAP_PX, FILTERS_PER_ROW = 1, 16  # as in Fig. 3


def filters(net: Network) -> Figure:
    """Draw the filters of the first layer, those of each column apart, as in Fig. 3.

    Raises:
        RunError: If the first layer is not convolutional.
    """
    first = net.plan[0]
    # Filters of the two columns follow each other in the weight tensor.
    weight = net.get_parameter(f"{first.layer.name}.weight").detach().float().cpu()
    if weight.dim() != 4:
        raise RunError(f"{first.layer.name} has no filters to draw")
    columns = net.architecture.columns
    # -(-a // b) is a / b rounded up.
    rows = columns * -(-len(weight) // columns // FILTERS_PER_ROW)
    figure = Figure(figsize=(9, 0.8 + 0.62 * rows), dpi=150)
    axes = figure.subplots(columns, 1, squeeze=False)[:, 0]
    for number, (ax, part) in enumerate(zip(axes, weight.chunk(columns), strict=True), 1):
        ax.imshow(_tiles(part), interpolation="nearest")
        ax.set_axis_off()
        name = f"{first.layer.name}: {len(part)} filters of {part.shape[2]}x{part.shape[3]}"
        ax.set_title(
            name if columns == 1 else f"column {number}, {name}", fontsize=9, color=INK, loc="left"
        )
    figure.tight_layout()
    return figure


def _tiles(filters: torch.Tensor) -> NDArray[np.float32]:
    """Arrange filters, (K, 3, S, S), as one image, (H, W, 3).

    Each filter is scaled by its own largest weight, with zero as mid-gray: otherwise a few strong
    filters would leave the others gray.
    """
    each = filters.permute(0, 2, 3, 1).numpy()
    largest = np.abs(each).max(axis=(1, 2, 3), keepdims=True)
    each = 0.5 + 0.5 * each / np.maximum(largest, 1e-12)
    side = each.shape[1] + GAP_PX
    rows = -(-len(each) // FILTERS_PER_ROW)
    sheet = np.ones((rows * side + GAP_PX, FILTERS_PER_ROW * side + GAP_PX, 3), np.float32)
    for i, tile in enumerate(each):
        y, x = i // FILTERS_PER_ROW * side + GAP_PX, i % FILTERS_PER_ROW * side + GAP_PX
        sheet[y : y + side - GAP_PX, x : x + side - GAP_PX] = tile
    return sheet


def _draw_curves(runs: Sequence[tuple[str, list[dict[str, Any]]]]) -> Figure:
    """Plot error and loss against epochs, and mark where the learning rate fell.

    Args:
        runs: Name and epoch metrics of each run.
    """
    figure = Figure(figsize=(9, 3.6), dpi=150)
    error, loss = figure.subplots(1, 2)
    for number, (name, epochs) in enumerate(runs):
        if not epochs:
            raise RunError(f"{name} has no finished epoch to draw")
        # Color tells training from validation, so the line style must tell the runs apart.
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
            if after["lr"] < before["lr"]:
                for ax in (error, loss):
                    # Between the epochs: the new rate applies from the beginning of the next one.
                    ax.axvline(before["epoch"] + 0.5, color="#bbbbbb", linewidth=0.8, zorder=0)
    _finish(error, "epoch", "error, %")
    _finish(loss, "epoch", "loss")
    # From zero, so that the distance between two curves is not exaggerated.
    error.set_ylim(bottom=0)
    error.legend(frameon=False, fontsize=8)
    error.set_title("grey lines: the learning rate falls", fontsize=8, color="#888888", loc="right")
    figure.tight_layout()
    return figure


def _draw_signals(runs: Sequence[tuple[str, list[Signal]]]) -> Figure:
    """Plot how far two images are apart in each layer of an untrained network."""
    # A logarithmic scale: in a network that starts nearly blind the difference shrinks by a
    # factor in each layer.
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
    _finish(ax, "layer", "difference of two images, %")
    figure.tight_layout()
    return figure


@dataclass(frozen=True)
class Answer:
    """One answer of the network.

    Attributes:
        image: (H, W, 3) uint8.
        label: Name of the true class.
        best: The most probable classes and their probabilities, most probable first.
    """

    image: NDArray[np.uint8]
    label: str
    best: tuple[tuple[str, float], ...]


def _draw_answers(shown: Sequence[Answer], columns: int = 4) -> Figure:
    """Draw test images and their five most probable classes, the true one marked (Fig. 4, left)."""
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.25 * columns, 3.0 * rows), dpi=150)
    axes = figure.subplots(
        2 * rows, columns, squeeze=False, gridspec_kw={"height_ratios": [2.4, 1] * rows}
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for number, answer in enumerate(shown):
        row, column = divmod(number, columns)
        above, below = axes[2 * row, column], axes[2 * row + 1, column]
        above.imshow(answer.image)
        above.set_title(answer.label, fontsize=9, color=INK)
        for rank, (name, p) in enumerate(answer.best):
            color = VAL if name == answer.label else TRAIN
            below.barh(-rank, p, height=0.8, color=color, alpha=0.55)
            below.text(0.02, -rank, name, fontsize=7.5, va="center", color=INK)
        # The same scale under each image, so that bars can be compared.
        below.set_xlim(0, 1)
    figure.tight_layout()
    return figure


def _draw_neighbours(
    rows: Sequence[tuple[NDArray[np.uint8], Sequence[NDArray[np.uint8]]]],
) -> Figure:
    """Draw in each row a test image and the training images nearest to it (Fig. 4, right)."""
    most = max(len(near) for _, near in rows)
    figure = Figure(figsize=(9, 9 / (most + 1.3) * len(rows)), dpi=150)
    # The narrow second column is a gap between the test image and its neighbors.
    widths = {"width_ratios": [1, 0.15, *[1] * most], "wspace": 0.04, "hspace": 0.04}
    axes = figure.subplots(len(rows), most + 2, squeeze=False, gridspec_kw=widths)
    for ax in axes.flat:
        ax.set_axis_off()
    for row_axes, (query, near) in zip(axes, rows, strict=True):
        for ax, image in zip((row_axes[0], *row_axes[2:]), (query, *near), strict=False):
            ax.imshow(image)
    return figure


def _finish(ax: Axes, x: str, y: str) -> None:
    """Label the axes and remove the frame on two sides."""
    ax.set_xlabel(x, color=INK)
    ax.set_ylabel(y, color=INK)
    # The curves need no box around them.
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


# Fig. 4 shows eight images on the left, five on the right, and six neighbors of each of these.
ANSWERS, ASKED, NEAREST = 8, 5, 6
BEST = 5  # classes for each answer


def of_run(run: str | Path) -> tuple[Trained, Split, Split]:
    """Return a trained run, and the training and validation split of its store.

    Raises:
        RunError: If the run has no checkpoint.
        DataError: If its store no longer exists.
    """
    trained = load(run)
    config = trained.config
    store = Store(config.data)
    return trained, store.split(config.train_split), store.split(config.val_split)


def centre_patches(
    trained: Trained, split: Split, order: NDArray[np.int64]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the preprocessed center crops of images of a split, and their labels, in batches.

    Args:
        order: Positions of the images in the split.
    """
    with Progress(f"{len(order)} images", len(order), "images") as progress:
        for batch in batches(split, order, 128):
            yield trained.preprocess.centre(batch.images), batch.labels
            progress.advance(len(batch.labels))


def last_hidden(trained: Trained, x: torch.Tensor) -> torch.Tensor:
    """Return the feature vectors of section 6.1 for preprocessed images: (N, units) float32.

    These are the activations of the last hidden layer, after its nonlinearity.
    """
    return activation(trained, trained.net.plan[-2].layer.name, x).flatten(1)


def nearest(asked: torch.Tensor, there: torch.Tensor, most: int = NEAREST) -> torch.Tensor:
    """Return the rows of `there` nearest to each of `asked` in L2 distance, nearest first.

    Args:
        asked: (N, values).
        there: (M, values).

    Returns:
        Indices of rows of `there`, (N, most).
    """
    return torch.cdist(asked, there).topk(most, largest=False).indices


def answers(run: str | Path) -> Figure:
    """Draw eight validation images and the five classes that the run finds most probable.

    The probabilities are averaged over the recipe's own test crops.
    """
    trained, _, val = of_run(run)
    # In the order of an epoch, because the first images of a split are often of one class.
    (batch,) = batches(val, epoch_order(len(val), 0, 0)[:ANSWERS], ANSWERS)
    preprocess = trained.preprocess
    p = probabilities(trained.net, preprocess, batch.images, preprocess.augment).cpu()
    best = torch.argsort(p, dim=1, descending=True, stable=True)[:, :BEST].tolist()
    names = trained.names
    shown = [
        Answer(image, names[label], tuple((names[i], float(row[i])) for i in classes))
        for image, label, row, classes in zip(
            batch.images.numpy(), batch.labels.tolist(), p, best, strict=True
        )
    ]
    return _draw_answers(shown)


@torch.no_grad()
def neighbours(run: str | Path) -> Figure:
    """Draw five validation images and the six training images most similar to each.

    Similarity is the L2 distance between the activations of the last hidden layer. The five images
    are of different classes where the split has as many.
    """
    trained, train, val = of_run(run)
    order = epoch_order(len(val), 0, 0)
    _, first = np.unique(val.labels[order], return_index=True)
    # Of each class the first image, and of these the last ones in the order, because the first ones
    # are likely to be among those of `answers`.
    asked = order[np.sort(first)[-ASKED:]]
    # All training images, because the nearest ones are wanted and not some near ones.
    every = np.arange(len(train))
    train_features, asked_features = (
        torch.cat([last_hidden(trained, x) for x, _ in centre_patches(trained, split, which)])
        for split, which in ((train, every), (val, asked))
    )
    return _draw_neighbours(
        [
            (_image(val, i), [_image(train, j) for j in near])
            for i, near in zip(asked, nearest(asked_features, train_features), strict=True)
        ]
    )


def curves(runs: Sequence[Path]) -> Figure:
    """Draw the learning curves of runs. Raises RunError for a folder without metrics."""
    return _draw_curves([(run.name, read_metrics(run, "epoch")) for run in runs])


def signals(runs: Sequence[Path]) -> Figure:
    """Draw what the untrained networks saw, layer by layer. Raises RunError without a signal."""
    starts = []
    for run in runs:
        # A run that was killed before its first step has none.
        if not (lines := read_metrics(run, "start")):
            raise RunError(f"{run} has no signal in its metrics.jsonl; it was not yet begun")
        starts.append((run.name, lines[0]["signal"]))
    return _draw_signals(
        [(name, [Signal(layer, *pair) for layer, pair in start.items()]) for name, start in starts]
    )


def _image(split: Split, index: int) -> NDArray[np.uint8]:
    """Return one stored image, (size_px, size_px, 3) uint8."""
    (batch,) = batches(split, np.array([index]), 1, workers=0)
    image: NDArray[np.uint8] = batch.images[0].numpy()
    return image


def save(figure: Figure, path: Path) -> None:
    """Write a figure into an image file, atomically; its suffix selects the format.

    Raises:
        RunError: If there is no such format.
        AlexNetError: If the folder of the file does not exist.
    """
    formats = figure.canvas.get_supported_filetypes()
    suffix = path.suffix[1:].lower()
    if suffix not in formats:
        raise RunError(f"{path} has none of the suffixes .{', .'.join(sorted(formats))}")
    content = io.BytesIO()
    figure.savefig(content, format=suffix, bbox_inches="tight")
    write_whole(path, content.getvalue())
