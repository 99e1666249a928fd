"""Copies of remote files on this machine's disk, bounded, shared by every process that reads the same stores.

An epoch reads every picture once, in a new order: nothing that is thrown out for something else makes room for what is
wanted sooner. So files of a store are kept from the first on until the room is used, and never replaced by others of
the same store; those of stores that nobody reads now go first, the longest unused first.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BufferedRandom
from pathlib import Path

from alexnet.files import user_cache

DEFAULT_GB = 64.0  # at imagenette's 26 KB a picture of 256 pixels ImageNet takes 34


class Cache:
    """`FOLDER/STORE/`: whole files under their names, those being fetched under `.NAME.partial`, at their full size."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._used: dict[str, int] = {}  # open and locked as long as this process reads the store

    def use(self, store: str) -> Path:
        """The folder of a store that is read from now on."""
        own = self._folder / store
        own.mkdir(parents=True, exist_ok=True)
        if store not in self._used:
            self._used[store] = os.open(own / ".used", os.O_RDWR | os.O_CREAT)
            fcntl.flock(self._used[store], fcntl.LOCK_SH)
        os.utime(own / ".used")
        return own

    @contextmanager
    def filling(self, path: Path, size: int) -> Iterator[BufferedRandom | None]:
        """A file to fill with the `size` bytes that shall be at `path`, and are after it; None where there is no room.

        Raises BlockingIOError while another process fetches the same. What an exception leaves half full is removed.
        """
        partial = path.with_name(f".{path.name}.partial")
        with ExitStack() as opened:
            with self._alone():
                file = opened.enter_context(open(os.open(partial, os.O_RDWR | os.O_CREAT), "r+b"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.truncate(0)  # a killed process may have left it
                enough = self._make_room(size)
                file.truncate(size if enough else 0)
            try:
                yield file if enough else None
                if enough:
                    file.flush()
                    os.fsync(file.fileno())
                    with self._alone():
                        os.replace(partial, path)
            finally:
                with self._alone():
                    partial.unlink(missing_ok=True)

    def _make_room(self, size: int) -> bool:
        """Whether so many bytes fit now."""
        for path in self._folder.glob("*/.*.partial"):
            if _abandoned(path):
                path.unlink()
        files = [*self._folder.glob("*/.*.partial"), *self._folder.glob("*/*.arrow")]
        held = {path: path.stat().st_size for path in files}
        total = sum(held.values())
        for used in sorted(self._folder.glob("*/.used"), key=lambda used: used.stat().st_mtime):
            if total + size > self._most_bytes and _abandoned(used):
                for path in used.parent.glob("*.arrow"):
                    path.unlink()
                    total -= held[path]
        return total + size <= self._most_bytes

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process looks for room meanwhile, or moves a file."""
        lock = os.open(self._folder / ".lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _abandoned(path: Path) -> bool:
    """Whether no process holds a lock on it."""
    file = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(file)


def own_cache() -> Cache | None:
    """As ALEXNET_CACHE (a folder) and ALEXNET_CACHE_GB say; None for 0 GB. Raises ValueError for what is no number."""
    said = os.environ.get("ALEXNET_CACHE_GB", "")
    try:
        gb = float(said) if said else DEFAULT_GB
    except ValueError:
        gb = -1.0
    if not 0 <= gb < float("inf"):
        raise ValueError(
            f"ALEXNET_CACHE_GB is {said!r}; give the gigabytes that copies of stores may take, 0 for none"
        )
    folder = Path(os.environ.get("ALEXNET_CACHE") or user_cache() / "stores")
    return Cache(folder, int(gb * 1e9)) if gb else None
