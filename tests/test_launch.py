"""Runs started by torchrun: killed ranks, stuck ranks, stores that vanish, and resuming."""

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
import torch.distributed as dist

from alexnet import checkpoint
from alexnet.checkpoint import write_config
from alexnet.cli.train import parse_train
from alexnet.config import Parallel
from alexnet.config_checks import check
from alexnet.distributed import heartbeat, launch, mesh
from tests.commands import printed
from tests.conftest import tiny
from tests.processes import free_port, until
from tests.s3 import BUCKET, Server

ROOT = Path(__file__).parents[1]
STEP_S, STEPS = 0.2, 12
TIMEOUT_S = 5
KILL_AFTER_S = 30  # after which torchrun kills a rank that does not end
PROGRAM = f"""
import sys, time
from alexnet.cli import main
from alexnet.train import loop

real = loop.sgd_step

def slow_step(*arguments):
    time.sleep({STEP_S})  # so that a signal arrives during the training
    real(*arguments)

loop.sgd_step = slow_step
"""
RESUMES = 'main(["train", "--resume", sys.argv[1]])\n'
WAITING_STEP = 20
WAITS = f"""
from pathlib import Path
steps = []

def waiting_step(*arguments):
    # Its files tell the test that this step is reached, and the step that the test is ready.
    steps.append(1)
    here = Path(sys.argv[1]).parent
    if len(steps) == {WAITING_STEP}:
        (here / "reached").touch()
        while not (here / "ready").exists():
            time.sleep(0.01)
    real(*arguments)

loop.sgd_step = waiting_step
"""
BEGINS = """
from alexnet.config import Parallel, StepSchedule
from alexnet.train.start import fit
from tests.conftest import tiny

parallel, schedule = Parallel(columns=2), StepSchedule(1000)
fit(tiny(sys.argv[2], parallel=parallel, schedule=schedule, checkpoint_minutes=0), sys.argv[1])
"""


