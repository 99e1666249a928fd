"""`which` says whose network a file is; layers have the names that other programs use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet import recipes
from alexnet.architecture import names_of, op_of, plan
from alexnet.card import of_checkpoint
from alexnet.checkpoint import write
from alexnet.cli import main
from alexnet.config import Config
from alexnet.errors import ConfigError, RunError
from alexnet.inference import layer_names
from alexnet.model import Network
from alexnet.weights.facts import facts
from alexnet.weights.files import read
from alexnet.weights.identify import identify
from alexnet.weights.importing import import_weights
from alexnet.weights.protobuf import field
from tests import frameworks
from tests.commands import printed
from tests.weight_files import (
    CLASSES,
    WIDTH,
    caffe_file,
    run_of,
    torchvision_file,
    trained_of,
)


def test_which_names_each_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blobs = frameworks.caffe_blobs(1, WIDTH, CLASSES)
    for pool_first, name in ((False, "caffe_alexnet"), (True, "caffenet")):
        path = caffe_file(tmp_path / f"{name}.caffemodel", blobs, pool_first)
        answer = json.loads(printed(capsys, "which", path, "--json"))
        assert (answer["networks"], answer["classes"]) == ([name], CLASSES)
        order = answer["facts"]["after conv1"]
        want = "ReLU, pool, LRN" if pool_first else "ReLU, LRN, pool"
        assert order == {"value": want, "source": "in the file"}
        assert answer["facts"]["channels"]["value"] == "B, G, R"
        assert "alpha 2e-05 of the sum (0.0001 of the mean)" in answer["facts"]["LRN"]["value"]
    text = printed(capsys, "which", caffe_file(tmp_path / "a.npz", blobs, False))
    assert "one of 2 networks, which the weights do not tell apart" in text
    assert "[the weights do not say: ReLU, LRN, pool or else" in " ".join(text.split())
    torchvision_file(tmp_path / "a.pth")
    text = printed(capsys, "which", tmp_path / "a.pth")
    assert text.startswith(f"{tmp_path / 'a.pth'}: torchvision's alexnet\n")
    assert "divided by a deviation of each channel" in " ".join(text.split())
    np.savez(tmp_path / "slim.npz", **frameworks.slim_variables(2, WIDTH, CLASSES))
    assert "TF-slim's alexnet_v2" in printed(capsys, "which", tmp_path / "slim.npz")


@pytest.mark.parametrize(
    ("recipe", "others"),
    [
        ("paper", {"original", "caffe_alexnet", "caffenet"}),
        ("one_column", {"original_one_column"}),
        ("six_conv", {"original_six_conv"}),
        ("torchvision", set()),
    ],
)
def test_plain_weights_of_ours_can_be_the_nets_of_their_shapes(
    recipe: str, others: set[str], tmp_path: Path
) -> None:
    architecture = replace(getattr(recipes, recipe)().architecture, width=1 / 8, classes=CLASSES)
    torch.save(Network(architecture).state_dict(), tmp_path / "a.pth")
    found = identify(read(tmp_path / "a.pth"))
    assert {one.net.name for one in found.candidates} == {recipe, *others}
    columns = next(fact for fact in facts(found) if fact.what == "columns")
    assert ("column 2" in columns.value) == (architecture.columns == 2)


def test_which_describes_runs_of_ours_and_their_exports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torchvision_file(tmp_path / "a.pth")
    main(["import", str(tmp_path / "a.pth"), str(tmp_path / "run")])
    about = json.loads(printed(capsys, "which", tmp_path / "run", "--json"))
    assert (about["recipe"], about["classes"]) == ("torchvision", CLASSES)
    assert about["imported_from"] == "a.pth, torchvision's alexnet"
    assert "recipe                torchvision" in printed(capsys, "which", tmp_path / "run")
    with pytest.raises(RunError, match="was written by this program: use it as it is"):
        import_weights(tmp_path / "run" / "last.safetensors", tmp_path / "again")


def test_hostile_name_of_an_operation_does_not_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = caffe_file(tmp_path / "a.caffemodel", frameworks.caffe_blobs(1, WIDTH, CLASSES), False)
    file.write_bytes(file.read_bytes() + field(100, field(1, "a") + field(2, "Odd\x1b[2J")))
    output = printed(capsys, "which", file)
    assert "it has Odd?[2J (a)" in output
    assert "\x1b" not in output


@pytest.mark.parametrize(
    "recipe",
    ["paper", "original", "six_conv", "original_six_conv", "caffe_alexnet", "torchvision"],
)
def test_our_own_onnx_files_are_told_apart(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnx")
    from alexnet.export import write_onnx

    write_onnx(trained_of(recipe), tmp_path / "a.onnx")
    answer = json.loads(printed(capsys, "which", tmp_path / "a.onnx", "--json"))
    assert answer["networks"] == [recipe]
    assert "alexnet export, recipe" in printed(capsys, "which", tmp_path / "a.onnx")


@pytest.mark.parametrize(("constant", "value"), [("alpha", 0.001), ("size_px", 3), ("beta", 0.5)])
def test_another_normalization_inside_maps_is_another_network(
    constant: str, value: float, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    from alexnet.export import write_onnx

    def changed(config: Config) -> Config:
        norm = replace(config.architecture.spatial_norm, **{constant: value})
        return replace(config, architecture=replace(config.architecture, spatial_norm=norm))

    write_onnx(trained_of("original", changed), tmp_path / "a.onnx")
    found = identify(read(tmp_path / "a.onnx"))
    assert not found.candidates
    assert "its normalization inside maps has other constants" in found.reason


def test_layers_have_the_names_of_caffe_and_torchvision() -> None:
    ops = plan(recipes.torchvision().architecture)
    for name, ours in (
        ("features.0", "conv1.linear"),
        ("features.1", "conv1"),
        ("features.12", "conv5.max_pool"),
        ("classifier.0", "conv5.dropout"),
        ("classifier.6", "fc8"),
        ("pool5", "conv5.max_pool"),
        ("relu3", "conv3"),
        ("conv3", "conv3"),
        ("conv3.linear", "conv3.linear"),
    ):
        assert op_of(ops, name).name == ours
    assert "features.N" in names_of(ops)
    ops = plan(recipes.paper().architecture)
    assert op_of(ops, "norm1").name == "conv1.lrn"
    # The same position is another operation there.
    with pytest.raises(
        ConfigError, match=r"no layer 'features\.2'; it has .* conv1\.lrn \(norm1\)"
    ):
        op_of(ops, "features.2")
    assert "conv1.lrn (norm1)" in names_of(ops)
    trained = trained_of("paper")
    assert layer_names(trained, "norm1,conv1.lrn,pool5") == ["conv1.lrn", "conv5.max_pool"]
    with pytest.raises(ConfigError, match=r"no layer 'features\.2'; it has "):
        layer_names(trained, "norm1,features.2")


def test_which_counts_parameters_without_running_statistics(tmp_path: Path) -> None:
    base = replace(recipes.one_column().architecture, width=WIDTH, classes=CLASSES)
    layers = tuple(
        replace(one, then=("batch_norm", *one.then)) if one.name == "conv1" else one
        for one in base.layers
    )
    architecture = replace(base, layers=layers)
    saved = run_of(architecture, "one_column", tmp_path / "run")
    statistics = {"conv1_bn.running_mean": torch.zeros(3), "conv1_bn.running_var": torch.ones(3)}
    about = saved.about | {"recipe": "one_column"}
    write(saved.file, dict(saved.weights) | statistics, {}, saved.mean, about)
    want = sum(op.parameters for op in plan(architecture))
    assert of_checkpoint(saved.file)["parameters"] == want
    assert want == sum(value.numel() for value in saved.weights.values())
