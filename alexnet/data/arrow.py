"""The Arrow files of a store: how they are written, and where each image lies in them.

A file is an Arrow stream of one record batch with the columns image {bytes, path} and label, which
Hugging Face's `load_from_disk` reads. Training reads single images by their position in a file.
`prepare` writes these positions into an index beside each split, so that opening a split reads one
small file instead of parts of every Arrow file.
"""

from __future__ import annotations

import io
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from alexnet.data.storage import Range, Storage, missing

MAX_BYTES = 2**31 - 1  # Arrow counts the bytes of a column with signed 32-bit integers

HEAD_BYTES = 64 << 10  # read first of each file; contains the schema, unless it is very long
FILES_AT_ONCE = 64  # files whose heads are in memory at the same time
MARKER = b"\xff\xff\xff\xff"  # begins each message of an Arrow stream
INT64 = np.dtype(np.int64)
END_BYTES = 8  # length of the message that ends a stream


class ArrowFile(NamedTuple):
    """A file of a split, as the manifest describes it."""

    name: str  # in the storage, with the folder of the split
    size: int  # in bytes
    images: int


@dataclass(frozen=True)
class Index:
    """Labels and byte positions of the images of a split, for its files one after the other.

    Attributes:
        labels: Class of each image, (N,) int64.
        begins: For each file, the first byte of each image and then the end of the last one,
            (N + files,) int64.
        names: For each file, the range of bytes with the names of the images, (files, 2) int64.
    """

    labels: NDArray[np.int64]
    begins: NDArray[np.int64]
    names: NDArray[np.int64]

    def to_bytes(self) -> bytes:
        """Return the content of an index file, an npz archive."""
        buffer = io.BytesIO()
        # numpy gives the members of the archive a fixed date, so equal indices have equal bytes.
        np.savez(buffer, labels=self.labels, begins=self.begins, names=self.names)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Index:
        """Return the index that `to_bytes` has written.

        Raises anything that NumPy does for bytes that are not those of an index.
        """
        with np.load(io.BytesIO(data), allow_pickle=False) as saved:
            return cls(saved["labels"], saved["begins"], saved["names"])


def write_arrow_file(
    path: Path, rows: Sequence[tuple[bytes, str, int]], classes: tuple[str, ...]
) -> dict[str, Any]:
    """Write a file to disk, synced. Return its size and the number of its images.

    Args:
        rows: Stored bytes, name and label of each image.
        classes: Names of the classes, for the schema.
    """
    assert sum(len(data) for data, _, _ in rows) <= MAX_BYTES
    ends = np.cumsum([0, *(len(data) for data, _, _ in rows)], dtype=np.int32)
    # The array is built from its buffers: `pa.array` would copy the bytes once more.
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(data for data, _, _ in rows))]
    images = pa.BinaryArray.from_buffers(pa.binary(), len(rows), buffers)
    names = pa.array([name for _, name, _ in rows], pa.string())
    table = pa.table(
        {
            # As Hugging Face's `Image` feature has them.
            "image": pa.StructArray.from_arrays([images, names], ["bytes", "path"]),
            "label": pa.array([label for _, _, label in rows], pa.int64()),
        }
    ).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": features(classes)}})}
    )
    with path.open("wb") as file:
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        # Synced before the state is written, which must not name a file that a power cut can lose.
        file.flush()
        os.fsync(file.fileno())
    return {"images": len(rows), "bytes": path.stat().st_size}


def features(classes: tuple[str, ...]) -> dict[str, Any]:
    """Return the description of the columns that Hugging Face `datasets` reads."""
    return {"image": {"_type": "Image"}, "label": {"names": list(classes), "_type": "ClassLabel"}}


