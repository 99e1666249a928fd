"""Atomic file writes, disk space, locks, checksums, JSON that may be damaged, the user's cache."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from alexnet.errors import AlexNetError, BusyError, DataError, RunError

HOLDER_BYTES = 200  # read at most of a lock file, which holds the name of a process
FOREIGN_LOCK_S = 120.0
"""Longest wait for a lock that a process of another machine holds. The file system keeps the lock
of a machine that died for a while: NFSv4 for about 90 seconds."""
LOOK_EVERY_S = 1.0
"""Time between two tries to take such a lock."""
# What a network file system answers whose server is away for a while.
UNREACHABLE = tuple(
    number
    for name in ("ESTALE", "ETIMEDOUT", "EHOSTDOWN", "ENOTCONN", "EREMOTEIO")
    if (number := getattr(errno, name, None)) is not None  # not every system has all of them
)
# What a disk answers that failed, which may be a network disk that is away.
AWAY = (errno.EIO, *UNREACHABLE)
# What a file system answers that has no locks, such as some network file systems.
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


def check_utf8(path: Path) -> None:
    """Raise RunError for a path that the library of safetensors cannot open."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise RunError(
            f"the path {path} is not valid UTF-8; rename the folder or file in it that is not, or "
            "choose another path"
        ) from None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically, as `replacing` does."""
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` when the block ends: atomically, and synced.

    A kill at any moment leaves the old file or the new one. After an error, such as a full disk,
    and after Ctrl-C the old file is unchanged and nothing else is left.

    Raises:
        AlexNetError: If the folder of the file does not exist.
        OSError: If the file cannot be written; the error names `path`.
    """
    check_folder_of(path)
    # In the same folder, since a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with naming(path, temporary):
            with temporary.open("wb") as file:
                yield file
                file.flush()
                # Without this, a rename can reach the disk before the data, and a power cut leaves
                # an empty file.
                os.fsync(file.fileno())
            move_into_place(temporary, path)
    except BaseException:
        # The error that is on its way says more than one of removing the file would.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def exists(path: Path) -> bool:
    """Whether there is a file or folder of this name, also on a network disk.

    Raises:
        OSError: The disk does not answer. `Path.exists` says False then, from Python 3.14 on.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


@contextmanager
def naming(path: Path, *hidden: Path) -> Iterator[None]:
    """Give errors of writing the name that the user knows.

    Errors of `write` and `fsync` have no name.

    Args:
        hidden: Files and folders that the user has not named: temporary ones, and locks.
    """
    try:
        yield
    except OSError as error:
        named = Path(error.filename) if isinstance(error.filename, str | os.PathLike) else None
        if named is None or any(file in (named, *named.parents) for file in hidden):
            error.filename = str(path)
            # The second name of a rename.
            del error.filename2
        raise


@contextmanager
def in_turn(lock: Path) -> Iterator[None]:
    """Run a block in one process after the other; those on a file system without locks at once."""
    with lock.open("ab") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def new_folder(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a hidden folder that gets the name `path` when the block ends.

    After an error and after Ctrl-C nothing is left. The next process removes what a killed one has
    left.

    Args:
        replace: A folder of this name is removed when the new one is complete.

    Raises:
        BusyError: If another process is writing this folder.
        OSError: If it cannot be written; errors without a name of their own name `path`.
    """
    temporary = path.with_name(f".{path.name}.writing")
    old = path.with_name(f".{path.name}.old")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    mend = "wait for it to finish or choose another name"
    with locked(lock, f"{path} is already being written", mend), naming(path, temporary):
        # A process that was killed between the two renames below has left the old folder there.
        if old.exists() and not path.exists():
            old.rename(path)
        for rest in (temporary, old):
            if rest.exists():
                shutil.rmtree(rest)
        temporary.mkdir()
        try:
            yield temporary
            if replace and path.exists():
                path.rename(old)
            temporary.rename(path)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            # Between the two renames, the folder that was to be replaced has no name.
            if old.exists() and not path.exists():
                old.rename(path)
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def check_folder_of(path: Path) -> None:
    """Raise AlexNetError unless the folder of a new file exists."""
    if not path.parent.is_dir():
        raise AlexNetError(
            f"{path} cannot be written: there is no folder {path.parent}; make it first"
        )


def check_may_write(path: Path) -> None:
    """Raise AlexNetError unless a new file can be written; for verbs that compute for minutes."""
    check_folder_of(path)
    if not os.access(path.parent, os.W_OK):
        raise AlexNetError(
            f"{path} cannot be written: you may not write to {path.parent}; choose another folder"
        )


