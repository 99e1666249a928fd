"""Processes killed at random moments, and before each of their file operations.

Each process is forked from this one, so that nothing has to be imported again and a kill strikes
the work itself. A killed process is followed by the next one with the same arguments, until one
comes to its end. Its result must be that of a process that was never killed, byte for byte, and no
other file may be left beside it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr, redirect_stdout, suppress
from functools import partial
from pathlib import Path

import torch

from alexnet import checkpoint
from alexnet.config import StoreSettings
from alexnet.data import shapes
from alexnet.data.prepare import prepare
from alexnet.errors import DataError
from alexnet.train.start import fit, resume
from tests.conftest import tiny
from tests.fuzz.operations import KILLED, kill_before

# Measures of time and memory, which differ from run to run.
MEASURED = "_s", "_share", "_bytes", "per_second", "_mib", "commit"


def preparation(folder: Path, force: bool) -> None:
    """Prepare a store of some files; with `force`, in place of another store.

    Without it, a process that was killed after its work and before its end leaves only the rest of
    its own files to clear away, and `prepare` then says that the store is there.
    """
    settings = StoreSettings(size_px=24, shard_images=8)
    finished = not force and (folder / "store").exists()
    with suppress(DataError) if finished else nullcontext():
        prepare(shapes.source(60, 20), folder / "store", settings, workers=2, force=force)


def training(folder: Path, minutes: float) -> None:
    """Train a tiny net, or go on with what a killed process has left.

    Args:
        minutes: Time between checkpoints; 0 for one after each step.
    """
    run = folder / "run"
    if (run / "config.json").exists():
        resume(run)
    else:
        fit(tiny(folder.parent / "data", checkpoint_minutes=minutes), run)


def everything(folder: Path) -> dict[str, object]:
    """Return the content of every file below a folder, without measures of time and memory."""
    return {
        str(path.relative_to(folder)): _content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _content(path: Path) -> object:
    if path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return [_timeless(line) for line in lines]
    if path.suffix == ".safetensors":
        saved = checkpoint.read(path)
        about = {key: value for key, value in saved.about.items() if key != "checksum"}
        tensors = checkpoint.tensors_sha256(saved.weights | saved.velocity)
        return tensors, _timeless(about)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if not k.endswith(MEASURED)}
    return value


def killed_until_done(
    work: Callable[[Path], None], folder: Path, longest_s: float, kills: int, rng: random.Random
) -> int:
    """Start the work again and again, kill it at random moments, and let the last one finish.

    Returns:
        The number of processes that were killed before their end.
    """
    context = multiprocessing.get_context("fork")
    killed = 0
    while True:
        process = context.Process(target=_quietly, args=(work, folder))
        process.start()
        if killed < kills:
            time.sleep(rng.uniform(0, longest_s))
            process.kill()
        process.join()
        if process.exitcode == 0:
            return killed
        if process.exitcode != -9:
            raise RuntimeError(f"the process ended with exit code {process.exitcode}")
        killed += 1


def _quietly(work: Callable[[Path], None], folder: Path) -> None:
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        work(folder)


def campaign(kills: int, seed: int, folder: Path) -> list[str]:
    """Kill preparations and trainings; return one line for each kind of work."""
    rng = random.Random(seed)
    prepare(shapes.source(48, 16), folder / "data", StoreSettings(size_px=40), workers=1)
    lines = [
        one_kind(name, work, begin, kills // 3, rng, folder)
        for name, work, begin in (
            ("prepare", partial(preparation, force=False), nothing),
            ("prepare --force", partial(preparation, force=True), another_store),
            ("train", partial(training, minutes=0), nothing),
        )
    ]
    # The same of `prepare`, with more than 400 operations, is in tests/test_unfinished_store.py.
    return [*lines, each_operation("train", partial(training, minutes=60), nothing, folder)]


def nothing(folder: Path) -> None:
    """Begin with an empty folder."""
    folder.mkdir()


def another_store(folder: Path) -> None:
    """Begin with a folder that has another store."""
    folder.mkdir()
    prepare(shapes.source(10, 5), folder / "store", StoreSettings(size_px=16), workers=1)


def one_kind(
    name: str,
    work: Callable[[Path], None],
    begin: Callable[[Path], None],
    kills: int,
    rng: random.Random,
    folder: Path,
) -> str:
    """Kill one kind of work; return a line that says whether every result was the same."""
    place = folder / "work"
    begin(place)
    began_s = time.perf_counter()
    killed_until_done(work, place, 1, 0, rng)
    longest_s = time.perf_counter() - began_s
    truth = everything(place)
    killed, runs, different = 0, 0, list[str]()
    while killed < kills:
        shutil.rmtree(place)
        begin(place)
        # At most five in a row, so that many beginnings and many ends are struck.
        killed += killed_until_done(work, place, longest_s, min(5, kills - killed), rng)
        runs += 1
        different += _different(everything(place), truth)
    shutil.rmtree(place)
    return f"{name}: {killed} kills at random moments in {runs} runs, {_verdict(different)}"


def each_operation(
    name: str, work: Callable[[Path], None], begin: Callable[[Path], None], folder: Path
) -> str:
    """Kill the work once before each of its file operations; return a line as `one_kind` does."""
    place = folder / "work"
    begin(place)
    _run(_quietly, work, place)
    truth = everything(place)
    different = list[str]()
    for operation in itertools.count(1):
        shutil.rmtree(place)
        begin(place)
        if _run(_until, work, place, operation) == 0:
            break
        _run(_quietly, work, place)
        different += _different(everything(place), truth)
    shutil.rmtree(place)
    return f"{name}: killed before each of {operation - 1} file operations, {_verdict(different)}"


def _until(work: Callable[[Path], None], folder: Path, operation: int) -> None:
    """Do the work, and end without any cleaning up before a file operation below `folder`."""
    kill_before(operation, folder)
    _quietly(work, folder)


def _run(target: Callable[..., None], *arguments: object) -> int:
    """Run a function in a forked process; return its exit code, 0 or that of a kill."""
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    process.join()
    if process.exitcode not in (0, KILLED):
        raise RuntimeError(f"the process ended with exit code {process.exitcode}")
    return process.exitcode


def _different(found: dict[str, object], truth: dict[str, object]) -> list[str]:
    return sorted(k for k in found.keys() | truth.keys() if found.get(k) != truth.get(k))


def _verdict(different: list[str]) -> str:
    return f"not identical: {', '.join(dict.fromkeys(different))}" if different else "identical"
