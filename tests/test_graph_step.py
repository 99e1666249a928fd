"""The step as a CUDA graph against the steps of the loop; without a GPU, its operations one by one,
with the kernels in Triton's interpreter."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alexnet import checkpoint, recipes
from alexnet.config import (
    Architecture,
    Augment,
    Config,
    Conv,
    FullyConnected,
    OpName,
    Parallel,
    Sgd,
    SmoothSchedule,
    StepSchedule,
)
from alexnet.data.augment import sample_augmentation
from alexnet.data.loader import Batch
from alexnet.data.preprocess import Preprocess
from alexnet.data.store import Statistics
from alexnet.device import allow_tf32, dtype_of
from alexnet.distributed import collectives
from alexnet.distributed.mesh import ALONE, Group, Mesh, destroy_mesh, init_mesh
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.train import graph_step
from alexnet.train.sgd import PlateauState, param_hyper, sgd_step, zero_velocity
from alexnet.train.start import fit
from tests.conftest import tiny, tiny_architecture
from tests.ranks import on_ranks

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytest.importorskip("triton", reason="Triton is not installed: pip install triton")

from alexnet.ops import cuda_trial, trial, triton_crop, triton_update  # noqa: E402
from alexnet.train.graph_step import GraphStep, takes  # noqa: E402

BATCH, STORED = 6, 40
INPUT = tiny_architecture().input_px


@pytest.fixture(autouse=True)
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes as long for a program of many values as for one of few."""
    monkeypatch.setattr(triton_update, "BLOCKS", 1)
    monkeypatch.setattr(triton_crop, "VALUES", 4096)


def statistics() -> Statistics:
    mean = np.random.default_rng(0).uniform(90, 150, (STORED, STORED, 3))
    return Statistics(mean.astype(np.float32), 900 * np.eye(3))


def batch(number: int, count: int, mesh: Mesh = ALONE) -> Batch:
    """A rank's part of a batch."""
    rng = np.random.default_rng(number)
    images = torch.from_numpy(rng.integers(0, 256, (count, STORED, STORED, 3), np.uint8))
    labels = torch.from_numpy(rng.integers(0, tiny_architecture().classes or 10, count))
    rows = np.array_split(np.arange(count), mesh.data.size)[mesh.data.index]
    index = rows + BATCH * number
    return Batch(images[rows], labels[rows], index, index, count, 0.0)


def config(architecture: Architecture | None = None, **changes: object) -> Config:
    base = replace(recipes.original(), architecture=architecture or tiny_architecture())
    return replace(base, sgd=replace(base.sgd, batch=BATCH, lr=0.01), augment=Augment(**changes))


def small(*after_conv1: OpName, after_fc2: tuple[OpName, ...]) -> Architecture:
    """A network for what has nothing to do with its size."""
    layers = (
        Conv("conv1", 4, 5, stride=3, std=0.1, then=(*after_conv1, "activation", "max_pool")),
        FullyConnected("fc2", 8, std=0.1, then=("activation", *after_fc2)),
        FullyConnected("fc3", 10, std=0.1),
    )
    return Architecture(layers, input_px=INPUT)


SMALL = small(after_fc2=("dropout",))
NORMALISED = small("batch_norm", after_fc2=("batch_norm", "dropout"))


class Steps(NamedTuple):
    """What some steps have computed: a loss and wrong answers for each, and what they left."""

    losses: list[float]
    num_wrong: list[int]
    # Not tensors: a rank cannot send those, and then end.
    weights: list[NDArray[np.float32]]
    velocity: list[NDArray[np.float32]]
    buffers: list[NDArray[np.float32]]


