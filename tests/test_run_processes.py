"""The processes of runs at the same time: cores and GPUs, progress, time left, and endings."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import pytest

from alexnet import cli
from alexnet.checkpoint import read_config
from alexnet.cli import main
from alexnet.config import StepSchedule
from alexnet.data.store import Store
from alexnet.experiments import processes, specs
from alexnet.experiments.bases import five_convolutions
from alexnet.progress import Progress
from tests.claim_stores import settings_for


def test_presentations_of_finished_epochs_are_shown_while_runs_last(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "LOOK_EVERY_S", 0.0)
    process, bar = Mock(), Mock()
    process.poll.side_effect = [None, None, None, 0]
    presented = Mock(side_effect=[40, 40, 60, 100])
    assert processes._wait_for_any([process], presented, bar) == [process]
    assert bar.advance.call_args_list == [call(20), call(40)]
    spec = specs.RunSpec("a run", read_config(copied_run), copied_run.parent)
    assert processes.epochs_done(spec) == spec.config.schedule.epochs
    assert processes.epochs_done(replace(spec, folder=copied_run)) == 0


def test_bar_counts_ended_and_interrupted_runs(
    photographs: Store, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three runs with 60 images and 2 epochs, the first was interrupted after one of them."""
    config = replace(five_convolutions("smoke", "photographs"), data=photographs.name)
    config = replace(config, schedule=StepSchedule(2))
    planned = [specs.RunSpec(str(n), config, tmp_path / str(n)) for n in range(3)]
    monkeypatch.setattr(processes, "epochs_done", lambda spec: int(spec is planned[0]))
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    bars = []

    class Bar(Progress):
        def __init__(self, *arguments: Any) -> None:
            bars.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr(processes, "Progress", Bar)
    settings = replace(settings_for(photographs, tmp_path), jobs=1)
    assert [spec for spec, _ in processes.run_processes(planned, settings)] == planned
    assert bars == [("training", 360, "presentations", done) for done in (60, 120, 240)]


