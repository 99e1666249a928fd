"""Runs that are stopped at a step, and runs that are compared."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from alexnet import checkpoint
from alexnet.config import Config
from alexnet.train import loop
from alexnet.train.endings import Interrupted
from alexnet.train.start import fit, resume

IMPORTED = {
    "file": "alexnet.pth",
    "sha256": "0123",
    "format": "PyTorch",
    "network": "torchvision's",
    "mean": "in the file",
    "channels": "RGB",
}
"""What the header of an imported run says of its file."""


def after_step(patch: pytest.MonkeyPatch, number: int, action: Callable[[], object]) -> None:
    """Do something after a step of the training, which is counted from 1."""
    real, steps = loop.sgd_step, list[int]()

    def counted(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        steps.append(1)
        if len(steps) == number:
            action()

    patch.setattr(loop, "sgd_step", counted)


@contextmanager
def stopped_after(
    step: int, signal_number: int = signal.SIGTERM
) -> Iterator[pytest.ExceptionInfo[Interrupted]]:
    """The training in this block is stopped by a signal after so many steps."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Interrupted) as stopped:
        after_step(patch, step, lambda: os.kill(os.getpid(), signal_number))
        yield stopped


def interrupted(config: Config, run: Path, step: int) -> None:
    """Train a run that is stopped after so many steps, and resume it to its end."""
    with stopped_after(step):
        fit(config, run)
    resume(run)


def same_bits(run: Path, other: Path) -> bool:
    """Whether the checkpoints of two runs have the same tensors and the same position."""
    return all(
        _same_checkpoint(checkpoint.read(run, which), checkpoint.read(other, which))
        for which in ("last", "best")
    )


def _same_checkpoint(one: checkpoint.Checkpoint, two: checkpoint.Checkpoint) -> bool:
    tensors = (
        (saved.weights, saved.velocity, saved.training, {"mean": saved.mean})
        for saved in (one, two)
    )
    positions = [saved.about["position"] | {"elapsed_s": 0} for saved in (one, two)]
    return positions[0] == positions[1] and all(
        a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)
        for a, b in zip(*tensors, strict=True)
    )
