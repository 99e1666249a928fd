"""Data sets of the Hugging Face hub, read as they stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from alexnet.data.classes import ClassList, are_wnids, class_list, wnids_of_labels
from alexnet.data.sources.source import (
    Item,
    Options,
    Source,
    SourceSplit,
    in_hand,
    split_name,
    without_labels,
)

ROWS_FOR_WNIDS = 1000
"""Training rows that must agree on the wnid of each label: enough for classes of several synsets
to show a second one."""


def hub(name: str, options: Options | None = None) -> Source:
    """The set `name`. Raises ValueError when it cannot be reached or has no images with classes.

    The wnids of ImageNet's classes stand in the names of its training images: the stream is read
    until each class has shown its own. A split whose first row has no label is left out.
    """
    import datasets

    options = options or Options()
    try:
        streams: Any = datasets.load_dataset(name, streaming=True)
    except (
        Exception
    ) as error:  # the library raises many kinds: no network, no such name, no permission
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{name} is no folder here, and the Hugging Face hub does not give it: {reason}"
        ) from None
    splits = {split_name(key): stream for key, stream in streams.items()}
    if "train" not in splits:
        raise ValueError(f"{name} has no training split; it has {', '.join(streams)}")
    kinds = splits["train"].features or {}
    images = [key for key, kind in kinds.items() if isinstance(kind, datasets.Image)]
    labels = [key for key, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    if not images or not labels:
        raise ValueError(f"{name} has no image or class column; it has {', '.join(kinds)}")
    image, label = images[0], labels[0]
    raw = {
        key: stream.cast_column(image, datasets.Image(decode=False))
        for key, stream in sorted(splits.items(), key=lambda pair: pair[0] != "train")
        if options.wants(key)
    }
    made, notes = [], []
    found = _classes(raw["train"], image, label, tuple(kinds[label].names))
    for key, stream in raw.items():
        first = next(iter(stream), None)
        if first is not None and first[label] in (None, -1):
            notes.append(without_labels(key, name))
        else:
            made.append(_split(key, stream, image, label, found))
    return Source(f"hub {name}", found.classes, tuple(made), words=found.words, notes=tuple(notes))


def _classes(stream: Any, image: str, label: str, names: tuple[str, ...]) -> ClassList:
    if are_wnids(names):
        return class_list(names)
    shown = ((row[image]["path"], int(row[label])) for row in stream)
    return class_list(names, wnids_of_labels(shown, len(names), enough=ROWS_FOR_WNIDS))


def _split(key: str, stream: Any, image: str, label: str, found: ClassList) -> SourceSplit:
    def items(start: int) -> Iterator[Item]:
        for number, row in enumerate(stream.skip(start), start):
            if row[label] in (None, -1):
                raise ValueError(f"row {number} of the split {key!r} has no label")
            yield Item(
                row[image]["path"] or f"{key}:{number}",
                found.label(int(row[label])),
                in_hand(row[image]["bytes"]),
            )

    return SourceSplit(key, None, items)
