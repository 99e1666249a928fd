"""Storage at a URL: byte ranges are read by fsspec, and whole files are cached while there is room.

Training reads an epoch's images in random order, one small range at a time. Each range costs a
round trip, so the files are copied in the background and read locally as soon as they are there.
fsspec's own caches do not serve here: `simplecache` and `filecache` copy a file before its first
range can be read, and none of them has a bound on its size or a lock among processes.

A server may be broken or hostile. Every call of fsspec ends within a stated time, every answer has
a largest size, and nothing is read from a local copy whose checksum was not compared.
"""

from __future__ import annotations

import hashlib
import math
import random
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import fsspec

from alexnet.data import http_client
from alexnet.data.cache import (
    Cache,
    Stamp,
    cache_from_environment,
    checked_stamp,
    compare_checksum,
    record_check,
    stamp_of,
)
from alexnet.data.storage import MEND, OpenFiles, Range, StoreLost, missing
from alexnet.errors import DataError

# These attempts come on top of the retries of the fsspec backend itself.
TRIES, PAUSE_S = 2, 1.0
# A file is copied in pieces of this many bytes, of which this many are fetched at a time.
PIECE_BYTES, PIECES = 4 << 20, 8
# A manifest or a mean image is refused beyond this size. The manifest of Fall 2011 takes 11 MB
# (computed): 6,933 files at 140 bytes, 21,841 classes with their words at 60, and the names of 1 %
# skipped images at 60. A mean image reaches the limit at 3,344 pixels a side.
MOST_BYTES = 256 << 20
SIZES_AT_ONCE = 64  # files whose sizes are asked for in one call

T = TypeVar("T")


