"""Storage backends for stores: a local folder, or a URL that fsspec reads (`remote.py`)."""

from __future__ import annotations

import errno
import os
import re
import resource
import stat
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Protocol

from alexnet.errors import DataError
from alexnet.files import naming

Range = tuple[str, int, int]
"""A file's name in the storage, its first byte, and the byte after its last."""

MOST_OPEN = 4096
"""Upper limit on the open files of one store, where the system's own limit is far higher."""


MEND = "check its disk or server"
"""What to do about a store that is lost, for messages."""


class StoreLost(OSError):
    """A store that was readable can no longer be read."""


class Storage(Protocol):
    """Files that are read by byte ranges. Every method may be called from any thread."""

    name: str
    """The name as the user gave it."""

    def read_file(self, file: str) -> bytes:
        """Return the contents of a file. Raises FileNotFoundError if it is missing."""

    def check_sizes(self, sizes: Mapping[str, int]) -> None:
        """Check the size of each file in bytes.

        Raises:
            DataError: If a file is missing or has another size; the message names the first one.
        """

    def read_ranges(self, wanted: Sequence[Range]) -> list[bytes]:
        """Return the bytes of each range, in order.

        Raises:
            StoreLost: If reading fails.
            DataError: If a file was found to be damaged.
        """

    def read_into(self, wanted: Sequence[Range], buffers: Sequence[Sequence[memoryview]]) -> bool:
        """Read each range into its buffers of bytes, which have its size together.

        Returns:
            False, with nothing read, where `read_ranges` is the only way.

        Raises:
            StoreLost, DataError: As `read_ranges` does.
        """

    def expect_repeated_reads(
        self, sha256: Mapping[str, str], sizes: Mapping[str, int], store: str
    ) -> None:
        """Begin in the background work that pays off for files that are read repeatedly.

        Remote files are copied to the local cache, and local ones compared with their checksums.

        Args:
            sha256: Checksum of each file.
            sizes: Size of each file, in bytes.
            store: Checksum of the store, which names its folder in the cache.
        """


def is_url(name: str | Path) -> bool:
    """Tell whether `name` is a URL, even one that `Path` has stripped of its second slash."""
    # At least two characters before the colon, so that a Windows drive is not taken for a scheme.
    return re.match(r"\w{2,}:/", str(name)) is not None


def as_url(name: str | Path) -> str:
    """The URL with its second slash, which `Path` strips."""
    return re.sub(r"^(\w{2,}:/)(?=[^/])", r"\1/", str(name))


class OpenFiles:
    """A bounded number of file descriptors, kept open between reads.

    To open a file for each image would cost more than to read it. When another file needs a
    descriptor, the least recently used one is closed, unless a thread is reading from it: its
    number could by then belong to another file. Therefore at most `limit` files are open, and one
    more for each thread that is reading at the time.
    """

    def __init__(self, limit: int = 0) -> None:
        """Keep at most `limit` files open; 0 stands for a quarter of the process's own limit.

        A quarter, because a process may read several stores and also opens other files.
        """
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        quarter = soft // 4 if soft != resource.RLIM_INFINITY else MOST_OPEN
        self._limit = limit or max(1, min(quarter, MOST_OPEN))
        # Descriptor and number of readers of each path, least recently used first.
        self._open: dict[str, tuple[int, int]] = {}
        self._changing = threading.Lock()
        # The finalizer gets the dict and not the object, which it would otherwise keep alive.
        weakref.finalize(self, _close_all, self._open)

    def __len__(self) -> int:
        return len(self._open)

    def read(self, path: str, begin: int, end: int, folder: int | None = None) -> bytes:
        """Return bytes `begin` to `end` of a file. Raises OSError, also if it ends before.

        Args:
            folder: Descriptor of the folder that `path` begins at, the same in every call.
        """
        # There is no lock while reading: `pread` has no position that threads could disturb.
        with self._opened(path, folder) as file:
            data = os.pread(file, end - begin, begin)
        _check_length(path, len(data), end - begin)
        return data

    def read_into(
        self, path: str, begin: int, buffers: Sequence[memoryview], folder: int | None = None
    ) -> None:
        """Read a file from byte `begin` into buffers of bytes. Raises OSError as `read` does."""
        with self._opened(path, folder) as file:
            count = os.preadv(file, buffers, begin)
        _check_length(path, count, sum(len(buffer) for buffer in buffers))

    @contextmanager
    def _opened(self, path: str, folder: int | None) -> Iterator[int]:
        """Yield the descriptor of a file, which stays open at least until the block ends."""
        with self._changing:
            # Taken out and put back at the end: the order of the dict is the order of use.
            file, readers = self._open.pop(path, (-1, 0))
            if file < 0:
                self._close_idle()
                file = os.open(path, os.O_RDONLY, dir_fd=folder)
            self._open[path] = file, readers + 1
        try:
            yield file
        finally:
            with self._changing:
                self._open[path] = file, self._open[path][1] - 1

    def _close_idle(self) -> None:
        """Close the least recently used idle files until one more may be opened."""
        while len(self._open) >= self._limit:
            idle = (path for path, (_, readers) in self._open.items() if readers == 0)
            if (least_recent := next(idle, None)) is None:
                return
            os.close(self._open.pop(least_recent)[0])


