"""The folder of a run: free for a new run, and written by one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alexnet.errors import RunError
from alexnet.files import locked

LOCK_FILE = ".lock"
"""In the folder of a run, while a process trains it."""


def check_empty(run: Path) -> None:
    """Raise RunError unless a folder is free for a new run."""
    if run.exists() and not run.is_dir():
        raise RunError(f"{run} is not a folder; choose another --out")
    # A process killed before its config was complete leaves hidden files: its lock, and the config
    # under a temporary name.
    if run.exists() and any(not path.name.startswith(".") for path in run.iterdir()):
        raise RunError(f"{run} is not empty; choose another --out, or continue with --resume {run}")


@contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold the lock of a run. Its folder is made, and removed at the end if it stays empty.

    Raises:
        BusyError: Another process holds the lock; the message names it.
    """
    is_new = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    mend = "wait for it to finish or choose another --out"
    try:
        with locked(run / LOCK_FILE, f"{run} is already being trained", mend):
            yield
    finally:
        # A run that another rank refused leaves no folder; a folder that is not empty stays.
        if is_new:
            with suppress(OSError):
                run.rmdir()
