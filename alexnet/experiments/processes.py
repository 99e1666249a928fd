"""The processes of runs: how many at a time, on which GPUs, how far they are, and their end."""

from __future__ import annotations

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


def run_processes(specs: Collection[RunSpec], settings: Settings) -> Iterator[RunSpec]:
    """Start a process for each run, `settings.jobs` at a time, and yield each run as it ends."""
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
    total = sum(spec.config.schedule.epochs * images[spec.folder] for spec in specs)
    ended = 0

    def presented() -> int:
        current = (epochs_done(spec) * images[spec.folder] for spec in running.values())
        return ended + sum(current)

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
            # Closed before a run is yielded, because the caller then says how the run ended.
            with Progress("training", total, "presentations", presented()) as bar:
                processes = _wait_for_any(running, presented, bar)
            for process in processes:
                spec = running.pop(process)
                free.append(taken.pop(process))
                # All of them, also where a run has reached its error early.
                ended += spec.config.schedule.epochs * images[spec.folder]
                yield spec


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
