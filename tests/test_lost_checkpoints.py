"""What a run keeps when its checkpoint is missing or cannot be used, and when it is stopped."""

from __future__ import annotations

import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet import checkpoint
from alexnet.checkpoint import read_config, write_config
from alexnet.cli import main
from alexnet.config import StepSchedule
from alexnet.data.storage import StoreLost
from alexnet.errors import RunError
from alexnet.train import loop
from alexnet.train.endings import Interrupted, NotFinite
from alexnet.train.run_log import read_metrics
from alexnet.train.start import fit, resume
from tests.conftest import tiny
from tests.runs import stopped_after


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_run_that_has_lost_its_checkpoint_is_not_begun_again(copied_run: Path) -> None:
    """Its best weights and its log would be overwritten."""
    (copied_run / "last.safetensors").rename(copied_run / "aside")
    before = contents(copied_run)
    new = f"begin a new run with the same settings: alexnet train {copied_run}/config.json --out "
    with pytest.raises(RunError, match=rf"last\.safetensors is missing.*{new}NEW_RUN$"):
        resume(copied_run, epochs=4)
    assert contents(copied_run) == before


def test_run_killed_between_its_first_line_and_its_first_checkpoint_begins_again(
    store: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    fit(tiny(store, schedule=StepSchedule(1)), run)
    weights = checkpoint.read(run).about["sha256"]
    (run / "last.safetensors").unlink()
    resume(run)
    assert checkpoint.read(run).about["sha256"] == weights
    assert len(read_metrics(run, "epoch")) == 1


def test_diverged_checkpoint_keeps_what_the_run_has_learned(
    copied_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = checkpoint.read(copied_run)
    huge = {name: torch.full_like(weight, 1e30) for name, weight in saved.weights.items()}
    checkpoint.write(copied_run / "last.safetensors", huge, saved.velocity, saved.mean, saved.about)
    with pytest.raises(NotFinite) as raised:
        resume(copied_run, epochs=4)
    _, found, command = str(raised.value).partition(
        "last.safetensors has diverged too; begin a new run with: alexnet "
    )
    assert found
    before = contents(copied_run)
    # The command works as it was printed.
    new = copied_run.parent / "new"
    main(command.replace("NEW_RUN", str(new)).split())
    assert read_metrics(new, "epoch")[0]["lr"] == pytest.approx(0.0001)
    assert contents(copied_run) == before


def test_best_weights_in_the_place_of_the_last_begin_a_new_run(copied_run: Path) -> None:
    shutil.copy(copied_run / "best.safetensors", copied_run / "last.safetensors")
    with pytest.raises(RunError, match="velocities do not fit its weights; begin a new") as raised:
        resume(copied_run, epochs=4)
    new = copied_run.parent / "new"
    words = str(raised.value).rpartition("with: alexnet ")[2].replace("NEW_RUN", str(new)).split()
    main(words)
    assert checkpoint.read(new).about["init"]["run"] == str(copied_run / "last.safetensors")


def test_store_of_other_classes_is_refused_before_the_first_checkpoint(
    store: Path, tmp_path: Path
) -> None:
    """Nothing else tells it then from the store that the run began with."""
    run = tmp_path / "run"
    run.mkdir()
    config = tiny(store)
    write_config(run, replace(config, architecture=replace(config.architecture, classes=12)))
    before = contents(run)
    with pytest.raises(RunError, match=r"architecture\.classes is 12 and .* has 10 classes"):
        resume(run)
    assert contents(run) == before


def test_stop_during_a_validation_trains_no_further_step(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also during the last one: what would follow it, such as a test, does not begin."""
    run, real = tmp_path / "run", loop._validate

    def validate(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "_validate", validate)
    for epoch in (1, 2):
        with pytest.raises(Interrupted):
            resume(run) if run.exists() else fit(tiny(store, schedule=StepSchedule(2)), run)
        about = checkpoint.read(run).about
        assert (about["position"]["epoch"], about["position"]["batch"]) == (epoch, 0)
        assert about["evaluation"]["val_error"] >= 0
    assert resume(run) == {}


def test_resumed_run_without_a_new_step_leaves_its_checkpoint(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another would lack the error that was measured."""
    run = tmp_path / "run"
    fit(tiny(store, schedule=StepSchedule(1)), run)
    write_config(run, replace(read_config(run), schedule=StepSchedule(3)))
    before = (run / "last.safetensors").read_bytes()
    real = loop._forward

    def lost(*arguments: object) -> object:
        raise StoreLost("the store is gone")

    monkeypatch.setattr(loop, "_forward", lost)
    for _ in range(2):
        with pytest.raises(StoreLost):
            resume(run)
    assert (run / "last.safetensors").read_bytes() == before
    # After a step it is saved.
    monkeypatch.setattr(loop, "_forward", real)
    with stopped_after(1):
        resume(run)
    monkeypatch.setattr(loop, "_forward", lambda *of: lost() if of[-1].step > 5 else real(*of))  # type: ignore[attr-defined, arg-type]
    with pytest.raises(StoreLost):
        resume(run)
    assert checkpoint.read(run).about["position"]["step"] == 6
