"""Parquet files in the layout of Hugging Face `datasets`: an image column and a label column."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.classes import (
    ClassList,
    are_wnids,
    check_count,
    class_list,
    with_words,
    wnids_of_classes_py,
    wnids_of_labels,
)
from alexnet.data.sources.source import (
    MAX_IMAGE_BYTES,
    InHand,
    Item,
    Options,
    Source,
    SourceSplit,
    UnreadableImage,
    check_size,
    is_refusal,
    split_in_name,
    unreadable,
    without_labels,
)
from alexnet.errors import DataError

MAX_EXPANSION = 100
"""Most bytes that a byte of a file may become, beyond MAX_IMAGE_BYTES. Parquet hardly compresses
photographs, and drawings tenfold; a file of 50 KB can claim gigabytes of zeros."""
BUFFER_BYTES = 1 << 20
"""Bytes of a column that are read at once. Without a buffer Arrow reads the column of a whole row
group: 1.3 GB of memory for a row group of 1 GB, and 0.4 GB with it, at the same speed."""


def parquet_in(folder: Path) -> list[Path]:
    """Return the Parquet files of a folder, or of `data/` in it, as in a cloned repository."""
    # The files of macOS that begin with a dot are no Parquet files.
    pattern = "[!.]*.parquet"
    return sorted(folder.glob(pattern)) or sorted((folder / "data").glob(pattern))


def parquet_files(folder: Path, options: Options = Options()) -> Source:
    """Read Parquet files, each in the split that its name contains (train-00000-of-00003.parquet).

    If the names of the training images contain wnids, or the `classes.py` of the repository lists
    them, these are the classes, and the names of the label column are their words. A test split
    without labels (-1, as in ImageNet) is left out.

    Raises:
        DataError: If a column, the training split or a label is missing.
    """
    by_split: dict[str, list[Path]] = {}
    for path in parquet_in(folder):
        # train-00000-of-00003.parquet, train_0.parquet; a name of another word is a split, too.
        split = split_in_name(path) or path.stem.split("-")[0]
        if not options.wants(split):
            continue
        # To open a pipe with this name would wait for its writer for ever.
        if not path.is_file():
            raise DataError(f"{path} is not a regular file; remove it or put the data there")
        # A clone without Git LFS has small text files in place of the data.
        if path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs"):
            raise DataError(f"{path} is a pointer of Git LFS; fetch the file with: git lfs pull")
        by_split.setdefault(split, []).append(path)
    if "train" not in by_split:
        raise DataError(f"{folder} has no training files; their names contain 'train'")
    _probe([path for files in by_split.values() for path in files])
    train = by_split["train"]
    image, label, names = _columns(train)
    splits, notes = [], []
    catalogue = _classes(folder, train, image, label, names)
    # The training split comes first, because its pixels give the statistics.
    for name in sorted(by_split, key=lambda name: name != "train"):
        labels = np.concatenate([_labels(path, image, label) for path in by_split[name]])
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


def _probe(files: list[Path]) -> None:
    """Raise DataError for a file whose metadata would end this process."""
    program = [sys.executable, "-P", str(Path(__file__).with_name("parquet_probe.py"))]
    paths = "\0".join(map(os.fspath, files)).encode("utf-8", "surrogateescape")
    run = subprocess.run(program, input=paths, capture_output=True, check=False)
    # Ended by a signal at the first file without a line. With a line for each file it has looked at
    # all of them, and it ended for another reason.
    without_line = files[run.stdout.count(b"\n") :]
    if run.returncode < 0 and without_line:
        path = without_line[0]
        raise DataError(f"{path} is damaged (its metadata crashes Arrow); fetch it again")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what Arrow raises for a damaged file into a DataError that names the file."""
    try:
        yield
    # Arrow raises errors of many kinds for damaged bytes, some of them not its own.
    except Exception as error:
        if is_refusal(error):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} is damaged ({reason}); fetch it again") from None


