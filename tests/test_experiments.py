"""Running claims: their runs, the results of these, and `alexnet reproduce`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from alexnet import recipes
from alexnet.cli import main
from alexnet.config import Config, StepSchedule
from alexnet.cores import available_cores
from alexnet.data import resident
from alexnet.data.storage import StoreLost
from alexnet.data.store import Store
from alexnet.errors import AlexNetError, RunError
from alexnet.experiments import (
    checks,
    document,
    job,
    records,
    reproduce,
    runner,
    specs,
)
from alexnet.experiments.bases import with_rates
from alexnet.experiments.claim import Claim, Scale
from alexnet.experiments.claims import CLAIMS, chosen
from alexnet.experiments.data_sets import Kind
from alexnet.experiments.measures import RunResult
from alexnet.experiments.reproduce import run_and_record
from alexnet.files import locked
from alexnet.provenance import code_version
from alexnet.saved_config import to_dict
from alexnet.train.folder import run_lock
from tests.claim_stores import NAMES, recognised, settings_for, two_stores
from tests.conftest import tiny
from tests.processes import until
from tests.runs import interrupted

ROOT = Path(__file__).parents[1]


def test_a_run_on_a_gpu_is_not_that_on_a_cpu(
    photographs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(photographs, tmp_path)
    (claim,) = chosen(["lrn"])
    folders = []
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(specs, "device_type", lambda name, device=device: device)
        folders.append(specs.plan_run(claim, claim.arms[0], 0, settings, {}).folder)
    assert folders[0] != folders[1]


def test_the_rate_that_reaches_the_error_first_is_taken(
    like_cifar: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both end in the second of two epochs, one of them sooner; a third one never gets there.

    With a fourth one the loss is not finite.
    """
    # By the factor of the rate, the training error after each epoch.
    errors = {2.0: (0.9, 0.25), 4.0: (0.5, 0.1), 8.0: (0.9, 0.9, 0.9)}

    def outcome(spec: specs.RunSpec) -> RunResult | str:
        factor = float(re.findall(r", ([\d.]+) x rate", spec.name)[0])
        if factor not in errors:
            return "the loss is NaN"
        return replace(result, epochs=tuple({"val_error": error} for error in errors[factor]))

    result = RunResult(0.1, 0.1, 0.1, 1, 0.01, (), (), 1)
    monkeypatch.setattr(runner, "run_all", lambda specs, settings, later=(): None)
    monkeypatch.setattr(runner, "_outcome", outcome)
    monkeypatch.setattr(runner, "SEARCH_EPOCHS", 3)
    claim = replace(chosen(["relu"])[0], rates=(*errors, 16.0))
    settings = replace(settings_for(like_cifar, tmp_path), scale="desk")
    assert runner._search_rates(claim, settings) == {"relu": 4.0, "tanh": 4.0}
    with pytest.raises(AlexNetError, match="relu learns at none of the rates"):
        runner._search_rates(replace(claim, rates=(16.0,)), settings)


def test_factor_of_the_rate_is_that_of_every_rate() -> None:
    config = recipes.original()
    sgd = replace(config.sgd, bias_lr_of=(("conv1", 0.5),))
    scaled = with_rates(replace(config, sgd=sgd), 4.0)
    assert (scaled.sgd.lr, scaled.sgd.bias_lr) == (0.04, 0.08)
    assert scaled.sgd.bias_lr_of == (("conv1", 2.0),)
    assert isinstance(config.schedule, StepSchedule)
    assert isinstance(scaled.schedule, StepSchedule)
    slow, _ = config.schedule.layer_lrs
    assert scaled.schedule.layer_lrs[0] == replace(slow, lr=4 * slow.lr)
    assert slow.lr > 0


def test_base_without_step_schedule_is_refused_before_any_run(
    photographs: Store, tmp_path: Path
) -> None:
    """Also where only full scale has it, which a run at smoke scale is to find."""

    def base(scale: Scale, kind: Kind) -> Config:
        config = recipes.paper()
        return replace(config, schedule=StepSchedule(1)) if scale == "smoke" else config

    claim = replace(chosen(["bias"])[0], base=base)
    with pytest.raises(AlexNetError, match="claims need a StepSchedule"):
        checks.check(claim, settings_for(photographs, tmp_path))


