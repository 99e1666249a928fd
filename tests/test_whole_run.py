"""Whole runs on every device of this machine: trained, stopped, resumed, tested and used.

`python -m benchmarks.gpu OUT correctness` runs them on a card.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from alexnet.config import Config, Sgd, SmoothSchedule
from alexnet.data import shapes
from alexnet.evaluation import evaluate
from alexnet.inference import predict
from alexnet.train import loop
from alexnet.train.endings import Interrupted
from alexnet.train.start import fit, resume
from alexnet.trained import load
from tests.conftest import tiny

HAS_GPU = torch.cuda.is_available()
EPOCHS, STEPS = 3, 4  # in an epoch; its last batch is smaller than the others
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not HAS_GPU, reason="needs a CUDA GPU")),
]


def settings(store: Path, device: str) -> Config:
    """Rates that change in each step, an average of the weights, and the device's own precision."""
    return tiny(
        store,
        device=device,
        schedule=SmoothSchedule(EPOCHS, warmup_epochs=1),
        sgd=Sgd(16, lr=0.01, ema_decay=0.9),
    )


def stop_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let a training get SIGTERM in a step, which is counted from 0."""
    update_average = loop.update_average

    # Not `sgd_step`, which a step that is a CUDA graph does not call.
    def stopping(*arguments: object) -> None:
        update_average(*arguments)  # type: ignore[arg-type]
        if arguments[-1] == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(loop, "update_average", stopping)


@pytest.mark.parametrize("device", DEVICES)
def test_run_is_trained_stopped_resumed_and_used(
    device: str,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, config = tmp_path / "run", settings(store, device)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        stop_after(patch, STEPS + 1)
        fit(config, run)
    metrics = resume(run)
    assert metrics["epoch"] == EPOCHS

    # Images that lie on the device give the same batches. On a card sums may differ in their order.
    of_resident = fit(replace(config, resident=True), tmp_path / "resident")
    assert "warning: resident" not in capsys.readouterr().err
    assert of_resident["train_loss"] == pytest.approx(metrics["train_loss"], rel=0.1)

    centre, *_ = evaluate(run, store, device=device)
    assert centre.top1_error == pytest.approx(metrics["val_error"], abs=0.1)
    assert centre.loss == pytest.approx(metrics["val_loss"], rel=0.1)

    file = tmp_path / "image.png"
    Image.fromarray(shapes.image(0, 0)).save(file)
    (prediction,) = predict(load(run, device=device), file, most=10)
    assert prediction.error is None
    assert sum(p for _, p in prediction.classes) == pytest.approx(1, abs=0.01)


# On a CPU it takes a third of a minute.
@pytest.mark.parametrize("jobs", [pytest.param(2, marks=[] if HAS_GPU else [pytest.mark.slow])])
def test_claim_runs_on_the_device_of_this_machine(
    jobs: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Two runs at the same time, as `make claims-gpu` takes four."""
    for package in ("tyro", "scipy"):
        pytest.importorskip(package)
    # Imported here: a GPU machine may lack both.
    from alexnet.cli import main
    from alexnet.experiments import records

    store, out = request.getfixturevalue("like_cifar"), tmp_path / "out"
    options = ["--scale", "smoke", "--seeds", "1", "--jobs", str(jobs), "--out", str(out)]
    try:
        main(["reproduce", "crops", "--data", store.name, *options, "--records", f"{tmp_path}/r"])
    finally:
        # Of a job that fails the command names only the log.
        for log in out.glob("runs/*/log"):
            print(log, log.read_text(), sep="\n")
    (record,) = records.read(tmp_path / "r")
    assert record.claim.id == "crops"
    results = [json.loads(file.read_text()) for file in out.glob("runs/*/result.json")]
    assert len(results) == 2
    for result in results:
        assert result["origin"]["device"] == ("cuda" if HAS_GPU else "cpu")
