"""Figure 4: images with the network's answers, and images that look alike to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alexnet.data.classes import short_names
from alexnet.data.loader import batches, epoch_order
from alexnet.data.sources.source import readable
from alexnet.data.store import Split, Store
from alexnet.errors import RunError
from alexnet.figures.style import INK, SOFT, TRAIN, VAL, shortened
from alexnet.inference import (
    centre_crops,
    image_files,
    last_hidden,
    nearest,
    read_image,
    split_for,
)
from alexnet.trained import load, probabilities

ANSWERS, ASKED = 8, 5  # images on the left of Fig. 4, and on its right
MOST_ROWS = 40
"""More rows than this make an image that viewers do not open in full."""
BEST = 5  # classes for each answer
ABSENT = "its class is not among these five"


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


def answers(run: str | Path) -> Figure:
    """Draw eight validation images and the five classes that the run finds most probable.

    The probabilities are averaged over the recipe's own test crops.
    """
    trained = load(run)
    val = split_for(trained)
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


def _draw_answers(shown: Sequence[Answer]) -> Figure:
    """Draw test images and their five most probable classes, the true one marked (Fig. 4, left)."""
    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2.4 * columns, 3.3 * rows), dpi=150, layout="constrained")
    axes = figure.subplots(
        2 * rows, columns, squeeze=False, gridspec_kw={"height_ratios": [2.4, 1.2] * rows}
    )
    for ax in axes.flat:
        ax.set_axis_off()
    for number, answer in enumerate(shown):
        row, column = divmod(number, columns)
        above, below = axes[2 * row, column], axes[2 * row + 1, column]
        above.imshow(answer.image)
        above.set_title(shortened(answer.label, 28), fontsize=9, color=INK, parse_math=False)
        for rank, (name, p) in enumerate(answer.best):
            color = VAL if name == answer.label else TRAIN
            below.barh(-rank, p, height=0.8, color=color, alpha=0.55)
            # The name stands left of the bar and the number behind it, so that no bar hides text.
            below.text(
                -0.04,
                -rank,
                shortened(name, 17),
                fontsize=7,
                ha="right",
                va="center",
                color=INK,
                parse_math=False,
            )
            below.text(p + 0.03, -rank, f"{p:.0%}", fontsize=6.5, va="center", color=SOFT)
        if answer.label not in [name for name, _ in answer.best]:
            # Without this line a reader looks for the red bar in vain.
            below.text(0.125, -BEST, ABSENT, fontsize=6.5, ha="center", va="center", color=VAL)
        # The same scale under each image, so that bars can be compared; the left half is for names.
        below.set_xlim(-1, 1.25)
        # One line more than there are bars, for `ABSENT`.
        below.set_ylim(-0.5 - BEST, 0.5)
    figure.supxlabel(
        "above the image: its class; bars: probabilities, red for the true class",
        fontsize=8,
        color=SOFT,
    )
    return figure


@torch.no_grad()
def neighbours(
    run: str | Path,
    images: Sequence[str | Path] = (),
    data: str | Path = "",
    split: str = "",
) -> Figure:
    """Draw images and the six images of a split most similar to each.

    Similarity is the L2 distance between the activations of the last hidden layer.

    Args:
        images: Image files and folders. If empty, five validation images of the store are drawn, of
            different classes where the split has as many.
        data: Folder or URL of the store that is searched; if empty, that of the run.
        split: Name of the split that is searched; if empty, the training split of the run.

    Raises:
        RunError: A path of `images` does not exist, there are too many of them, or the store has
            images of another size.
        DataError: A file is not an image, or the store cannot be read; the message names it.
    """
    trained = load(run)
    store = Store(data) if data else trained.open_store()
    names = short_names(store.classes, store.words)
    searched_name = split or trained.config.train_split
    searched = split_for(trained, data, searched_name)
    own = None
    if images:
        files = image_files(images)
        if len(files) > MOST_ROWS:
            raise RunError(
                f"{len(files):,} images are too many for a figure; name at most {MOST_ROWS}"
            )
        asked = [read_image(file, trained.preprocess.stored_px) for file in files]
        labels = [readable(file.name) for file in files]
    else:
        val = split_for(trained, data)
        order = epoch_order(len(val), 0, 0)
        _, first = np.unique(val.labels[order], return_index=True)
        # Of each class the first image, and of these the last ones in the order, because the first
        # ones are likely to be among those of `answers`.
        indices = order[np.sort(first)[-ASKED:]]
        # An image is no neighbor of itself.
        own = indices if searched_name == trained.config.val_split else None
        asked = [stored_image(val, i) for i in indices]
        labels = [names[val.labels[i]] for i in indices]
    inputs = trained.preprocess.centre(torch.from_numpy(np.stack(asked)))
    # All images of the split, because the nearest ones are wanted and not some near ones.
    every = np.arange(len(searched))
    features = (last_hidden(trained, x) for x, _ in centre_crops(trained, searched, every))
    rows = [
        [(image, label), *((stored_image(searched, j), names[searched.labels[j]]) for j in near)]
        for image, label, near in zip(
            asked, labels, nearest(last_hidden(trained, inputs), features, own=own), strict=True
        )
    ]
    return _draw_neighbours(rows, "stored" if data or split else "training")


def _draw_neighbours(rows: Sequence[Sequence[tuple[NDArray[np.uint8], str]]], which: str) -> Figure:
    """Draw in each row a test image and the images nearest to it (Fig. 4, right).

    Args:
        rows: Images and the text above each; the first image of a row is the one asked for.
        which: The images that were searched, in a word.
    """
    num_neighbours = len(rows[0]) - 1
    size = (9, 9 / (num_neighbours + 1.3) * 1.14 * len(rows) + 0.4)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    # The narrow second column is a gap between the test image and its neighbors.
    widths = {"width_ratios": [1, 0.15, *[1] * num_neighbours]}
    axes = figure.subplots(len(rows), num_neighbours + 2, squeeze=False, gridspec_kw=widths)
    for ax in axes.flat:
        ax.set_axis_off()
    for row_axes, row in zip(axes, rows, strict=True):
        for ax, (image, label) in zip((row_axes[0], *row_axes[2:]), row, strict=True):
            ax.imshow(image)
            ax.set_title(shortened(label, 20), fontsize=7, color=INK, pad=2, parse_math=False)
    figure.supxlabel(
        f"left: the image; right: the {which} images nearest to it in the last hidden layer, "
        "nearest first",
        fontsize=8,
        color=SOFT,
    )
    return figure


def stored_image(split: Split, index: int) -> NDArray[np.uint8]:
    """Return one stored image, (size_px, size_px, 3) uint8."""
    (batch,) = batches(split, np.array([index]), 1, workers=0)
    image: NDArray[np.uint8] = batch.images[0].numpy()
    return image
