"""The folder of a run: free for a new run, written by one process at a time, with enough room."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alexnet.architecture import plan
from alexnet.config import Config
from alexnet.errors import RunError
from alexnet.files import FOREIGN_LOCK_S, check_space, locked

LOCK_FILE = ".lock"
"""In the folder of a run, while a process trains it."""


def check_room(run: Path, config: Config, stored_px: int) -> None:
    """Raise AlexNetError if the disk has less room than the checkpoints of a run need.

    While one of them is written, its predecessor still exists.
    """
    last, best = checkpoint_bytes(config, stored_px)
    present = [(run / f"{which}.safetensors").exists() for which in ("last", "best")]
    needed = last + last * (not present[0]) + best * (not present[1])
    check_space(run, needed, f"the checkpoints of {run} need")


def checkpoint_bytes(config: Config, stored_px: int) -> tuple[int, int]:
    """Return the sizes of the checkpoints `last` and `best`, apart from their headers.

    `last` has the weights, their velocities and, if the run has one, their average; `best` has the
    weights. The number of classes has to be known.
    """
    value_bytes = 8 if config.precision == "float64" else 4
    weights = value_bytes * sum(op.parameters for op in plan(config.architecture))
    mean = 4 * 3 * stored_px**2
    last = (3 if config.sgd.ema_decay else 2) * weights + mean
    return last, weights + mean


def check_empty(run: Path) -> None:
    """Raise RunError unless a folder is free for a new run."""
    if run.exists() and not run.is_dir():
        raise RunError(f"{run} is not a folder; choose another --out")
    # A process killed before its config was complete leaves hidden files: its lock, and the config
    # under a temporary name.
    if run.exists() and any(not path.name.startswith(".") for path in run.iterdir()):
        raise RunError(f"{run} is not empty; choose another --out, or continue with --resume {run}")


@contextmanager
def run_lock(run: Path, foreign_s: float = FOREIGN_LOCK_S) -> Iterator[None]:
    """Hold the lock of a run. Its folder is made, and removed at the end if it stays empty.

    Args:
        foreign_s: As in `locked`.

    Raises:
        BusyError: Another process holds the lock; the message names it.
    """
    is_new = not run.exists()
    run.mkdir(parents=True, exist_ok=True)
    mend = "wait for it to finish or choose another --out"
    try:
        with locked(run / LOCK_FILE, f"{run} is already being trained", mend, foreign_s):
            yield
    finally:
        # A run that another rank refused leaves no folder; a folder that is not empty stays.
        if is_new:
            with suppress(OSError):
                run.rmdir()