def check_outside(path: Path, folders: Iterable[Path], mend: str) -> None:
    """Raise DataError for a new folder among the images of a source, which later takes it for one.

    Args:
        folders: The folders in which the source looks for images.
        mend: What the user can do, as the end of the sentence.
    """
    for images in folders:
        if path.resolve().is_relative_to(images.resolve()):
            raise DataError(f"{path} would lie among the images of {images.resolve()}; {mend}")


def free_space(folder: Path) -> tuple[Path, int | None]:
    """Return the folder, or the first one above it that exists, and the free bytes of its disk.

    None stands for a file system that does not know its size: some network file systems say 0.
    """
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    usage = shutil.disk_usage(existing)
    return existing, usage.free if usage.total else None


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise AlexNetError if a disk has less room than what will be written to it.

    Args:
        folder: Where it will be written; the folder need not exist.
        needed: Number of bytes.
        what: What needs them, with its verb: "the checkpoints need".
    """
    existing, free = free_space(folder)
    if free is not None and needed > free:
        raise AlexNetError(
            f"{what} {size(needed)} and the disk of {existing} has {size(free)} free; "
            "make room or choose another disk"
        )


def size(count: int) -> str:
    """A number of bytes in the unit that suits it."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {unit}"
    return f"{count} bytes"


def move_into_place(temporary: Path, path: Path) -> None:
    """Rename a complete, synced file over `path`, and sync the folder so that the rename lasts."""
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that sync no folders
            raise
    finally:
        os.close(folder)


def parse_json(data: bytes) -> Any:
    """Parse JSON of a file that may be damaged.

    Raises:
        ValueError: It is not UTF-8, or not JSON, or it cannot be read or printed: nested too
            deeply, or with half of a surrogate pair in a string.
    """
    try:
        value = json.loads(data.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    # JSON can write any half of a surrogate pair, which no output could encode.
    if b"\\u" in data:
        json.dumps(value, ensure_ascii=False).encode()
    return value


@contextmanager
def locked(path: Path, what: str, mend: str, foreign_s: float = FOREIGN_LOCK_S) -> Iterator[None]:
    """Hold the lock file `path`, and remove it at the end.

    The system releases the lock when the process ends, however it ends: the file that a killed
    process leaves does not lock anything, and the next process takes it over.

    Args:
        what: What the lock protects, with its verb: "runs/flowers is already being trained".
        mend: What the user can do: "wait for it to finish or choose another --out".
        foreign_s: Longest wait for a process of another machine, in seconds.

    Raises:
        BusyError: If another process holds the lock; the message names that process.
    """
    # An error, as of a disk that cannot be written, names the folder: the lock is ours.
    with naming(path.parent, path):
        descriptor = _acquire(path, what, mend, foreign_s)
    try:
        yield
    finally:
        # Removed while it is still locked: nobody else can have begun to rely on it.
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


def _acquire(path: Path, what: str, mend: str, foreign_s: float) -> int:
    """Return the descriptor of the locked file."""
    began_s, waits = time.monotonic(), False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, HOLDER_BYTES).decode(errors="replace")
            os.close(descriptor)
            busy = f"{what} by {holder or 'another process'}"
            here = not holder or holder.endswith(f" on {platform.node()}")
            if here or time.monotonic() - began_s >= foreign_s:
                raise BusyError(f"{busy}; {mend}") from None
            if not waits:
                text = f"{busy}; trying for {foreign_s:g} s, since that machine may have died"
                print(text, file=sys.stderr, flush=True)
                waits = True
            time.sleep(LOOK_EVERY_S)
            continue
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                raise
        # Its last holder may have removed the file between the two calls above. A lock on a file
        # that has no name any more would not keep out a third process, which makes a new file.
        try:
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                break
        except FileNotFoundError:
            pass
        os.close(descriptor)
    # The name is for messages only: a disk without room for it does not prevent the lock.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}".encode(), 0)
    return descriptor


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def user_cache() -> Path:
    """The user's cache folder of this program; its content may be removed at any time.

    Raises:
        FileNotFoundError: The user has no home folder, as in a container whose system does not
            know the user.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet"
    except RuntimeError:
        raise FileNotFoundError(
            "this user has no home folder for a cache; set HOME or XDG_CACHE_HOME to a folder"
        ) from None