def by_loop_and_by_graph(
    settings: Config, mesh: Mesh, counts: tuple[int, ...]
) -> tuple[Steps, Steps]:
    """Take steps on batches of so many images, by the operations of the loop and by the graph."""
    dtype = dtype_of(settings.precision)
    preprocess = Preprocess(settings.augment, statistics(), INPUT, DEVICE, dtype)
    nets = [ShardedNetwork(settings.architecture, 0, mesh).to(DEVICE) for _ in range(2)]
    velocities = [zero_velocity(net) for net in nets]
    parameters = dict(nets[0].named_parameters())
    hyper = {name: param_hyper(settings, name, 0, PlateauState()) for name in parameters}
    graph = GraphStep(nets[1], preprocess, velocities[1], settings)
    losses: tuple[list[float], list[float]] = [], []
    num_wrong: tuple[list[int], list[int]] = [], []
    for step, count in enumerate(counts):
        # As for a smooth schedule, the learning rates are others in each step.
        hyper = {name: replace(each, lr=each.lr / (1 + step)) for name, each in hyper.items()}
        graph.set_hyper(hyper)
        images = batch(step, count, mesh)
        drawn = sample_augmentation(
            settings.augment, statistics(), INPUT, 0, 0, images.index, images.position
        )
        loss, wrong = nets[0].loss(
            preprocess(images.images, drawn),
            images.labels.to(DEVICE),
            count,
            dropout_key=(settings.seed, step),
            smoothing=settings.label_smoothing,
        )
        sgd_step(
            loss,
            parameters,
            velocities[0],
            hyper,
            settings.sgd.momentum,
            nets[0].reduce_gradients,
        )
        loss_of_graph, wrong_of_graph = graph(images, drawn, step)
        for i, value in enumerate((loss, loss_of_graph)):
            losses[i].append(float(value.detach()))
        for i, value in enumerate((wrong, wrong_of_graph)):
            num_wrong[i].append(int(value))
    graph.close()
    by_loop, by_graph = (
        Steps(
            losses[i],
            num_wrong[i],
            [weight.detach().cpu().numpy() for weight in nets[i].parameters()],
            [velocities[i][name].cpu().numpy() for name in parameters],
            [buffer.cpu().numpy() for buffer in nets[i].buffers()],
        )
        for i in range(2)
    )
    return by_loop, by_graph