@pytest.mark.parametrize(
    ("runs", "jobs", "begun", "expected"),
    [
        ([(2, 2)] * 3, 1, 0, [1200, 600, 0]),
        ([(2, 2)] * 8, 4, 0, [600] * 4 + [0] * 4),
        # The last one runs alone, on its share of the cores.
        ([(2, 2)] * 5, 4, 0, [600] * 4 + [0]),
        # One goes on when the other has ended.
        ([(2, 2), (4, 4)], 2, 0, [600, 0]),
        # The first was interrupted after one of its two epochs, and needs only half of the time.
        ([(2, 2)] * 3, 1, 1, [1200, 600, 0]),
        # It had only to be tested.
        ([(2, 2)] * 2, 1, 2, [None, 0]),
        # It fails before its first epoch, and after it.
        ([(2, 0), (2, 2), (2, 2)], 1, 0, [None, 600, 0]),
        ([(2, 1), (2, 2), (2, 2)], 1, 0, [1200, 600, 0]),
    ],
)
def test_time_that_is_left_counts_runs_at_the_same_time(
    runs: list[tuple[int, int]],
    jobs: int,
    begun: int,
    expected: list[float],
    photographs: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of each run the planned epochs and those after which it ends; an epoch takes 300 s."""
    config = replace(five_convolutions("smoke", "photographs"), data=photographs.name)
    planned = [
        specs.RunSpec(
            str(number), replace(config, schedule=StepSchedule(epochs)), tmp_path / str(number)
        )
        for number, (epochs, _) in enumerate(runs)
    ]
    done = {spec.folder: 0 for spec in planned} | {planned[0].folder: begun}
    ends = {spec.folder: end for spec, (_, end) in zip(planned, runs, strict=True)}
    now_s = 0.0

    def wait(running: Any, *arguments: Any) -> Any:
        nonlocal now_s
        lacking = {process: ends[s.folder] - done[s.folder] for process, s in running.items()}
        epochs = min(lacking.values())
        now_s += 300 * epochs
        for spec in running.values():
            done[spec.folder] += epochs
        ended = [process for process in running if lacking[process] == epochs]
        for process in ended:
            process.wait()
        return ended

    monkeypatch.setattr(processes, "_wait_for_any", wait)
    monkeypatch.setattr(processes, "epochs_done", lambda spec: done[spec.folder])
    monkeypatch.setattr(processes, "time", Mock(perf_counter=lambda: now_s))
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    settings = replace(settings_for(photographs, tmp_path), jobs=jobs)
    assert list(processes.run_processes(planned, settings)) == list(
        zip(planned, expected, strict=True)
    )


def test_runs_at_the_same_time_share_the_cores(
    photographs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(five_convolutions("smoke", "photographs"), data=photographs.name)
    planned = [specs.RunSpec(str(n), config, tmp_path / str(n)) for n in range(4)]
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho "$OMP_NUM_THREADS of $ALEXNET_JOBS"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(specs, "available_cores", lambda: 16)
    settings = replace(settings_for(photographs, tmp_path), jobs=4)
    list(processes.run_processes(planned, settings))
    assert [(spec.folder / "log").read_text() for spec in planned] == ["4 of 4\n"] * 4


@pytest.mark.parametrize(
    ("count", "listed", "jobs", "expected"),
    [
        (2, None, 3, "0 0 0 1 1"),
        (2, "3, 1", 2, "1 1 3 3"),
        (2, "GPU-a,GPU-b", 2, "GPU-a GPU-a GPU-b GPU-b"),
        # PyTorch has those before the first number that is none.
        (2, "0,1,-1,2", 3, "0 0 0 1 1"),
        (2, None, 1, "0 0 0"),
        (1, "3", 2, "3 3 3"),
        (0, None, 2, "none none none"),
        (0, "", 2, "empty empty"),
    ],
)
def test_runs_at_the_same_time_take_different_gpus(
    count: int,
    listed: str | None,
    jobs: int,
    expected: str,
    photographs: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(five_convolutions("smoke", "photographs"), data=photographs.name)
    planned = [
        specs.RunSpec(str(n), config, tmp_path / str(n)) for n in range(len(expected.split()))
    ]
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho "${CUDA_VISIBLE_DEVICES-none}"\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    # All of them end before the next ones begin.
    real = processes._wait_for_any

    def wait(running: Any, *arguments: Any) -> Any:
        for process in running:
            process.wait()
        return real(running, *arguments)

    monkeypatch.setattr(processes, "_wait_for_any", wait)
    settings = replace(settings_for(photographs, tmp_path), jobs=jobs)
    for _ in processes.run_processes(planned, settings):
        pass
    taken = [(spec.folder / "log").read_text().strip() or "empty" for spec in planned]
    assert sorted(taken) == expected.split()


@pytest.mark.parametrize(
    ("ends", "jobs", "expected"),
    [
        (
            "kill -9 $$",
            2,
            r"ended by signal 9 \(.+\); the system .* lacks memory: use fewer --jobs\n",
        ),
        ("kill -9 $$", 1, r"ended by signal 9 \(.+\); the system .* lacks memory\n"),
        ("kill -11 $$", 2, r"ended by signal 11 \([^;]+\)\n"),
        ("exit 1", 2, ""),
    ],
)
def test_log_of_a_run_names_the_signal_that_ended_it(
    ends: str,
    jobs: int,
    expected: str,
    photographs: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(five_convolutions("smoke", "photographs"), data=photographs.name)
    spec = specs.RunSpec("a run", config, tmp_path / "run")
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\n{ends}\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    settings = replace(settings_for(photographs, tmp_path), jobs=jobs)
    list(processes.run_processes([spec], settings))
    assert re.fullmatch(expected, (spec.folder / "log").read_text())


def test_claims_that_are_stopped_end_with_the_number_of_the_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(arguments: list[str]) -> None:
        with processes._ended_together({}):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    monkeypatch.setattr(cli, "function_of", lambda verb: stopped)
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "--data", "store"])
    assert ended.value.code == 143
    assert capsys.readouterr().err == "stopped; the same command continues\n"
