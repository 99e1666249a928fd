"""Restarts by torchrun: what need not be tried again, and who speaks.

torchrun starts all ranks again after any failure, as often as `--max-restarts` says, and an exit
code cannot tell it not to. A mistake in the arguments or the data would be said each time.
Therefore the mistake is remembered beside torchrun's own files for this run, and ranks that are
started again end at once. The module does not import PyTorch, which takes seconds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from alexnet.cores import launched_ranks
from alexnet.errors import AlexNetError, BusyError
from alexnet.files import AWAY, write_whole

FINAL_CODES = (1, 2)
"""Exit codes of errors that come again: a loss that is not finite, and wrong arguments."""


def world_size() -> int:
    """Number of processes of the launch, on all of its machines."""
    return launched_ranks("WORLD_SIZE")


def is_first() -> bool:
    """Whether this process prints and remembers: rank 0, or the only one."""
    return world_size() == 1 or int(os.environ["RANK"]) == 0


def restarted() -> bool:
    """Whether torchrun started the ranks again after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def launched() -> Iterator[None]:
    """Run a verb in a process that torchrun may have started.

    Only rank 0 prints, tracebacks apart. After a restart the process ends at once, with the same
    exit code, if an earlier one has ended by an error that comes again.
    """
    only_rank_zero_prints()
    memory = _memory()
    if restarted() and memory is not None and memory.is_file():
        sys.exit(int(memory.read_text()))
    try:
        yield
    except SystemExit as error:
        # Rank 0 alone remembers: it has printed the message, and torchrun ends it when another rank
        # ends first. A process that kept the run busy may be gone at the next attempt, and a file
        # system may answer.
        cause = error.__context__
        passes = isinstance(cause, BusyError) or (
            isinstance(cause, OSError) and cause.errno in AWAY
        )
        if error.code in FINAL_CODES and is_first() and not passes:
            remember(int(error.code))
        raise


def remember(code: int) -> None:
    """Let the ranks of this machine end at once, with this exit code, when they are started again.

    For an error that comes again, by the rank that has printed it.
    """
    memory = _memory()
    if memory is not None:
        # Without it the error is only said more than once.
        with suppress(OSError, AlexNetError):
            write_whole(memory, str(code).encode())


@contextmanager
def heard_on_each_machine() -> Iterator[None]:
    """Print a mistake that only the ranks of another machine may see, such as a missing file.

    The ranks other than 0 are silent, and rank 0 would wait for them and only know that they have
    not come. Therefore the first rank of every other machine prints it.
    """
    try:
        yield
    except AlexNetError as error:
        if os.environ.get("LOCAL_RANK") == "0" and not is_first():
            print(f"alexnet: {error}", file=sys.__stderr__, flush=True)
        raise


def only_rank_zero_prints() -> None:
    """Silence the ranks other than 0, except for the traceback of an uncaught exception."""
    if is_first():
        return
    # Not closed: Python flushes both streams when the process ends.
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
    sys.excepthook = _print_traceback


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.stderr = sys.__stderr__
    sys.__excepthook__(kind, error, trace)


def _memory() -> Path | None:
    """The file in which the ranks of this machine remember the exit code of an error."""
    # torchrun makes a folder for each of its runs: RUN/attempt_0/RANK/error.json.
    file = os.environ.get("TORCHELASTIC_ERROR_FILE", "")
    return Path(file).parents[2] / "alexnet.exit" if file else None
