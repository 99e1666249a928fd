"""A look at a store: what it contains, in a few lines and in one figure.

It shows what is easily wrong with a data set before hours of training: labels that do not fit their
images, classes with few images, images that were skipped or left out.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from alexnet import files
from alexnet.data.classes import short_names
from alexnet.data.image import centre_square
from alexnet.data.loader import batches
from alexnet.data.store import Split, Store
from alexnet.figures.style import INK, TRAIN, VAL, finish, shortened
from alexnet.terminal import printable
from alexnet.units import equally_spaced

CLASSES, PER_CLASS = 10, 8  # rows and columns of the mosaic
TILE_PX, GAP_PX = 96, 4
MOST_BARS = 30  # classes; with more of them, the numbers of images are drawn as a curve
NAME_LETTERS = 22  # at most, of the name of a class in the figure
FACT_LETTERS, FACT_LINES = 150, 18  # of a line, and lines, below the mosaic
EXAMPLES = 3  # names of skipped images
COLORS = {"train": TRAIN, "val": VAL}
OTHER_COLOR = "#9a9a9a"

Counts = Mapping[str, NDArray[np.int64]]
"""The number of images of each class, by split."""


def look(store: Store) -> tuple[list[tuple[str, str]], Figure]:
    """Return the facts about a store, each with its name, and the figure that shows it.

    Only the indices of the splits and the images of the mosaic are read, so that a large or a
    remote store takes no longer than a small one.

    Raises:
        DataError: If a file that is read is missing or damaged.
        StoreLost: If the storage no longer answers.
    """
    splits = {name: store.split(name) for name in store.manifest["splits"]}
    counts = {
        name: np.bincount(split.labels, minlength=len(store.classes))
        for name, split in splits.items()
    }
    known = facts(store, counts)
    return known, _draw(store, splits, counts, known)


def facts(store: Store, counts: Counts) -> list[tuple[str, str]]:
    """Return what the manifest, the mean image and the indices say, as pairs of name and text."""
    manifest = store.manifest
    names = short_names(store.classes, store.words)
    lines = [("classes", f"{len(names):,}")]
    for split, per_class in counts.items():
        text = f"{per_class.sum():,} images"
        smallest, largest = int(per_class.argmin()), int(per_class.argmax())
        if per_class[smallest] == per_class[largest]:
            text += f", {per_class[smallest]:,} in each class"
        else:
            text += (
                f"; smallest class {names[smallest]} ({per_class[smallest]:,}), "
                f"largest {names[largest]} ({per_class[largest]:,})"
            )
        lines.append((split, text))
    size_px = store.size_px
    encoding = manifest["settings"].get("encoding", "unknown encoding")
    size = sum(s["bytes"] for split in manifest["splits"].values() for s in split["shards"])
    per_image = round(size / max(1, sum(int(c.sum()) for c in counts.values())))
    lines.append(
        (
            "stored as",
            f"{encoding}, {size_px}x{size_px} pixels, {files.size(per_image)} an image, "
            f"{files.size(size)} in all",
        )
    )
    red, green, blue = store.statistics.mean.mean((0, 1))
    lines.append(("mean color", f"red {red:.0f}, green {green:.0f}, blue {blue:.0f} of 255"))
    lines.append(("made from", manifest.get("source", "unknown")))
    return [(name, printable(text)) for name, text in lines] + left_out(manifest)


def left_out(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what `prepare` noted: skipped images, files left out, extreme images, empty classes.

    Returns:
        Pairs of `skipped` or `note`, and a text that a terminal can be given.
    """
    lines = []
    for split, about in manifest["splits"].items():
        if skipped := about.get("skipped"):
            shown = ", ".join(f"{name} ({reason})" for name, reason in skipped[:EXAMPLES])
            rest = f" and {len(skipped) - EXAMPLES:,} more" if len(skipped) > EXAMPLES else ""
            lines.append(("skipped", f"{len(skipped):,} of {split}: {shown}{rest}"))
    lines += [("note", note) for note in manifest.get("notes", [])]
    return [(name, printable(text)) for name, text in lines]


