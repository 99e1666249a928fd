"""Extra metrics of the runs of a claim, and measures of filters."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet.data.store import Store
from alexnet.diagnostics import colourfulness, orientedness
from alexnet.experiments import extra, runner
from alexnet.experiments.claims import chosen
from alexnet.experiments.extra import alike, over_masks
from alexnet.experiments.measures import RunResult
from alexnet.model import Network
from alexnet.trained import Trained, load
from tests.claim_stores import settings_for
from tests.conftest import tiny_architecture


def test_extra_metrics_are_fractions_and_reproducible(run: Path, store: Path) -> None:
    for measure, names in (
        (over_masks, {"masked_error", "halved_error"}),
        (alike, {"same_class_by_hidden", "same_class_by_pixels"}),
    ):
        values = measure(run, store)
        assert set(values) == names
        assert all(0 <= value <= 1 for value in values.values())
        assert measure(run, store) == values
    error = over_masks(run, store)["halved_error"]
    metrics = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert error == pytest.approx(metrics["val_error"])


def test_nearest_images_of_a_network_in_bfloat16_are_found_in_float32(
    run: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.dtype] = []

    def in_bfloat16(run: Path) -> Trained:
        trained = load(run)
        trained.preprocess.dtype = torch.bfloat16
        return trained

    def recorded(queries: torch.Tensor, rows: list[torch.Tensor]) -> torch.Tensor:
        asked.extend(tensor.dtype for tensor in (queries, *rows))
        return torch.zeros(len(queries), 6, dtype=torch.int64)

    monkeypatch.setattr(extra, "load", in_bfloat16)
    monkeypatch.setattr(extra, "nearest", recorded)
    alike(run, store)
    assert asked == 4 * [torch.float32]


def test_colourfulness_is_the_fraction_that_is_not_grey() -> None:
    net = Network(replace(tiny_architecture(), classes=10))
    weight = net.get_parameter("conv1.weight")
    with torch.no_grad():
        weight[:4] = weight[:4].mean(1, keepdim=True)  # grey
        weight[4:] -= weight[4:].mean(1, keepdim=True)  # without grey
    first, second = colourfulness(net)
    np.testing.assert_allclose(first, 0, atol=1e-12)
    np.testing.assert_allclose(second, 1, atol=1e-6)  # float32 means


def test_orientedness_is_one_for_a_grating_and_small_for_a_blob() -> None:
    net = Network(replace(tiny_architecture(), classes=10))
    weight = net.get_parameter("conv1.weight")  # (8, 3, 5, 5)
    y, x = torch.meshgrid(torch.arange(5.0) - 2, torch.arange(5.0) - 2, indexing="ij")
    with torch.no_grad():
        weight[:4] = torch.sin(0.6 * x + 0.8 * y)
        weight[4:] = torch.exp(-(x**2 + y**2) / 2)
    gratings, blobs = orientedness(net)
    assert min(gratings) > 0.9
    assert max(blobs) < 1e-6


def test_every_five_seeds_form_an_ensemble_and_the_rest_none() -> None:
    runs = [RunResult(n / 100, 0.5, 0.5, 1, 0.01, (), (), 1, {"other": n}) for n in range(12)]

    def mean_error(members: Sequence[RunResult]) -> dict[str, float]:
        return {"ensemble_error": float(np.mean([run.test_error for run in members]))}

    measured = runner._with_ensembles(mean_error, runs)
    errors = [run.extra_metrics.get("ensemble_error") for run in measured]
    assert errors == pytest.approx([0.02] * 5 + [0.07] * 5 + [None] * 2)
    assert [run.extra_metrics["other"] for run in measured] == list(range(12))
    (effect, _) = chosen(["ensemble"])[0].effects
    assert effect.values({"base": measured}) == pytest.approx([0, 0])
    assert effect.values({"base": measured[:4]}) == []


def test_ensemble_metrics_are_assigned_to_each_member_run(
    photographs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (claim,) = chosen(["ensemble"])
    labels = np.arange(4) % 2
    right, wrong = np.eye(2, dtype=np.float32)[labels], np.eye(2, dtype=np.float32)[1 - labels]
    # Each of the five nets errs on one of the four images.
    nets = []
    for net, rows in enumerate(np.arange(4)[:, None] != np.arange(5)[:, None, None] % 4):
        path = tmp_path / f"{net}.npz"
        np.savez(path, probabilities=np.where(rows, right, wrong), labels=labels)
        nets.append(RunResult(0.25, 0.25, 0.2, 1, 0.01, (), (), 1, predictions=path))
    monkeypatch.setattr(runner, "run_all", lambda specs, settings, later=(): None)
    monkeypatch.setattr(runner, "_outcome", lambda spec: nets[spec.config.seed])
    results = runner.run(claim, settings_for(photographs, tmp_path, seeds=5))
    assert {run.extra_metrics["ensemble_error"] for run in results["base"]} == {0.0}
    assert claim.effects[0].values(results) == pytest.approx([25])