class RemoteStorage:
    """Files below a URL.

    Raises:
        DataError: If nothing installed reads this kind of URL, or the server does not answer.
    """

    def __init__(self, url: str, answer_s: float) -> None:
        """Connect to a URL.

        Args:
            answer_s: How long the server may take for a small file, for the sizes of SIZES_AT_ONCE
                files, or for each PIECE_BYTES of the ranges that are read together, in seconds.
        """
        self.name, self._answer_s = url.rstrip("/"), answer_s
        self._cache = cache_from_environment()
        # Path and stamp of the local copy of each file that has one.
        self._local_copies: dict[str, tuple[str, Stamp]] = {}
        self._open_copies = OpenFiles()
        self._damaged: str | None = None  # the message about a damaged file, once there is one
        options = http_client.options(self.name, request_s=PIECES * answer_s)
        # Some libraries look for keys or connect at once.
        self._files, self._root = self._ask(lambda: fsspec.url_to_fs(self.name, **options))

    def __reduce__(self) -> tuple[type[RemoteStorage], tuple[str, float]]:
        # Another process connects again; it reads the URL until it expects repeated reads itself.
        return RemoteStorage, (self.name, self._answer_s)

    def read_file(self, file: str) -> bytes:
        # With an end, so that the answer has one; fsspec returns what there is of the range.
        data = self._ask(
            lambda: bytes(self._files.cat_file(f"{self._root}/{file}", start=0, end=MOST_BYTES + 1))
        )
        if len(data) > MOST_BYTES:
            raise DataError(
                f"{self.name}/{file} has more than {MOST_BYTES} bytes, so it does not belong to a "
                "store; check the address"
            )
        return data

    def check_sizes(self, sizes: Mapping[str, int]) -> None:
        files = list(sizes)
        # In groups, so that a server that hangs is noticed after the first one.
        for first in range(0, len(files), SIZES_AT_ONCE):
            group = files[first : first + SIZES_AT_ONCE]
            for file, size in zip(group, self._sizes(group), strict=True):
                if size not in (sizes[file], None):  # some servers do not tell the size
                    raise missing(f"{self.name}/{file}")

    def _sizes(self, files: Sequence[str]) -> list[int | None]:
        paths = [f"{self._root}/{file}" for file in files]
        try:
            return self._ask(lambda: list(self._files.sizes(paths)))
        except FileNotFoundError as error:
            raise missing(f"a file of {self.name} ({error})") from None

    def _ask(self, call: Callable[[], T]) -> T:
        """Return the result of a call of fsspec that needs one answer.

        Raises:
            FileNotFoundError: If the server says that there is no such file.
            DataError: If it says anything else, or nothing in time.
        """
        try:
            return _within(self._answer_s, call)
        except Exception as error:  # each backend of fsspec raises errors of its own
            failure = http_client.failure(error)
            if isinstance(failure, FileNotFoundError):
                raise
            reason = http_client.reason(failure)
            raise DataError(f"{self.name} cannot be read ({reason})") from None

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

    def read_into(self, wanted: Sequence[Range], buffers: Sequence[Sequence[memoryview]]) -> bool:
        # Answers of a server are bytes, and local copies are compared before they are used.
        return False

    def _from_copy(self, copy: tuple[str, Stamp], wanted: Range) -> bytes:
        file, begin, end = wanted
        path, stamp = copy
        try:
            # A stat takes two microseconds. It is compared at each use, so that a copy that is cut
            # or written during a run is not read, which its size alone would not tell.
            if stamp_of(path) == stamp:
                return self._open_copies.read(path, begin, end)
        except OSError:  # the user may empty the cache at any time; read the URL again
            self._local_copies.pop(file, None)
        else:
            # Another process may put a new copy there, and the open file would remain the old one.
            self._open_copies = OpenFiles()
            if self._local_copies.pop(file, None):  # once, not for each image of a batch
                self._report_damaged_copy(file)
        return self._fetch([wanted])[0]

    def _report_damaged_copy(self, file: str) -> None:
        print(
            f"alexnet: the copy of {self.name}/{file} in the cache is damaged or was changed; "
            "it is not used, and the file is read from the URL",
            file=sys.stderr,
        )

    def _fetch(self, wanted: Sequence[Range]) -> list[bytes]:
        if not wanted:
            return []
        files, begins, ends = (list(column) for column in zip(*wanted, strict=True))
        paths = [f"{self._root}/{file}" for file in files]
        lengths = [end - begin for begin, end in zip(begins, ends, strict=True)]
        # All tries together keep to the time that the server has for this many bytes.
        try_s = self._answer_s * max(1, math.ceil(sum(lengths) / PIECE_BYTES)) / TRIES

        def fetch() -> list[bytes]:
            contents = _within(
                try_s, lambda: self._files.cat_ranges(paths, begins, ends, on_error="raise")
            )
            # fsspec returns what there is when a range reaches beyond the end of the file.
            for data, length, path in zip(contents, lengths, paths, strict=True):
                if len(data) != length:
                    raise OSError(f"{len(data)} bytes of {path} arrived, not {length}")
            return list(contents)

        return _retry(fetch, self.name)

    def expect_repeated_reads(
        self, sha256: Mapping[str, str], sizes: Mapping[str, int], store: str
    ) -> None:
        """Copy files to the local cache in the background, as long as it has room."""
        if self._cache is None:
            return
        # Locked even if nothing is copied: another process must not evict what is read here.
        try:
            folder = self._cache.lock_store(store)
        except OSError as error:
            self._report_no_more_copies(error)
            return
        for file, size in sizes.items():
            copy = _path_of_copy(folder, file)
            # Copies of an earlier run that have not changed since their checksum was compared.
            if stamp := checked_stamp(copy, size, sha256[file]):
                self._local_copies[file] = str(copy), stamp
        remaining = [file for file in sizes if file not in self._local_copies]
        # Ranks on one machine share the cache: in random order each begins with another file. The
        # generator is seeded by the system, so it does not disturb the run's random numbers.
        random.Random().shuffle(remaining)
        # A daemon, because an unfinished copy must not delay the end of the program.
        arguments = (folder, remaining, sha256, sizes)
        threading.Thread(target=self._copy_files, args=arguments, daemon=True).start()

    def _report_no_more_copies(self, error: OSError) -> None:
        """Warn of an error of the cache, which only saves time."""
        print(
            f"warning: no more files of {self.name} are copied to a cache: {error}",
            file=sys.stderr,
        )

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
            copy, size, digest = _path_of_copy(folder, file), sizes[file], sha256[file]
            try:
                stamp = self._existing_copy(file, copy, size, digest)
                stamp = stamp or self._copy(self._cache, file, copy, size, digest)
                if stamp is None:
                    return
                self._local_copies[file] = str(copy), stamp
            except BlockingIOError:  # another rank is copying this file; try again later
                remaining.append(file)
                time.sleep(PAUSE_S)
            except StoreLost:  # as the next read will report
                return
            except OSError as error:  # the disk is full, or the folder another user's
                self._report_no_more_copies(error)
                return

    def _existing_copy(self, file: str, copy: Path, size: int, sha256: str) -> Stamp | None:
        """Return the stamp of a copy with the right checksum, or None; remove any other copy."""
        try:
            stamp = checked_stamp(copy, size, sha256) or compare_checksum(copy, size, sha256)
        except FileNotFoundError:
            return None
        if stamp is None:
            self._report_damaged_copy(file)
            copy.unlink(missing_ok=True)  # another rank may have found the same
        return stamp

    def _copy(self, cache: Cache, file: str, copy: Path, size: int, sha256: str) -> Stamp | None:
        """Copy one file; return its stamp, or None if there was no room for it."""
        with cache.new_file(copy, size) as out:
            if out is None:
                return None
            digest, cuts = hashlib.sha256(), [*range(0, size, PIECE_BYTES), size]
            spans = [(file, begin, end) for begin, end in pairwise(cuts)]
            for first in range(0, len(spans), PIECES):
                for data in self._fetch(spans[first : first + PIECES]):
                    digest.update(data)
                    out.write(data)
            # Whole files can be compared with their checksum; ranges read from the URL cannot.
            if digest.hexdigest() != sha256:
                self._damaged = f"{self.name}/{file} is damaged; copy the store there again"
                raise StoreLost(self._damaged)
        return record_check(copy, stamp_of(copy), sha256)


def _path_of_copy(folder: Path, file: str) -> Path:
    """Return where a store's folder in the cache keeps the copy of a file."""
    # One flat folder, because the cache finds its files by a pattern of two levels.
    return folder / file.replace("/", "-")


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Return the result of a call that may take this long.

    Of the libraries behind fsspec some have timeouts, most of them of minutes, and some have none.
    This one holds for all, whatever they wait for: a name, a connection, or a body that trickles.

    Raises:
        TimeoutError: If there is no result in time. The call goes on, and its result is dropped.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:  # whatever it is, the caller gets it
            future.set_exception(error)

    # A daemon and not a pool of threads, which the end of the program would wait for.
    threading.Thread(target=run, daemon=True).start()
    try:
        return future.result(seconds)
    except TimeoutError:
        # The call itself may have ended with a TimeoutError, which says the same.
        raise TimeoutError(f"it does not answer within {seconds:g} s") from None


def _retry(fetch: Callable[[], T], url: str) -> T:
    """Call `fetch`, again after a pause if it fails. Raises StoreLost after TRIES failures."""
    for tries_left in reversed(range(TRIES)):
        try:
            return fetch()
        except Exception as error:
            if tries_left == 0:
                reason = http_client.reason(error)
                raise StoreLost(f"{url} cannot be read any more ({reason}); {MEND}") from error
            time.sleep(PAUSE_S)
    raise AssertionError("not reached")
