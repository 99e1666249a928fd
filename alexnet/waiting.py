"""How the threads of PyTorch wait for each other while other programs use the same cores.

A parallel operation ends when its last thread has finished. OpenMP lets the others wait actively:
they spin for some milliseconds, so that the next operation begins at once. On an idle machine this
gains a tenth of the speed of a small network. Beside other programs it loses half of it or more,
because the spinning threads use up the share of the cores that their own slower thread needs.

GNU's OpenMP, which PyTorch uses on Linux, chooses the duration once, when it is loaded, with one
exception: it hardly spins while it manages more threads than there are cores. Here that exception
is switched on and off during training, by a group of threads that only sleep.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

USER_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # the user's own choice is not touched
PERIOD_S = 0.25  # between two looks at the load
# Share of the time in which the training thread was ready to run and got no core. An idle machine
# shows less than 0.01; one busy program for each core, 0.3 to 0.5.
CONTENDED, FREE = 0.08, 0.02
# Cores that other programs used. Without them the thread has waited for threads of its own process
# that decode images: they need little, and get it.
OTHERS = 0.2
STAT = Path("/proc/stat")
QUIET_PERIODS = 8  # without contention, before the threads spin again
MOST_GROUPS = 4  # as many as two threads for a core each (hyperthreading) need, and a few more
PARALLEL_ELEMENTS = 1 << 20  # so many that PyTorch computes an elementwise operation on all threads


@contextmanager
def yielding(device: torch.device) -> Iterator[None]:
    """Let the threads of this process yield their cores where other programs need them.

    Nothing changes where the user has set how OpenMP waits, where there are one or few threads for
    many cores (a small CPU limit on a large machine), or where the system does not say how long a
    thread waits for a core.
    """
    statistics = Path(f"/proc/self/task/{threading.get_native_id()}/schedstat")
    if (
        device.type != "cpu"
        or any(name in os.environ for name in USER_SETTINGS)
        or not (statistics.exists() and STAT.exists())  # and so on every system but Linux
        or not 1 <= _groups() <= MOST_GROUPS
    ):
        yield
        return
    stop = threading.Event()
    watcher = threading.Thread(target=_watch, args=(statistics, _others_s, stop), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def _watch(statistics: Path, others_s: Callable[[], float], stop: threading.Event) -> None:
    """Switch between spinning and yielding by the load, until `stop` is set."""
    surplus, quiet = _SleepingThreads(), 0
    try:
        before = _Load.now(statistics, others_s)
        while not stop.wait(PERIOD_S):
            now = _Load.now(statistics, others_s)
            # This thread waits for a core as well, so the period may be longer.
            period_ns = now.time_ns - before.time_ns
            share = (now.waited_ns - before.waited_ns) / period_ns
            others = (now.used_s - before.used_s) * 1e9 / period_ns > OTHERS
            before = now
            quiet = 0 if others and share >= FREE else quiet + 1
            if others and share > CONTENDED:
                surplus.start()
            elif quiet >= QUIET_PERIODS:
                surplus.end()
    except OSError:  # too many open files: the threads stay as they are
        pass
    finally:
        surplus.end()


class _Load(NamedTuple):
    """What the clocks of the load show at one moment."""

    time_ns: int
    waited_ns: int
    used_s: float

    @classmethod
    def now(cls, statistics: Path, others_s: Callable[[], float]) -> _Load:
        return cls(time.monotonic_ns(), _waited_ns(statistics), others_s())


def _waited_ns(statistics: Path) -> int:
    """The time for which a thread was ready to run and had no core, in nanoseconds."""
    # Three numbers: time on a core, time of waiting for one, number of time slices.
    return int(statistics.read_text().split()[1])


def _others_s() -> float:
    """CPU time that other programs have used on the cores of this process, in seconds.

    Where the system numbers the cores otherwise (some containers), all the time that has passed.
    Source: proc(5). The columns are user, nice, system, idle, iowait, irq and softirq, in ticks.
    """
    cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    rows = [line.split() for line in STAT.read_text().splitlines()]
    rows = [row for row in rows if row[0] in cores]
    if len(rows) < len(cores):
        return time.monotonic()
    ticks = sum(int(row[i]) for row in rows for i in (1, 2, 3, 6, 7))
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def _groups() -> int:
    """How many more groups of threads it takes to have more threads than cores."""
    # GNU's OpenMP counts the cores by affinity, whatever the limits on CPU time are.
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    # The threads of a group but its first one count, and so does the first of all.
    return (cores - threads) // (threads - 1) + 1 if threads > 1 else 0


class _SleepingThreads:
    """Groups of OpenMP threads that only sleep: with them there are more threads than cores."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._end = threading.Event()

    def start(self) -> None:
        if not self._threads:
            self._end.clear()
            self._threads = [
                threading.Thread(target=self._hold, daemon=True) for _ in range(_groups())
            ]
            for thread in self._threads:
                thread.start()

    def end(self) -> None:
        # OpenMP dissolves a group when the thread that began it ends.
        self._end.set()
        while self._threads:
            self._threads.pop().join()

    def _hold(self) -> None:
        # Each thread that computes something in parallel gets a group of its own.
        torch.zeros(PARALLEL_ELEMENTS, device="cpu").add_(1)
        self._end.wait()
