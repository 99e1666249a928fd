"""A cache of remote files on the local disk, of bounded size, shared by all processes.

An epoch reads every image once, in a new order, so evicting one file for another of the same store
gains nothing: the evicted file is wanted as soon as the new one. (A least-recently-used cache
smaller than the store would even miss most of the time.) So the files of a store are added until
the cache is full, and are never replaced by others of the same store. Stores that no process is
reading are evicted first, the least recently used one first.

The folder holds data and no code, so its owner and mode are not looked at, as those of the compiled
libraries are (`alexnet.native`): no image is read from a copy that has not passed its checksum
since it last changed, so whoever else can write here can make a run slower, but not wrong. The
exception is somebody who forges the record of a check too; a cache of one's own (the default) or
one whose writers are trusted is therefore the right choice for ALEXNET_CACHE.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedRandom
from pathlib import Path

from alexnet.errors import DataError
from alexnet.files import file_sha256, user_cache

Stamp = tuple[int, int, int]
"""Size in bytes, time of the last change in nanoseconds, and inode of a file."""

DEFAULT_GB = 64.0  # ImageNet takes about 34, at imagenette's 26 KB per image of 256 pixels


class Cache:
    """A cache folder with one folder per store.

    `FOLDER/STORE/NAME` is a complete file. `FOLDER/STORE/.NAME.partial` is a file being copied; it
    has its final size from the start, so that other processes count it.
    `FOLDER/STORE/.NAME.checked` is the stamp that NAME had when its checksum was last compared.
    `FOLDER/STORE/.used` is locked by every process that reads the store, and its time stamp is that
    of the last use.

    Locks are those of `flock`: the system releases them when a process dies, however it dies.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        # Descriptors of `.used` files, open and locked until the process ends.
        self._used: dict[str, int] = {}

    def lock_store(self, store: str) -> Path:
        """Mark a store as in use by this process, and return its folder."""
        folder = self._folder / store
        folder.mkdir(parents=True, exist_ok=True)
        if store not in self._used:
            descriptor = _open_to_lock(folder / ".used", os.O_CREAT)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            except OSError:
                os.close(descriptor)
                raise
            # Only now: a store whose lock was refused is not in use.
            self._used[store] = descriptor
        with suppress(PermissionError):  # the file of another user
            os.utime(folder / ".used")
        return folder

    @contextmanager
    def new_file(self, path: Path, size: int) -> Iterator[BufferedRandom | None]:
        """Reserve room for a file of `size` bytes and open it for writing.

        The file appears at `path` when the block ends, complete and synced. After an exception
        it is removed.

        Yields:
            The open file, or None if there is no room.

        Raises:
            BlockingIOError: While another process is copying the same file.
        """
        partial = path.with_name(f".{path.name}.partial")
        placed = False
        with ExitStack() as opened:
            # Room is counted and taken under the lock: two processes could otherwise take the same.
            with self._locked():
                descriptor = os.open(partial, os.O_RDWR | os.O_CREAT, 0o666)
                file = opened.enter_context(open(descriptor, "r+b"))
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                file.truncate(0)  # a killed process may have left content
                enough = self._make_room(size)
                # Extending the file to its full size reserves the room before the data arrive.
                file.truncate(size if enough else 0)
            try:
                yield file if enough else None
                if enough:
                    file.flush()
                    os.fsync(file.fileno())
                    with self._locked():
                        # Under the lock, so that `_make_room` never sees a file half moved.
                        os.replace(partial, path)
                        placed = True
            finally:
                # A partial file that appears after the rename belongs to another process.
                if not placed:
                    with self._locked():
                        partial.unlink(missing_ok=True)

    def _make_room(self, size: int) -> bool:
        """Evict what is no longer used; return whether `size` bytes fit now."""
        # What a killed process was copying; it holds no lock any more.
        for path in self._folder.glob("*/.*.partial"):
            if _abandoned(path):
                with suppress(PermissionError):  # the file of another user, which counts below
                    path.unlink()
        # Files of every name: a store of somebody else's chooses the names of its files.
        files = [*self._folder.glob("*/.*.partial"), *self._folder.glob("*/[!.]*")]
        held = {path: path.stat().st_size for path in files if path.is_file()}
        total = sum(held.values())
        # Least recently used first, and none that a process holds a lock on.
        for used in sorted(self._folder.glob("*/.used"), key=lambda used: used.stat().st_mtime):
            if total + size > self._most_bytes and _abandoned(used):
                for path in [path for path in held if path.parent == used.parent]:
                    with suppress(PermissionError):  # as above
                        path.unlink()
                        total -= held[path]
                        _record_of_check(path).unlink(missing_ok=True)
        # Stores in use are never evicted, so there may be no room even now.
        return total + size <= self._most_bytes

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock under which processes count the room and move files."""
        lock = _open_to_lock(self._folder / ".lock", os.O_CREAT)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def stamp_of(path: Path | str) -> Stamp:
    """Return what changes when a file is written or replaced. Raises OSError."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ino