def _draw(
    store: Store,
    splits: Mapping[str, Split],
    counts: Counts,
    known: Sequence[tuple[str, str]],
) -> Figure:
    """Draw images of some classes, the number of images of all classes, and the facts."""
    names = [
        shortened(printable(name), NAME_LETTERS) for name in short_names(store.classes, store.words)
    ]
    split = next(iter(splits))
    shown = equally_spaced(len(names), CLASSES)
    lines = [
        line
        for name, text in known
        for line in textwrap.wrap(f"{name}: {text}", FACT_LETTERS, subsequent_indent="    ")
    ]
    if len(lines) > FACT_LINES:
        lines[FACT_LINES - 1 :] = ["..."]
    mosaic_in = 0.9 * len(shown)
    text_in = 0.17 * len(lines)
    bars_in = 0.2 * len(names) if CLASSES < len(names) <= MOST_BARS else 0
    height_in = max(mosaic_in, bars_in, 2.2)
    figure = Figure(figsize=(13, height_in + text_in + 0.9), dpi=110, layout="constrained")
    grid = figure.add_gridspec(
        2, 2, width_ratios=[8.4, 4.2], height_ratios=[height_in + 0.7, text_in]
    )
    mosaic = figure.add_subplot(grid[0, 0])
    _draw_mosaic(mosaic, splits[split], shown, names)
    some = f"{len(shown)} of {len(names):,} classes, " if len(shown) < len(names) else ""
    mosaic.set_title(f"{some}images of {split}", fontsize=10, color=INK, loc="left")
    balance = figure.add_subplot(grid[0, 1])
    if len(names) <= MOST_BARS:
        _draw_bars(balance, counts, names)
    else:
        _draw_curve(balance, counts)
    text = figure.add_subplot(grid[1, :])
    text.set_axis_off()
    text.text(0, 1, "\n".join(lines), fontsize=8, va="top", color=INK, parse_math=False)
    figure.suptitle(printable(store.name), fontsize=11, color=INK, parse_math=False)
    return figure


def _draw_mosaic(ax: Axes, split: Split, shown: NDArray[np.int64], names: Sequence[str]) -> None:
    """Draw a row of images for each class of `shown`."""
    side = TILE_PX + GAP_PX
    sheet = np.full((side * len(shown), side * PER_CLASS, 3), 255, np.uint8)
    places: list[tuple[int, int]] = []
    chosen: list[int] = []
    for row, label in enumerate(shown):
        members = np.flatnonzero(split.labels == label)
        # At equal distances: the images of a class often follow each other in the order in which
        # they were taken.
        some = members[equally_spaced(len(members), PER_CLASS)]
        for column, image in enumerate(some):
            places.append((row, column))
            chosen.append(int(image))
    # A row at a time: images of the largest size would not fit into memory together.
    order, tiles = np.array(chosen, np.int64), iter(places)
    # Without threads, which would decode the next rows meanwhile.
    for batch in batches(split, order, PER_CLASS, workers=0):
        for image, (row, column) in zip(batch.images.numpy(), tiles, strict=False):
            y, x = row * side, column * side
            sheet[y : y + TILE_PX, x : x + TILE_PX] = centre_square(image, TILE_PX)
    ax.imshow(sheet)
    ax.set_yticks(
        [row * side + TILE_PX / 2 for row in range(len(shown))],
        [names[label] for label in shown],
        fontsize=9,
        color=INK,
        parse_math=False,
    )
    ax.set_xticks([])
    ax.tick_params(length=0)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _draw_bars(ax: Axes, counts: Counts, names: Sequence[str]) -> None:
    """Draw a bar for each class, with a part for each split."""
    left = np.zeros(len(names))
    places = np.arange(len(names))
    for split, per_class in counts.items():
        ax.barh(places, per_class, 0.7, left, color=_color(split), label=split)
        left += per_class
    for place, ends in enumerate(left):
        terms = " + ".join(f"{per_class[place]:,}" for per_class in counts.values())
        ax.text(ends, place, f" {terms}", fontsize=7.5, va="center", color=INK)
    ax.set_yticks(places, names, fontsize=8, color=INK, parse_math=False)
    ax.tick_params(axis="y", length=0)
    # The first class on top, as in the mosaic; room on the right for the numbers.
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlim(0, 1.35 * max(1, left.max()))
    ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    _finish(ax, "images")


def _draw_curve(ax: Axes, counts: Counts) -> None:
    """Draw the number of images of all classes, for each split from the largest class down."""
    for split, per_class in counts.items():
        ranks = np.arange(1, len(per_class) + 1)
        ax.step(ranks, np.sort(per_class)[::-1], where="mid", color=_color(split), label=split)
    ax.set_ylim(bottom=0)
    ax.set_xlim(1, None)
    _finish(ax, "classes of a split, the largest first", "images")


def _finish(ax: Axes, x: str, y: str = "") -> None:
    finish(ax, x, y)
    ax.set_title("images per class", fontsize=10, color=INK, loc="left")
    ax.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1), ncols=3)


def _color(split: str) -> str:
    return COLORS.get(split, OTHER_COLOR)
