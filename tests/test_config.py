"""Configs survive being written to a file; an invalid file is refused naming the field."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet import recipes
from alexnet.architecture import plan
from alexnet.checkpoint import read_config, write_config
from alexnet.config import (
    Architecture,
    BatchNorm,
    Config,
    Conv,
    Dropout,
    FullyConnected,
    Layer,
    LayerLr,
    Lrn,
    Parallel,
    Plateau,
    Pool,
    Sgd,
    SpatialNorm,
    StepSchedule,
    scaled,
)
from alexnet.config_checks import check, without_effect
from alexnet.errors import AlexNetError, ConfigError
from alexnet.model import Network
from alexnet.saved_config import from_dict, to_dict
from tests.conftest import RECIPES


@pytest.mark.parametrize("recipe", RECIPES)
def test_config_survives_a_json_round_trip(recipe: Callable[[], Config]) -> None:
    config = recipe()
    assert from_dict(Config, json.loads(json.dumps(to_dict(config)))) == config
    check(config)


OLD_FORM = {
    "is": "Config",
    "recipe": "old",
    "architecture": {
        "is": "Architecture",
        "layers": [
            {
                "is": "Conv",
                "name": "conv1",
                "kernels": 8,
                "size_px": 3,
                "then": ["unit", "lrn", "spatial", "max_pool"],
            },
            {"is": "Full", "name": "fc2", "units": 10, "then": []},
        ],
        "unit": "tanh",
        "spatial": {"is": "Spatial", "size_px": 3},
    },
    "sgd": {
        "is": "Sgd",
        "rate": 0.5,
        "decay": 0.25,
        "decay_of": [["fc2", 0.125]],
        "bias_rate": 0.75,
        "bias_falls": False,
    },
    "schedule": {
        "is": "Steps",
        "epochs": 9,
        "layer_rates": [{"is": "LayerRate", "layer": "conv1", "epoch": 3, "rate": 0.0625}],
    },
}


def test_files_of_version_0_1_are_read_by_their_old_names() -> None:
    config = from_dict(Config, OLD_FORM)
    conv1, fc2 = config.architecture.layers
    assert conv1.then == ("activation", "lrn", "spatial_norm", "max_pool")
    assert isinstance(fc2, FullyConnected)
    assert config.architecture.activation == "tanh"
    assert config.architecture.spatial_norm.size_px == 3
    sgd = config.sgd
    assert (sgd.lr, sgd.weight_decay, sgd.weight_decay_of) == (0.5, 0.25, (("fc2", 0.125),))
    assert (sgd.bias_lr, sgd.bias_lr_follows) == (0.75, False)
    assert config.schedule == StepSchedule(9, layer_lrs=(LayerLr("conv1", 3, 0.0625),))
    plateau = {"is": "Plateau", "least_gain": 0.5}
    assert from_dict(Config, OLD_FORM | {"schedule": plateau}).schedule == Plateau(min_delta=0.5)
    assert from_dict(Config, to_dict(config)) == config


def with_value(path: str, value: object) -> dict[str, object]:
    data = json.loads(json.dumps(to_dict(recipes.original())))
    *parents, last = path.split(".")
    node = data
    for parent in parents:
        node = node[parent]
    node[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sgd.momentumm", 0.9, "config.sgd has no field 'momentumm'"),
        ("sgd.batch", "many", "config.sgd.batch is 'many'; it must be of type int"),
        ("sgd.batch", True, "config.sgd.batch is True"),
        (
            "precision",
            "float8",
            "config.precision is 'float8'; "
            "it can be 'auto', 'float64', 'float32', 'tf32', 'bfloat16'",
        ),
        ("schedule", 90, "config.schedule must be one of Plateau, StepSchedule"),
        ("schedule", {"is": "Cosine"}, "its `is` says 'Cosine'"),
        ("architecture.layers", 7, "config.architecture.layers is 7; it must be a list"),
        ("schedule.drops", [1, "x"], r"config.schedule.drops\[1\] is 'x'"),
        (
            "augment",
            None,
            "config.augment is None; it must be an object with the fields of Augment",
        ),
        ("schedule", {"is": "StepSchedule"}, "config.schedule lacks the field 'epochs'"),
        ("sgd.weight_decay_of", [["conv1"]], "has 1 entries; it needs 2"),
        ("sgd.lr", float("nan"), "config.sgd.lr is NaN"),
        ("sgd.lr", 10**400, "config.sgd.lr is a number of 1329 bits; that is too large"),
        ("sgd.batch", -(10**4000), "config.sgd.batch is a number of .* bits"),
        ("schedule", {"is": ["StepSchedule"]}, "its `is` says a list"),
        ("recipe", [[]], "config.recipe is a list; it must be of type str"),
        ("precision", {}, "config.precision is an object; it can be"),
    ],
)
def test_invalid_file_is_refused_naming_the_field(path: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_dict(Config, with_value(path, value))


@pytest.mark.parametrize(
    "data", [b"[" * 100_000, b"\xff{}", b"{", b'{"seed": ' + b"9" * 5000 + b"}", b'"\\ud800"', b"3"]
)
def test_damaged_config_file_is_refused_by_its_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(AlexNetError, match=r"config\.json is "):
        read_config(tmp_path)


def test_config_file_that_cannot_work_is_refused_by_its_name(tmp_path: Path) -> None:
    write_config(tmp_path, replace(recipes.paper(), workers=-1))
    with pytest.raises(ConfigError, match=r"config\.json: workers is -1"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"workers": -1}, "workers is -1; it must be at least 0"),
        ({"seed": -1}, "seed is -1"),
        ({"sgd": replace(recipes.paper().sgd, batch=0)}, "sgd.batch is 0"),
        ({"sgd": replace(recipes.paper().sgd, lr=float("nan"))}, "sgd.lr is nan"),
        ({"sgd": replace(recipes.paper().sgd, momentum=1.0)}, "sgd.momentum is 1.0"),
        (
            {"sgd": replace(recipes.paper().sgd, weight_decay_of=(("conv9", 0.1),))},
            "'conv9'; the layers are conv1",
        ),
        (
            {"sgd": replace(recipes.paper().sgd, bias_lr_of=(("conv9", 0.1),))},
            "'conv9'; the layers are conv1",
        ),
        ({"init_layers": ("conv9",)}, "init_layers names 'conv9'; the layers are conv1"),
        ({"schedule": Plateau(patience=0)}, "patience is 0"),
        ({"schedule": Plateau(drops=-1)}, "schedule.drops is -1"),
        ({"schedule": StepSchedule(9, drops=(-1, 5))}, "schedule.drops: an epoch is -1"),
        ({"schedule": StepSchedule(9, drops=(0, 5))}, "an epoch is 0; it must be at least 1"),
        ({"schedule": StepSchedule(90, drops=(60, 30))}, r"schedule.drops is \(60, 30\); each"),
        ({"schedule": StepSchedule(90, drops=(30, 30))}, r"schedule.drops is \(30, 30\); each"),
        (
            {
                "schedule": StepSchedule(
                    90, layer_lrs=(LayerLr("conv1", 60, 1e-5), LayerLr("conv1", 30, 1e-3))
                )
            },
            r"schedule.layer_lrs: the rates of conv1 begin in epochs \[60, 30\]; write",
        ),
        (
            {"schedule": StepSchedule(9, layer_lrs=(LayerLr("conv1", 1, -0.1),))},
            "schedule.layer_lrs: that of conv1 is -0.1",
        ),
        ({"sgd": replace(recipes.paper().sgd, bias_lr=-1.0)}, "sgd.bias_lr is -1.0"),
        (
            {"sgd": replace(recipes.paper().sgd, bias_lr_of=(("conv1", float("nan")),))},
            "sgd.bias_lr_of: that of conv1 is nan",
        ),
        (
            {"architecture": Architecture((FullyConnected("fc.8", 10),))},
            "a layer is called 'fc.8'",
        ),
        (
            {"architecture": Architecture((FullyConnected("velocity", 10),))},
            "a layer is called 'velocity', as a part of a checkpoint; rename it",
        ),
        ({"schedule": StepSchedule(epochs=0)}, "schedule.epochs is 0"),
        # What a run could not read again.
        ({"seed": 2**63}, "seed is 9223372036854775808; it must be at most"),
        ({"data": "caf\udce9"}, "which is not valid UTF-8; rename the folder"),
        ({"init": "caf\udce9"}, "init is .* which is not valid UTF-8"),
        ({"parallel": Parallel(timeout_s=float("inf"))}, "timeout_s is inf; it must be finite"),
        (
            {"architecture": replace(recipes.paper().architecture, width=float("inf"))},
            "architecture.width is inf; it must be finite",
        ),
        ({"schedule": Plateau(min_delta=float("nan"))}, "schedule.min_delta is NaN; it must be a"),
        ({"schedule": StepSchedule(9, until_error=float("nan"))}, "until_error is NaN"),
        ({"schedule": StepSchedule(10**20)}, "schedule.epochs is a number of 67 bits; that is too"),
        ({"architecture": Architecture(()), "snapshots": 1}, "snapshots keeps the filters of the"),
        ({"snapshots": 2**63}, "snapshots is a number of 64 bits; that is too large"),
    ],
)
def test_invalid_values_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(replace(recipes.paper(), **changes))  # type: ignore[arg-type]


def check_network(architecture: Architecture) -> None:
    check(replace(recipes.paper(), architecture=architecture, schedule=StepSchedule(1)))


@pytest.mark.parametrize(
    ("layers", "refuses", "message"),
    [
        (
            (
                FullyConnected("fc1", 8, then=("activation", "spatial_norm")),
                FullyConnected("fc2", 2),
            ),
            plan,
            "fc1: spatial_norm needs maps, and a fully connected layer has units",
        ),
        (
            (FullyConnected("fc1", 8), Conv("conv2", 8, 1), FullyConnected("fc3", 2)),
            plan,
            "conv2 needs maps, and fc1 before it is fully connected",
        ),
        (
            (Conv("norm1", 8, 3, then=("activation", "lrn")), FullyConnected("fc2", 2)),
            plan,
            "norm1 names a layer and an operation of another",
        ),
        (
            (Conv("conv1", 8, 3), FullyConnected("forward", 2)),
            Network,
            "a layer may not be called 'forward'; rename the layer",
        ),
        (
            (Conv("conv1", 8, 3), FullyConnected("fc_bn", 2)),
            check_network,
            "a layer is called 'fc_bn'; a name may not end in _bn",
        ),
    ],
)
def test_layers_that_cannot_be_built_are_refused(
    layers: tuple[Layer, ...], refuses: Callable[[Architecture], object], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        refuses(Architecture(layers, input_px=16, columns=1))


def test_settings_without_effect_are_reported() -> None:
    original = recipes.original()
    for recipe in RECIPES:
        config = recipe()
        assert without_effect(replace(config, init="run" if config.init_layers else "")) == []
    assert without_effect(recipes.fine_tuned()) == [
        "init_layers is set, but without init all layers begin at random weights"
    ]
    follows_not = Sgd(bias_lr=None, bias_lr_of=(("conv1", 0.002),), bias_lr_follows=False)
    assert without_effect(replace(original, sgd=follows_not)) == []
    short = replace(original, schedule=replace(original.schedule, epochs=60))
    assert [s.split(";")[0] for s in without_effect(short)] == [
        "a drop of the learning rate at epoch 79 lies after the last epoch, 60",
        "a learning rate of conv1 at epoch 67 lies after the last epoch, 60",
        "a learning rate of conv1 at epoch 72 lies after the last epoch, 60",
        "the end of the color noise at epoch 67 lies after the last epoch, 60",
    ]
    no_crops = replace(original.augment, crops=False, flips=False, colour="none")
    one_column = replace(recipes.one_column().architecture, links=False)
    sgd = replace(original.sgd, bias_lr=None)
    warnings = " ".join(
        without_effect(replace(original, augment=no_crops, architecture=one_column, sgd=sgd))
    )
    for name in ("augment.chunk", "augment.pca", "sgd.bias_lr_follows", "architecture.links"):
        assert name in warnings


def test_later_settings_without_effect_are_reported() -> None:
    base = recipes.one_column()
    architecture = replace(
        base.architecture, lrn_across_columns=True, batch_norm=BatchNorm(momentum=0.5)
    )
    config = replace(
        base,
        architecture=architecture,
        augment=replace(base.augment, mixup=0.2),
        sgd=replace(base.sgd, batch=1),
    )
    for device in ("cpu", "mps", "cuda"):
        tf32 = without_effect(replace(base, device=device, precision="tf32"))
        expected = f"precision is tf32, but {device} computes in float32"
        assert tf32 == ([] if device == "cuda" else [expected])
    assert [sentence.split(" ")[0] for sentence in without_effect(config)] == [
        "augment.mixup",
        "architecture.batch_norm",
        "architecture.lrn_across_columns",
    ]


@pytest.mark.parametrize(
    ("recipe", "part", "changes", "says"),
    [
        (recipes.cifar_26, "sgd", {"weight_decay": 0.0}, "sgd.weight_decay is set, but"),
        (recipes.modern, "architecture", {"normalise": False}, "architecture.normalise is off"),
        (recipes.torchvision, "architecture", {"lrn": Lrn(n=9)}, "architecture.lrn is set, but"),
        (
            recipes.paper,
            "architecture",
            {"spatial_norm": SpatialNorm(3)},
            "architecture.spatial_norm is set, but no layer has spatial_norm",
        ),
        (
            recipes.cifar_18,
            "architecture",
            {"dropout": Dropout(0.3)},
            "architecture.dropout is set, but no layer has dropout",
        ),
    ],
)
def test_ablation_that_changes_nothing_is_reported(
    recipe: Callable[[], Config], part: str, changes: dict[str, Any], says: str
) -> None:
    config = recipe()
    assert without_effect(config) == []
    changed: Any = {part: replace(getattr(config, part), **changes)}
    (sentence,) = without_effect(replace(config, **changed))
    assert sentence.startswith(says)


def test_one_weight_decay_for_all_layers_is_not_reported() -> None:
    """As claim `relu` has it: what is set is what all layers have."""
    config = recipes.cifar_26()
    none = tuple((layer, 0.0) for layer, _ in config.sgd.weight_decay_of)
    sgd = replace(config.sgd, weight_decay=0.0, weight_decay_of=none)
    assert without_effect(replace(config, sgd=sgd)) == []
    one = replace(config.sgd, weight_decay=0.0, weight_decay_of=config.sgd.weight_decay_of[:1])
    assert without_effect(replace(config, sgd=one)) == []


def test_schedule_is_scaled_in_proportion() -> None:
    half = scaled(StepSchedule(100, (50, 80), colour_until=60), 50)
    assert half == StepSchedule(50, (25, 40), colour_until=30)
    assert scaled(recipes.fine_tuned().schedule, 54) == recipes.fine_tuned().schedule
    assert scaled(recipes.original().schedule, 91) == recipes.original().schedule
    assert scaled(Plateau(epochs=90, patience=6), 45) == Plateau(epochs=45, patience=3)
    for epochs in range(1, 8):
        assert (
            without_effect(
                replace(recipes.original(), schedule=scaled(recipes.original().schedule, epochs))
            )
            == []
        )
    with pytest.raises(ValueError, match="at least 1"):
        scaled(half, 0)


@given(
    drops=st.lists(st.integers(1, 519), max_size=4, unique=True).map(sorted).map(tuple),
    epochs=st.integers(1, 600),
)
def test_every_learning_rate_of_a_shortened_schedule_lasts_an_epoch(
    drops: tuple[int, ...], epochs: int
) -> None:
    ends = (*scaled(StepSchedule(520, drops), epochs).drops, epochs)
    assert len(ends) == min(len(drops) + 1, epochs)
    assert all(before < after for before, after in pairwise((0, *ends)))


def averaging() -> Config:
    """A network without max-pooling."""
    layers = Conv("conv1", 8, 3, then=("avg_pool",)), FullyConnected("fc2", 2)
    return replace(recipes.paper(), architecture=Architecture(layers, input_px=9))


@pytest.mark.parametrize(
    ("recipe", "constant", "message"),
    [
        (recipes.paper, {"pool": Pool(3, 0)}, "pool: size 3 and stride 0 must be at least 1"),
        (recipes.paper, {"pool": Pool(0, 2)}, "pool: size 0 and stride 2 must be at least 1"),
        (averaging, {"pool": Pool(3, 0)}, "pool: size 3 and stride 0 must be at least 1"),
        (recipes.paper, {"lrn": Lrn(n=0)}, "lrn.n is 0; it must be at least 1"),
        (recipes.paper, {"lrn": Lrn(k=0)}, "lrn.k is 0; it must be greater than 0"),
        (recipes.paper, {"lrn": Lrn(alpha=float("nan"))}, "lrn.alpha is nan; it must be at least"),
        (recipes.paper, {"lrn": Lrn(beta=float("inf"))}, "lrn.beta is inf; it must be finite"),
        (recipes.original, {"spatial_norm": SpatialNorm(4)}, "size_px is 4; it must be odd"),
        (recipes.original, {"spatial_norm": SpatialNorm(k=-1)}, "spatial_norm.k is -1; it must be"),
        (recipes.paper, {"dropout": Dropout(1.5)}, "dropout.rate is 1.5; it must be between 0 and"),
        (recipes.paper, {"dropout": Dropout(float("nan"))}, "dropout.rate is nan"),
        (recipes.modern, {"dropout": Dropout(1.0, "inverted")}, "divides by 1 - rate"),
    ],
)
def test_impossible_constant_of_an_operation_is_refused(
    recipe: Callable[[], Config], constant: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(replace(recipe().architecture, **constant))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"std": -1.0}, r"^fc1: std is -1\.0; it must be at least 0 and finite$"),
        ({"std": float("inf")}, "^fc1: std is inf; it must be"),
        ({"bias": float("nan")}, "^fc1: bias is nan; it must be finite$"),
        ({"width": float("nan")}, "^width is nan; it must be greater than 0 and finite$"),
        ({"width": float("inf")}, "^width is inf; it must be"),
        ({"width": 0}, "^width is 0; it must be"),
        ({"input_px": 0}, "^input_px is 0; it must be at least 1$"),
        ({"input_px": -3}, "^input_px is -3; it must be"),
    ],
)
def test_impossible_number_is_refused(change: dict[str, float], message: str) -> None:
    of_layer = {name: value for name, value in change.items() if name in ("std", "bias")}
    of_all = {name: value for name, value in change.items() if name not in of_layer}
    layers = FullyConnected("fc1", 4, **of_layer), FullyConnected("fc2", 2)
    with pytest.raises(ConfigError, match=message):
        plan(Architecture(layers, **({"input_px": 8} | of_all)))  # type: ignore[arg-type]


def test_drops_behind_the_end_stay_behind_it() -> None:
    assert scaled(StepSchedule(40, (25, 51, 79)), 60) == StepSchedule(60, (38,))


def test_two_drops_of_a_shortened_schedule_do_not_coincide() -> None:
    assert scaled(recipes.cifar_11().schedule, 30) == StepSchedule(30, (28, 29))
