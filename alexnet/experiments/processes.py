"""The processes of runs: how many at a time, on which GPUs, how far they are, and their end."""

from __future__ import annotations

import heapq
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

from alexnet.cores import JOBS
from alexnet.errors import RunError
from alexnet.experiments import job
from alexnet.experiments.specs import RunSpec, Settings, stores_of, threads_of_a_run
from alexnet.files import write_whole
from alexnet.progress import Progress
from alexnet.saved_config import to_dict
from alexnet.train.run_log import read_metrics

LOOK_EVERY_S = 3.0
"""Time between two looks at how far the runs are."""
VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Environment variable that says which GPUs a process has."""


def run_processes(
    specs: Collection[RunSpec], settings: Settings
) -> Iterator[tuple[RunSpec, float | None]]:
    """Start a process for each run, `settings.jobs` at a time.

    Yields:
        Each run as it ends, and the seconds until the last one ends, as an estimate; None where
        nothing has been trained so far.
    """
    # Each run would otherwise start a thread for every core, and on CUDA a decoder, too. Not by
    # `Config.workers`, which the key of a run has.
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads_of_a_run(settings.jobs)),
        JOBS: str(settings.jobs),
    }
    # Each run would otherwise take the first GPU.
    gpus: list[str | None] = [*_gpus()] or [None]
    free = [gpus[number % len(gpus)] for number in range(settings.jobs)]
    taken = dict[subprocess.Popen[bytes], str | None]()
    if settings.jobs > 1:
        # By default the threads of OpenMP spin while they wait, and take the cores of other runs.
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    waiting, running = list(specs), dict[subprocess.Popen[bytes], RunSpec]()
    stores = stores_of(specs)
    images = {
        spec.folder: stores[spec.config.data].num_images(spec.config.train_split) for spec in specs
    }
    planned = {spec.folder: spec.config.schedule.epochs * images[spec.folder] for spec in specs}
    total = sum(planned.values())
    trained = {spec.folder: epochs_done(spec) * images[spec.folder] for spec in specs}

    def left(runs: Collection[RunSpec]) -> list[int]:
        """The presentations that each of these runs lacks."""
        return [planned[spec.folder] - trained[spec.folder] for spec in runs]

    def presented() -> int:
        """Look how far the runs are; one that has ended lacks nothing."""
        # Those that wait stay as they are.
        for spec in running.values():
            trained[spec.folder] = epochs_done(spec) * images[spec.folder]
        return total - sum(left([*running.values(), *waiting]))

    # What was presented before does not count towards the speed.
    before, busy_s = sum(trained.values()), 0.0
    with _ended_together(running):
        while waiting or running:
            while waiting and len(running) < settings.jobs:
                spec = waiting.pop(0)
                spec.folder.mkdir(parents=True, exist_ok=True)
                config = json.dumps(to_dict(spec.config)).encode()
                write_whole(spec.folder / job.CONFIG_FILE, config)
                with (spec.folder / "log").open("ab") as log:
                    command = [sys.executable, "-m", "alexnet.experiments.job", str(spec.folder)]
                    gpu = free.pop(0)
                    of_gpu = {} if gpu is None else {VISIBLE: gpu}
                    process = subprocess.Popen(
                        command, stdout=log, stderr=log, env=environment | of_gpu
                    )
                running[process], taken[process] = spec, gpu
            began_s, num_running = time.perf_counter(), len(running)
            # Closed before a run is yielded, because the caller then says how the run ended.
            with Progress("training", total, "presentations", presented()) as bar:
                processes = _wait_for_any(running, presented, bar)
            busy_s += num_running * (time.perf_counter() - began_s)
            # Once more, with the last epochs of those that have ended.
            presented()
            ended = [running.pop(process) for process in processes]
            for process, spec in zip(processes, ended, strict=True):
                # Its log ends in an ordinary line, and the caller names the log as the reason.
                if process.returncode < 0:
                    _note_signal(spec, -process.returncode, settings.jobs)
            free += [taken.pop(process) for process in processes]
            # Not their length: a run may have failed, or reached its error early.
            made = sum(trained.values()) - before
            idle = [0] * (settings.jobs - len(running))
            to_come = _last_end([*idle, *left(running.values())], left(waiting))
            for spec in ended:
                yield spec, to_come * busy_s / made if made else None


def _note_signal(spec: RunSpec, number: int, jobs: int) -> None:
    """Write into the log of a run which signal has ended its process."""
    text = f"ended by signal {number} ({signal.strsignal(number)})"
    if number == signal.SIGKILL:
        text += "; the system ends a process where it lacks memory"
        text += ": use fewer --jobs" if jobs > 1 else ""
    with (spec.folder / "log").open("a") as log:
        print(text, file=log)


def _last_end(running: list[int], waiting: Collection[int]) -> int:
    """How much the process that ends last still has to do, where each waiting run takes the first
    process that is free.

    One process alone at the end is as slow as before: the cores are divided for the whole time.

    Args:
        running: What each process still has to do; 0 for one that is free.
    """
    ends = running.copy()
    heapq.heapify(ends)
    for run in waiting:
        heapq.heapreplace(ends, ends[0] + run)
    return max(ends)


def _gpus() -> list[str]:
    """The names of several GPUs, as `VISIBLE` lists them; empty if there are not several."""
    count = torch.cuda.device_count()
    if count < 2:
        return []
    # Those that the user leaves to this program, by number or by name.
    listed = os.environ.get(VISIBLE)
    names = listed.split(",") if listed else map(str, range(count))
    return [name.strip() for name in names][:count]


def _wait_for_any(
    processes: Collection[subprocess.Popen[bytes]], presented: Callable[[], int], bar: Progress
) -> list[subprocess.Popen[bytes]]:
    """Wait until a process has ended, and return all that have.

    Args:
        presented: Counts the images that the runs have been trained on, by their finished epochs.
    """
    before, looked_s = presented(), time.perf_counter()
    # Polling: there is no portable call that waits for the first of several processes.
    while not (ended := [process for process in processes if process.poll() is not None]):
        time.sleep(0.1)
        # Less often, because the files of metrics grow with the runs.
        if time.perf_counter() - looked_s >= LOOK_EVERY_S:
            now, looked_s = presented(), time.perf_counter()
            if now > before:
                bar.advance(now - before)
                before = now
    return ended


def epochs_done(spec: RunSpec) -> int:
    """The number of epochs that a run has finished so far."""
    # A run that has only begun has no metrics; and runs must not end because a disk is slow.
    with suppress(RunError, OSError):
        return len(read_metrics(spec.folder / "run", "epoch"))
    return 0


@contextmanager
def _ended_together(running: dict[subprocess.Popen[bytes], RunSpec]) -> Iterator[None]:
    """End all runs before this program ends.

    Ctrl-C and SIGTERM are passed on to the runs, and each saves a checkpoint before it ends.
    """

    def stop(number: int, frame: Any) -> None:
        # SIGTERM takes the same way out as Ctrl-C: through `finally` below. The exit code of the
        # program is made from the number.
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        # All signals first, then the waiting, so that the runs save at the same time.
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait()
        signal.signal(signal.SIGTERM, before)
