"""Progress on a terminal: how far, how fast, how long yet. Elsewhere a plain line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

PLAIN_EVERY_S = 15.0


class Progress:
    """`with Progress("prepare train", 4000, "images") as progress: progress.advance(32, "loss 2.30")`"""

    def __init__(self, what: str, total: int | None, unit: str, done: int = 0) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done = self._begun_at = done
        self._began_s = self._said_s = time.perf_counter()
        self._console = Console(stderr=True)
        self._rich: RichProgress | None = None
        if self._console.is_terminal:
            self._rich = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}"),
                console=self._console,
                transient=True,
            )
            self._task = self._rich.add_task(what, total=total, completed=done, rate="", note="")

    def __enter__(self) -> Progress:
        if self._rich is not None:
            self._rich.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._rich is not None:
            self._rich.stop()

    @property
    def rate(self) -> float:
        """Units a second since the start."""
        return (self._done - self._begun_at) / max(1e-9, time.perf_counter() - self._began_s)

    def advance(self, count: int, note: str = "") -> None:
        self._done += count
        rate = f"{self.rate:,.0f} {self._unit}/s"
        if self._rich is not None:
            self._rich.update(self._task, advance=count, rate=rate, note=note)
            return
        now_s = time.perf_counter()
        if now_s - self._said_s >= PLAIN_EVERY_S:
            self._said_s = now_s
            total = "" if self._total is None else f"/{self._total}"
            print(
                f"{self._what}: {self._done}{total}, {rate} {note}".rstrip(),
                file=sys.stderr,
                flush=True,
            )