def _check_length(path: str, count: int, wanted: int) -> None:
    # `pread` returns what there is of a file that was cut after its size was checked.
    if count != wanted:
        raise OSError(errno.EIO, "it is shorter than it was", path)


def _close_all(opened: dict[str, tuple[int, int]]) -> None:
    for file, _ in opened.values():
        os.close(file)


class LocalStorage:
    """A folder on a local disk.

    Files are read by `pread` and not through a memory map, whose pages would count as the
    process's own memory.
    """

    def __init__(self, folder: Path) -> None:
        self.name, self._folder = str(folder), folder
        self._files = OpenFiles()
        self._damaged: list[Path] = []  # the first file that `verify_in_background` found damaged

    def __reduce__(self) -> tuple[type[LocalStorage], tuple[Path]]:
        # A descriptor or a lock is of no use in another process, which opens the files again.
        return LocalStorage, (self._folder,)

    @cached_property
    def _descriptor(self) -> int:
        """Descriptor of the folder, from the first reading on, in which all files are opened.

        By its name, files would be those of another store after `prepare --force` has replaced
        this one, and a batch a mixture of both. Raises OSError if there is no such folder.
        """
        # Linux needs no permission to list the folder, only to open the files in it.
        descriptor = os.open(self._folder, getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY)
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def read_file(self, file: str) -> bytes:
        path = self._folder / file
        # Errors have the name that was opened, which without its folder says little.
        with naming(path, Path(file)):
            descriptor = os.open(file, os.O_RDONLY, dir_fd=self._descriptor)
        with open(descriptor, "rb") as stream:
            return stream.read()

    def check_sizes(self, sizes: Mapping[str, int]) -> None:
        for file, size in sizes.items():
            # Sizes are cheap to check; checksums need a full read (`Store.verify`).
            path = self._folder / file
            try:
                with naming(path, Path(file)):
                    about = os.stat(file, dir_fd=self._descriptor)
            except (FileNotFoundError, NotADirectoryError):
                raise missing(path) from None
            if not stat.S_ISREG(about.st_mode) or about.st_size != size:
                raise missing(path)

    def read_ranges(self, wanted: Sequence[Range]) -> list[bytes]:
        with self._reading():
            return [
                self._files.read(file, begin, end, self._descriptor) for file, begin, end in wanted
            ]

    def read_into(self, wanted: Sequence[Range], buffers: Sequence[Sequence[memoryview]]) -> bool:
        # Some systems lack it.
        if not hasattr(os, "preadv"):
            return False
        with self._reading():
            for (file, begin, _), its in zip(wanted, buffers, strict=True):
                self._files.read_into(file, begin, its, self._descriptor)
        return True

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Raise DataError if damage was found, and StoreLost in place of an OSError."""
        # Damage was found by a thread, where an exception would reach nobody.
        if self._damaged:
            raise missing(self._damaged[0])
        try:
            yield
        except OSError as error:
            path = self._folder / error.filename if error.filename else self.name
            raise StoreLost(f"{path} cannot be read any more ({error.strerror}); {MEND}") from error

    def expect_repeated_reads(
        self, sha256: Mapping[str, str], sizes: Mapping[str, int], store: str
    ) -> None:
        """Copy nothing, since the files are local; compare them with their checksums instead."""
        # One process of each machine reads all files; the others would read the same ones.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            # Imported here, because the command line imports this module for its errors.
            from alexnet.data.verification import verify_in_background

            paths = {self._folder / file: digest for file, digest in sha256.items()}
            verify_in_background(paths, store, self._found_damaged)

    def _found_damaged(self, path: Path) -> None:
        # After `prepare --force` the names are those of another store, with other checksums.
        if os.path.samestat(os.stat(self._folder), os.fstat(self._descriptor)):
            self._damaged.append(path)


def missing(path: object) -> DataError:
    """Return the error for a file of a store that is missing or damaged."""
    return DataError(f"{path} is missing or damaged; prepare the store again")
