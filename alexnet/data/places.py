"""Where a store's files lie: a folder here, or a URL that fsspec reads (`remote.py`)."""

from __future__ import annotations

import os
import re
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

Range = tuple[str, int, int]
"""A file's name in the place; its first byte, and the one after the last."""


class StoreLost(OSError):
    """A store that could be read no longer can."""


class Place(Protocol):
    """Files that are read by ranges; any number of threads may."""

    name: str
    """As the user gave it."""

    def whole(self, file: str) -> bytes:
        """Raises FileNotFoundError."""

    def check(self, sizes: Mapping[str, int]) -> None:
        """Raises ValueError naming the first file that is missing or has not so many bytes."""

    def ranges(self, wanted: Sequence[Range]) -> list[bytes]:
        """Raises StoreLost."""

    def keep(self, sha256: Mapping[str, str], sizes: Mapping[str, int], store: str) -> None:
        """These files of the store with that checksum will be read again and again; where that helps, copy them."""


def is_url(name: str | Path) -> bool:
    """Also as a Path, which makes one slash of two."""
    return re.match(r"\w{2,}:/", str(name)) is not None


def place(name: str | Path) -> Place:
    """Raises ValueError for a URL of an unknown kind or without the package that reads it."""
    if not is_url(name):
        return Folder(Path(name))
    from alexnet.data.remote import Bucket

    return Bucket(str(name))


class Folder:
    """A folder on a disk. Files are read by `pread`: pages of a map would count as the process's own memory."""

    def __init__(self, folder: Path) -> None:
        self.name, self._folder = str(folder), folder
        self._open: dict[str, int] = {}
        self._opening = threading.Lock()

    def whole(self, file: str) -> bytes:
        return (self._folder / file).read_bytes()

    def check(self, sizes: Mapping[str, int]) -> None:
        for file, size in sizes.items():
            path = self._folder / file
            if not path.is_file() or path.stat().st_size != size:
                raise missing(path)

    def ranges(self, wanted: Sequence[Range]) -> list[bytes]:
        try:
            return [os.pread(self._file(file), end - begin, begin) for file, begin, end in wanted]
        except OSError as error:
            raise StoreLost(f"{self.name} cannot be read any more ({error.strerror})") from error

    def keep(self, sha256: Mapping[str, str], sizes: Mapping[str, int], store: str) -> None:
        """It is here."""

    def _file(self, name: str) -> int:
        if name not in self._open:
            with self._opening:
                if name not in self._open:
                    self._open[name] = os.open(self._folder / name, os.O_RDONLY)
                    weakref.finalize(self, os.close, self._open[name])
        return self._open[name]


def missing(path: object) -> ValueError:
    return ValueError(f"{path} is missing or damaged; prepare the store again")
