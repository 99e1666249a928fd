"""Contenders that take turns with ours, so that whatever else the machine does meets both."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any

PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Contender:
    """A program that calls `serve`: the arguments after the interpreter. python: its interpreter, ours by default."""

    name: str
    arguments: tuple[str, ...]
    python: str = sys.executable


@dataclass(frozen=True)
class Outcome:
    """What one contender did, and ours in the turns between: units a second, medians, and the spread of its runs."""

    name: str
    unit: str
    a_second: float
    least: float
    most: float
    ours_a_second: float
    note: str

    @property
    def ratio(self) -> float:
        """How many times as fast ours was, in the same turns."""
        return self.ours_a_second / self.a_second

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio}


def contest(ours: Contender, others: Sequence[Contender], rounds: int) -> Iterator[Outcome | str]:
    """Each other contender against ours in turns; a sentence in place of an outcome where one cannot run.

    Raises ValueError when ours cannot.
    """
    with _started(ours) as own:
        if isinstance(own, str):
            raise ValueError(f"{ours.name}: {own}")
        if not others:
            seconds = [own.run() for _ in range(rounds)]
            yield _outcome(ours.name, own, seconds, own.count / median(seconds))
        for other in others:
            with _started(other) as their:
                if isinstance(their, str):
                    yield f"{other.name}: {their}"
                    continue
                try:
                    pairs = [(own.run(), their.run()) for _ in range(rounds)]
                except ValueError as error:
                    yield f"{other.name}: {error}"
                    continue
                mine = own.count / median(pair[0] for pair in pairs)
                yield _outcome(other.name, their, [pair[1] for pair in pairs], mine)


@dataclass
class _Running:
    process: subprocess.Popen[str]
    count: float
    unit: str
    note: str

    def run(self) -> float:
        """Seconds of one run. Raises ValueError when the contender has died."""
        _say(self.process, "\n")
        line = _hear(self.process)
        try:
            return float(line)
        except ValueError:
            raise ValueError(f"ended in a run: {line.strip() or 'no word of why'}") from None


def _outcome(name: str, running: _Running, seconds: list[float], ours: float) -> Outcome:
    speeds = sorted(running.count / s for s in seconds)
    return Outcome(name, running.unit, median(speeds), speeds[0], speeds[-1], ours, running.note)


@contextmanager
def _started(contender: Contender) -> Iterator[_Running | str]:
    """Running and warm, or why not, in a sentence."""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryFile("w+") as errors:
        command = [contender.python, *contender.arguments]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, stderr=errors, text=True, env=environment
        )
        try:
            said = _hear(process)
            try:
                yield _Running(process, **json.loads(said))
            except (json.JSONDecodeError, TypeError):
                process.wait()
                errors.seek(0)
                yield f"cannot run here: {(errors.read().strip().splitlines() or ['no word of why'])[-1]}"
        finally:
            process.kill()
            process.communicate()


def _say(process: subprocess.Popen[str], text: str) -> None:
    pipe = _pipe(process.stdin)
    try:
        pipe.write(text)
        pipe.flush()
    except BrokenPipeError:
        pass  # what it said last is heard


def _hear(process: subprocess.Popen[str]) -> str:
    return _pipe(process.stdout).readline()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def machine() -> str:
    """The processor and how many of its cores this process may use, in words."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model na")
        ]
        name = lines[0] if lines else name
    return f"{name}, {cores} cores"
