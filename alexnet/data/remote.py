"""A store at a URL: fsspec reads its pictures by ranges; copies of whole files are kept while there is room."""

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

from alexnet.data.cache import Cache, own_cache
from alexnet.data.places import OpenFiles, Range, StoreLost, missing

TRIES, PAUSE_S = 2, 1.0  # after what the package that reads the URL has tried itself
PIECE_BYTES, PIECES = 4 << 20, 8  # of a file to keep, so many at a time

Given = TypeVar("Given")


class Bucket:
    """Files below a URL. Raises ValueError for a kind of URL that nothing here reads."""

    def __init__(self, url: str) -> None:
        self.name = url.rstrip("/")
        self._cache = own_cache()
        self._kept: dict[str, str] = {}  # where the copies of whole files are
        self._copies = OpenFiles()
        self._damaged: str | None = None
        try:
            self._files, self._root = fsspec.url_to_fs(self.name)
        except ImportError as error:
            raise ValueError(f"{url} cannot be read: {error}") from None

    def whole(self, file: str) -> bytes:
        try:
            return bytes(self._files.cat_file(f"{self._root}/{file}"))
        except FileNotFoundError:
            raise
        except Exception as error:  # each kind of URL has errors of its own
            raise ValueError(f"{self.name} cannot be read ({_reason(error)})") from None

    def check(self, sizes: Mapping[str, int]) -> None:
        try:
            found = self._files.sizes([f"{self._root}/{file}" for file in sizes])
        except FileNotFoundError as error:
            raise missing(f"a file of {self.name} ({error})") from None
        except Exception as error:
            raise ValueError(f"{self.name} cannot be read ({_reason(error)})") from None
        for (file, size), there in zip(sizes.items(), found, strict=True):
            if there not in (size, None):  # some servers do not tell
                raise missing(f"{self.name}/{file}")

    def ranges(self, wanted: Sequence[Range]) -> list[bytes]:
        if self._damaged:
            raise StoreLost(self._damaged)
        kept = [self._kept.get(file) for file, _, _ in wanted]
        far = iter(
            self._fetched([one for one, copy in zip(wanted, kept, strict=True) if copy is None])
        )
        return [
            next(far) if copy is None else self._from_copy(copy, one)
            for one, copy in zip(wanted, kept, strict=True)
        ]

    def _from_copy(self, copy: str, wanted: Range) -> bytes:
        file, begin, end = wanted
        try:
            return self._copies.read(copy, begin, end)
        except OSError:  # the user may empty the cache at any time
            self._kept.pop(file, None)
            return self._fetched([wanted])[0]

    def _fetched(self, wanted: Sequence[Range]) -> list[bytes]:
        if not wanted:
            return []
        files, begins, ends = (list(column) for column in zip(*wanted, strict=True))
        paths = [f"{self._root}/{file}" for file in files]

        def fetch() -> list[bytes]:
            found = self._files.cat_ranges(paths, begins, ends, on_error="raise")
            if any(
                len(data) != end - begin
                for data, begin, end in zip(found, begins, ends, strict=True)
            ):
                raise OSError("a file is shorter than it was")
            return list(found)

        return _tried(fetch, self.name)

    def keep(self, sha256: Mapping[str, str], sizes: Mapping[str, int], store: str) -> None:
        """In the background, as long as the cache has room. Ranks of one machine begin at different files."""
        if self._cache is None:
            return
        folder, todo = self._cache.use(store), list(sizes)
        random.Random().shuffle(todo)
        for file in sizes:  # what an earlier run has left
            if (copy := folder / file.replace("/", "-")).exists():
                self._kept[file] = str(copy)
                todo.remove(file)
        threading.Thread(target=self._keep, args=(folder, todo, sha256, sizes), daemon=True).start()

    def _keep(
        self, folder: Path, todo: list[str], sha256: Mapping[str, str], sizes: Mapping[str, int]
    ) -> None:
        assert self._cache is not None
        while todo:
            file = todo.pop(0)
            copy = folder / file.replace("/", "-")
            try:
                if not copy.exists() and not self._copy(
                    self._cache, file, copy, sizes[file], sha256[file]
                ):
                    return
                self._kept[file] = str(copy)
            except BlockingIOError:  # another rank's
                todo.append(file)
                time.sleep(PAUSE_S)
            except OSError:  # a full disk, or a store that is gone, which the next picture will say
                return

    def _copy(self, cache: Cache, file: str, copy: Path, size: int, sha256: str) -> bool:
        """Whether there was room for it."""
        with cache.filling(copy, size) as out:
            if out is None:
                return False
            digest, cuts = hashlib.sha256(), [*range(0, size, PIECE_BYTES), size]
            spans = [(file, begin, end) for begin, end in pairwise(cuts)]
            for first in range(0, len(spans), PIECES):
                for data in self._fetched(spans[first : first + PIECES]):
                    digest.update(data)
                    out.write(data)
            if digest.hexdigest() != sha256:
                self._damaged = f"{self.name}/{file} is damaged; copy the store there again"
                raise StoreLost(self._damaged)
        return True


def _tried(fetch: Callable[[], Given], url: str) -> Given:
    for left in reversed(range(TRIES)):
        try:
            return fetch()
        except Exception as error:
            if left == 0:
                raise StoreLost(f"{url} cannot be read any more ({_reason(error)})") from error
            time.sleep(PAUSE_S)
    raise AssertionError("not reached")


def _reason(error: BaseException) -> str:
    lines: Any = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
