"""Progress bars on a terminal; elsewhere, such as in a log file, a plain line every 15 seconds."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from alexnet.terminal import print_if_read

PLAIN_EVERY_S = 15.0
FORECAST_AFTER_S = 8.0
"""Time from the first finished unit to the forecast: later than the start-up, soon for a person."""


class Progress:
    """A progress bar on stderr.

        with Progress("prepare train", 4000, "images") as progress:
            progress.advance(32, "loss 2.30")

    Args:
        what: The name of the work.
        total: Number of units of work; None: unknown.
        unit: Name of a unit in the plural.
        completed: Units that were finished before, for example by an interrupted run.
        in_all: Units of a longer work that begins with this one, such as all epochs of a training.
            After some seconds a line says how long it still takes. None: no such line.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        completed: int = 0,
        in_all: float | None = None,
    ) -> None:
        self._what, self._total, self._unit = what, total, unit
        # Units finished before do not count towards the speed.
        self._completed = self._completed_before = completed
        self._began_s = self._printed_s = time.perf_counter()
        self._in_all = in_all
        # When the first units were finished, and how many: the speed leaves out the start-up.
        self._warm: tuple[float, int] | None = None
        # stderr, so that the output of a command can be piped.
        # Asked here, because FORCE_COLOR makes Rich take a log file for a terminal. A closed stderr
        # is None.
        is_terminal = sys.stderr is not None and sys.stderr.isatty()
        self._console = Console(stderr=True, force_terminal=is_terminal)
        self._rich: RichProgress | None = None
        # A dumb terminal cannot move its cursor back, and would show nothing.
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            # Without markup: a name in brackets would be taken for a style, and vanish.
            self._rich = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}", markup=False),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}", markup=False),
                console=self._console,
                # The bar vanishes at the end, because its caller prints the result.
                transient=True,
            )
            self._task = self._rich.add_task(
                what, total=total, completed=completed, rate="", note=""
            )

    def __enter__(self) -> Progress:
        if self._rich is not None:
            self._rich.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._rich is not None:
            self._rich.stop()

    @property
    def rate(self) -> float:
        """Units per second since the start."""
        return (self._completed - self._completed_before) / max(
            1e-9, time.perf_counter() - self._began_s
        )

    def advance(self, count: int, note: str = "") -> None:
        """Count `count` more finished units. The note is shown beside the speed."""
        self._completed += count
        self._forecast()
        rate = f"{self.rate:,.0f} {self._unit}/s"
        if self._rich is not None:
            self._rich.update(self._task, advance=count, rate=rate, note=note)
            return
        now_s = time.perf_counter()
        # Not at every call: each line stays in a log file, where a bar would overwrite itself.
        if now_s - self._printed_s >= PLAIN_EVERY_S:
            self._printed_s = now_s
            total = "" if self._total is None else f"/{self._total}"
            line = f"{self._what}: {self._completed}{total}, {rate} {note}".rstrip()
            print_if_read(line, err=True)

    def _forecast(self) -> None:
        """Say once how long the longer work still takes, when the speed is known."""
        now_s = time.perf_counter()
        if self._in_all is None:
            return
        if self._warm is None:
            self._warm = now_s, self._completed
            return
        seconds, units = now_s - self._warm[0], self._completed - self._warm[1]
        if seconds >= FORECAST_AFTER_S:
            # Without what was finished before, such as the beginning of an epoch that is resumed.
            left, per_s, self._in_all = self._in_all - self._completed, units / seconds, None
            line = f"about {duration(left / per_s)} left at {per_s:,.0f} {self._unit}/s"
            if self._rich is None:
                print_if_read(line, err=True)
            else:
                # Above the bar, and not in the middle of it.
                self._console.print(line, highlight=False, markup=False)


def duration(seconds: float) -> str:
    """A time in the unit that suits it, for a person who waits: 40 s, 12 min, 2.5 h, 3.1 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
