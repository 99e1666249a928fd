"""Run two programs in turns, so that other load on the machine affects both equally."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Candidate:
    """A program that calls `worker.serve`: its interpreter and the arguments that follow."""

    name: str
    arguments: tuple[str, ...]
    python: str = sys.executable


@dataclass(frozen=True)
class Result:
    """Speed of a candidate and of our program in the same turns: medians in units per second."""

    name: str
    unit: str
    per_second: float
    least: float
    most: float
    ours_per_second: float
    note: str

    @property
    def ratio(self) -> float:
        """Our speed divided by the candidate's, in the same turns."""
        return self.ours_per_second / self.per_second

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio}


def interleave(ours: Candidate, others: Sequence[Candidate], rounds: int) -> Iterator[Result | str]:
    """Measure each other candidate against ours, in turns.

    Yields a sentence in place of a result if a candidate cannot run. Raises ValueError if ours
    cannot run.
    """
    with _started(ours) as our_program:
        if isinstance(our_program, str):
            raise ValueError(f"{ours.name}: {our_program}")

        def run_ours() -> float:
            try:
                return our_program.run()
            except _Ended as error:
                raise ValueError(f"{ours.name}: {error}") from None

        if not others:
            seconds = [run_ours() for _ in range(rounds)]
            yield _result(ours.name, our_program, seconds, our_program.count / median(seconds))
        for other in others:
            with _started(other) as other_program:
                if isinstance(other_program, str):
                    yield f"{other.name}: {other_program}"
                    continue
                try:
                    pairs = [(run_ours(), other_program.run()) for _ in range(rounds)]
                except _Ended as error:
                    yield f"{other.name}: {error}"
                    continue
                our_speed = our_program.count / median(pair[0] for pair in pairs)
                yield _result(other.name, other_program, [pair[1] for pair in pairs], our_speed)


class _Ended(Exception):
    """A program has ended in a run. Not a ValueError, which says that ours has."""


@dataclass
class _Running:
    process: subprocess.Popen[str]
    errors: IO[str]
    """The file of its stderr."""
    count: float
    unit: str
    note: str

    def run(self) -> float:
        """Time one run, in seconds. Raises _Ended if the process has died."""
        with suppress(BrokenPipeError):  # it has ended, and so have the lines that are read below
            pipe = _pipe(self.process.stdin)
            pipe.write("\n")
            pipe.flush()
        # A library may have printed lines of its own.
        for line in _pipe(self.process.stdout):
            with suppress(ValueError):
                return float(line)
        raise _Ended(f"ended in a run: {_last_words(self.process, self.errors)}")


def _result(name: str, running: _Running, seconds: list[float], our_speed: float) -> Result:
    speeds = sorted(running.count / s for s in seconds)
    return Result(
        name, running.unit, median(speeds), speeds[0], speeds[-1], our_speed, running.note
    )


@contextmanager
def _started(candidate: Candidate) -> Iterator[_Running | str]:
    """Start a candidate and warm it up; yields the reason as a sentence if that fails."""
    with tempfile.TemporaryFile("w+") as errors:
        command = [candidate.python, *candidate.arguments]
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environment()
            )
        except OSError as error:
            yield f"cannot run here: {candidate.python}: {error.strerror}"
            return
        try:
            # As in `run`, other lines may come before the one that tells the work of a run.
            headers = filter(None, map(_header, _pipe(process.stdout)))
            if header := next(headers, None):
                yield _Running(process, errors, **header)
            else:
                yield f"cannot run here: {_last_words(process, errors)}"
        finally:
            process.kill()
            process.communicate()


def _header(line: str) -> dict[str, Any] | None:
    """What `worker.serve` prints before the first run; None for another line."""
    with suppress(json.JSONDecodeError):
        values = json.loads(line)
        if isinstance(values, dict) and values.keys() == {"count", "unit", "note"}:
            return values
    return None


def _last_words(process: subprocess.Popen[str], errors: IO[str]) -> str:
    """The last line that a process has written to stderr, when it has ended."""
    process.wait()
    errors.seek(0)
    return (errors.read().strip().splitlines() or ["no reason given"])[-1]


def environment() -> dict[str, str]:
    """The environment of a process that can import this checkout, and whatever this one can."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # JAX and TensorFlow would take nearly all memory of a GPU, on which ours is at the same time.
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    return os.environ | shared | {"PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "3"}


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