def _columns(files: list[Path]) -> tuple[str, str, tuple[str, ...]]:
    """Return the names of the image and the label column, and the names of the labels.

    The features that Hugging Face writes into the schema come first. Files without them are
    recognized by the types and names of their columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Imported here, because the import takes seconds that no other source should cost.
    from datasets import ClassLabel, Features, Image

    with _reading(files[0]):
        schema = pq.read_schema(files[0])
    try:
        features = Features.from_arrow_schema(schema)
    except Exception as error:  # a kind of column that newer versions know, or damage
        raise DataError(
            f"{files[0]} describes its columns as the installed version of datasets does not read "
            f"({str(error).partition('. ')[0]}); install a newer version, or fetch the file again"
        ) from None
    images = [n for n, f in features.items() if isinstance(f, Image)]
    structs = [n for n in schema.names if pa.types.is_struct(schema.field(n).type)]
    structs = [n for n in structs if schema.field(n).type.get_field_index("bytes") >= 0]
    named = [n for n in ("image", "img") if n in schema.names]
    # Text that is called an image is the name of a file, or an address, and comes last.
    bare = [n for n in named if str(schema.field(n).type) in ("binary", "large_binary")]
    images += [n for n in named if n in structs + bare] + structs + named
    labels = [n for n, f in features.items() if isinstance(f, ClassLabel)]
    labels += [n for n in ("label", "labels", "cls", "fine_label") if n in schema.names]
    if not images or not labels:
        raise DataError(
            f"{files[0]} needs an image and a label column; it has {', '.join(schema.names)}"
        )
    image, label = images[0], labels[0]
    if isinstance(features[label], ClassLabel):
        return image, label, tuple(features[label].names)
    # Numbers without names: the largest one tells how many classes there are.
    count = max(int(_labels(path, image, label).max(initial=0)) for path in files) + 1
    check_count(count, files[0].parent)
    return image, label, tuple(str(number) for number in range(count))


@contextmanager
def _opened(path: Path, image: str, label: str) -> Iterator[tuple[Any, list[str]]]:
    """Open a file; yield its reader and the paths of the columns that are needed.

    Raises:
        DataError: If the file is damaged, if it lacks a column, or if a part of it that is decoded
            at once would take too much memory.
    """
    import pyarrow.parquet as pq

    with _reading(path):
        # Files may have a checksum for each page.
        reader = pq.ParquetFile(
            path,
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,  # it would read the column of a whole row group, too
            page_checksum_verification=True,
        )
    with reader:
        with _reading(path):
            leaves = [reader.schema.column(i).path for i in range(len(reader.schema))]
        # The image is a struct of the bytes and a name, or the bytes alone.
        wanted = [leaf for leaf in leaves if leaf in (image, f"{image}.bytes", f"{image}.path")]
        if label not in leaves or not {image, f"{image}.bytes"} & set(wanted):
            raise DataError(
                f"{path} needs the columns {image!r}, with the bytes of images, and {label!r}, "
                f"with their labels; it has {', '.join(leaves)}"
            )
        wanted.append(label)
        _check_metadata(path, reader.metadata, wanted)
        yield reader, wanted


def _check_metadata(path: Path, metadata: Any, columns: list[str]) -> None:
    """Check what a file says of its size before anything is decoded, as `_opened` describes."""
    file_bytes, rows = path.stat().st_size, 0
    with _reading(path):
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            rows += group.num_rows
            for chunk in (group.column(i) for i in range(group.num_columns)):
                if chunk.path_in_schema not in columns:
                    continue
                # The numbers have no checksum; a wrong one would hide rows.
                if chunk.num_values != group.num_rows:
                    raise ValueError(f"its row group {number} has two different numbers of rows")
                packed = min(chunk.total_compressed_size, file_bytes)
                if chunk.total_uncompressed_size > MAX_IMAGE_BYTES + MAX_EXPANSION * packed:
                    raise ValueError(
                        f"its row group {number} would become {chunk.total_uncompressed_size:,} "
                        f"bytes of {packed:,}"
                    )
        # A row takes a bit or more, unless it has neither an image nor a label.
        if metadata.num_rows != rows or rows > 8 * file_bytes:
            raise ValueError(f"it has {metadata.num_rows:,} rows, {rows:,} of them in row groups")


def _labels(path: Path, image: str, label: str) -> NDArray[np.int64]:
    """Return the labels of a file; -1 stands for a missing one."""
    import pyarrow as pa

    with _opened(path, image, label) as (reader, _):
        # Reading one column of a Parquet file does not touch the images.
        with _reading(path):
            column = reader.read(columns=[label])[label]
            if len(column) != reader.metadata.num_rows:
                raise ValueError("it has fewer labels than rows")
        try:
            return np.asarray(column.cast(pa.int64()).fill_null(-1).to_numpy(), np.int64)
        except pa.ArrowException:
            raise DataError(
                f"the column {label!r} of {path} has {column.type} in place of the numbers of "
                "classes; write these"
            ) from None


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
    return with_words(catalogue, folder)


def _names(files: list[Path], image: str, label: str) -> Iterator[tuple[str | None, int]]:
    """Yield the name of the image and the label of each row.

    Only these columns are read, because the images are a thousand times as long.
    """
    import pyarrow as pa

    for path in files:
        with _opened(path, image, label) as (reader, columns):
            if f"{image}.path" not in columns:
                # One row without a name tells `wnids_of_labels` that there are no wnids.
                yield None, 0
                return
            batches = reader.iter_batches(columns=[f"{image}.path", label])
            while True:
                with _reading(path):
                    if (batch := next(batches, None)) is None:
                        break
                    # As bytes, because the names in a file need not be UTF-8.
                    paths = batch.column(image).field("path").cast(pa.binary()).to_pylist()
                    labels = batch.column(label).cast(pa.int64()).to_pylist()
                for name, number in zip(paths, labels, strict=True):
                    yield None if name is None else _text(name), number


def _text(name: bytes) -> str:
    """Return the name of a file as Python represents it, whatever its encoding is."""
    return name.decode("utf-8", "surrogateescape")


def _items(
    files: list[Path], image: str, label: str, catalogue: ClassList
) -> Callable[[int], Iterator[Item]]:
    """Return a function that yields the items of a split from a given one on."""
    import pyarrow as pa

    def items(start: int) -> Iterator[Item]:
        number = 0
        # The bytes read and the bytes that came of them, to find a dictionary of a huge image that
        # stands for many rows: the file's own numbers do not tell.
        packed, unpacked = 0, 0
        for path in files:
            packed += path.stat().st_size
            with _opened(path, image, label) as (reader, columns):
                for group in range(reader.num_row_groups):
                    rows = reader.metadata.row_group(group).num_rows
                    # Row groups before `start` are skipped unread.
                    if number + rows <= start:
                        number += rows
                        continue
                    end = number + rows
                    # One row at a time takes no longer, and the least memory.
                    batches = reader.iter_batches(1, [group], columns, use_threads=False)
                    while True:
                        with _reading(path):
                            if (batch := next(batches, None)) is None:
                                break
                            name, read, size = _cell(batch.column(image)[0])
                            # A column of text, as long as it has numbers, is accepted as well.
                            source_label = batch.column(label).cast(pa.int64())[0].as_py()
                            position = catalogue.label(source_label)
                        unpacked += size
                        if unpacked > MAX_IMAGE_BYTES + MAX_EXPANSION * packed:
                            raise DataError(
                                f"{path} becomes {unpacked:,} bytes of images or more, "
                                f"{MAX_EXPANSION} times its size; write it without compression"
                            )
                        if number >= start:
                            yield Item(name or f"{path.name}:{number}", position, read)
                        number += 1
                    if number != end:
                        raise DataError(
                            f"{path} is damaged (row group {group} has fewer than its {rows} "
                            "rows); fetch it again"
                        )

    return items


def _cell(cell: Any) -> tuple[str, Callable[[], bytes], int]:
    """Return the name of an image, its reader and its size, from a cell of the image column.

    The cell is a struct of bytes and path; files that Hugging Face did not write may have the bare
    bytes.
    """
    import pyarrow as pa

    name, data = None, cell
    if pa.types.is_struct(cell.type):
        fields = {field.name for field in cell.type}
        data = cell["bytes"] if cell.is_valid else cell
        name = cell["path"] if cell.is_valid and "path" in fields else None
    text = _text(name.as_buffer().to_pybytes()) if name is not None and name.is_valid else ""
    if not data.is_valid:
        return text, unreadable("the row has no image"), 0
    buffer = data.as_buffer()
    try:
        check_size(buffer.size)
    except UnreadableImage as error:
        return text, unreadable(str(error)), buffer.size
    # Copied only now: an image that is too large never is.
    return text, InHand(buffer.to_pybytes()), buffer.size
