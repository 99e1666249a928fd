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


def parquet_in(folder: Path) -> list[Path]:
    """The Parquet files of a folder, or of `data/` in it, where a cloned repository has them."""
    return sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))


def parquet_files(folder: Path, options: Options | None = None) -> Source:
    """A file belongs to the split its name begins with (train-00000-of-00003.parquet).

    Where the names of the training images bear wnids, or the clone's `classes.py` has them, these
    are the classes, and the names of the label column are their words. A test split without labels
    (-1, as ImageNet's) is left out. Raises ValueError when a column, the training split or labels
    are missing.
    """
    import pyarrow.parquet as pq

    options = options or Options()
    by_split: dict[str, list[Path]] = {}
    for path in parquet_in(folder):
        if path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs"):
            raise ValueError(f"{path} stands for a file that Git LFS has; fetch it: git lfs pull")
        by_split.setdefault(split_name(path.stem.split("-")[0]), []).append(path)
    if "train" not in by_split:
        raise ValueError(f"{folder} has no training files; their names begin with 'train'")
    train = by_split["train"]
    image, label, names = _columns(pq.read_schema(train[0]), train)
    splits, notes = [], []
    found = _classes(folder, train, image, label, names)
    for name in sorted(by_split, key=lambda name: name != "train"):
        if not options.wants(name):
            continue
        own = np.concatenate([_labels(path, label) for path in by_split[name]])
        if (own == -1).all():
            notes.append(without_labels(name, folder))
            continue
        for wrong in np.flatnonzero((own < 0) | (own >= len(found.classes)))[:1]:
            raise ValueError(
                f"row {wrong} of the split {name!r} of {folder} has the label {own[wrong]}, "
                f"and there are {len(found.classes)} classes; remove such rows"
            )
        items = _items(by_split[name], image, label, found)
        splits.append(SourceSplit(name, len(own), items))
    return Source(
        f"parquet {folder}", found.classes, tuple(splits), words=found.words, notes=tuple(notes)
    )


def _columns(schema: Any, files: list[Path]) -> tuple[str, str, tuple[str, ...]]:
    """The image's column, the label's, and the names of the labels."""
    import pyarrow as pa
    from datasets import ClassLabel, Features, Image

    features = Features.from_arrow_schema(schema)
    images = [n for n, f in features.items() if isinstance(f, Image)]
    images += [
        n for n in schema.names if pa.types.is_struct(schema.field(n).type) or n in ("image", "img")
    ]
    labels = [n for n, f in features.items() if isinstance(f, ClassLabel)]
    labels += [n for n in ("label", "labels", "cls", "fine_label") if n in schema.names]
    if not images or not labels:
        raise ValueError(
            f"{files[0]} needs a picture and a label column; it has {', '.join(schema.names)}"
        )
    if isinstance(features[labels[0]], ClassLabel):
        return images[0], labels[0], tuple(features[labels[0]].names)
    most = max(int(_labels(path, labels[0]).max(initial=0)) for path in files)
    return images[0], labels[0], tuple(str(number) for number in range(most + 1))


def _labels(path: Path, label: str) -> NDArray[np.int64]:
    """A file's labels, -1 where there is none."""
    import pyarrow.parquet as pq

    column = pq.read_table(path, columns=[label])[label].fill_null(-1)
    return np.asarray(column.to_numpy(), np.int64)


def _classes(
    folder: Path, train: list[Path], image: str, label: str, names: tuple[str, ...]
) -> ClassList:
    if are_wnids(names):
        found = class_list(names)
    else:
        found = class_list(
            names,
            wnids_of_labels(_names(train, image, label), len(names))
            or wnids_of_classes_py(folder / "classes.py", names)
            or wnids_of_classes_py(folder.parent / "classes.py", names),
        )
    if are_wnids(found.classes) and not found.words:
        words = words_beside(found.classes, (folder, folder.parent))
        return ClassList(found.classes, words, found.order)
    return found


def _names(files: list[Path], image: str, label: str) -> Iterator[tuple[str | None, int]]:
    """(name, label) of each row. Only these columns are read: the images are a thousand times as long."""
    import pyarrow.parquet as pq

    for path in files:
        with pq.ParquetFile(path) as reader:
            columns = {reader.schema.column(i).path for i in range(len(reader.schema))}
            if f"{image}.path" not in columns:
                yield None, 0
                return
            for batch in reader.iter_batches(columns=[f"{image}.path", label]):
                paths = batch.column(image).field("path").to_pylist()
                yield from zip(paths, batch.column(label).to_pylist(), strict=True)


def _items(
    files: list[Path], image: str, label: str, found: ClassList
) -> Callable[[int], Iterator[Item]]:
    import pyarrow.parquet as pq

    def items(start: int) -> Iterator[Item]:
        seen = 0
        for path in files:
            reader = pq.ParquetFile(path)
            for group in range(reader.num_row_groups):
                rows = reader.metadata.row_group(group).num_rows
                if seen + rows <= start:
                    seen += rows
                    continue
                for batch in reader.iter_batches(64, row_groups=[group], columns=[image, label]):
                    for row in batch.to_pylist():
                        if seen >= start:
                            cell = row[image]
                            cell = cell if isinstance(cell, dict) else {"bytes": cell}
                            name = cell.get("path") or f"{path.name}:{seen}"
                            own = found.label(int(row[label]))
                            yield Item(name, own, in_hand(cell["bytes"]))
                        seen += 1

    return items
