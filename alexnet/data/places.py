"""Where a store's files lie: a folder here, or a URL that fsspec reads (`remote.py`)."""

from __future__ import annotations

import os
import re
import resource
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

Range = tuple[str, int, int]
"""A file's name in the place; its first byte, and the one after the last."""


MOST_OPEN = 4096
"""Open files of a store, where a process may have more than anyone needs."""


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


class OpenFiles:
    """Descriptors of files that are read again and again, a bounded number of them.

    The longest unused is closed when another file needs its place, but never one that a thread
    reads from: its number may by then be another file's. So at most `most` are open, and one more
    for each thread that reads at the same time.
    """

    def __init__(self, most: int = 0) -> None:
        """most: 0 for a quarter of what a process may open, since there may be several stores."""
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        own = soft // 4 if soft != resource.RLIM_INFINITY else MOST_OPEN
        self._most = most or max(1, min(own, MOST_OPEN))
        self._open: dict[str, tuple[int, int]] = {}  # descriptor, readers; longest unused first
        self._changing = threading.Lock()
        weakref.finalize(self, _close_all, self._open)

    def __len__(self) -> int:
        return len(self._open)

    def read(self, path: str, begin: int, end: int) -> bytes:
        """Raises OSError."""
        with self._changing:
            file, readers = self._open.pop(path, (-1, 0))
            if file < 0:
                self._make_room()
                file = os.open(path, os.O_RDONLY)
            self._open[path] = file, readers + 1
        try:
            return os.pread(file, end - begin, begin)
        finally:
            with self._changing:
                self._open[path] = file, self._open[path][1] - 1

    def _make_room(self) -> None:
        while len(self._open) >= self._most:
            idle = (path for path, (_, readers) in self._open.items() if readers == 0)
            if (longest := next(idle, None)) is None:
                return
            os.close(self._open.pop(longest)[0])


def _close_all(opened: dict[str, tuple[int, int]]) -> None:
    for file, _ in opened.values():
        os.close(file)


class Folder:
    """A folder on a disk. Files are read by `pread`: pages of a map would count as the process's own memory."""

    def __init__(self, folder: Path) -> None:
        self.name, self._folder = str(folder), folder
        self._files = OpenFiles()

    def whole(self, file: str) -> bytes:
        return (self._folder / file).read_bytes()

    def check(self, sizes: Mapping[str, int]) -> None:
        for file, size in sizes.items():
            path = self._folder / file
            if not path.is_file() or path.stat().st_size != size:
                raise missing(path)

    def ranges(self, wanted: Sequence[Range]) -> list[bytes]:
        try:
            return [self._files.read(f"{self._folder}/{file}", *span) for file, *span in wanted]
        except OSError as error:
            raise StoreLost(f"{self.name} cannot be read any more ({error.strerror})") from error

    def keep(self, sha256: Mapping[str, str], sizes: Mapping[str, int], store: str) -> None:
        """It is here."""


def missing(path: object) -> ValueError:
    return ValueError(f"{path} is missing or damaged; prepare the store again")