def build_index(storage: Storage, files: Sequence[ArrowFile]) -> Index:
    """Return the index of a split, computed from its files.

    pyarrow cannot tell where the columns of a file lie. They follow from the layout of the format
    (https://arrow.apache.org/docs/format/Columnar.html): after the messages of the schema and of
    the batch come the buffers of the columns, each padded to 8 bytes. Here these are the offsets of
    the images, the images, the offsets of the names, the names, and the labels. Columns without
    missing values have no other buffers. Of each file only the labels and offsets are read.

    Raises:
        DataError: If a file is damaged.
        StoreLost: If the storage can no longer be read.
    """
    bodies = list(_bodies(storage, files))
    wanted: list[Range] = []
    for file, body in zip(files, bodies, strict=True):
        # Only the labels, the last column, are found from the end of the file.
        labels_end = file.size - END_BYTES
        labels_begin, offsets_end = labels_end - 8 * file.images, body + 4 * (file.images + 1)
        if offsets_end > labels_begin:
            raise missing(f"{storage.name}/{file.name}")
        wanted.append((file.name, labels_begin, labels_end))
        wanted.append((file.name, body, offsets_end))
    # One call for all files: a remote storage can fetch the ranges of a call in parallel.
    contents = iter(storage.read_ranges(wanted))
    # The empty arrays let `concatenate` work for a split without files.
    labels: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    begins: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    names: list[tuple[int, int]] = []
    for file, body, label, offset in zip(files, bodies, contents, contents, strict=True):
        offsets = np.frombuffer(offset, np.int32).astype(np.int64)
        first_image = body + _padded(len(offset))
        name_offsets = first_image + _padded(int(offsets[-1]))
        names_end = file.size - END_BYTES - len(label)
        if offsets[0] != 0 or (np.diff(offsets) < 0).any() or name_offsets > names_end:
            raise missing(f"{storage.name}/{file.name}")
        labels.append(np.frombuffer(label, np.int64))
        # Arrow's offsets count from the first image, ours from the beginning of the file.
        begins.append(first_image + offsets)
        names.append((name_offsets, names_end))
    return Index(
        np.concatenate(labels), np.concatenate(begins), np.array(names, np.int64).reshape(-1, 2)
    )


def check_index(index: Index, files: Sequence[ArrowFile], classes: int) -> bool:
    """Tell whether an index fits the files of its split, so that no range leaves its file.

    Args:
        classes: Number of classes; each label is below it.
    """
    images = np.array([file.images for file in files], np.int64)
    total = int(images.sum())
    arrays = index.labels, index.begins, index.names
    shapes = [(total,), (total + len(files),), (len(files), 2)]
    if [array.shape for array in arrays] != shapes or {a.dtype for a in arrays} != {INT64}:
        return False
    if total and not 0 <= index.labels.min() <= index.labels.max() < classes:
        return False
    ends = np.array([file.size for file in files], np.int64)
    # The entries of a file: one for each image, and the end of the last one.
    last = np.cumsum(images + 1) - 1
    first = last - images
    rises = np.diff(index.begins) >= 0
    rises[last[:-1]] = True  # from one file to the next, positions begin anew
    names_begin, names_end = index.names.T
    return bool(
        rises.all()
        and (index.begins[first] >= 0).all()
        and (index.begins[last] <= ends).all()
        and (names_begin >= 0).all()
        and (names_begin <= names_end).all()
        and (names_end <= ends).all()
    )


def parse_names(data: bytes, images: int) -> list[str]:
    """Return the names of the images of a file, from the range of bytes that its index gives.

    Raises:
        ValueError: The bytes are not those of names.
    """
    cuts = np.frombuffer(data, np.int32, images + 1).tolist()
    letters = data[_padded(4 * (images + 1)) :]
    if cuts != sorted(cuts) or cuts[0] != 0 or cuts[-1] > len(letters):
        raise ValueError("offsets of names that decrease or leave the file")
    return [letters[a:b].decode() for a, b in itertools.pairwise(cuts)]


def _bodies(storage: Storage, files: Sequence[ArrowFile]) -> Iterator[int]:
    """Yield where the columns of each file begin.

    Files are taken in groups, which bounds the memory for their heads: for 14 million images in
    20,000 classes all heads would take gigabytes, because each contains the names of all classes.
    """
    for first in range(0, len(files), FILES_AT_ONCE):
        group = files[first : first + FILES_AT_ONCE]
        heads = storage.read_ranges([(f.name, 0, min(f.size, HEAD_BYTES)) for f in group])
        for file, head in zip(group, heads, strict=True):
            # The message of the schema, and after it the message of the batch.
            batch = _message_end(storage, file, head, 0)
            yield _message_end(storage, file, head, batch)


def _message_end(storage: Storage, file: ArrowFile, head: bytes, begin: int) -> int:
    """Return the byte after the message that begins at `begin`.

    A message has a marker of four bytes, the length of its metadata as an int32, and the metadata.
    """
    start = head[begin : begin + 8]
    if len(start) < 8 <= file.size - begin:
        (start,) = storage.read_ranges([(file.name, begin, begin + 8)])
    length = int.from_bytes(start[4:8], "little", signed=True)
    end = begin + 8 + length
    if start[:4] != MARKER or length <= 0 or end > file.size:
        raise missing(f"{storage.name}/{file.name}")
    return end


def _padded(size: int) -> int:
    """Return the length of a buffer of `size` bytes with its padding to 8 bytes."""
    return -(-size // 8) * 8