def start(
    store: Path | str,
    run: Path,
    *options: str,
    extra_environment: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.Popen[bytes]:
    """Start the tiny run on two ranks with a column each.

    It takes 12 steps in three epochs and writes a checkpoint after each step.
    """
    run.mkdir()
    config = tiny(store, parallel=Parallel(columns=2, timeout_s=TIMEOUT_S), checkpoint_minutes=0)
    write_config(run, config)
    (run.parent / "program.py").write_text(PROGRAM + RESUMES)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    command += [*options, str(run.parent / "program.py"), str(run)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | extra_environment
    with (run.parent / f"{run.name}.log").open("wb") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=ROOT)


def rank_of(run: Path, rank: int) -> int | None:
    """The process id of a rank of the run; None if there is no such process."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(run).encode() in arguments and f"RANK={rank}".encode() in environment:
            return int(process.name)
    return None


def send_signal(run: Path, rank: int, signal_number: int, after_s: float) -> bool:
    """Send a signal to a rank, `after_s` seconds after the first checkpoint.

    Returns False if the run had already ended.
    """
    until((run / "last.safetensors").exists, "the run wrote a checkpoint")
    time.sleep(after_s)
    process = rank_of(run, rank)
    if process is None:
        return False
    os.kill(process, signal_number)
    return True


def log_of(run: Path) -> str:
    return (run.parent / f"{run.name}.log").read_text()


@pytest.mark.parametrize("command", ["train demo --data store --out", "train --resume"])
def test_a_training_that_ended_leaves_the_other_ranks(
    command: str,
    run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def joins(*arguments: object, **named: object) -> None:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

    for name in ("fit", "resume"):
        monkeypatch.setattr(f"alexnet.train.start.{name}", joins)
    assert "evaluate" in printed(capsys, *command.split(), run)
    assert not dist.is_initialized()


def test_documented_launch_commands_are_valid() -> None:
    commands = [
        shlex.split(line.split(begin, 1)[1].split("#")[0].split(end)[0])
        for page in ("docs/cluster.md", "README.md")
        for line in (ROOT / page).read_text().replace("\\\n", "").splitlines()
        # A job begins a run or goes on with it: `run="..."` before `alexnet train $run`.
        for begin, end in (("-m alexnet train ", "`"), ('run="', '"'))
        if begin in line and not line.endswith("$run")
    ]
    assert len(commands) >= 8
    for recipe, *arguments in commands:
        if recipe == "--resume":
            assert set(arguments[1::2]) <= {"--columns", "--hybrid"}
        else:
            config = parse_train(recipe, arguments).config
            check(config)
            mesh.check_layout(config, 8 if config.parallel.columns == 1 else 2)


def test_single_rank_goes_on_with_what_its_launch_began_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count of restarts says neither who began a run nor that another machine has left."""
    store = dist.HashStore()
    monkeypatch.setattr(launch, "launch_store", lambda timeout_s: store)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    (tmp_path / "config.json").touch()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert not launch.begun_before(mesh.ALONE, tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    launch.note_begun(mesh.ALONE, tmp_path)
    assert launch.begun_before(mesh.ALONE, tmp_path)


@pytest.mark.slow
def test_two_machines_go_on_though_torchrun_counts_a_restart_on_one_of_them(
    store: Path, tmp_path: Path
) -> None:
    """Two torchruns stand for the machines. The first restarts its rank because the second left."""
    run, program = tmp_path / "run", tmp_path / "program.py"
    program.write_text(PROGRAM + BEGINS)
    options = "--nnodes 2 --nproc-per-node 1 --max-restarts 2 --rdzv-id 1 --rdzv-backend c10d"
    command = [sys.executable, "-m", "torch.distributed.run", *options.split()]
    command += ["--rdzv-endpoint", f"127.0.0.1:{free_port()}", str(program), str(run), str(store)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with (tmp_path / "run.log").open("wb") as log:
        machines = [
            subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=ROOT)
            for _ in range(2)
        ]
    try:
        assert send_signal(run, 1, signal.SIGKILL, 0)
        until(lambda: "resumed at epoch" in log_of(run), f"a line in {run}.log")
    finally:
        for machine in machines:
            machine.terminate()
        for machine in machines:
            machine.wait(timeout=60)


@pytest.mark.slow
def test_run_with_killed_ranks_gives_the_undisturbed_checkpoint(
    store: Path, tmp_path: Path
) -> None:
    undisturbed = start(store, tmp_path / "undisturbed")
    assert undisturbed.wait(timeout=180) == 0, log_of(tmp_path / "undisturbed")
    expected = checkpoint.read(tmp_path / "undisturbed").about["sha256"]
    rng, killed = random.Random(0), 0
    while killed < 10:  # a signal after the end of the run is not counted
        run = tmp_path / f"killed-{killed}"
        process = start(store, run, "--max-restarts", "4")
        for _ in range(2):
            killed += send_signal(
                run, rng.randrange(2), signal.SIGKILL, rng.uniform(0, STEP_S * STEPS)
            )
        assert process.wait(timeout=180) == 0, log_of(run)
        assert checkpoint.read(run).about["sha256"] == expected


def test_a_rank_that_looks_for_the_silent_ones_cannot_be_ended_by_torchrun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torchrun sends SIGTERM to the other ranks as soon as one has died."""

    class Heartbeats:
        def silent_ranks(self) -> list[int]:
            os.kill(os.getpid(), signal.SIGTERM)
            return [1]

        def lost(self, silent: list[int], advice: str) -> heartbeat.RankLost:
            return heartbeat.RankLost(f"rank {silent[0]} is lost; {advice}", True)

        def stop(self) -> None:
            pass

    monkeypatch.setattr(heartbeat, "_Heartbeat", lambda *arguments: Heartbeats())
    two = mesh.Mesh(world=mesh.Group((0, 1), 0))
    before = signal.getsignal(signal.SIGTERM)
    try:
        with (
            pytest.raises(heartbeat.RankLost, match="rank 1 is lost; go on"),
            heartbeat.watch_ranks(two, "go on"),
        ):
            raise RuntimeError("connection closed")
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signal_number", "within_s"),
    [(signal.SIGKILL, 20), (signal.SIGSTOP, TIMEOUT_S + KILL_AFTER_S + 20)],
)
def test_dead_or_stuck_rank_is_reported_and_all_ranks_end(
    store: Path, tmp_path: Path, signal_number: int, within_s: float
) -> None:
    run = tmp_path / "run"
    process = start(store, run)
    assert send_signal(run, 1, signal_number, 0.3)
    began_s = time.monotonic()
    assert process.wait(timeout=180) == 1
    assert time.monotonic() - began_s < within_s
    assert (
        log_of(run).count(
            "alexnet: rank 1 has died or got stuck; continue with: alexnet train --resume"
        )
        == 1
    )
    assert rank_of(run, 0) is None
    assert rank_of(run, 1) is None


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGSTOP])
def test_all_ranks_end_and_one_reports_when_the_store_vanishes(
    server: Server, tmp_path: Path, signal_number: int
) -> None:
    run = tmp_path / "run"
    process = start(BUCKET, run, extra_environment=server.environment)
    assert send_signal(run, 0, 0, 0.1)  # signal 0 has no effect; it is sent once the run trains
    server.process.send_signal(signal_number)
    began_s = time.monotonic()
    assert process.wait(timeout=180) == 1
    assert time.monotonic() - began_s < STEPS * STEP_S + TIMEOUT_S / 2 + 20
    sentences = [line for line in log_of(run).splitlines() if line.startswith("alexnet: ")]
    assert len(sentences) == 1, log_of(run)
    assert re.fullmatch(
        rf"alexnet: rank [01]: {BUCKET} "
        r"(cannot be read any more \(.*\)|has not delivered an image for 2\.5 s); "
        r"check its disk or server; "
        rf"continue with: alexnet train --resume {run}",
        sentences[0],
    )
    assert [rank_of(run, rank) for rank in (0, 1)] == [None, None]


@pytest.mark.slow
def test_single_process_saves_its_progress_when_the_store_vanishes(
    store: Path, server: Server, tmp_path: Path
) -> None:
    run, undisturbed = tmp_path / "run", tmp_path / "whole"
    command = [sys.executable, str(tmp_path / "program.py"), str(run)]
    config = tiny(store, data=BUCKET, parallel=Parallel(timeout_s=TIMEOUT_S))
    config = replace(config, sgd=replace(config.sgd, batch=4))  # 15 steps an epoch
    for folder in (run, undisturbed):
        folder.mkdir()
        write_config(folder, config)
    (tmp_path / "program.py").write_text(PROGRAM + WAITS + RESUMES)
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | server.environment
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    until((tmp_path / "reached").exists, f"step {WAITING_STEP} of the training", process)
    server.end()
    (tmp_path / "ready").touch()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert f"alexnet: {BUCKET} " in errors
    assert errors.endswith(f"; continue with: alexnet train --resume {run}\n")
    # The feed has read some batches ahead.
    assert WAITING_STEP <= checkpoint.read(run).about["position"]["step"] < 30
    server.begin()
    for folder in (run, undisturbed):
        subprocess.run(
            [*command[:2], str(folder)], env=environment, cwd=ROOT, check=True, timeout=120
        )
    assert checkpoint.read(run).about["sha256"] == checkpoint.read(undisturbed).about["sha256"]
