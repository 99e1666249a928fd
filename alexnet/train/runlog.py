"""What a run writes while it goes: `metrics.jsonl`, TensorBoard where it is installed, and lines on the terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from alexnet.files import write_whole


class RunLog:
    """Appends a JSON object a line; `kind` is "start" or "epoch"."""

    def __init__(self, run: Path, step: int, epochs: int, writes: bool = True) -> None:
        """step, epochs: how far the run's checkpoint is; what was written past it will be written again. writes: False
        on ranks that leave it to another."""
        self._path, self._writes, self._board = run / "metrics.jsonl", writes, None
        if not writes:
            return
        if self._path.exists():
            kept = [
                line for line in read_metrics(run) if step > 0 and line.get("epoch", 0) <= epochs
            ]
            write_whole(self._path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._board = _tensorboard(run)

    def write(self, kind: str, step: int, **values: Any) -> None:
        if not self._writes:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": step} | values) + "\n")
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _tensorboard(run: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run / "tensorboard"))


def read_metrics(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The lines of a run's metrics, of one kind or all; a half-written last line is left out."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{run} is no run: it has no metrics.jsonl")
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return [line for line in lines if kind is None or line["kind"] == kind]
