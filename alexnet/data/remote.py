"""Storage at a URL: byte ranges are read by fsspec, and whole files are cached while there is room.

Training reads an epoch's images in random order, one small range at a time. Each range costs a
round trip, so the files are copied in the background and read locally as soon as they are there.
fsspec's own caches do not serve here: `simplecache` and `filecache` copy a file before its first
range can be read, and none of them has a bound on its size or a lock among processes.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import fsspec

from alexnet.data.cache import Cache, cache_from_environment
from alexnet.data.storage import OpenFiles, Range, StoreLost, missing
from alexnet.errors import DataError

# These attempts come on top of the retries of the fsspec backend itself.
TRIES, PAUSE_S = 2, 1.0
# A file is copied in pieces of this many bytes, of which this many are fetched at a time.
PIECE_BYTES, PIECES = 4 << 20, 8

T = TypeVar("T")


class RemoteStorage:
    """Files below a URL.

    Raises:
        DataError: If nothing installed reads this kind of URL.
    """

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")
        self._cache = cache_from_environment()
        self._local_copies: dict[str, str] = {}  # path of the local copy of each file that has one
        self._open_copies = OpenFiles()
        self._damaged: str | None = None  # the message about a damaged copy, once there is one
        try:
            self._files, self._root = fsspec.url_to_fs(self.name)
        except ImportError as error:
            raise DataError(f"{url} cannot be read: {error}") from None

    def read_file(self, file: str) -> bytes:
        try:
            return bytes(self._files.cat_file(f"{self._root}/{file}"))
        except FileNotFoundError:
            raise
        except Exception as error:  # each backend of fsspec raises errors of its own
            raise DataError(f"{self.name} cannot be read ({_reason(error)})") from None

    def check_sizes(self, sizes: Mapping[str, int]) -> None:
        try:
            remote_sizes = self._files.sizes([f"{self._root}/{file}" for file in sizes])
        except FileNotFoundError as error:
            raise missing(f"a file of {self.name} ({error})") from None
        except Exception as error:
            raise DataError(f"{self.name} cannot be read ({_reason(error)})") from None
        for (file, size), remote_size in zip(sizes.items(), remote_sizes, strict=True):
            if remote_size not in (size, None):  # some servers do not tell the size
                raise missing(f"{self.name}/{file}")

    def read_ranges(self, wanted: Sequence[Range]) -> list[bytes]:
        # A damaged copy was found in the background, where an exception would reach nobody.
        if self._damaged:
            raise StoreLost(self._damaged)
        copies = [self._local_copies.get(file) for file, _, _ in wanted]
        # All ranges without a local copy are fetched in one call, which may run in parallel.
        fetched = iter(
            self._fetch([item for item, copy in zip(wanted, copies, strict=True) if copy is None])
        )
        return [
            next(fetched) if copy is None else self._from_copy(copy, item)
            for item, copy in zip(wanted, copies, strict=True)
        ]

    def _from_copy(self, copy: str, wanted: Range) -> bytes:
        file, begin, end = wanted
        try:
            return self._open_copies.read(copy, begin, end)
        except OSError:  # the user may empty the cache at any time; read the URL again
            self._local_copies.pop(file, None)
            return self._fetch([wanted])[0]

    def _fetch(self, wanted: Sequence[Range]) -> list[bytes]:
        if not wanted:
            return []
        files, begins, ends = (list(column) for column in zip(*wanted, strict=True))
        paths = [f"{self._root}/{file}" for file in files]

        def fetch() -> list[bytes]:
            contents = self._files.cat_ranges(paths, begins, ends, on_error="raise")
            # fsspec returns what there is when a range reaches beyond the end of the file.
            if any(
                len(data) != end - begin
                for data, begin, end in zip(contents, begins, ends, strict=True)
            ):
                raise OSError("a file is shorter than it was")
            return list(contents)

        return _retry(fetch, self.name)

    def copy_to_cache(
        self, sha256: Mapping[str, str], sizes: Mapping[str, int], store: str
    ) -> None:
        """Copy files to the local cache in the background, as long as it has room."""
        if self._cache is None:
            return
        # Locked even if nothing is copied: another process must not evict what is read here.
        folder = self._cache.lock_store(store)
        for file in sizes:
            # Copies of an earlier run; each was compared with its checksum when it was made.
            if (copy := _path_of_copy(folder, file)).exists():
                self._local_copies[file] = str(copy)
        remaining = [file for file in sizes if file not in self._local_copies]
        # Ranks on one machine share the cache: in random order each begins with another file. The
        # generator is seeded by the system, so it does not disturb the run's random numbers.
        random.Random().shuffle(remaining)
        # A daemon, because an unfinished copy must not delay the end of the program.
        arguments = (folder, remaining, sha256, sizes)
        threading.Thread(target=self._copy_files, args=arguments, daemon=True).start()

    def _copy_files(
        self,
        folder: Path,
        remaining: list[str],
        sha256: Mapping[str, str],
        sizes: Mapping[str, int],
    ) -> None:
        """Copy files until all are local or the cache is full; runs in a background thread."""
        assert self._cache is not None
        while remaining:
            file = remaining.pop(0)
            copy = _path_of_copy(folder, file)
            try:
                if not copy.exists() and not self._copy(
                    self._cache, file, copy, sizes[file], sha256[file]
                ):
                    return
                self._local_copies[file] = str(copy)
            except BlockingIOError:  # another rank is copying this file; try again later
                remaining.append(file)
                time.sleep(PAUSE_S)
            except OSError:  # the disk is full, or the store is lost, as the next read will report
                return

    def _copy(self, cache: Cache, file: str, copy: Path, size: int, sha256: str) -> bool:
        """Copy one file; return whether there was room for it."""
        with cache.new_file(copy, size) as out:
            if out is None:
                return False
            digest, cuts = hashlib.sha256(), [*range(0, size, PIECE_BYTES), size]
            spans = [(file, begin, end) for begin, end in pairwise(cuts)]
            for first in range(0, len(spans), PIECES):
                for data in self._fetch(spans[first : first + PIECES]):
                    digest.update(data)
                    out.write(data)
            # A copy is checked once, when it is made; ranges read from the URL cannot be.
            if digest.hexdigest() != sha256:
                self._damaged = f"{self.name}/{file} is damaged; copy the store there again"
                raise StoreLost(self._damaged)
        return True


def _path_of_copy(folder: Path, file: str) -> Path:
    """Return where a store's folder in the cache keeps the copy of a file."""
    # One flat folder, because the cache finds its files by a pattern of two levels.
    return folder / file.replace("/", "-")


def _retry(fetch: Callable[[], T], url: str) -> T:
    """Call `fetch`, again after a pause if it fails. Raises StoreLost after TRIES failures."""
    for tries_left in reversed(range(TRIES)):
        try:
            return fetch()
        except Exception as error:
            if tries_left == 0:
                raise StoreLost(f"{url} cannot be read any more ({_reason(error)})") from error
            time.sleep(PAUSE_S)
    raise AssertionError("not reached")


def _reason(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    lines: Any = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
