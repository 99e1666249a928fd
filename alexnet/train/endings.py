"""How a training ends before its last epoch: by a signal, or by an error that says how to go on."""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from alexnet import checkpoint
from alexnet.config import Config
from alexnet.distributed.heartbeat import watch_ranks
from alexnet.distributed.launch import barrier
from alexnet.distributed.mesh import Mesh, is_distributed
from alexnet.errors import BusyError, RunError
from alexnet.files import AWAY, exists
from alexnet.program import command
from alexnet.train.state import TrainState


class Interrupted(Exception):
    """Training stopped after Ctrl-C or SIGTERM and a checkpoint. `number`: the signal's number."""

    def __init__(self, number: int, run: Path, step: int) -> None:
        super().__init__(
            f"stopped and saved at step {step}; continue with: {command('train', '--resume', run)}"
        )
        self.number = number


class NotFinite(Exception):
    """The loss or a weight is NaN or infinite.

    Attributes:
        what: The step and the first such tensor, in words.
        step: The number of the step.
    """

    def __init__(self, what: str, step: int, mend: str = "") -> None:
        super().__init__(f"{what}; {mend}" if mend else what)
        self.what, self.step = what, step


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yield a list that receives the signal's number on Ctrl-C or SIGTERM.

    The first signal only asks for a stop after a step; the same one again acts immediately, except
    with several ranks. A signal that the process was started to ignore, such as Ctrl-C in a
    background job of a script, stays ignored.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        received.append(number)
        # What stops all processes of a launch reaches a rank twice: once more from torchrun.
        if not is_distributed():
            signal.signal(number, before[number])
            # A print that the signal has interrupted may refuse another one inside it.
            with suppress(RuntimeError, OSError):
                text = (
                    "stopping after this step, or after a validation that is at work, with a "
                    "checkpoint; the same signal again stops at once"
                )
                print(text, file=sys.stderr, flush=True)

    before: dict[int, Any] = {}
    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, note)
    except ValueError:  # Python delivers signals to the main thread only, and this is another one
        pass
    try:
        yield received
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)


@contextmanager
def explained(config: Config, mesh: Mesh, run: Path) -> Iterator[None]:
    """Say how to go on, where training ends by an error that its user can mend."""
    advice = command("train", "--resume", run)
    try:
        # NCCL raises nothing where a rank is lost.
        raises = config.device != "cuda"
        with watch_ranks(mesh, f"continue with: {advice}", raises):
            try:
                yield
            except torch.OutOfMemoryError as error:
                batch = config.sgd.batch
                raise RunError(
                    f"the GPU has too little memory for batches of {batch} images; begin a new run "
                    "with a smaller --sgd.batch"
                ) from error
    except KeyboardInterrupt as error:
        if exists(run / "last.safetensors"):
            # A note, because the caller may know a command that goes on with more than the run.
            error.add_note(f"to go on from the last checkpoint: {advice}")
        raise
    except NotFinite as error:
        # All ranks come here. Those that print nothing wait for the first, which reads the
        # checkpoint: torchrun ends it as soon as another one ends.
        mend = _mend(config, run, error.step) if mesh.first else ""
        with suppress(RuntimeError):
            barrier(mesh)
        raise NotFinite(error.what, error.step, mend) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if not full and error.errno not in AWAY:
            raise
        # Ranks that torchrun starts again may find that the disk answers.
        kind = RunError if full else BusyError
        mend = "make room on this disk" if full else "make sure that this disk works"
        # The checkpoint that could not be written has left its predecessor.
        raise kind(
            f"{error.filename or run}: {error.strerror}; {mend} and continue with: {advice}"
        ) from error


def _mend(config: Config, run: Path, step: int) -> str:
    """How to go on after a loss of this step that is not finite."""
    file = run / "last.safetensors"
    advice = command("train", "--resume", run, "--lr", f"{config.sgd.lr / 10:g}")
    if not exists(file):
        return f"begin again at a tenth of the learning rate with: {advice}"
    position = TrainState.from_dict(checkpoint.read(run).about.get("position"), file)
    # The checkpoint was written after the loss of the step before and its update.
    if position.step == step:
        lr = f"{config.sgd.lr / 10:g}"
        again = command("train", run / "config.json", "--out", "NEW_RUN", "--lr", lr)
        return f"{file} has diverged too; begin a new run with: {again}"
    return (
        f"go on from the checkpoint (epoch {position.epoch + 1}, step {position.step}) at a tenth "
        f"of the learning rate with: {advice}"
    )