def assert_same_within_rounding(by_graph: Steps, by_loop: Steps) -> None:
    assert by_graph.losses == pytest.approx(by_loop.losses, rel=1e-5)
    assert by_graph.num_wrong == by_loop.num_wrong
    # A few roundings in float32, of the crops and of four updates.
    torch.testing.assert_close(by_graph.weights, by_loop.weights, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(by_graph.velocity, by_loop.velocity, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(by_graph.buffers, by_loop.buffers, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        config(),
        config(zoom=0.5),
        replace(config(NORMALISED), label_smoothing=0.1),
    ],
    ids=["crops", "zoomed", "batch normalization"],
)
def test_steps_of_the_graph_are_those_of_the_loop(settings: Config) -> None:
    # The last batch of an epoch is smaller; the one after it is a full one again.
    counts = (BATCH, BATCH, BATCH - 2, BATCH)
    by_loop, by_graph = by_loop_and_by_graph(settings, ALONE, counts)
    assert_same_within_rounding(by_graph, by_loop)


def test_steps_in_bfloat16_are_those_of_the_loop_within_its_rounding(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The loop casts the weights anew in each step, the graph reads the copies of the update."""
    # A CPU would first measure whether it multiplies in bfloat16.
    monkeypatch.setattr(trial, "_possible", lambda product: (trial.DIRECT,))
    settings = replace(config(SMALL), precision="bfloat16")
    by_loop, by_graph = by_loop_and_by_graph(settings, ALONE, (BATCH, BATCH, BATCH - 2, BATCH))
    assert max(by_loop.losses) > 4 * min(by_loop.losses), "the weights matter"
    assert by_graph.losses == pytest.approx(by_loop.losses, rel=0.25)
    # The interpreter rounds crops and copies towards zero, which moves the gradient of conv1 by an
    # eighth; the others are a hundredth apart.
    for got, want in zip(by_graph[2:4], by_loop[2:4], strict=True):
        for one, other in zip(got, want, strict=True):
            assert np.linalg.norm(one - other) < 0.25 * np.linalg.norm(other)


@pytest.mark.parametrize("zoom", [1.0, 0.5], ids=["crops", "zoomed"])
def test_steps_over_crops_in_blocks_are_those_of_the_loop(
    zoom: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GraphStep, "_conv_in_blocks", lambda self, first: first.layer)
    by_loop, by_graph = by_loop_and_by_graph(config(SMALL, zoom=zoom), ALONE, (BATCH, BATCH - 2))
    assert_same_within_rounding(by_graph, by_loop)


@pytest.mark.parametrize("faster", ["crops in blocks", "crops as pixels"])
def test_crops_are_in_blocks_where_a_trial_finds_that_faster(
    faster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[object, ...]] = []

    def fastest(
        ways: dict[str, cuda_trial.CudaWay], x: torch.Tensor, weight: torch.Tensor, *rest: object
    ) -> cuda_trial.CudaWay:
        if faster not in ways:  # the trial of the convolution itself
            return next(iter(ways.values()))
        given.append(rest)
        results = []
        for way in ways.values():
            y = way(x, weight, *rest)
            assert y.std() > 1, "the pixels differ"
            results.append((y, *torch.autograd.grad(y.square().sum(), [weight])))
        # Sums in float32 of 75 products of up to 250, in another order.
        torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)
        return ways[faster]

    monkeypatch.setattr(cuda_trial, "possible", lambda x: True)
    monkeypatch.setattr(cuda_trial, "fastest", fastest)
    settings = config(SMALL)
    preprocess = Preprocess(settings.augment, statistics(), INPUT, DEVICE)
    net = ShardedNetwork(settings.architecture, 0, ALONE).to(DEVICE)
    step = GraphStep(net, preprocess, zero_velocity(net), settings)
    conv1 = SMALL.layers[0]
    assert isinstance(conv1, Conv)
    # Both are parts of the key under which the choice is kept.
    assert given == [(conv1.stride, conv1.pad)]
    assert step._in_blocks_of == (conv1 if faster == "crops in blocks" else None)


def test_a_first_layer_without_strides_needs_no_trial_of_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cuda_trial, "fastest", None)
    monkeypatch.setattr(cuda_trial, "possible", lambda x: True)
    layers = (replace(SMALL.layers[0], stride=1), *SMALL.layers[1:])
    for architecture in (replace(SMALL, layers=layers), replace(SMALL, layers=SMALL.layers[1:])):
        settings = config(architecture)
        preprocess = Preprocess(settings.augment, statistics(), INPUT, DEVICE)
        net = ShardedNetwork(architecture, 0, ALONE).to(DEVICE)
        step = GraphStep(net, preprocess, zero_velocity(net), settings)
        assert step._in_blocks_of is None


def on_this_rank(settings: Config) -> tuple[Steps, Steps, list[str]]:
    """Take steps on this rank; return, too, the dtypes of what the graph summed over the ranks."""
    triton_update.BLOCKS, triton_crop.VALUES = 1, 4096
    allow_tf32("float32")
    mesh = init_mesh(Parallel())
    sums: list[str] = []

    def counted(x: torch.Tensor, group: Group) -> torch.Tensor:
        sums.append(str(x.dtype))
        return collectives.all_sum(x, group)

    graph_step.all_sum = counted
    # A batch of which the second rank has less, one of which it has nothing, and full ones.
    by_loop, by_graph = by_loop_and_by_graph(settings, mesh, (BATCH, BATCH - 1, 1, BATCH))
    destroy_mesh()
    return by_loop, by_graph, sums


@pytest.mark.slow
def test_ranks_that_share_a_batch_take_the_steps_of_the_loop() -> None:
    """And add all gradients of a step at once, in float32 as the loop does."""
    settings = replace(config(SMALL), label_smoothing=0.1)
    for by_loop, by_graph, sums in on_ranks(2, on_this_rank, settings):
        assert_same_within_rounding(by_graph, by_loop)
        assert sums == 4 * ["torch.float32"]


def test_gradients_in_one_tensor_lie_as_their_weights_at_addresses_that_the_update_reads() -> None:
    weights = [torch.randn(3), torch.randn(2, 3, 5, 5), torch.randn(7, 3)]
    weights[1] = weights[1].contiguous(memory_format=torch.channels_last)
    all_, parts = graph_step._in_one_tensor(weights)
    for part, weight in zip(parts, weights, strict=True):
        part.copy_(weight)
        assert part.stride() == weight.stride()
        assert part.data_ptr() % 16 == 0
    for part, weight in zip(parts, weights, strict=True):
        assert torch.equal(part, weight)
    assert len(all_) == 4 + 152 + 24


def test_steps_before_the_capture_change_nothing() -> None:
    settings = config(NORMALISED)
    preprocess = Preprocess(settings.augment, statistics(), INPUT, DEVICE)
    net = ShardedNetwork(settings.architecture, 0, ALONE).to(DEVICE)
    velocity = zero_velocity(net)
    # Statistics, weights and velocities that no initialization has.
    state = [*net.parameters(), *net.buffers(), *velocity.values()]
    with torch.no_grad():
        for tensor in state:
            tensor.uniform_(0.5, 1.5)
    before = [tensor.detach().clone() for tensor in state]
    GraphStep(net, preprocess, velocity, settings)._warm_up()
    for tensor, value in zip(state, before, strict=True):
        assert torch.equal(tensor, value)


class Replayed:
    """In place of a CUDA graph."""

    replays = 0

    def replay(self) -> None:
        self.replays += 1


def test_graph_is_not_replayed_for_a_smaller_batch_of_which_a_rank_has_as_much() -> None:
    settings = config(SMALL)
    preprocess = Preprocess(settings.augment, statistics(), INPUT, DEVICE)
    net = ShardedNetwork(settings.architecture, 0, ALONE).to(DEVICE)
    step = GraphStep(net, preprocess, zero_velocity(net), settings)
    graph = Replayed()
    step._graph = graph  # type: ignore[assignment]
    step._captured = step._forward_and_gradients(BATCH, BATCH)
    images = batch(0, BATCH)
    drawn = sample_augmentation(
        settings.augment, statistics(), INPUT, 0, 0, images.index, images.position
    )
    step(images, drawn, 0)
    assert graph.replays == 1
    step(replace(images, global_size=BATCH - 1), drawn, 1)
    assert graph.replays == 1
    step.close()
    step(images, drawn, 2)
    assert graph.replays == 1


def test_batch_normalization_is_never_computed_with_copies_in_bfloat16() -> None:
    settings = config(NORMALISED)
    preprocess = Preprocess(settings.augment, statistics(), INPUT, DEVICE, torch.bfloat16)
    net = ShardedNetwork(settings.architecture, 0, ALONE).to(DEVICE)
    step = GraphStep(net, preprocess, zero_velocity(net), settings)
    assert len(step._used) == len(dict(net.named_parameters()))
    for name, used in step._used.items():
        module, role = name.removeprefix("net.").rsplit(".", 1)
        exact = module.endswith("_bn") or (module.startswith("conv") and role == "bias")
        assert used.dtype == (torch.float32 if exact else torch.bfloat16), name
    images = batch(0, BATCH)
    drawn = sample_augmentation(
        settings.augment, statistics(), INPUT, 0, 0, images.index, images.position
    )
    assert float(step(images, drawn, 0)[0]) > 0


def test_which_runs_take_graph_steps() -> None:
    cuda, plain = torch.device("cuda"), replace(tiny(Path("store")), precision="bfloat16")
    two = Group((0, 1), 0)
    data, columns = Mesh(two, data=two), Mesh(two, columns=two)
    assert takes(plain, cuda, ALONE)
    assert takes(plain, cuda, data)
    assert takes(replace(plain, architecture=NORMALISED), cuda, ALONE)
    assert takes(plain, cuda, Mesh(hybrid=True))
    assert not takes(plain, cuda, columns)
    assert not takes(plain, cuda, replace(data, hybrid=True))
    assert not takes(replace(plain, deterministic=True), cuda, data)
    assert not takes(plain, torch.device("cpu"), data)


def by_graph(settings: Config, run: Path) -> None:
    """Train a run by graph steps, on this rank if there are several."""
    graph_step.takes = lambda *arguments: True
    closed = []
    GraphStep.close = lambda self: closed.append(self)  # type: ignore[method-assign]
    fit(settings, run)
    # NCCL waits for the graphs of a rank that leaves the others.
    assert len(closed) == 1
    destroy_mesh()


LATER = {"schedule": SmoothSchedule(2, warmup_epochs=1), "label_smoothing": 0.1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "changes"),
    [
        (1, {"schedule": StepSchedule(epochs=2, drops=(1,))}),
        (1, LATER | {"sgd": Sgd(16, lr=0.01, ema_decay=0.9), "architecture": NORMALISED}),
        (2, LATER | {"sgd": Sgd(16, lr=0.01, ema_decay=0.9)}),
    ],
    ids=["as in the paper", "later inventions", "on two ranks"],
)
def test_a_run_by_graph_steps_is_the_run_of_the_loop(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ranks: int,
    changes: dict[str, object],
) -> None:
    """60 images in batches of 16: the last batch of an epoch is smaller."""
    settings = tiny(store, **changes)
    fit(settings, tmp_path / "plain")
    # Restored afterwards: `by_graph` also runs in other processes.
    monkeypatch.setattr(graph_step, "takes", graph_step.takes)
    monkeypatch.setattr(GraphStep, "close", GraphStep.close)
    if ranks == 1:
        # The kernels write through addresses, into memory of the run's device.
        by_graph(settings, tmp_path / "graph")
    else:
        on_ranks(ranks, by_graph, settings, tmp_path / "graph")
    plain, fast = (checkpoint.read(tmp_path / name) for name in ("plain", "graph"))
    # The weights as they are trained, and their average where there is one.
    for one, other in ((plain.weights, fast.weights), (plain.training, fast.training)):
        assert one.keys() == other.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-5)