def checked_stamp(path: Path, size: int, sha256: str) -> Stamp | None:
    """Return the stamp of a complete file whose checksum was compared since it last changed.

    None for a file that is missing or has to be compared (again). The record of the comparison
    outlives the process: to read a store of 150 GB again at every start would take minutes.
    """
    try:
        stamp = stamp_of(path)
        record = _record_of_check(path).read_bytes()
    except OSError:
        return None
    # A record that another process has half written equals nothing, so the file is compared again.
    return stamp if stamp[0] == size and record == _record(stamp, sha256) else None


def compare_checksum(path: Path, size: int, sha256: str) -> Stamp | None:
    """Return the stamp of a file if it has this size and checksum, and record the comparison.

    None for a file that differs.

    Raises:
        OSError: If the file cannot be read.
    """
    # Before the file is read, so that a change in the meantime makes another stamp.
    stamp = stamp_of(path)
    if stamp[0] != size:
        return None
    return record_check(path, stamp, sha256) if file_sha256(path) == sha256 else None


def record_check(path: Path, stamp: Stamp, sha256: str) -> Stamp:
    """Record that a file with this stamp has this checksum, and return the stamp."""
    with suppress(OSError):  # on a full disk the file is compared again at the next start
        _record_of_check(path).write_bytes(_record(stamp, sha256))
    return stamp


def _record_of_check(path: Path) -> Path:
    return path.with_name(f".{path.name}.checked")


def _record(stamp: Stamp, sha256: str) -> bytes:
    return " ".join(map(str, (sha256, *stamp))).encode()


def _open_to_lock(path: Path, flags: int = 0) -> int:
    """Return the descriptor of a file that is only locked."""
    try:
        # NFS locks nothing exclusively that is opened for reading.
        return os.open(path, os.O_RDWR | flags, 0o666)
    except PermissionError:
        if not path.exists():  # a folder in which no file may be made
            raise
        return os.open(path, os.O_RDONLY)  # the file of another user


def _abandoned(path: Path) -> bool:
    """Tell whether no process holds a lock on a file."""
    file = _open_to_lock(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(file)


def cache_from_environment() -> Cache | None:
    """Return the cache that the environment describes, or None if it is turned off.

    ALEXNET_CACHE is its folder, ALEXNET_CACHE_GB its size in gigabytes; 0 turns it off.

    Raises:
        DataError: If the size is not a number of gigabytes.
    """
    text = os.environ.get("ALEXNET_CACHE_GB", "")
    try:
        gb = float(text) if text else DEFAULT_GB
    except ValueError:
        gb = -1.0
    if not 0 <= gb < float("inf"):
        raise DataError(
            f"ALEXNET_CACHE_GB is {text!r}; give the gigabytes that copies of stores may take, "
            "or 0 for no cache"
        )
    folder = Path(os.environ.get("ALEXNET_CACHE") or user_cache() / "stores")
    return Cache(folder, int(gb * 1e9)) if gb else None
