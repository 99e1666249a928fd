"""Prepared stores: Arrow files, a mean image and a manifest.

Hugging Face's `load_from_disk` reads the same files. This module needs pyarrow alone, and loads of
each file only the labels and the byte offsets of the images; images are then read one by one.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from alexnet.data.storage import Storage, missing, open_storage
from alexnet.errors import DataError

FORMAT = 1
HEAD_BYTES = 64 << 10  # read first of each file; contains the schema, unless it is very long
BATCH_HEAD_BYTES = 4 << 10  # enough for what follows the schema: the position of each column
FILES_AT_ONCE = 64  # files whose heads are in memory at the same time
PIECE_BYTES = 8 << 20  # read at a time when a file is verified
ANSWER_S = 30.0  # timeout for reading an image, in seconds


@dataclass(frozen=True)
class Statistics:
    """Statistics of the pixels of the training split, for RGB values in 0..255."""

    mean: NDArray[np.float64]  # (size_px, size_px, 3): the mean activity of each pixel (section 2)
    covariance: NDArray[np.float64]  # (3, 3), for the colour noise (section 4.1)


class Split:
    """The images and labels of one split, in a fixed order.

    Attributes:
        size_px: Side of the stored images, in pixels.
        labels: Class of each image, (N,) int64.
        answer_s: Timeout for reading an image, in seconds.
    """

    def __init__(
        self, storage: Storage, sizes: dict[str, int], size_px: int, answer_s: float = ANSWER_S
    ) -> None:
        """Read labels and offsets. `sizes` gives the split's files in order, in bytes.

        Raises:
            DataError: If a file is damaged.
            StoreLost: If the storage can no longer be read.
        """
        self.size_px, self.answer_s, self.storage = size_px, answer_s, storage
        self._columns = [
            _columns(head, *file)
            for group in _grouped(sizes.items())
            for head, file in zip(_heads(storage, dict(group)), group, strict=True)
        ]
        wanted = [
            (file, *span)
            for file, columns in zip(sizes, self._columns, strict=True)
            for span in (columns.labels, columns.offsets)
        ]
        # One call for all files: a remote storage can fetch the ranges of a call in parallel.
        contents = iter(storage.read_ranges(wanted))
        # The empty arrays let `concatenate` work for a split without files.
        labels: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        begins: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        for columns, label, offset in zip(self._columns, contents, contents, strict=True):
            labels.append(np.frombuffer(label, np.int64))
            # Arrow's offsets count from the beginning of the column, ours from that of the file.
            begins.append(np.frombuffer(offset, np.int32) + np.int64(columns.image_data))
        self.labels: NDArray[np.int64] = np.concatenate(labels)
        self._files = list(sizes)
        self._starts = np.cumsum([0, *(len(offsets) - 1 for offsets in begins[1:])])
        # File by file: where each image begins, and the end of the last one.
        self._begins = np.concatenate(begins)
        self._names: dict[int, list[str]] = {}  # by file, loaded when first asked for

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _find(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of the file that contains each image."""
        for wrong in indices[(indices < 0) | (indices >= len(self))]:
            raise IndexError(f"image {wrong} of {len(self)}")
        # One search for the whole batch, instead of one per image.
        return np.searchsorted(self._starts, indices, side="right") - 1

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> list[bytes]:
        """Return the stored bytes of images. Raises StoreLost if the storage fails."""
        images = np.asarray(indices, np.int64)
        files = self._find(images)
        # `_begins` has one entry more per file than the file has images, hence the shift.
        first = images + files
        ranges = zip(
            files.tolist(),
            self._begins[first].tolist(),
            self._begins[first + 1].tolist(),
            strict=True,
        )
        return self.storage.read_ranges(
            [(self._files[file], begin, end) for file, begin, end in ranges]
        )

    def encoded(self, index: int) -> bytes:
        """Return the stored bytes of one image."""
        return self.read([index])[0]

    def name(self, index: int) -> str:
        """Return the name that the image had in its source, for messages."""
        file = int(self._find(np.array([index]))[0])
        # Names are needed for messages only, and those of ImageNet would take 100 MB.
        if file not in self._names:
            columns, name = self._columns[file], self._files[file]
            offsets, letters = self.storage.read_ranges(
                [(name, *columns.name_offsets), (name, *columns.names)]
            )
            cuts = np.frombuffer(offsets, np.int32).tolist()
            self._names[file] = [letters[a:b].decode() for a, b in pairwise(cuts)]
        return self._names[file][index - int(self._starts[file])]


Span = tuple[int, int]


@dataclass(frozen=True)
class _Columns:
    """Byte positions of the columns in a file."""

    labels: Span
    offsets: Span
    """The offsets of the images, int32, one more than there are images."""
    image_data: int
    """The byte from which the offsets count."""
    name_offsets: Span
    names: Span