def test_extra_metrics_are_measured_anew_after_their_function_has_changed(tmp_path: Path) -> None:
    """And on the store that is there now, whose name may have changed since the training."""

    def one(run: Path, data: Path) -> dict[str, float]:
        assert (run, data) == (tmp_path / "run", Path("moved"))
        return {"value": 1.0}

    def two(run: Path, data: Path) -> dict[str, float]:
        return {"value": 2.0}

    spec = specs.RunSpec("a run", replace(recipes.original(), data="moved"), tmp_path)
    result = RunResult(0.1, 0.1, 0.1, 1, 0.01, (), (), 1)
    for measure, value in ((one, 1.0), (two, 2.0)):
        claim = replace(chosen(["bias"])[0], extra_metrics=measure)
        measured = runner._with_extra_metrics(claim, spec, result)
        assert measured.extra_metrics == {"value": value}
    assert len([*tmp_path.glob("bias-*.json")]) == 2


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        (["--scale", "smoke"], "out/records"),
        (["--scale", "desk"], "records/claims"),
        (["--scale", "smoke", "--records", "mine"], "mine"),
    ],
)
def test_tests_of_the_program_are_not_recorded_among_the_results(
    options: list[str],
    folder: str,
    photographs: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Mock(return_value=())
    monkeypatch.setattr(reproduce, "run_and_record", run)
    main(["reproduce", "bias", "--data", photographs.name, "--out", "out", *options])
    assert run.call_args.args[2] == Path(folder)


def test_interrupted_run_goes_on_though_its_store_was_moved(store: Path, tmp_path: Path) -> None:
    config = tiny(tmp_path / "store")
    (tmp_path / "store").symlink_to(store)
    interrupted(config, tmp_path / "run", 2)
    (tmp_path / "store").rename(tmp_path / "moved")
    wanted = replace(config, data=str(tmp_path / "moved"))
    (tmp_path / job.CONFIG_FILE).write_text(json.dumps(to_dict(wanted)))
    job.work(tmp_path)
    result = job.read(tmp_path)
    assert isinstance(result, RunResult)
    assert len(result.epochs) == config.schedule.epochs
    assert result.origin["device"] == "cpu"
    assert result.origin["precision"] == "float32"
    assert result.origin["code"] == code_version()
    here = records.environment(jobs=1) | {"threads": torch.get_num_threads()}
    assert {key: result.origin[key] for key in here} == here


def test_runs_of_full_scale_are_saved_less_often_and_keep_their_folders(
    photographs: Store, tmp_path: Path
) -> None:
    (claim,) = chosen(["bias"])
    for scale, minutes in (("desk", 1), ("full", 10)):
        settings = replace(settings_for(photographs, tmp_path), scale=scale)
        spec = specs.plan_run(claim, claim.arms[0], 0, settings, {})
        assert spec.config.checkpoint_minutes == minutes
        every_minute = replace(spec.config, checkpoint_minutes=1)
        assert specs.spec_of("", every_minute, settings).folder == spec.folder
    # As it stands in the text whose digest is the name of a folder.
    assert json.dumps(specs.CHECKPOINT_MINUTES) == "1"


def test_images_are_decoded_once_where_all_runs_fit_into_memory(
    photographs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 3 * 112**2 * 60
    (claim,) = chosen(["bias"])
    for jobs, most, device, expected in (
        (2, 2 * size, "cpu", True),
        (2, 2 * size - 1, "cpu", False),
        (1, size, "cpu", True),
        (2, 2 * size, "cuda", True),
        (2, 2 * size - 1, "cuda", False),
        (1, size, "mps", False),
    ):
        for limit in ("MAX_CPU_BYTES", "MAX_CUDA_BYTES"):
            monkeypatch.setattr(resident, limit, most if device in limit.lower() else 0)
        monkeypatch.setattr(specs, "device_type", lambda name, device=device: device)
        settings = replace(settings_for(photographs, tmp_path), jobs=jobs)
        spec = specs.plan_run(claim, claim.arms[0], 0, settings, {})
        assert spec.config.resident == expected
        # The result is the same, so a run that was finished either way is used again.
        other = specs.spec_of("other", replace(spec.config, resident=not expected), settings)
        assert other.folder == spec.folder


def test_run_that_crashes_gives_no_result_and_names_its_log(
    photographs: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (claim,) = chosen(["bias"])
    settings = settings_for(photographs, tmp_path)
    spec = specs.plan_run(claim, claim.arms[0], 0, settings, {})
    monkeypatch.setattr(runner, "run_processes", lambda specs, settings: [(*specs, 90.0)])
    runner.run_all([spec], settings)
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"1/1 {spec.name}: failed, see {spec.folder}/log; 2 min left"
    # The search for a learning rate may not take it for one at which the loss is not finite.
    for result in (runner._outcome, runner._result):
        with pytest.raises(ValueError, match=f"gave no numbers: see {spec.folder}/log"):
            result(spec)


def test_runs_go_on_where_the_reader_of_stdout_has_left(
    photographs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = [specs.RunSpec(str(n), recipes.original(), tmp_path / str(n)) for n in range(3)]
    ended: list[str] = []

    def run_processes(pending: Any, settings: specs.Settings) -> Any:
        for spec in pending:
            ended.append(spec.name)
            yield spec, 1.0

    def run_and_record(claims: Any, settings: specs.Settings, *arguments: Any, strict: bool) -> Any:
        runner.run_all(planned, settings)
        yield "a claim"
        ended.append("all claims")

    monkeypatch.setattr(runner, "run_processes", run_processes)
    monkeypatch.setattr(runner, "_announce", lambda specs, settings, later: None)
    monkeypatch.setattr(reproduce, "run_and_record", run_and_record)
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        main(["reproduce", "--data", photographs.name])
        monkeypatch.undo()
    assert ended == ["0", "1", "2", "all claims"]


def test_folder_of_runs_is_used_by_one_command_at_a_time(
    photographs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another would take a run that is being trained for one that has failed."""
    began = Mock()
    monkeypatch.setattr(reproduce, "run_ahead", began)
    settings = settings_for(photographs, tmp_path / "out")
    texts = run_and_record(chosen(["bias"]), settings, tmp_path / "records", strict=True)
    (tmp_path / "out").mkdir()
    used = "out is already used by process .*; wait for it to finish or choose another --out"
    with (
        locked(tmp_path / "out" / ".lock", "", ""),
        pytest.raises(AlexNetError, match=used),
    ):
        next(texts)
    began.assert_not_called()


def test_records_that_cannot_be_written_are_refused_before_any_run(
    photographs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = Mock()
    monkeypatch.setattr(reproduce, "run_ahead", began)
    settings = settings_for(photographs, tmp_path / "out")
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path / "records")
    with pytest.raises(AlexNetError, match="records/record cannot be written: you may not write"):
        next(run_and_record(chosen(["bias"]), settings, tmp_path / "records", strict=True))
    began.assert_not_called()


@pytest.mark.parametrize("content", ["{", "null", '{"unknown": 1}', "[]"])
def test_damaged_result_of_a_run_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(content)
    (tmp_path / job.CONFIG_FILE).write_text(json.dumps(to_dict(recipes.original())))
    says = r"result\.json is damaged or of another version .*; remove it, and the same command"
    with pytest.raises(RunError, match=says):
        job.read(tmp_path)


def test_reason_for_which_a_run_failed_is_its_last_line(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = specs.RunSpec("a run", tiny(store), tmp_path)
    (tmp_path / job.CONFIG_FILE).write_text(json.dumps(to_dict(spec.config)))
    with run_lock(tmp_path / "run"), pytest.raises(SystemExit, match="2"):
        job.main(tmp_path)
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    (tmp_path / "log").write_text(f"a line before\n{printed}")
    last = f"see {tmp_path}/log ({printed.strip()})"
    with pytest.raises(AlexNetError, match=re.escape(f"a run gave no numbers: {last}")):
        runner._result(spec)
    assert "run is already being trained by process" in last


def test_loss_that_is_not_finite_is_an_outcome_and_no_result(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text('{"failed": "the loss is nan"}')
    spec = specs.RunSpec("a run", recipes.original(), tmp_path)
    assert runner._outcome(spec) == "the loss is nan"
    with pytest.raises(ValueError, match="a run gave no numbers: the loss is nan"):
        runner._result(spec)


def test_claim_without_numbers_costs_no_other_claim_its_record(
    photographs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = RunResult(0.4, 0.4, 0.3, 1, 0.01, (), (), 1)

    def run(claim: Claim, settings: specs.Settings) -> dict[str, list[RunResult]]:
        if claim.id == "bias":
            raise AlexNetError("bias, base, seed 0 gave no numbers: the loss is nan")
        return {arm.name: [result, result] for arm in claim.arms}

    monkeypatch.setattr(reproduce, "run_ahead", lambda claims, settings: None)
    monkeypatch.setattr(reproduce, "run", run)
    settings = settings_for(photographs, tmp_path)
    texts = run_and_record(chosen(["bias", "colour"]), settings, tmp_path / "records", strict=True)
    lines = [next(texts), next(texts)]
    assert any("bias: bias, base, seed 0 gave no numbers: the loss is nan" in s for s in lines)
    with pytest.raises(ValueError, match="1 of the claims have no record; see above"):
        next(texts)
    (record,) = records.read(tmp_path / "records")
    assert record.claim.id == "colour"


def test_run_whose_store_is_lost_ends_though_its_threads_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(job, "work", Mock(side_effect=StoreLost("the store is gone")))
    monkeypatch.setattr(os, "_exit", ended.append)
    job.main(tmp_path)
    assert ended == [2]


@pytest.mark.slow
def test_claims_share_runs_and_reuse_finished_ones(photographs: Store, tmp_path: Path) -> None:
    (colour, crops) = chosen(["colour", "crops"])
    settings = settings_for(photographs, tmp_path, seeds=1)
    first = runner.run(colour, settings)
    folders = set((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    times = {folder: (folder / "result.json").stat().st_mtime_ns for folder in folders}
    second = runner.run(crops, settings)
    assert {run.test_error for run in first["base"]} == {run.test_error for run in second["base"]}
    assert all(
        (folder / "result.json").stat().st_mtime_ns == mtime_ns
        for folder, mtime_ns in times.items()
    )
    assert len(list((tmp_path / "runs").iterdir())) == 3
    losses = {run.epochs[-1]["train_loss"] for run in (*first["base"], *first["no colour noise"])}
    assert len(losses) == 2  # with and without


def test_precision_reaches_every_run_and_its_record(photographs: Store, tmp_path: Path) -> None:
    (claim,) = chosen(["colour"])
    for precision in ("auto", "float32"):
        settings = replace(settings_for(photographs, tmp_path), precision=precision)
        spec = specs.plan_run(claim, claim.arms[0], 0, settings, {})
        assert spec.config.precision == precision
        record = records.new_record(claim, {}, settings)
        assert record["configs"]["base"]["precision"] == precision
        assert ("--precision float32" in record["command"]) == (precision == "float32")
        assert record["code"] == code_version()


def test_command_of_a_record_names_as_many_runs_at_the_same_time(
    photographs: Store, tmp_path: Path
) -> None:
    """They decide how many threads a run has, and so the order of its sums."""
    (claim,) = chosen(["colour"])

    def named(jobs: int, **origin: object) -> list[str]:
        settings = replace(settings_for(photographs, tmp_path), jobs=jobs)
        run = RunResult(0.1, 0.1, 0.1, 1, 0.01, (), (), 1, origin=origin)
        words = records.new_record(claim, {"base": [run]}, settings)["command"].split()
        return words[words.index("--seeds") + 2 :]

    cores = available_cores()
    assert [named(1), named(2)] == [[], ["--jobs", "2"]]
    # Another command has made the runs, here or on a machine of which the cores are not known.
    assert named(1, threads=1) == (["--jobs", str(cores)] if cores > 1 else [])
    assert named(2, threads=3 * cores, machine="another") == ["--jobs", "2"]


RUN_CLAIM = """
import sys
from pathlib import Path
from alexnet.data.store import Store
from alexnet.experiments import runner, specs
from alexnet.experiments.claims import chosen
(claim,) = chosen(["colour"])
store, out = Store(sys.argv[1]), Path(sys.argv[2])
runner.run(claim, specs.Settings(store, "smoke", 2, out, jobs=2))
"""


@pytest.mark.slow
def test_interrupted_claim_continues_with_the_same_results(
    photographs: Store, tmp_path: Path
) -> None:
    (claim,) = chosen(["colour"])
    undisturbed = runner.run(claim, settings_for(photographs, tmp_path / "whole"))
    command = [sys.executable, "-c", RUN_CLAIM, photographs.name, str(tmp_path / "stopped")]

    def begun(runs: int) -> bool:
        return len(list((tmp_path / "stopped").glob("runs/*/run/metrics.jsonl"))) >= runs

    for runs_begun in (1, 3):
        process = subprocess.Popen(command, cwd=ROOT)
        until(partial(begun, runs_begun), f"run {runs_begun} began", process)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        results = list((tmp_path / "stopped").glob("runs/*/result.json"))
        assert len(results) < 4, "nothing was interrupted"
        running = [
            path
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if _command_contains(path, str(tmp_path / "stopped"))
        ]
        assert not running, "a run continued after the program had ended"
    continued = runner.run(claim, settings_for(photographs, tmp_path / "stopped"))
    for arm, expected in undisturbed.items():
        for first, second in zip(expected, continued[arm], strict=True):
            assert first.test_error == second.test_error
            assert first.predictions is not None
            assert second.predictions is not None
            with np.load(first.predictions) as a, np.load(second.predictions) as b:
                assert np.array_equal(a["probabilities"], b["probabilities"])


def _command_contains(path: Path, text: str) -> bool:
    try:
        return text in path.read_text() and int(path.parent.name) != os.getpid()
    except OSError:
        return False


@pytest.fixture(scope="module")
def smoke(
    photographs: Store, like_cifar: Store, tmp_path_factory: pytest.TempPathFactory
) -> dict[Kind, specs.Settings]:
    """Settings by kind of data. The claims on one kind share their runs, as those of a user do."""
    folder = tmp_path_factory.mktemp("smoke")
    small, first = two_stores(folder)
    of = {
        "photographs": settings_for(photographs, folder / "out"),
        "cifar10": settings_for(like_cifar, folder / "out"),
        "tiny-imagenet": settings_for(small, folder / "out"),
        "mini-imagenet": replace(settings_for(small, folder / "out"), first=first),
    }
    return cast("dict[Kind, specs.Settings]", of)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("claim", "kind"),
    [(claim, kind) for claim in CLAIMS if claim.arms for kind in claim.kinds if kind != "imagenet"],
    ids=lambda value: getattr(value, "id", value),
)
def test_every_claim_runs_at_smoke_scale(
    claim: Claim,
    kind: Kind,
    smoke: dict[Kind, specs.Settings],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "imagenet" in kind:
        recognised(kind, NAMES[:50], monkeypatch)
    seeds = 5 if claim.together else 2
    settings = replace(smoke[kind], seeds=seeds)
    (text,) = run_and_record([claim], settings, tmp_path / "records", strict=True)
    (record,) = records.read(tmp_path / "records")
    assert (record.claim.id, record.raw["on"]) == (claim.id, kind)
    # The stores of ten classes have too few for a top-5 error.
    with_top5 = kind == "tiny-imagenet"
    assert len(record.rows) == sum(with_top5 or not effect.top5 for effect in claim.effects)
    for row in record.rows:
        assert row.estimate.n == seeds // row.effect.nets
        assert ", ".join(filter(None, record.verdict(row))) in text
        assert row.repeat == ()
    assert claim.id in document.text([record])
