"""Parquet files in the layout of Hugging Face `datasets`: an image column and a label column."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.classes import (
    ClassList,
    are_wnids,
    class_list,
    wnids_of_classes_py,
    wnids_of_labels,
    words_beside,
)
from alexnet.data.sources.source import (
    Item,
    Options,
    Source,
    SourceSplit,
    in_hand,
    split_name,
    without_labels,
)
from alexnet.errors import DataError


def parquet_in(folder: Path) -> list[Path]:
    """Return the Parquet files of a folder, or of `data/` in it, as in a cloned repository."""
    return sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))


def parquet_files(folder: Path, options: Options | None = None) -> Source:
    """Read Parquet files, each in the split its name begins with (train-00000-of-00003.parquet).

    If the names of the training images contain wnids, or the `classes.py` of the repository lists
    them, these are the classes, and the names of the label column are their words. A test split
    without labels (-1, as in ImageNet) is left out.

    Raises:
        DataError: If a column, the training split or a label is missing.
    """
    import pyarrow.parquet as pq

    options = options or Options()
    by_split: dict[str, list[Path]] = {}
    for path in parquet_in(folder):
        # A clone without Git LFS has small text files in place of the data.
        if path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs"):
            raise DataError(f"{path} is a pointer of Git LFS; fetch the file with: git lfs pull")
        by_split.setdefault(split_name(path.stem.split("-")[0]), []).append(path)
    if "train" not in by_split:
        raise DataError(f"{folder} has no training files; their names begin with 'train'")
    train = by_split["train"]
    image, label, names = _columns(pq.read_schema(train[0]), train)
    splits, notes = [], []
    catalogue = _classes(folder, train, image, label, names)
    # The training split comes first, because its pixels give the statistics.
    for name in sorted(by_split, key=lambda name: name != "train"):
        if not options.wants(name):
            continue
        labels = np.concatenate([_labels(path, label) for path in by_split[name]])
        if (labels == -1).all():
            notes.append(without_labels(name, folder))
            continue
        # A loop over at most one row: the first wrong one is reported.
        for wrong in np.flatnonzero((labels < 0) | (labels >= len(catalogue.classes)))[:1]:
            raise DataError(
                f"row {wrong} of the split {name!r} of {folder} has the label {labels[wrong]}, "
                f"and there are {len(catalogue.classes)} classes; remove such rows"
            )
        items = _items(by_split[name], image, label, catalogue)
        splits.append(SourceSplit(name, len(labels), items))
    return Source(
        f"parquet {folder}",
        catalogue.classes,
        tuple(splits),
        words=catalogue.words,
        notes=tuple(notes),
    )


def _columns(schema: Any, files: list[Path]) -> tuple[str, str, tuple[str, ...]]:
    """Return the names of the image and the label column, and the names of the labels.

    The features that Hugging Face writes into the schema come first. Files without them are
    recognized by the types and names of their columns.
    """
    import pyarrow as pa

    # Imported here, because the import takes seconds that no other source should cost.
    from datasets import ClassLabel, Features, Image

    features = Features.from_arrow_schema(schema)
    images = [n for n, f in features.items() if isinstance(f, Image)]
    images += [
        n for n in schema.names if pa.types.is_struct(schema.field(n).type) or n in ("image", "img")
    ]
    labels = [n for n, f in features.items() if isinstance(f, ClassLabel)]
    labels += [n for n in ("label", "labels", "cls", "fine_label") if n in schema.names]
    if not images or not labels:
        raise DataError(
            f"{files[0]} needs an image and a label column; it has {', '.join(schema.names)}"
        )
    if isinstance(features[labels[0]], ClassLabel):
        return images[0], labels[0], tuple(features[labels[0]].names)
    # Numbers without names: the largest one tells how many classes there are.
    most = max(int(_labels(path, labels[0]).max(initial=0)) for path in files)
    return images[0], labels[0], tuple(str(number) for number in range(most + 1))


def _labels(path: Path, label: str) -> NDArray[np.int64]:
    """Return the labels of a file; -1 stands for a missing one."""
    import pyarrow.parquet as pq

    # Reading one column of a Parquet file does not touch the images.
    column = pq.read_table(path, columns=[label])[label].fill_null(-1)
    return np.asarray(column.to_numpy(), np.int64)


def _classes(
    folder: Path, train: list[Path], image: str, label: str, names: tuple[str, ...]
) -> ClassList:
    """Return the classes, with wnids and words where the source has them."""
    # Sources of wnids, the most reliable first: names of labels, names of images, classes.py.
    if are_wnids(names):
        catalogue = class_list(names)
    else:
        catalogue = class_list(
            names,
            wnids_of_labels(_names(train, image, label), len(names))
            or wnids_of_classes_py(folder / "classes.py", names)
            or wnids_of_classes_py(folder.parent / "classes.py", names),
        )
    if are_wnids(catalogue.classes) and not catalogue.words:
        words = words_beside(catalogue.classes, (folder, folder.parent))
        return ClassList(catalogue.classes, words, catalogue.order)
    return catalogue


def _names(files: list[Path], image: str, label: str) -> Iterator[tuple[str | None, int]]:
    """Yield the name of the image and the label of each row.

    Only these columns are read, because the images are a thousand times as long.
    """
    import pyarrow.parquet as pq

    for path in files:
        with pq.ParquetFile(path) as reader:
            columns = {reader.schema.column(i).path for i in range(len(reader.schema))}
            if f"{image}.path" not in columns:
                # One row without a name tells `wnids_of_labels` that there are no wnids.
                yield None, 0
                return
            for batch in reader.iter_batches(columns=[f"{image}.path", label]):
                paths = batch.column(image).field("path").to_pylist()
                yield from zip(paths, batch.column(label).to_pylist(), strict=True)


def _items(
    files: list[Path], image: str, label: str, catalogue: ClassList
) -> Callable[[int], Iterator[Item]]:
    """Return a function that yields the items of a split from a given one on."""
    import pyarrow.parquet as pq

    def items(start: int) -> Iterator[Item]:
        number = 0
        for path in files:
            reader = pq.ParquetFile(path)
            for group in range(reader.num_row_groups):
                rows = reader.metadata.row_group(group).num_rows
                # Row groups before `start` are skipped unread.
                if number + rows <= start:
                    number += rows
                    continue
                # Small batches: a row group of photographs may take a hundred megabytes and more.
                for batch in reader.iter_batches(64, row_groups=[group], columns=[image, label]):
                    for row in batch.to_pylist():
                        if number >= start:
                            cell = row[image]
                            # Files that Hugging Face did not write may have the bare bytes.
                            cell = cell if isinstance(cell, dict) else {"bytes": cell}
                            name = cell.get("path") or f"{path.name}:{number}"
                            position = catalogue.label(int(row[label]))
                            yield Item(name, position, in_hand(cell["bytes"]))
                        number += 1

    return items
