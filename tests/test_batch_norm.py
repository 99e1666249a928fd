"""Batch normalization as an operation of the plan."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alexnet import checkpoint, load
from alexnet.architecture import layer_of, plan
from alexnet.config import (
    Architecture,
    BatchNorm,
    Config,
    Conv,
    Dropout,
    FullyConnected,
    Sgd,
    StepSchedule,
)
from alexnet.diagnostics import signal, warning
from alexnet.distributed.mesh import ALONE, Group, Mesh
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.errors import ConfigError, MeshError
from alexnet.export import write_onnx
from alexnet.model import Network
from alexnet.train.sgd import PlateauState, param_hyper, update_average
from alexnet.train.start import fit
from tests.conftest import tiny
from tests.runs import interrupted, same_bits


def architecture(**changes: object) -> Architecture:
    """Every place of batch normalization: before a padded and an unpadded convolution, before a
    pool, before an activation, and before a fully connected layer with maps or dropout between."""
    layers = (
        Conv("conv1", 8, 5, stride=2, std=0.1, then=("activation", "max_pool", "batch_norm")),
        Conv("conv2", 8, 3, pad=(1, 1), std=0.1, then=("activation", "batch_norm")),
        Conv("conv3", 8, 2, std=0.1, then=("batch_norm", "activation")),
        Conv("conv4", 8, 2, std=0.1, then=("activation", "batch_norm")),
        FullyConnected("fc6", 16, std=0.1, then=("activation", "batch_norm", "dropout")),
        FullyConnected("fc7", 16, std=0.1, then=("batch_norm", "activation")),
        FullyConnected("fc8", 10, std=0.1),
    )
    return replace(Architecture(layers, input_px=32, columns=2), **changes)  # type: ignore[arg-type]


def config(store: Path, **changes: object) -> Config:
    base = tiny(store, architecture=architecture(), schedule=StepSchedule(2))
    return replace(base, sgd=Sgd(batch=16, lr=0.01), **changes)  # type: ignore[arg-type]


def trained(architecture: Architecture) -> Network:
    """A network whose statistics and gains are those of no initialization."""
    net = Network(architecture, 0)
    for name, tensor in checkpoint.state_of(net).items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif layer_of(name) != name.rpartition(".")[0]:
            tensor.normal_()
    return net


def test_plan_has_its_parameters_and_statistics() -> None:
    ops = {op.name: op for op in plan(architecture())}
    norm = ops["conv1.batch_norm"]
    assert (norm.module, norm.parameters, norm.statistics, norm.multiply_adds) == (
        "conv1_bn",
        16,
        16,
        0,
    )
    net = Network(architecture())
    sizes = sum(tensor.numel() for tensor in checkpoint.state_of(net).values())
    assert sizes == sum(op.parameters + op.statistics for op in ops.values())
    again = replace(architecture(), without=("conv2",))
    assert "conv1_bn_again" in {op.module for op in plan(again)}
    assert layer_of("conv1_bn_again.weight") == layer_of("conv1.bias") == "conv1"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_training_normalises_by_the_batch_and_keeps_its_statistics(dtype: torch.dtype) -> None:
    """As PyTorch's own module does, in every precision."""
    net = Network(architecture())
    norm, other = net.get_submodule("conv1_bn"), torch.nn.BatchNorm2d(8)
    if dtype == torch.float64:
        norm, other = norm.double(), other.double()
    x = torch.randn(5, 8, 6, 6, dtype=dtype)
    torch.testing.assert_close(norm(x), other(x))
    assert norm.running_var.equal(other.running_var)
    norm.eval(), other.eval()
    torch.testing.assert_close(norm(x), other(x))
    with torch.no_grad():
        y = norm.train()(x.double() if dtype == torch.float64 else x.float())
    torch.testing.assert_close(
        y.mean((0, 2, 3)), torch.zeros_like(y[0, :, 0, 0]), atol=1e-5, rtol=0
    )


def test_units_of_a_single_image_are_normalised_by_the_running_statistics() -> None:
    """The last batch of an epoch may have one image, whose units have no variance."""
    net = trained(architecture())
    norm, x = net.get_submodule("fc6_bn"), torch.randn(1, 16)
    before = norm.running_mean.clone()
    alone = norm(x)
    torch.testing.assert_close(alone, norm.eval()(x))
    assert norm.running_mean.equal(before)


def test_run_with_batch_norm_is_resumed_bit_for_bit_with_its_statistics(
    store: Path, tmp_path: Path
) -> None:
    averaged = config(store)
    averaged = replace(averaged, sgd=replace(averaged.sgd, ema_decay=0.75))
    metrics = fit(averaged, tmp_path / "whole")
    interrupted(averaged, tmp_path / "parts", 6)
    assert same_bits(tmp_path / "whole", tmp_path / "parts")
    saved = checkpoint.read(tmp_path / "whole")
    assert saved.weights["conv1_bn.running_mean"].abs().min() > 0
    net = load(tmp_path / "whole", device="cpu").net
    assert net.conv1_bn.running_var.equal(saved.weights["conv1_bn.running_var"])
    assert metrics["val_loss"] < 2.5
    training, average = saved.training, saved.weights
    assert not training["conv1_bn.running_mean"].equal(average["conv1_bn.running_mean"])


