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

from alexnet.errors import BusyError

FINAL_CODES = (1, 2)
"""Exit codes of errors that come again: a loss that is not finite, and wrong arguments."""


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
        # ends first. A process that kept the run busy may be gone at the next attempt.
        passes = isinstance(error.__context__, BusyError)
        speaks = int(os.environ.get("RANK", "0")) == 0
        if error.code in FINAL_CODES and speaks and not passes and memory is not None:
            # Without it the error is only said more than once.
            with suppress(OSError):
                memory.write_text(str(error.code))
        raise


def only_rank_zero_prints() -> None:
    """Silence the ranks other than 0, except for the traceback of an uncaught exception."""
    if int(os.environ.get("RANK", "0")) == 0:
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
