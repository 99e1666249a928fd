"""Prepared stores: Arrow files, an index for each split, a mean image and a manifest.

Opening a split loads the labels and the byte positions of its images; images are then read one by
one. Hugging Face's `load_from_disk` reads the same files.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet.data.arrow import ArrowFile, Index, build_index, check_index, parse_names
from alexnet.data.classes import composed
from alexnet.data.manifest import parse_manifest
from alexnet.data.storage import LocalStorage, Range, Storage, as_url, is_url, missing
from alexnet.errors import DataError
from alexnet.program import command

PIECE_BYTES = 8 << 20  # read at a time when a file is verified
ANSWER_S = 30.0  # timeout for reading an image, in seconds


@dataclass(frozen=True)
class Statistics:
    """Statistics of the pixels of the training split, for RGB values in 0..255."""

    mean: NDArray[np.float64]  # (size_px, size_px, 3): the mean activity of each pixel (section 2)
    covariance: NDArray[np.float64]  # (3, 3), for the color noise (section 4.1)


class Split:
    """The images and labels of one split, in a fixed order.

    Attributes:
        size_px: Side of the stored images, in pixels.
        labels: Class of each image, (N,) int64.
        answer_s: Timeout for reading an image, in seconds.
    """

    def __init__(
        self,
        storage: Storage,
        files: Sequence[ArrowFile],
        index: Index,
        size_px: int,
        answer_s: float = ANSWER_S,
    ) -> None:
        self.size_px, self.answer_s, self.storage = size_px, answer_s, storage
        self.labels: NDArray[np.int64] = index.labels
        self._files, self._index = files, index
        # Position in the split of the first image of each file, and the number of all images.
        self._starts = np.cumsum([0, *(file.images for file in files)])
        self._names: dict[int, list[str]] = {}  # by file, loaded when first asked for

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _find(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of the file that contains each image."""
        if (outside := indices[(indices < 0) | (indices >= len(self))]).size:
            raise IndexError(f"image {outside[0]} of {len(self)}")
        # One search for the whole batch, instead of one per image.
        return np.searchsorted(self._starts, indices, side="right") - 1

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> list[bytes]:
        """Return the stored bytes of images. Raises StoreLost if the storage fails."""
        return self.storage.read_ranges(self._ranges(np.asarray(indices, np.int64)))

    def read_into(
        self, indices: NDArray[np.int64], head_bytes: int, out: NDArray[np.uint8]
    ) -> list[bytes] | None:
        """Read images that are stored as a head and the bytes of their pixels, without a copy.

        Args:
            head_bytes: Length of each head.
            out: (N, size_px, size_px, 3), contiguous; receives the bytes after the heads.

        Returns:
            The heads; or None, with nothing read, if an image has another length or the storage
            cannot read into memory.

        Raises:
            StoreLost: If the storage fails.
        """
        ranges = self._ranges(indices)
        if any(end - begin != head_bytes + out[0].nbytes for _, begin, end in ranges):
            return None
        heads = [bytearray(head_bytes) for _ in ranges]
        pixels = [memoryview(row.reshape(-1)) for row in out]
        buffers = [(memoryview(head), row) for head, row in zip(heads, pixels, strict=True)]
        return list(map(bytes, heads)) if self.storage.read_into(ranges, buffers) else None

    def _ranges(self, images: NDArray[np.int64]) -> list[Range]:
        """Return where each image lies in the storage."""
        files = self._find(images)
        # The index has one entry more for each file than the file has images, hence the shift.
        entries = images + files
        begins, ends = self._index.begins[entries], self._index.begins[entries + 1]
        return [
            (self._files[file].name, begin, end)
            for file, begin, end in zip(files.tolist(), begins.tolist(), ends.tolist(), strict=True)
        ]

    def encoded(self, index: int) -> bytes:
        """Return the stored bytes of one image."""
        return self.read([index])[0]

    def name(self, index: int) -> str:
        """Return the name that the image had in its source, for messages.

        Raises:
            DataError: The file with the names is damaged.
            StoreLost: The storage fails.
        """
        file = int(self._find(np.array([index]))[0])
        # Names are needed for messages only, and those of ImageNet would take 100 MB.
        if file not in self._names:
            name, _, images = self._files[file]
            begin, end = self._index.names[file].tolist()
            (data,) = self.storage.read_ranges([(name, begin, end)])
            try:
                self._names[file] = parse_names(data, images)
            except ValueError:
                raise missing(f"{self.storage.name}/{name}") from None
        return self._names[file][index - int(self._starts[file])]


