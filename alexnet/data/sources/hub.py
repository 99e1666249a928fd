"""Data sets of the Hugging Face hub, read as streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from alexnet.data.classes import ClassList, are_wnids, class_list, wnids_of_labels
from alexnet.data.sources.source import (
    LEAVE_OUT,
    Item,
    Options,
    Source,
    SourceSplit,
    in_hand,
    split_name,
    unreadable,
    without_labels,
)
from alexnet.errors import DataError

ROWS_FOR_WNIDS = 1000
"""Number of training rows in which each label must have the same wnid. It is large enough that a
class made of several synsets shows a second wnid."""


def hub(name: str, options: Options = Options()) -> Source:
    """Read the data set `name` of the hub.

    The wnids of ImageNet's classes occur in the names of its training images, so the stream is read
    until each class has shown its own. A split whose first row has no label is left out.

    Raises:
        DataError: If the hub cannot be reached, or the set has no images with classes.
    """
    # Imported here, because the import takes seconds that no other source should cost.
    import datasets

    try:
        streams: Any = datasets.load_dataset(name, streaming=True)
    # The library raises many kinds of errors: no network, no such name, no permission.
    except Exception as error:
        raise DataError(
            f"{name} is not a folder here, and the Hugging Face hub does not provide it: "
            f"{_reason(error)}"
        ) from None
    splits = {split_name(key): stream for key, stream in streams.items()}
    if "train" not in splits:
        raise DataError(
            f"{name} has no training split; it has {', '.join(streams)}, so choose another data set"
        )
    features = splits["train"].features or {}
    images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if not images or not labels:
        raise DataError(f"{name} has no image or class column; it has {', '.join(features)}")
    image, label = images[0], labels[0]
    # Undecoded, because a JPEG that fits the store is kept as it is.
    raw = {
        key: stream.cast_column(image, datasets.Image(decode=False))
        for key, stream in sorted(splits.items(), key=lambda pair: pair[0] != "train")
        if options.wants(key)
    }
    labelled, notes = [], []
    catalogue = _classes(name, raw["train"], image, label, tuple(features[label].names))
    # The first row tells whether a split has labels: streams have no statistics.
    for key, stream in raw.items():
        first = next(_rows(stream, name), None)
        if first is not None and first[label] in (None, -1):
            notes.append(without_labels(key, name))
        else:
            labelled.append(_split(name, key, stream, image, label, catalogue))
    return Source(
        f"hub {name}", catalogue.classes, tuple(labelled), words=catalogue.words, notes=tuple(notes)
    )


def _reason(error: Exception) -> str:
    """Return the first line of what the library says."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _rows(stream: Any, name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a stream. Raises DataError where the hub or its files fail."""
    try:
        yield from stream
    # The library raises many kinds of errors: no network, damaged files.
    except Exception as error:
        raise DataError(
            f"the Hugging Face hub stopped sending {name}: {_reason(error)}; run the command "
            "again, which continues after the last finished file"
        ) from None


def _classes(name: str, stream: Any, image: str, label: str, names: tuple[str, ...]) -> ClassList:
    """Return the classes, with wnids if the names of the training images contain them."""
    if are_wnids(names):
        return class_list(names)
    # A row without a label gets one that no class has; `_split` has the sentence for it.
    rows = (
        ((row[image] or {}).get("path"), -1 if row[label] is None else int(row[label]))
        for row in _rows(stream, name)
    )
    return class_list(names, wnids_of_labels(rows, len(names), enough=ROWS_FOR_WNIDS))


def _split(
    name: str, key: str, stream: Any, image: str, label: str, catalogue: ClassList
) -> SourceSplit:
    """Return a split that streams its items; their number is unknown."""

    def items(start: int) -> Iterator[Item]:
        for number, row in enumerate(_rows(stream.skip(start), name), start):
            if row[label] in (None, -1):
                raise DataError(
                    f"row {number} of the split {key!r} of {name} has no label; {LEAVE_OUT}, "
                    "or choose another data set"
                )
            cell = row[image] or {}
            data: bytes | None = cell.get("bytes")
            yield Item(
                cell.get("path") or f"{key}:{number}",
                catalogue.label(int(row[label])),
                unreadable("the row has no image") if data is None else in_hand(data),
            )

    return SourceSplit(key, None, items)
