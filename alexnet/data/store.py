"""A prepared store: Arrow files that Hugging Face's `load_from_disk` reads too, a mean image and a manifest.

Reading needs pyarrow alone, and of each file only what says where its pictures lie: those are then read one by one.
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

from alexnet.data.places import Place, missing, place

FORMAT = 1
HEAD_BYTES = 64 << 10  # of a file: its schema, most likely; a longer one is read again
BATCH_HEAD_BYTES = 4 << 10  # what follows the schema: where each column lies
FILES_AT_ONCE = 64
PIECE_BYTES = 8 << 20
ANSWER_S = 30.0  # the longest that a picture may take to be read


@dataclass(frozen=True)
class Statistics:
    """Of the training split's pixels, RGB on the scale 0..255."""

    mean: NDArray[np.float64]  # (size_px, size_px, 3): the mean activity of each pixel (section 2)
    covariance: NDArray[np.float64]  # (3, 3), for the colour noise (section 4.1)


class Split:
    """The pictures and labels of one split, in a fixed order."""

    def __init__(
        self, place: Place, sizes: dict[str, int], size_px: int, answer_s: float = ANSWER_S
    ) -> None:
        """sizes: of its files in bytes, in order."""
        self.size_px, self.answer_s, self.place = size_px, answer_s, place
        self._columns = [
            _columns(head, *file)
            for group in _grouped(sizes.items())
            for head, file in zip(_heads(place, dict(group)), group, strict=True)
        ]
        wanted = [
            (file, *span)
            for file, columns in zip(sizes, self._columns, strict=True)
            for span in (columns.labels, columns.offsets)
        ]
        found = iter(place.ranges(wanted))
        labels: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        begins: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        for columns, label, offset in zip(self._columns, found, found, strict=True):
            labels.append(np.frombuffer(label, np.int64))
            begins.append(np.frombuffer(offset, np.int32) + np.int64(columns.pictures))
        self.labels: NDArray[np.int64] = np.concatenate(labels)
        self._files = list(sizes)
        self._starts = np.cumsum([0, *(len(own) - 1 for own in begins[1:])])
        self._begins = np.concatenate(
            begins
        )  # file by file, where pictures begin, and the end of the last
        self._names: dict[int, list[str]] = {}  # of the files that were asked for

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _find(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """The file that each picture is in."""
        for wrong in indices[(indices < 0) | (indices >= len(self))]:
            raise IndexError(f"picture {wrong} of {len(self)}")
        return np.searchsorted(self._starts, indices, side="right") - 1

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> list[bytes]:
        """The stored bytes of pictures. Raises StoreLost."""
        own = np.asarray(indices, np.int64)
        files = self._find(own)
        first = own + files  # in a file's list is one more than it has pictures
        ranges = zip(
            files.tolist(),
            self._begins[first].tolist(),
            self._begins[first + 1].tolist(),
            strict=True,
        )
        return self.place.ranges([(self._files[file], begin, end) for file, begin, end in ranges])

    def encoded(self, index: int) -> bytes:
        """The stored bytes of one."""
        return self.read([index])[0]

    def name(self, index: int) -> str:
        """The name the picture had in its source."""
        file = int(self._find(np.array([index]))[0])
        if file not in self._names:
            columns, name = self._columns[file], self._files[file]
            offsets, letters = self.place.ranges(
                [(name, *columns.name_offsets), (name, *columns.names)]
            )
            cuts = np.frombuffer(offsets, np.int32).tolist()
            self._names[file] = [letters[a:b].decode() for a, b in pairwise(cuts)]
        return self._names[file][index - int(self._starts[file])]


Span = tuple[int, int]


@dataclass(frozen=True)
class _Columns:
    """Where the columns lie in a file."""

    labels: Span
    offsets: Span
    """Of pictures, int32, one more than pictures."""
    pictures: int
    """What the offsets count from."""
    name_offsets: Span
    names: Span


def _grouped(files: Iterable[tuple[str, int]]) -> Iterator[list[tuple[str, int]]]:
    """Of 14 million images in 20,000 classes the heads of all files would take gigabytes."""
    left = iter(files)
    while group := list(itertools.islice(left, FILES_AT_ONCE)):
        yield group


def _heads(place: Place, sizes: dict[str, int]) -> list[bytes]:
    """The beginning of each file, up to and with what says where the columns lie."""
    heads = place.ranges([(file, 0, min(size, HEAD_BYTES)) for file, size in sizes.items()])
    for number, (file, size) in enumerate(sizes.items()):
        schema = int.from_bytes(
            heads[number][4:8], "little"
        )  # of the Arrow stream format: a mark, the length
        if 8 + schema + BATCH_HEAD_BYTES > len(heads[number]) < size:
            (heads[number],) = place.ranges([(file, 0, min(size, 8 + schema + BATCH_HEAD_BYTES))])
    return heads


def _columns(head: bytes, file: str, size: int) -> _Columns:
    """Arrow finds them in a file that is empty but for its head: memory that nobody touches costs nothing."""
    with mmap.mmap(-1, size) as empty:
        empty[: len(head)] = head
        return _found(pa.py_buffer(empty), file)


def _found(whole: Any, file: str) -> _Columns:
    """By the addresses of what Arrow finds. whole: a file's buffer."""
    try:
        batch = pa.ipc.open_stream(whole).read_next_batch()
    except (pa.ArrowInvalid, StopIteration):
        raise missing(file) from None
    image, label = batch.column("image"), batch.column("label")
    _, offsets, pictures = image.field("bytes").buffers()
    _, name_offsets, names = image.field("path").buffers()
    label_bytes, offset_bytes = 8 * len(batch), 4 * (len(batch) + 1)

    def span(buffer: Any, size: int) -> Span:
        begin = buffer.address - whole.address
        return begin, begin + size

    return _Columns(
        labels=span(label.buffers()[1], label_bytes),
        offsets=span(offsets, offset_bytes),
        pictures=span(pictures, 0)[0],
        name_offsets=span(name_offsets, offset_bytes),
        names=span(names, names.size),
    )


class Store:
    """A finished store, in a folder or at a URL that fsspec reads: s3://bucket/store, say.

    Raises ValueError with the mend when there is none, an unfinished one or one of another version.
    """

    def __init__(self, name: str | Path) -> None:
        self.name = str(name)
        self.place = place(name)
        try:
            text = self.place.whole("manifest.json")
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(
                f"{name} is no prepared store (no manifest.json); make one with: alexnet prepare SOURCE STORE"
            ) from None
        try:
            self.manifest: dict[str, Any] = json.loads(text)
            version = self.manifest["format"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{name}/manifest.json is damaged; prepare the store again") from None
        if version != FORMAT:
            raise ValueError(
                f"{name} has store format {version}; this program reads format {FORMAT}: prepare it again"
            )
        self.checksum = hashlib.sha256(text).hexdigest()
        self.classes: list[str] = self.manifest["classes"]
        self.words: list[str] = self.manifest.get("words", [])  # older stores have none
        self.size_px: int = self.manifest["settings"]["size_px"]

    @cached_property
    def statistics(self) -> Statistics:
        mean = np.load(io.BytesIO(self.place.whole("mean.npy")), allow_pickle=False)
        return Statistics(mean, np.array(self.manifest["covariance"]))

    def split(self, name: str, keep: bool = False, answer_s: float = ANSWER_S) -> Split:
        """keep: it will be read again and again. answer_s: the longest that reading a picture may take.

        Raises ValueError when the store has no such split or a file of it is missing or shorter than it was.
        """
        splits = self.manifest["splits"]
        if name not in splits:
            raise ValueError(f"{self.name} has no split {name!r}; it has {', '.join(splits)}")
        shards = splits[name]["shards"]
        sizes = {f"{name}/{shard['file']}": shard["bytes"] for shard in shards}
        self.place.check(sizes)
        if keep:
            self.place.keep(
                {f"{name}/{shard['file']}": shard["sha256"] for shard in shards},
                sizes,
                self.checksum,
            )
        return Split(self.place, sizes, self.size_px, answer_s)

    def verify(self) -> None:
        """Read every file and compare checksums. Raises ValueError naming the first that differs."""
        for name, split in self.manifest["splits"].items():
            for shard in split["shards"]:
                file = f"{name}/{shard['file']}"
                self.place.check({file: shard["bytes"]})
                digest = hashlib.sha256()
                for piece in pieces(self.place, file, shard["bytes"]):
                    digest.update(piece)
                if digest.hexdigest() != shard["sha256"]:
                    raise missing(f"{self.name}/{file}")


def pieces(place: Place, file: str, size: int) -> Iterator[bytes]:
    """A large file, one piece after the other."""
    for begin in range(0, size, PIECE_BYTES):
        yield from place.ranges([(file, begin, min(begin + PIECE_BYTES, size))])


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
