"""A prepared store: Arrow files that Hugging Face's `load_from_disk` reads too, a mean image and a manifest.

Reading needs pyarrow alone. Files are memory-mapped and a picture is found by two offsets; its bytes are read past
the map, since every page of a map that was looked at counts as the process's own memory: a set's size would show there.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

FORMAT = 1


@dataclass(frozen=True)
class Statistics:
    """Of the training split's pixels, RGB on the scale 0..255."""

    mean: NDArray[np.float64]  # (size_px, size_px, 3): the mean activity of each pixel (section 2)
    covariance: NDArray[np.float64]  # (3, 3), for the colour noise (section 4.1)


class Split:
    """The pictures and labels of one split, in a fixed order."""

    def __init__(self, folder: Path, files: list[str], size_px: int) -> None:
        self.size_px = size_px
        self._pieces: list[tuple[int, NDArray[np.int64], Any]] = []  # the file, where pictures begin in it, names
        labels: list[NDArray[np.int64]] = []
        starts = [0]
        for name in files:
            file = (folder / name).open("rb")
            weakref.finalize(self, file.close)
            mapped = pa.memory_map(file.name).read_buffer()
            for batch in pa.ipc.open_stream(mapped).read_all().to_batches():
                image = batch.column("image")
                _, offsets, pictures = image.field("bytes").buffers()
                begin = np.frombuffer(offsets, np.int32, len(batch) + 1) + np.int64(pictures.address - mapped.address)
                self._pieces.append((file.fileno(), begin, image.field("path")))
                labels.append(batch.column("label").to_numpy().astype(np.int64))
                starts.append(starts[-1] + len(batch))
        self.labels: NDArray[np.int64] = np.concatenate(labels) if labels else np.zeros(0, np.int64)
        self._starts = np.array(starts)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _find(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        piece = int(np.searchsorted(self._starts, index, side="right")) - 1
        return piece, index - int(self._starts[piece])

    def encoded(self, index: int) -> bytes:
        """The stored bytes of a picture."""
        piece, row = self._find(index)
        file, begin, _ = self._pieces[piece]
        return os.pread(file, int(begin[row + 1] - begin[row]), int(begin[row]))

    def name(self, index: int) -> str:
        """The name the picture had in its source."""
        piece, row = self._find(index)
        return str(self._pieces[piece][2][row].as_py())


class Store:
    """A finished store. Raises ValueError with the mend when the folder is none, unfinished or of another version."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        if not self.folder.is_dir():
            raise ValueError(f"{folder} is no folder; make a store with: alexnet prepare SOURCE {folder}")
        if not path.is_file():
            raise ValueError(f"{folder} is no prepared store (no manifest.json); make one with: alexnet prepare")
        text = path.read_bytes()
        try:
            self.manifest: dict[str, Any] = json.loads(text)
            version = self.manifest["format"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{path} is damaged; prepare the store again") from None
        if version != FORMAT:
            raise ValueError(
                f"{folder} has store format {version}; this program reads format {FORMAT}: prepare it again"
            )
        self.checksum = hashlib.sha256(text).hexdigest()
        self.classes: list[str] = self.manifest["classes"]
        self.size_px: int = self.manifest["settings"]["size_px"]

    @cached_property
    def statistics(self) -> Statistics:
        mean = np.load(self.folder / "mean.npy", allow_pickle=False)
        return Statistics(mean, np.array(self.manifest["covariance"]))

    def split(self, name: str) -> Split:
        """Raises ValueError when the store has no such split or a file of it is missing or shorter than it was."""
        splits = self.manifest["splits"]
        if name not in splits:
            raise ValueError(f"{self.folder} has no split {name!r}; it has {', '.join(splits)}")
        folder = self.folder / name
        for shard in splits[name]["shards"]:
            path = folder / shard["file"]
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise ValueError(f"{path} is missing or damaged; prepare the store again")
        return Split(folder, [shard["file"] for shard in splits[name]["shards"]], self.size_px)

    def verify(self) -> None:
        """Read every file and compare checksums. Raises ValueError naming the first that differs."""
        for name, split in self.manifest["splits"].items():
            for shard in split["shards"]:
                path = self.folder / name / shard["file"]
                if not path.is_file() or file_sha256(path) != shard["sha256"]:
                    raise ValueError(f"{path} is missing or damaged; prepare the store again")


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
