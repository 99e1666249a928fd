"""Where labelled pictures come from: folders of classes, Parquet files, WebDataset tars, the Hugging Face hub.

The archives of ImageNet are in `archives.py`. A source is a value: class names, and splits that yield their items in
a fixed order from any item on, so that an interrupted preparation can take up again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}
TRAIN_NAMES, VAL_NAMES = ("train", "training"), ("val", "validation", "valid", "test")


@dataclass(frozen=True)
class Item:
    """One labelled picture, still in its file's bytes; read is called by the worker that decodes it."""

    name: str
    label: int
    read: Callable[[], bytes]


def in_hand(data: bytes) -> Callable[[], bytes]:
    """For sources that are read from front to back."""
    return lambda: data


@dataclass(frozen=True)
class SourceSplit:
    """items(start) yields the split's items from number `start` on; count is None where nobody knows it beforehand."""

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
    """Turn pictures as their EXIF orientation says."""


def class_folders(folder: Path, val_fraction: float = 0.1, seed: int = 0) -> Source:
    """A folder with train/ and val/ of one folder a class, or one folder of classes, split by val_fraction.

    Raises ValueError for a class without pictures and for classes that one split has and the other lacks.
    """
    parts = {child.name: child for child in sorted(folder.iterdir()) if child.is_dir()}
    train = next((parts[name] for name in TRAIN_NAMES if name in parts), None)
    held_out = next((parts[name] for name in VAL_NAMES if name in parts), None)
    if train is None:
        return _split_folder(folder, val_fraction, seed)
    classes, files = _class_files(train)
    splits = [_file_split("train", files)]
    if held_out is not None:
        val_classes, val_files = _class_files(held_out)
        if val_classes != classes:
            odd = sorted(set(classes) ^ set(val_classes))
            raise ValueError(f"{train} and {held_out} have different classes: {', '.join(odd[:3])}")
        splits.append(_file_split("val", val_files))
    return Source(f"class folders {folder}", classes, tuple(splits), upright=True)


def _split_folder(folder: Path, val_fraction: float, seed: int) -> Source:
    if not 0 <= val_fraction < 1:
        raise ValueError(
            f"--val-fraction is {val_fraction}; it is a share of at least 0 and below 1"
        )
    classes, files = _class_files(folder)
    order = np.random.default_rng(seed).permutation(len(files))
    held_out = set(order[: round(val_fraction * len(files))].tolist())
    splits = [_file_split("train", [file for i, file in enumerate(files) if i not in held_out])]
    if held_out:
        splits.append(_file_split("val", [file for i, file in enumerate(files) if i in held_out]))
    return Source(
        f"class folders {folder}, {val_fraction} of them val", classes, tuple(splits), upright=True
    )


def _class_files(folder: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    folders = sorted(
        child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")
    )
    if len(folders) < 2:
        raise ValueError(
            f"{folder} has {len(folders)} class folders; at least 2 are needed, one for each class"
        )
    files: list[tuple[Path, int]] = []
    for label, child in enumerate(folders):
        own = sorted(p for p in child.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
        if not own:
            raise ValueError(f"the class folder {child} has no pictures; remove it or fill it")
        files += [(path, label) for path in own]
    return tuple(child.name for child in folders), files


def _file_split(name: str, files: list[tuple[Path, int]]) -> SourceSplit:
    def items(start: int) -> Iterator[Item]:
        for path, label in files[start:]:
            yield Item(f"{path.parent.name}/{path.name}", label, path.read_bytes)

    return SourceSplit(name, len(files), items)


def parquet_files(folder: Path) -> Source:
    """Parquet files in the layout of Hugging Face `datasets`: a picture column and a label column.

    A file belongs to the split its name begins with (train-00000-of-00003.parquet). Raises ValueError when a column
    or the training split is missing.
    """
    import pyarrow.parquet as pq

    by_split: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.parquet")):
        by_split.setdefault(_split_name(path.stem.split("-")[0]), []).append(path)
    if "train" not in by_split:
        raise ValueError(f"{folder} has no training files; their names begin with 'train'")
    schema = pq.read_schema(by_split["train"][0])
    image, label, classes = _parquet_columns(schema, by_split["train"])
    splits = []
    for name in sorted(by_split, key=lambda name: name != "train"):
        files = by_split[name]
        count = sum(pq.read_metadata(path).num_rows for path in files)
        splits.append(SourceSplit(name, count, _parquet_items(files, image, label)))
    return Source(f"parquet {folder}", classes, tuple(splits))


def _split_name(word: str) -> str:
    return (
        "train"
        if word in TRAIN_NAMES
        else "val"
        if word in ("val", "validation", "valid")
        else word
    )


def _parquet_columns(schema: Any, files: list[Path]) -> tuple[str, str, tuple[str, ...]]:
    """The picture's column, the label's, and the names of the classes."""
    import pyarrow as pa
    import pyarrow.parquet as pq
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
    most = max(
        int(pa.compute.max(pq.read_table(path, columns=[labels[0]])[labels[0]]).as_py())
        for path in files
    )
    return images[0], labels[0], tuple(str(number) for number in range(most + 1))


def _parquet_items(files: list[Path], image: str, label: str) -> Callable[[int], Iterator[Item]]:
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
                            data = (
                                row[image]["bytes"] if isinstance(row[image], dict) else row[image]
                            )
                            yield Item(f"{path.name}:{seen}", int(row[label]), in_hand(data))
                        seen += 1

    return items
