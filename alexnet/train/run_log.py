"""The log of a run, metrics.jsonl: how it is written, also to the trackers, and read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from alexnet.errors import RunError
from alexnet.files import exists, naming, parse_json, write_whole
from alexnet.saved_config import MOST_INT
from alexnet.train.endings import Interrupted
from alexnet.train.trackers import Trackers


class RunLog:
    """The log of a run: appends JSON lines to metrics.jsonl, and numbers to the trackers.

    The field `kind` of a line is "start", "epoch", or "change": the learning rate and the number of
    epochs that a resumed run goes on with, where they are new.
    """

    def __init__(self, run: Path, step: int, epochs: int, writes: bool = True) -> None:
        """Open the log of a run and remove the lines that a resumed run will write again.

        Args:
            step, epochs: Position of the run's checkpoint, in steps and completed epochs.
            writes: False on ranks other than the first; they write nothing.
        """
        self._path = run / "metrics.jsonl"
        self._trackers: Trackers | None = None
        if not writes:
            return
        if exists(self._path):
            # Lines after the checkpoint belong to steps that are repeated. Without a checkpoint the
            # run begins again, and writes its first line again too.
            kept = [
                line for line in read_metrics(run) if step > 0 and line.get("epoch", 0) <= epochs
            ]
            write_whole(self._path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._trackers = Trackers(run)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append a line with these values; numbers go to the trackers too."""
        if self._trackers is None:
            return
        # Opened for each line, so that a killed run keeps every line that it has written.
        with naming(self._path), self._path.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": step} | values) + "\n")
            # The checkpoint that follows is synced: after a power failure it may not be alone.
            file.flush()
            os.fsync(file.fileno())
        numbers = {
            f"{kind}/{name}": value
            for name, value in values.items()
            if isinstance(value, int | float)
        }
        self._trackers.write(numbers, step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the trackers."""
        if self._trackers is None:
            return
        if kind is None:
            self._trackers.close("finished")
            return
        # KeyboardInterrupt is not an Exception.
        stopped = issubclass(kind, Interrupted) or not issubclass(kind, Exception)
        self._trackers.close("stopped" if stopped else "failed")


def read_metrics(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Read the lines of a run's metrics.jsonl, all or those of one kind.

    A last line without its end is dropped: a killed process may leave one.

    Raises:
        RunError: The folder has no metrics.jsonl, or a line of it is damaged.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise RunError(f"{run} is not a run: it has no metrics.jsonl")
    *texts, _ = path.read_bytes().split(b"\n")
    lines = [_parsed(text, f"{path}, line {number}") for number, text in enumerate(texts, 1)]
    if kind is None:
        return lines
    for number, line in enumerate(lines, 1):
        if line["kind"] == kind and not _complete(line):
            raise _damaged(f"{path}, line {number}", "it lacks a field")
    return [line for line in lines if line["kind"] == kind]


# The numbers that the readers of an "epoch" line need.
EPOCH_NUMBERS = ("epoch", "lr", "train_loss", "train_error", "val_loss", "val_error")


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    """Return a line of metrics.jsonl. Raises RunError if it is damaged."""
    try:
        line = parse_json(text)
    except ValueError as error:
        raise _damaged(where, str(error)) from None
    if not isinstance(line, dict) or not isinstance(line.get("kind"), str):
        raise _damaged(where, "not an object with a `kind`")
    if "rate" in line:  # runs of version 0.1
        line["lr"] = line.pop("rate")
    for name, value in line.items():
        # The top-5 error of a network with fewer classes is null.
        absent = value is None and name not in EPOCH_NUMBERS
        signal = name == "signal" and _is_signal(value)
        if not (name == "kind" or absent or signal or _is_number(value)):
            raise _damaged(where, f"{name!r} is not a number")
    return line


def _complete(line: dict[str, Any]) -> bool:
    """Tell whether a line has the fields that its readers need."""
    if line["kind"] == "start":
        return _is_signal(line.get("signal"))
    return line["kind"] != "epoch" or all(name in line for name in EPOCH_NUMBERS)


def _damaged(where: str, why: str) -> RunError:
    return RunError(f"{where} is damaged ({why}); remove this line")


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= MOST_INT
    return isinstance(value, float)


def _is_signal(value: Any) -> bool:
    """Tell whether a value is that of `signal` in the line "start": two numbers for each layer."""
    return isinstance(value, dict) and all(
        isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))
        for pair in value.values()
    )
