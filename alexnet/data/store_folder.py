"""The folders around a store that is being prepared, and how a finished store gets its name.

    STORE               the finished store
    STORE.partial       an unfinished preparation; `store` in it becomes STORE
    .STORE.lock         locked by the process that prepares
    .STORE.old          the store that is being replaced, between two renames
    .STORE.removing-*   what nobody needs any more, while it is being removed

Every change of a name is one rename, so a process killed at any moment leaves one of few states.
The next preparation of the same store repairs each of them before it does anything else.
"""

from __future__ import annotations

import glob
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alexnet.data.manifest import is_store
from alexnet.errors import DataError
from alexnet.files import locked, move_into_place


class StoreFolder:
    """The place of a store, whether it exists or not.

    Attributes:
        path: The finished store.
        partial: The folder of an unfinished preparation.
        new: The store in that folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # The names beside it are those beside the folder itself, not beside a link to it.
        if self.path.is_symlink() or self.path.name in ("", ".."):
            self.path = self.path.resolve()
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self.new = self.partial / "store"
        self._old = self._beside("old")

    def _beside(self, word: str) -> Path:
        return self.path.with_name(f".{self.path.name}.{word}")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out, and repair what a killed one has left.

        Raises:
            BusyError: If another process prepares this store.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        what = f"{self.path} is already being prepared"
        mend = "wait for it to finish or choose another name"
        with locked(self._beside("lock"), what, mend):
            self._repair()
            yield

    def check(self, force: bool) -> None:
        """Raise DataError if a folder is in the way of the store.

        Args:
            force: Whether an existing store is to be replaced.
        """
        if not self.path.exists():
            return
        # A mistyped name must not delete a folder of something else. Two files of a store, since a
        # manifest of another program may have the same keys.
        marks = (self.path / "mean.npy", self.path / "dataset_dict.json")
        if not is_store(self.path) or not any(mark.is_file() for mark in marks):
            raise DataError(f"{self.path} exists and is not a store; choose another name")
        if not force:
            raise DataError(f"{self.path} exists; choose another name, or --force to replace it")

    def check_early(self, force: bool) -> None:
        """Raise what `held` and `check` would raise later, after the source has been read."""
        # Without the folder above it there is no store and no other process.
        if self.path.parent.is_dir():
            with self.held():
                self.check(force)

    def publish(self) -> None:
        """Give the complete new store its name, and remove the store that had it before."""
        # The old store stays whole until the new one is complete, and is away for one rename.
        if self.path.exists():
            move_into_place(self.path, self._old)
        # The rename is the moment at which the store exists; before it there is only a partial one.
        move_into_place(self.new, self.path)
        self._discard(self.partial)
        if self._old.exists():
            self._discard(self._old)

    def remove(self) -> None:
        """Remove the store, if there is one. A kill leaves it whole, or removed for `held`.

        Raises:
            BusyError: If another process prepares this store.
        """
        with self.held():
            if self.path.exists():
                self._discard(self.path)

    def _repair(self) -> None:
        """Bring the folders into order after a kill."""
        # The hidden files of a store whose name continues this one have a dot there.
        pattern = f"{glob.escape(self._beside('removing').name)}-[!.][!.][!.][!.][!.][!.][!.][!.]"
        # `.removing` alone is what earlier versions left.
        for rest in [self._beside("removing"), *self.path.parent.glob(pattern)]:
            shutil.rmtree(rest, ignore_errors=True)
        if self._old.exists() and not self.path.exists():
            # Killed between the renames of `publish`. The new store is still complete in its
            # partial folder, where a preparation with --force finds it.
            move_into_place(self._old, self.path)
        elif self._old.exists():
            self._discard(self._old)
        # Killed after the second rename, or before the first image.
        if self.partial.is_dir() and not self.new.exists() and self._holds_only_state():
            self._discard(self.partial)

    def _holds_only_state(self) -> bool:
        """Tell whether the partial folder has no files but those of a preparation's state."""
        names = r"state\.json|sums-\d+\.npz|digests-.*\.npz|\..*\.writing"
        return all(re.fullmatch(names, path.name) for path in self.partial.iterdir())

    def _discard(self, folder: Path) -> None:
        """Remove a folder. A kill leaves it whole, or as a rest that can only be removed.

        On NFS a file that a run holds open keeps its folder from being removed; the next
        preparation of the store tries again.
        """
        # A name of its own, since such a rest may be there. A folder that the user may not write
        # to, such as one made read-only, can be renamed, but not moved into another.
        rest = self._beside(f"removing-{secrets.token_hex(4)}")
        move_into_place(folder, rest)
        shutil.rmtree(rest, ignore_errors=True)
        if rest.exists():
            files = (Path(above, name) for above, _, names in os.walk(rest) for name in names)
            size = 0
            for path in files:
                with suppress(OSError):  # it has vanished meanwhile
                    size += path.lstat().st_size
            print(
                f"warning: {rest}, {size / 1e6:.1f} MB, cannot be removed; the next preparation of "
                f"{self.path} tries again",
                file=sys.stderr,
            )
