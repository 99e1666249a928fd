"""What `alexnet reproduce` says of the runs before they begin: number, time, and disk."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock, call

import pytest

from alexnet.architecture import plan
from alexnet.checkpoint import read_config
from alexnet.config import StepSchedule
from alexnet.data.store import Store
from alexnet.experiments import cost, runner, specs
from alexnet.experiments.claims import chosen
from alexnet.experiments.measures import RunResult
from tests.claim_stores import settings_for


def test_number_and_time_of_the_runs_are_said_before_they_begin(
    photographs: Store,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = replace(settings_for(photographs, tmp_path), scale="desk")
    (claim,) = chosen(["bias"])
    planned = [specs.plan_run(claim, arm, 0, settings, {}) for arm in claim.arms]
    # The classes of the store are known only beside it.
    config = planned[0].config
    ops = plan(replace(config.architecture, classes=len(photographs.classes)))
    macs = sum(op.multiply_adds for op in ops if op.op == "linear")
    # At this peak of a run the two take ten minutes, side by side: in each epoch three passes over
    # 60 images and one over the 30 of the validation, at half of the peak.
    peak = (3 * 60 + 30) * macs * config.schedule.epochs / 600 / 0.5
    measured = Mock(return_value=peak)
    monkeypatch.setattr(cost, "peak_macs_per_s", measured)
    runner._announce(planned, settings)
    epochs = config.schedule.epochs
    stopping = StepSchedule(epochs, until_error=0.25)
    early = replace(planned[0], config=replace(config, schedule=stopping))
    runner._announce([early], settings)
    # A run that was interrupted after three of its epochs, a fifth.
    schedule = StepSchedule(15)
    (tmp_path / "begun").mkdir()
    shutil.copytree(run, tmp_path / "begun" / "run")
    begun = replace(
        planned[0], config=replace(config, schedule=schedule), folder=tmp_path / "begun"
    )
    runner._announce([begun], settings)
    runner._announce(planned[:1], replace(settings, scale="smoke"), planned[1:])
    runner._announce(planned[:1], settings, [*planned, early])
    runner._announce([], settings, planned)
    stop = " on this machine. Ctrl-C stops them, and the same command continues."
    assert capsys.readouterr().out.splitlines() == [
        f"2 runs, 2 at a time: about 10 min{stop}",
        f"1 run: at most about 10 min{stop}",
        f"1 run: about {0.8 * 10 * 15 / epochs:.0f} min{stop}",
        "1 run and then 1 more, 1 at a time. Ctrl-C stops them, and the same command continues.",
        f"1 run and then 3 more, 2 at a time: about 10 min and then at most about 15 min{stop}",
    ]
    assert measured.call_args_list == 4 * [call(specs.threads_of_a_run(settings.jobs))]


def test_runs_that_wait_for_others_are_announced_with_them(
    photographs: Store, like_cifar: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the time of a claim that searches its rates would be that of the search."""
    announced: list[tuple[int, int]] = []
    monkeypatch.setattr(
        runner,
        "run_all",
        lambda specs, settings, later=(): announced.append((len(specs), len(later))),
    )
    result = RunResult(0.1, 0.1, 0.1, 1, 0.01, ({"val_error": 0.5},), (), 1)
    monkeypatch.setattr(runner, "_outcome", lambda spec: result)
    (relu,) = chosen(["relu"])
    settings = settings_for(like_cifar, tmp_path, seeds=3)
    trials, runs = 2 * len(relu.rates), 2 * 3
    runner.run_ahead([relu], settings)
    runner.run(relu, settings)
    assert announced == [(0, trials + runs), (trials, runs), (runs, 0), (0, 0)]
    announced.clear()
    (bias,) = chosen(["bias"])
    base, other = bias.arms
    after = replace(bias, arms=(base, replace(other, init=base.name)))
    settings = settings_for(photographs, tmp_path, seeds=3)
    runner.run_ahead([after, bias], settings)
    runner.run(after, settings)
    assert announced == [(3 + 6, 3), (3, 3), (3, 0)]


def test_runs_at_full_scale_say_what_they_keep(
    photographs: Store,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(runner, "device_type", lambda name: "cuda")
    settings = replace(settings_for(photographs, tmp_path), scale="full")
    own = read_config(run)
    planned = [specs.RunSpec(str(n), replace(own, device="cuda"), tmp_path) for n in range(3)]
    runner._announce(planned[:1], settings, planned[1:])
    files = [(run / f"{which}.safetensors").stat().st_size for which in ("last", "best")]
    (text,) = capsys.readouterr().out.splitlines()
    found = re.fullmatch(
        rf"1 run and then 2 more, 2 at a time, which keep ([\d.]+) KiB in {tmp_path}\. "
        "Ctrl-C stops them, and the same command continues\\.",
        text,
    )
    assert found is not None
    # The headers have some KiB.
    assert float(found[1]) == pytest.approx(3 * (sum(files) + 4 * 30 * 10) / 1024, rel=0.1)