def _grouped(files: Iterable[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    """Yield the files in groups, which bounds the memory for their heads.

    For 14 million images in 20,000 classes the heads of all files would take gigabytes: each
    contains the names of all classes.
    """
    left = iter(files)
    while group := list(itertools.islice(left, FILES_AT_ONCE)):
        yield group


def _heads(storage: Storage, sizes: dict[str, int]) -> list[bytes]:
    """Return the beginning of each file, up to and including the positions of its columns."""
    heads = storage.read_ranges([(file, 0, min(size, HEAD_BYTES)) for file, size in sizes.items()])
    for number, (file, size) in enumerate(sizes.items()):
        # An Arrow stream begins with a marker of four bytes and the length of the schema.
        schema = int.from_bytes(heads[number][4:8], "little")
        length = 8 + schema + BATCH_HEAD_BYTES
        if length > len(heads[number]) < size:
            (heads[number],) = storage.read_ranges([(file, 0, min(size, length))])
    return heads


def _columns(head: bytes, file: str, size: int) -> _Columns:
    """Return where the columns of a file lie, given its head and its size in bytes.

    pyarrow has no function that tells the positions without the data. So it opens a file of the
    right size that is empty except for its head; memory pages that nobody touches cost nothing.
    """
    with mmap.mmap(-1, size) as empty:
        empty[: len(head)] = head
        return _column_spans(pa.py_buffer(empty), file)


def _column_spans(file_buffer: Any, file: str) -> _Columns:
    """Return where the columns lie, from the addresses of the arrays that Arrow makes."""
    try:
        batch = pa.ipc.open_stream(file_buffer).read_next_batch()
    except (pa.ArrowInvalid, StopIteration):
        raise missing(file) from None
    image, label = batch.column("image"), batch.column("label")
    _, offsets, image_data = image.field("bytes").buffers()
    _, name_offsets, names = image.field("path").buffers()
    label_bytes, offset_bytes = 8 * len(batch), 4 * (len(batch) + 1)

    def span(buffer: Any, size: int) -> Span:
        begin = buffer.address - file_buffer.address
        return begin, begin + size

    return _Columns(
        labels=span(label.buffers()[1], label_bytes),
        offsets=span(offsets, offset_bytes),
        image_data=span(image_data, 0)[0],
        name_offsets=span(name_offsets, offset_bytes),
        names=span(names, names.size),
    )


class Store:
    """A finished store, in a folder or at a URL that fsspec reads, such as s3://bucket/store.

    Raises:
        DataError: If there is no store, an unfinished one, or one of another format version. The
            message says what to do.
    """

    def __init__(self, name: str | Path) -> None:
        self.name = str(name)
        self.storage = open_storage(name)
        try:
            text = self.storage.read_file("manifest.json")
        except (FileNotFoundError, NotADirectoryError):
            raise DataError(
                f"{name} is not a prepared store (no manifest.json); make one with: "
                "alexnet prepare SOURCE STORE"
            ) from None
        try:
            self.manifest: dict[str, Any] = json.loads(text)
            version = self.manifest["format"]
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{name}/manifest.json is damaged; prepare the store again") from None
        if version != FORMAT:
            raise DataError(
                f"{name} has store format {version}, and this program reads format {FORMAT}; "
                "prepare it again"
            )
        # The manifest contains the checksums of the files, so its own identifies the store.
        self.checksum = hashlib.sha256(text).hexdigest()
        self.classes: list[str] = self.manifest["classes"]
        self.words: list[str] = self.manifest.get("words", [])  # absent from older stores
        self.size_px: int = self.manifest["settings"]["size_px"]

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and covariance of the training images."""
        mean = np.load(io.BytesIO(self.storage.read_file("mean.npy")), allow_pickle=False)
        return Statistics(mean, np.array(self.manifest["covariance"]))

    def split(self, name: str, keep: bool = False, answer_s: float = ANSWER_S) -> Split:
        """Open a split.

        Args:
            keep: Whether the split will be read again and again, so that copying a remote one to
                the local cache is worth while.
            answer_s: Timeout for reading an image, in seconds.

        Raises:
            DataError: If the store has no such split, or one of its files is missing or has not
                the size that the manifest states.
        """
        splits = self.manifest["splits"]
        if name not in splits:
            raise DataError(f"{self.name} has no split {name!r}; it has {', '.join(splits)}")
        entries = splits[name]["shards"]  # the manifest's word for the files of a split
        sizes = {f"{name}/{entry['file']}": entry["bytes"] for entry in entries}
        self.storage.check_sizes(sizes)
        if keep:
            self.storage.copy_to_cache(
                {f"{name}/{entry['file']}": entry["sha256"] for entry in entries},
                sizes,
                self.checksum,
            )
        return Split(self.storage, sizes, self.size_px, answer_s)

    def verify(self) -> None:
        """Read every file and compare its checksum with the manifest.

        Raises:
            DataError: If a file differs; the message names the first one.
        """
        for name, split in self.manifest["splits"].items():
            for entry in split["shards"]:
                file = f"{name}/{entry['file']}"
                self.storage.check_sizes({file: entry["bytes"]})
                digest = hashlib.sha256()
                for piece in pieces(self.storage, file, entry["bytes"]):
                    digest.update(piece)
                if digest.hexdigest() != entry["sha256"]:
                    raise missing(f"{self.name}/{file}")


def pieces(storage: Storage, file: str, size: int) -> Iterator[bytes]:
    """Yield the bytes of a large file piece by piece, so that it never lies in memory whole."""
    for begin in range(0, size, PIECE_BYTES):
        yield from storage.read_ranges([(file, begin, min(begin + PIECE_BYTES, size))])


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