def test_statistics_are_averaged_with_the_weights() -> None:
    net, average = trained(architecture()), Network(architecture())
    update_average(average, net, 0.5, 10**9)
    want = (1 + net.conv1_bn.running_var) / 2
    torch.testing.assert_close(average.conv1_bn.running_var, want)


def test_gains_learn_like_biases_and_decay_only_if_biases_do() -> None:
    base = config(Path("store"))
    decays = [
        param_hyper(replace(base, sgd=Sgd(bias_decay=bias_decay)), name, 0, PlateauState())
        for bias_decay in (True, False)
        for name in ("conv1.weight", "conv1_bn.weight", "conv1_bn.bias")
    ]
    assert [hyper.weight_decay for hyper in decays] == [5e-4] * 4 + [0, 0]
    frozen = replace(base, sgd=Sgd(weight_decay_of=(("conv1", 0.25),)))
    assert param_hyper(frozen, "conv1_bn.weight", 0, PlateauState()).weight_decay == 0.25


def test_a_run_starts_from_layers_with_their_batch_norm(store: Path, tmp_path: Path) -> None:
    fit(config(store), tmp_path / "first")
    frozen = config(store, init=str(tmp_path / "first"), init_layers=("conv1",))
    fit(replace(frozen, sgd=Sgd(16, lr=0), schedule=StepSchedule(1)), tmp_path / "second")
    first, second = (checkpoint.read(tmp_path / name).weights for name in ("first", "second"))
    same = {name for name in first if first[name].equal(second[name])}
    assert {"conv1.weight", "conv1_bn.weight"} <= same
    assert "conv2_bn.bias" not in same


def before_the_last_dropout() -> Architecture:
    """Directly behind a layer, and before the dropout, whose factor comes after it."""
    *layers, hidden, last = architecture().layers
    return architecture(layers=(*layers, replace(hidden, then=("batch_norm", "dropout")), last))


@pytest.mark.parametrize("dropout", [Dropout(form="2012"), Dropout(form="inverted")])
@pytest.mark.parametrize(
    "settings",
    [architecture(), architecture(links=False), before_the_last_dropout()],
    ids=["links", "no links", "before a dropout"],
)
def test_exported_network_has_it_folded_where_that_is_exact(
    run: Path, tmp_path: Path, settings: Architecture, dropout: Dropout
) -> None:
    """`write_onnx` compares the probabilities of both. Before the padded conv2 it stays."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    member = replace(load(run), net=trained(replace(settings, dropout=dropout)).eval())
    write_onnx(member, tmp_path / "net.onnx")
    names = [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert names.count("BatchNormalization") == 1


def test_several_ranks_refuse_it() -> None:
    ranks = Mesh(world=Group((0, 1), 0))
    with pytest.raises(MeshError, match=r"^conv1\.batch_norm needs the statistics of the whole ba"):
        ShardedNetwork(architecture(), 0, ranks)
    ShardedNetwork(architecture(), 0, ALONE)


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (BatchNorm(epsilon=0), r"^batch_norm\.epsilon is 0; it must be greater than 0$"),
        (BatchNorm(epsilon=float("nan")), r"^batch_norm\.epsilon is nan"),
        (BatchNorm(momentum=0), r"^batch_norm\.momentum is 0; it must be greater than 0 and at"),
        (BatchNorm(momentum=1.5), r"^batch_norm\.momentum is 1\.5"),
    ],
)
def test_impossible_constants_are_refused(norm: BatchNorm, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(architecture(batch_norm=norm))


def test_signal_is_measured_with_the_statistics_of_its_images() -> None:
    """Small weights beside biases of 1 hide the images from the initial statistics."""
    layers = tuple(replace(layer, std=0.003, bias=1.0) for layer in architecture().layers)
    images = torch.randn(8, 3, 32, 32)
    nets = [
        Network(architecture(layers=of)).train()
        for of in (
            layers,
            tuple(
                replace(layer, then=tuple(op for op in layer.then if op != "batch_norm"))
                for layer in layers
            ),
        )
    ]
    before = nets[0].conv1_bn.running_mean.clone()
    sees, blind = (
        warning(signal(net, images, batch_statistics=True), net.architecture) for net in nets
    )
    assert sees is None
    assert blind is not None
    assert nets[0].conv1_bn.running_mean.equal(before)
    assert all(module.training for module in nets[0].modules())
