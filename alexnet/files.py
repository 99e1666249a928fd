"""Files that are there whole or not at all, and where those lie that can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write beside, sync, rename: a kill at any moment leaves the old file or the new one."""
    beside = path.with_name(f".{path.name}.writing")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    move_into_place(beside, path)


def move_into_place(beside: Path, path: Path) -> None:
    """Rename a finished, synced file over `path`, and sync the folder."""
    os.replace(beside, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def user_cache() -> Path:
    """Of this program, for this user: what may be removed at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet"
