"""Runs that torchrun starts: killed ranks, stuck ranks, and what becomes of the run."""

from __future__ import annotations

import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from alexnet import checkpoint
from alexnet.checkpoint import write_config
from alexnet.cli.train import parse_train
from alexnet.config import Parallel, check
from alexnet.distributed import mesh
from tests.conftest import tiny
from tests.s3 import BUCKET, Server

ROOT = Path(__file__).parents[1]
SECONDS_A_STEP, STEPS, TIMEOUT_S, KILL_AFTER_S = (
    0.2,
    12,
    5,
    30,
)  # the last: torchrun's, of a rank that does not end
PROGRAM = f"""
import sys, time
from alexnet.cli import main
from alexnet.train import loop

real = loop.sgd_step

def slowly(*given):
    time.sleep({SECONDS_A_STEP})  # so that a signal comes in the middle
    real(*given)

loop.sgd_step = slowly
main(["train", "--resume", sys.argv[1]])
"""


def started(
    store: Path | str, run: Path, *options: str, also: Mapping[str, str] = MappingProxyType({})
) -> subprocess.Popen[bytes]:
    """A tiny run on two ranks, a column each: three epochs, twelve steps, a checkpoint after each."""
    run.mkdir()
    config = tiny(store, parallel=Parallel(columns=2, timeout_s=TIMEOUT_S), checkpoint_minutes=0)
    write_config(run, config)
    (run.parent / "program.py").write_text(PROGRAM)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    command += [*options, str(run.parent / "program.py"), str(run)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | also
    with (run.parent / f"{run.name}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=ROOT)


def rank_of(run: Path, rank: int) -> int | None:
    """The process that is this rank of the run."""
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            said = (place / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(run).encode() in words and f"LOCAL_RANK={rank}".encode() in said:
            return int(place.name)
    return None


def signalled(run: Path, rank: int, number: int, after_s: float) -> bool:
    """Sends a signal to a rank some time after it wrote its first checkpoint; False where the run was over."""
    ends_s = time.monotonic() + 120
    while not (run / "last.safetensors").exists():
        assert time.monotonic() < ends_s, "the run never began"
        time.sleep(0.05)
    time.sleep(after_s)
    process = rank_of(run, rank)
    if process is None:
        return False
    os.kill(process, number)
    return True


def said(run: Path) -> str:
    return (run.parent / f"{run.name}.log").read_text()


def test_documented_launch_commands_are_valid() -> None:
    words = [
        shlex.split(line.split("-m alexnet train ", 1)[1].split("#")[0].split("`")[0])
        for page in ("docs/cluster.md", "README.md")
        for line in (ROOT / page).read_text().replace("\\\n", "").splitlines()
        if "torchrun" in line and "-m alexnet train " in line
    ]
    assert len(words) >= 6
    for recipe, *arguments in words:
        if recipe == "--resume":
            assert set(arguments[1::2]) <= {"--columns", "--hybrid"}
        else:
            config = parse_train(recipe, arguments).config
            check(config)
            mesh.check_layout(config, 8 if config.parallel.columns == 1 else 2)


@pytest.mark.slow
def test_run_with_killed_ranks_gives_the_undisturbed_checkpoint(
    store: Path, tmp_path: Path
) -> None:
    undisturbed = started(store, tmp_path / "undisturbed")
    assert undisturbed.wait(timeout=180) == 0, said(tmp_path / "undisturbed")
    wanted = checkpoint.read(tmp_path / "undisturbed").about["sha256"]
    rng, killed = random.Random(0), 0
    while killed < 10:  # one that would come after the end is none
        run = tmp_path / f"killed-{killed}"
        process = started(store, run, "--max-restarts", "4")
        for _ in range(2):
            killed += signalled(
                run, rng.randrange(2), signal.SIGKILL, rng.uniform(0, SECONDS_A_STEP * STEPS)
            )
        assert process.wait(timeout=180) == 0, said(run)
        assert checkpoint.read(run).about["sha256"] == wanted


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "within_s"), [(signal.SIGKILL, 20), (signal.SIGSTOP, TIMEOUT_S + KILL_AFTER_S + 20)]
)
def test_dead_or_stuck_rank_is_reported_and_all_ranks_end(
    store: Path, tmp_path: Path, number: int, within_s: float
) -> None:
    run = tmp_path / "run"
    process = started(store, run)
    assert signalled(run, 1, number, 0.3)
    began_s = time.monotonic()
    assert process.wait(timeout=180) == 1
    assert time.monotonic() - began_s < within_s
    assert (
        said(run).count(
            "alexnet: rank 1 has died or got stuck; continue with: alexnet train --resume"
        )
        == 1
    )
    assert rank_of(run, 0) is None
    assert rank_of(run, 1) is None


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_all_ranks_end_and_one_reports_when_the_store_vanishes(
    server: Server, tmp_path: Path, number: int
) -> None:
    run = tmp_path / "run"
    process = started(BUCKET, run, also=server.environment)
    assert signalled(run, 0, 0, 0.1)  # it trains
    server.process.send_signal(number)
    began_s = time.monotonic()
    assert process.wait(timeout=180) == 1
    assert time.monotonic() - began_s < STEPS * SECONDS_A_STEP + TIMEOUT_S / 2 + 20
    sentences = [line for line in said(run).splitlines() if line.startswith("alexnet: ")]
    assert len(sentences) == 1, said(run)
    assert re.fullmatch(
        rf"alexnet: rank [01]: {BUCKET} (cannot be read any more \(.*\)|has not delivered an image for 2\.5 s); "
        rf"continue with: alexnet train --resume {run}",
        sentences[0],
    )
    assert [rank_of(run, rank) for rank in (0, 1)] == [None, None]


@pytest.mark.slow
def test_single_process_saves_its_progress_when_the_store_vanishes(
    store: Path, server: Server, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", tmp_path / "whole"
    command = [sys.executable, str(tmp_path / "program.py"), str(run)]
    config = tiny(store, data=BUCKET, parallel=Parallel(timeout_s=TIMEOUT_S))
    config = replace(config, sgd=replace(config.sgd, batch=4))  # 15 steps an epoch
    for folder in (run, whole):
        folder.mkdir()
        write_config(folder, config)
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | server.environment
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    while not (run / "last.safetensors").exists():  # after the first epoch
        time.sleep(0.05)
    time.sleep(5 * SECONDS_A_STEP)
    server.end()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert f"alexnet: {BUCKET} " in said
    assert said.endswith(f"; continue with: alexnet train --resume {run}\n")
    assert 15 < checkpoint.read(run).about["position"]["step"] < 30
    server.begin()
    for folder in (run, whole):
        subprocess.run(
            [*command[:2], str(folder)], env=environment, cwd=ROOT, check=True, timeout=120
        )
    assert checkpoint.read(run).about["sha256"] == checkpoint.read(whole).about["sha256"]
