"""What `prepare` says about a source: what was skipped, and what is probably not meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from alexnet.data.copies import find_copies, name_in, read_digests
from alexnet.data.processing import LEAST_PX, MOST_ELONGATED
from alexnet.data.unfinished import Job

SHOWN_SKIPPED = 20  # skipped images that are named on the screen
FIRST = 3  # names in a message, which shows what is wrong without filling the screen


def in_words(manifest: dict[str, Any], said: Sequence[str] = ()) -> list[str]:
    """Return lines about what a store contains and what was left out of it.

    Args:
        said: The notes of the source, where they were printed before the preparation.
    """
    lines = []
    for name, split in manifest["splits"].items():
        kept = f", {split['kept']} kept byte for byte" if split["kept"] else ""
        lines.append(f"  {name}: {split['images']} images, {len(split['skipped'])} skipped{kept}")
        # A few names show what is wrong with a source; the manifest lists all of them.
        lines += [f"    skipped {image}: {why}" for image, why in split["skipped"][:SHOWN_SKIPPED]]
    return lines + [f"  {note}" for note in manifest["notes"][len(said) :]]


def notes_on_splits(splits: dict[str, Any], classes: tuple[str, ...], size_px: int) -> list[str]:
    """Return notes about images of extreme shapes, and about classes that a split lacks."""
    notes = []
    for split, about in splits.items():
        count, names = about["extreme"]["images"], about["extreme"]["names"]
        if count:
            noun, verb = ("image", "is") if count == 1 else ("images", "are")
            notes.append(
                f"{count} {noun} of {split!r} {verb} smaller than {min(LEAST_PX, size_px)} pixels, "
                f"or more than {MOST_ELONGATED} times as long as wide: {first_of(names, count)}"
            )
    total = [sum(counts) for counts in zip(*(s["per_class"] for s in splits.values()), strict=True)]
    for split, about in splits.items():
        missing = [
            f"{name} ({in_all} in all)"
            for name, here, in_all in zip(classes, about["per_class"], total, strict=True)
            if here == 0
        ]
        if missing:
            noun = "class has" if len(missing) == 1 else "classes have"
            notes.append(
                f"{len(missing)} {noun} no image in {split!r}: {first_of(missing, len(missing))}"
            )
    return notes


def notes_on_copies(job: Job) -> list[str]:
    """Return notes about images that occur in more than one split, or in more than one class."""
    splits = list(job.state["splits"])
    files = [
        (split, shard["file"], shard["images"])
        for split in splits
        for shard in job.state["splits"][split]["shards"]
    ]
    read = []
    for split, file, images in files:
        path = job.digests(split, file)
        if (arrays := read_digests(path, images)) is None:
            # It serves the notes alone, and does not cost a finished preparation.
            return [f"copies of images were not looked for: {path.name} is missing or damaged"]
        read.append(arrays)
    digest, label = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
    ends = np.cumsum([images for _, _, images in files])
    split_of = np.repeat(
        [splits.index(split) for split, _, _ in files], [images for _, _, images in files]
    )

    def name(image: int) -> str:
        """The name of an image, by its position in all splits together."""
        number = int(np.searchsorted(ends, image, side="right"))
        split, file, images = files[number]
        return name_in(job.target.new / split / file, image - int(ends[number]) + images)

    notes = []
    for what, kind, names in (("split", split_of, splits), ("class", label, job.source.classes)):
        pairs = find_copies(digest, kind).tolist()
        if not pairs:
            continue
        shown = [
            " = ".join(f"{name(image)} ({names[kind[image]]})" for image in pair)
            for pair in pairs[:FIRST]
        ]
        noun, verb = ("image", "occurs") if len(pairs) == 1 else ("images", "occur")
        notes.append(
            f"{len(pairs):,} {noun} {verb} in more than one {what}: {first_of(shown, len(pairs))}"
        )
    return notes


def first_of(names: list[str], count: int) -> str:
    """Return the first of `count` texts, and how many more there are."""
    rest = count - len(names[:FIRST])
    return ", ".join(names[:FIRST]) + (f" and {rest} more" if rest else "")