class Store:
    """A finished store, in a folder or at a URL that fsspec reads, such as s3://bucket/store.

    Raises:
        DataError: If there is no store, an unfinished one, or one of another format version. The
            message says what to do.
    """

    def __init__(self, name: str | Path, answer_s: float = ANSWER_S) -> None:
        """Open a store.

        Args:
            answer_s: Timeout for an answer of a server, in seconds (see `RemoteStorage`).
        """
        self.name = str(name)
        self.storage = _open_storage(name, answer_s)
        try:
            text = self.storage.read_file("manifest.json")
        except (FileNotFoundError, NotADirectoryError):
            if Path(f"{name}.partial").is_dir():
                raise DataError(
                    f"{name} is not finished; repeat the alexnet prepare command that began "
                    f"{name}.partial"
                ) from None
            # A folder of images, more likely than not.
            source = name if Path(name).is_dir() else "SOURCE"
            raise DataError(
                f"{name} is not a prepared store (no manifest.json); make one with: "
                f"{command('prepare', source, 'STORE')}"
            ) from None
        self.manifest: dict[str, Any] = parse_manifest(text, self.name)
        # The manifest contains the checksums of the files, so its own identifies the store.
        self.checksum = hashlib.sha256(text).hexdigest()
        # Stores of earlier versions have the names as the file system wrote them.
        self.classes: list[str] = list(map(composed, self.manifest["classes"]))
        self.words: list[str] = self.manifest.get("words", [])  # absent from older stores
        self.size_px: int = self.manifest["settings"]["size_px"]

    @cached_property
    def statistics(self) -> Statistics:
        """Mean and covariance of the training images. Raises DataError if mean.npy is damaged."""
        try:
            data = self.storage.read_file("mean.npy")
        except FileNotFoundError:
            data = b""
        # A damaged mean image would change every image a little, and nothing else would show it.
        if hashlib.sha256(data).hexdigest() != self.manifest["mean_sha256"]:
            raise missing(f"{self.name}/mean.npy")
        try:
            mean = np.load(io.BytesIO(data), allow_pickle=False)
        # The manifest may come from the one who made the damage; NumPy then raises anything.
        except Exception:
            mean = None
        shape = (self.size_px, self.size_px, 3)
        usable = isinstance(mean, np.ndarray) and mean.dtype == np.float64 and mean.shape == shape
        if not usable or not np.isfinite(mean).all():
            raise missing(f"{self.name}/mean.npy")
        return Statistics(mean, np.array(self.manifest["covariance"], np.float64))

    def split(self, name: str, keep: bool = False, answer_s: float = ANSWER_S) -> Split:
        """Open a split.

        Args:
            keep: Whether the split will be read again and again, so that copying a remote one to
                the local cache is worth while.
            answer_s: Timeout for reading an image, in seconds.

        Raises:
            DataError: If the store has no such split, or one of its files is missing or does not
                have the size that the manifest states.
        """
        entry, files = self._entry(name), self._files(name)
        sizes = {file.name: file.size for file in files}
        self.storage.check_sizes(sizes)
        index = self._index(name, entry.get("index"), files)
        if keep:
            sha256 = {f"{name}/{s['file']}": s["sha256"] for s in entry["shards"]}
            self.storage.expect_repeated_reads(sha256, sizes, self.checksum)
        return Split(self.storage, files, index, self.size_px, answer_s)

    def num_images(self, split: str) -> int:
        """The number of images of a split, by the manifest. Raises DataError if there is none."""
        return int(self._entry(split)["images"])

    def _entry(self, split: str) -> dict[str, Any]:
        """What the manifest says of a split. Raises DataError if the store has no such split."""
        splits: dict[str, dict[str, Any]] = self.manifest["splits"]
        if split not in splits:
            raise DataError(
                f"{self.name} has no split {split!r}; it has {', '.join(splits)}, so name one of "
                "these or prepare it again with the other"
            )
        return splits[split]

    def _files(self, split: str) -> list[ArrowFile]:
        """Return the files of a split, which the manifest calls shards."""
        shards = self.manifest["splits"][split]["shards"]
        return [ArrowFile(f"{split}/{s['file']}", s["bytes"], s["images"]) for s in shards]

    def _index(self, split: str, entry: dict[str, Any] | None, files: list[ArrowFile]) -> Index:
        """Return the index of a split. Raises DataError if its file is missing or damaged."""
        if entry is None:  # prepared by version 0.1, which wrote no index
            index, source = build_index(self.storage, files), split
        else:
            source = f"{split}/{entry['file']}"
            self.storage.check_sizes({source: entry["bytes"]})
            # Read as ranges: an index has no other bound than the size in the manifest.
            data = b"".join(pieces(self.storage, source, entry["bytes"]))
            # Checked whenever a store is opened: wrong positions would look like wrong images.
            if hashlib.sha256(data).hexdigest() != entry["sha256"]:
                raise missing(f"{self.name}/{source}")
            try:
                index = Index.from_bytes(data)
            # As for mean.npy: what the checksum of a manifest confirms may still be anything.
            except Exception:
                raise missing(f"{self.name}/{source}") from None
        if not check_index(index, files, len(self.classes)):
            raise missing(f"{self.name}/{source}")
        return index

    def verify(self, advance: Callable[[str, int], None] = lambda part, size: None) -> None:
        """Read every file and compare its checksum with the manifest.

        Args:
            advance: Called with the part ("mean.npy", or the name of a split) and the number of
                bytes whenever some have been read.

        Raises:
            DataError: If a file differs; the message names the first one.
        """
        _ = self.statistics
        advance("mean.npy", 0)
        for name, split in self.manifest["splits"].items():
            self.split(name)  # checks the sizes and the index, and that it fits the files
            for entry in (*split["shards"], *([split["index"]] if "index" in split else ())):
                file = f"{name}/{entry['file']}"
                digest = hashlib.sha256()
                for piece in pieces(self.storage, file, entry["bytes"]):
                    digest.update(piece)
                    advance(name, len(piece))
                if digest.hexdigest() != entry["sha256"]:
                    raise missing(f"{self.name}/{file}")


def pieces(storage: Storage, file: str, size: int) -> Iterator[bytes]:
    """Yield the bytes of a large file piece by piece, so that it never lies in memory whole."""
    for begin in range(0, size, PIECE_BYTES):
        yield from storage.read_ranges([(file, begin, min(begin + PIECE_BYTES, size))])


def _open_storage(name: str | Path, answer_s: float) -> Storage:
    """Return the storage at a folder or URL.

    Raises:
        DataError: If nothing installed reads this kind of URL.
    """
    if not is_url(name):
        return LocalStorage(Path(name))
    # Imported here, so that a local store does not pay for the import of fsspec.
    from alexnet.data.remote import RemoteStorage

    return RemoteStorage(as_url(name), answer_s)
