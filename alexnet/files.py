"""Atomic file writes, and the folder for files that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file atomically: a kill at any moment leaves the old file or the new one.

    The data goes to a temporary file in the same folder, which is synced and then renamed.
    """
    # In the same folder, since a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        # Without this, a rename can reach the disk before the data, and a power cut leaves an
        # empty file.
        os.fsync(file.fileno())
    move_into_place(temporary, path)


def move_into_place(temporary: Path, path: Path) -> None:
    """Rename a complete, synced file over `path`, and sync the folder so that the rename lasts."""
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def user_cache() -> Path:
    """The user's cache folder of this program; its content may be removed at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet"
