"""The step as a CUDA graph against the steps of the loop; without a GPU, its operations one by one,
with the kernels in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet import recipes
from alexnet.config import Augment, Config, StepSchedule
from alexnet.data.augment import Preprocess, sample_augmentation
from alexnet.data.loader import Batch
from alexnet.data.store import Statistics
from alexnet.distributed.mesh import ALONE
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.train import graph_step
from alexnet.train.loop import fit
from alexnet.train.sgd import PlateauState, param_hyper, sgd_step, zero_velocity
from tests.conftest import tiny, tiny_architecture

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from alexnet.train.graph_step import GraphStep  # noqa: E402

BATCH, STORED = 6, 40
INPUT = tiny_architecture().input_px


def statistics() -> Statistics:
    mean = np.random.default_rng(0).uniform(90, 150, (STORED, STORED, 3))
    return Statistics(mean.astype(np.float32), 900 * np.eye(3))


def batch(number: int, count: int) -> Batch:
    rng = np.random.default_rng(number)
    images = torch.from_numpy(rng.integers(0, 256, (count, STORED, STORED, 3), np.uint8))
    labels = torch.from_numpy(rng.integers(0, tiny_architecture().classes or 10, count))
    index = np.arange(count) + BATCH * number
    return Batch(images, labels, index, index, count, 0.0)


def config(**changes: object) -> Config:
    base = replace(recipes.original(), architecture=tiny_architecture())
    return replace(base, sgd=replace(base.sgd, batch=BATCH, lr=0.01), augment=Augment(**changes))


@pytest.mark.parametrize("augment", [{}, {"zoom": 0.5}], ids=["crops", "zoomed"])
def test_steps_of_the_graph_are_those_of_the_loop(augment: dict[str, object]) -> None:
    settings = config(**augment)
    preprocess = Preprocess(settings.augment, statistics(), INPUT, DEVICE)
    nets = [ShardedNetwork(settings.architecture, 0, ALONE).to(DEVICE) for _ in range(2)]
    velocities = [zero_velocity(net) for net in nets]
    parameters = dict(nets[0].named_parameters())
    hyper = {name: param_hyper(settings, name, 0, PlateauState()) for name in parameters}
    graph = GraphStep(nets[1], preprocess, velocities[1], settings)
    graph.set_hyper(hyper)
    # The last batch of an epoch is smaller; the one after it is a full one again.
    for step, count in enumerate((BATCH, BATCH, BATCH - 2, BATCH)):
        images = batch(step, count)
        drawn = sample_augmentation(
            settings.augment, statistics(), INPUT, 0, 0, images.index, images.position
        )
        loss, wrong = nets[0].loss(
            preprocess(images.images, drawn),
            images.labels.to(DEVICE),
            count,
            dropout_key=(settings.seed, step),
        )
        sgd_step(loss, parameters, velocities[0], hyper, settings.sgd.momentum)
        got_loss, got_wrong = graph(images, drawn, step)
        assert float(got_loss) == pytest.approx(float(loss.detach()), rel=1e-5)
        assert int(got_wrong) == int(wrong)
    for name, weight in nets[1].named_parameters():
        # A few roundings in float32, of the crops and of four updates.
        torch.testing.assert_close(weight, parameters[name], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(velocities[1][name], velocities[0][name], rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_a_run_by_graph_steps_is_the_run_of_the_loop(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tiny(store, schedule=StepSchedule(epochs=2, drops=(1,)))
    plain = fit(settings, tmp_path / "plain")
    monkeypatch.setattr(graph_step, "takes", lambda *arguments: True)
    # The kernels write through addresses, into memory of the run's device.
    fast = fit(settings, tmp_path / "graph")
    assert fast["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-4)
    assert fast["val_loss"] == pytest.approx(plain["val_loss"], rel=1e-4)
