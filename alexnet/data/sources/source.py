"""What every source is made of: items, splits, and how a part of the training images is held out."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Item:
    """One labelled image, still in its file's bytes; read is called by the worker that decodes it."""

    name: str
    label: int
    read: Callable[[], bytes]


def in_hand(data: bytes) -> Callable[[], bytes]:
    """For sources that are read from front to back."""
    return lambda: data


@dataclass(frozen=True)
class SourceSplit:
    """items(start) yields the split's items from number `start` on; count is None if unknown."""

    name: str
    count: int | None
    items: Callable[[int], Iterator[Item]]


@dataclass(frozen=True)
class Source:
    """The first split is the training split: its pixels give the statistics."""

    description: str
    classes: tuple[str, ...]
    splits: tuple[SourceSplit, ...]
    upright: bool = False
    """Turn images as their EXIF orientation says."""
    words: tuple[str, ...] = ()
    """What each class is called, where `classes` are wnids; empty when nobody says."""
    notes: tuple[str, ...] = ()
    """What of the source is left out and why, a sentence each."""


@dataclass(frozen=True)
class Options:
    """What of a source is asked for. splits: their names, empty for all that have labels."""

    val_fraction: float = 0.1
    splits: tuple[str, ...] = ()
    seed: int = 0

    def wants(self, split: str) -> bool:
        return not self.splits or split in self.splits

    def checked_fraction(self) -> float:
        """Raises ValueError for a share that leaves nothing to train on."""
        if not 0 <= self.val_fraction < 1:
            raise ValueError(
                f"--val-fraction is {self.val_fraction}; it is a share of at least 0 and below 1"
            )
        return self.val_fraction


def split_name(word: str) -> str:
    """A split's name by the word that a source has for it; an unknown word stays as it is."""
    return next((name for name, words in SPLIT_NAMES.items() if word.lower() in words), word)


def is_image(name: str | Path) -> bool:
    return Path(name).suffix.lower() in PICTURES


def without_labels(split: str, where: object) -> str:
    """The note about a test split without labels, which many sets have.

    Raises ValueError for any other split: a run needs it.
    """
    if split != "test":
        raise ValueError(
            f"the split {split!r} of {where} has no labels; "
            "add them, or leave the split out with --splits"
        )
    return f"the split 'test' of {where} has no labels and is left out"


Listed = tuple[Path, str, int]
"""A file, the name that its item shall have, and its label."""


def listed(name: str, files: Sequence[Listed]) -> SourceSplit:
    """A split of single files."""

    def items(start: int) -> Iterator[Item]:
        for path, item_name, label in files[start:]:
            yield Item(item_name, label, path.read_bytes)

    return SourceSplit(name, len(files), items)


def listed_with_val(files: Sequence[Listed], options: Options) -> tuple[SourceSplit, ...]:
    """The training split, and a validation split of `val_fraction` of the files."""
    order = np.random.default_rng(options.seed).permutation(len(files))
    chosen = set(order[: round(options.checked_fraction() * len(files))].tolist())
    train = listed("train", [file for i, file in enumerate(files) if i not in chosen])
    if not chosen:
        return (train,)
    return train, listed("val", [file for i, file in enumerate(files) if i in chosen])


Row = tuple[str, int, Callable[[], bytes]]
"""An image's name and label, and what reads it: only while its row is the last one given."""


def streamed(name: str, count: int | None, rows: Callable[[], Iterator[Row]]) -> SourceSplit:
    """A split of an archive that is read from front to back.

    The thread that walks through the rows reads them, since a tar file has one position; of rows
    before `start` it reads nothing but their headers.
    """

    def items(start: int) -> Iterator[Item]:
        for item_name, label, read in itertools.islice(rows(), start, None):
            yield Item(item_name, label, in_hand(read()))

    return SourceSplit(name, count, items)


def streamed_with_val(
    rows: Callable[[], Iterator[Row]], options: Options
) -> tuple[SourceSplit, ...]:
    """The training split, and a validation split of `val_fraction` of each class.

    Nobody knows beforehand how many images there are, and counting 14 million of them would read
    all their headers once more. So the images of a class are taken at even distances, from a
    position that depends on the seed and the class: of the first n of a class
    `val_fraction` * n are held out, one more or less.
    """
    fraction = options.checked_fraction()

    @cache
    def begin(label: int) -> float:
        return float(np.random.default_rng([options.seed, label]).random())

    def part(held_out: bool) -> Callable[[], Iterator[Row]]:
        def own() -> Iterator[Row]:
            seen: Counter[int] = Counter()
            for row in rows():
                number = seen[row[1]]
                seen[row[1]] += 1
                place = begin(row[1]) + fraction * number
                if (math.floor(place + fraction) > math.floor(place)) == held_out:
                    yield row

        return own

    train = streamed("train", None, part(False))
    return (train, streamed("val", None, part(True))) if fraction else (train,)
