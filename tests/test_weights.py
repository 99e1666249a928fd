"""Weights of other programs: read, named, imported and exported.

Each conversion is compared with the other program's own network, written out in `frameworks.py`,
at every layer and from the bytes of an image on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet import load
from alexnet.architecture import plan
from alexnet.checkpoint import read as read_checkpoint
from alexnet.cli import main
from alexnet.cli.train import parse_train
from alexnet.data.image import encode
from alexnet.distributed.mesh import Group, Mesh
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.errors import MeshError, RunError
from alexnet.model import Network
from alexnet.weights.exporting import write_layout
from alexnet.weights.files import read
from alexnet.weights.identify import identify
from alexnet.weights.importing import import_weights
from alexnet.weights.layouts import (
    dense_filters,
    grouped,
    split,
    to_caffe,
    with_channels_reversed,
)
from tests import frameworks, reference
from tests.test_documentation import ROOT, documented_commands
from tests.weight_files import (
    CLASSES,
    IMAGES,
    MEAN_IMAGE,
    WIDTH,
    assert_same,
    caffe_architecture,
    caffe_file,
    torchvision_file,
)


def data_parallel(state: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint of PyTorch's ImageNet example, which wraps the convolutions."""
    renamed = {name.replace("features.", "features.module."): t for name, t in state.items()}
    return {"epoch": 90, "arch": "alexnet", "state_dict": renamed}


@pytest.mark.parametrize(
    ("name", "wrap"),
    [("a.pt", data_parallel), ("a.safetensors", dict)],
    ids=["data parallel", "safetensors"],
)
def test_torchvisions_net_gives_its_values_in_every_layer(
    name: str, wrap: Callable[[Any], Any], tmp_path: Path
) -> None:
    state = torchvision_file(tmp_path / name, wrap)
    import_weights(tmp_path / name, tmp_path / "run")
    net = frameworks.torchvision_alexnet(WIDTH, CLASSES)
    net.load_state_dict(state)
    want, x = {}, frameworks.torchvision_input(IMAGES)
    with torch.no_grad():
        for part in ("features", "classifier"):
            x = x.flatten(1) if part == "classifier" else x
            for i, module in enumerate(net.get_submodule(part)):  # type: ignore[arg-type]
                x = module(x)
                want[f"{part}.{i}"] = x
    assert_same(load(tmp_path / "run", device="cpu"), want)


@pytest.mark.parametrize(
    "wrapper", ["_orig_mod.", "module._orig_mod.", "model.", "_orig_mod.net.backbone."]
)
def test_names_of_modules_around_a_network_are_taken_off(wrapper: str, tmp_path: Path) -> None:
    """As torch.compile, DistributedDataParallel and Lightning write the names of parameters."""
    state = torchvision_file(tmp_path / "a.pth")
    torch.save({wrapper + name: t for name, t in state.items()}, tmp_path / "b.pth")
    plain, wrapped = (identify(read(tmp_path / name)).chosen() for name in ("a.pth", "b.pth"))
    assert wrapped.net.name == "torchvision"
    assert {*wrapped.arrays} == {*plain.arrays}
    for name, array in plain.arrays.items():
        np.testing.assert_array_equal(wrapped.arrays[name], array)


def test_order_of_the_arrays_in_a_file_does_not_matter(tmp_path: Path) -> None:
    state = torchvision_file(tmp_path / "a.pth")
    np.savez(tmp_path / "a.npz", **{name: state[name].numpy() for name in reversed(state)})
    chosen = identify(read(tmp_path / "a.npz")).chosen()
    assert (chosen.net.name, chosen.config.architecture.classes) == ("torchvision", CLASSES)


def test_slims_net_gives_its_values_in_every_layer(tmp_path: Path) -> None:
    variables = frameworks.slim_variables(2, WIDTH, CLASSES)
    np.savez(tmp_path / "slim.npz", **variables)
    import_weights(tmp_path / "slim.npz", tmp_path / "run")
    rgb = IMAGES[:, 16:240, 16:240].transpose(0, 3, 1, 2) - np.array(
        [123.68, 116.78, 103.94]
    ).reshape(3, 1, 1)
    assert_same(load(tmp_path / "run", device="cpu"), frameworks.slim_forward(variables, rgb))


def test_layouts_come_back_as_they_were(tmp_path: Path) -> None:
    blobs = frameworks.caffe_blobs(7, WIDTH, CLASSES)
    np.savez(tmp_path / "net.npz", **blobs, data_mean=MEAN_IMAGE)
    import_weights(tmp_path / "net.npz", tmp_path / "run", "caffenet")
    saved = read_checkpoint(tmp_path / "run")
    write_layout(saved, tmp_path / "back.npz", "caffe")
    with np.load(tmp_path / "back.npz") as back:
        assert {*back} == {*blobs, "data_mean"}
        for name, blob in {**blobs, "data_mean": MEAN_IMAGE}.items():
            np.testing.assert_array_equal(back[name], blob)
    write_layout(saved, tmp_path / "back.caffemodel", "caffe")
    found = read(tmp_path / "back.caffemodel")
    for name, blob in blobs.items():
        np.testing.assert_array_equal(found.arrays[name], blob)
    assert identify(found).chosen().net.name == "caffenet"

    state = torchvision_file(tmp_path / "a.pth")
    import_weights(tmp_path / "a.pth", tmp_path / "other")
    saved = read_checkpoint(tmp_path / "other")
    for name in ("back.pth", "back.safetensors", "torchvision.npz"):
        write_layout(saved, tmp_path / name, "torchvision")
    loaded = torch.load(tmp_path / "back.pth", weights_only=True)
    assert list(loaded) == list(state)
    for name, tensor in state.items():
        assert torch.equal(loaded[name], tensor)
    assert identify(read(tmp_path / "back.safetensors")).chosen().net.name == "torchvision"
    for layout, run in (("caffe", "other"), ("torchvision", "run")):
        with pytest.raises(RunError, match=r"is another network .* would give other answers"):
            write_layout(
                read_checkpoint(tmp_path / run),
                tmp_path / ("x.npz" if layout == "caffe" else "x.pth"),
                layout,  # type: ignore[arg-type]
            )


@pytest.mark.parametrize("name", ["x.npz", "x.caffemodel"])
def test_run_that_divides_each_channel_has_no_form_in_caffes_layout(
    name: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "net.npz", **frameworks.caffe_blobs(7, WIDTH, CLASSES))
    about = import_weights(tmp_path / "net.npz", tmp_path / "run", "caffenet")
    about["config"]["augment"]["mean"] = "channel"
    saved = replace(read_checkpoint(tmp_path / "run"), about=about)
    with pytest.raises(RunError, match=r"divides each channel by a deviation .* export it as ONNX"):
        write_layout(saved, tmp_path / name, "caffe")


def test_grouped_kernels_equal_two_layers_and_one_with_zeros() -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.standard_normal((12, 4, 3, 3)), rng.standard_normal(12)
    x = rng.standard_normal((2, 8, 9, 9))
    want = frameworks.conv(x, weight, bias, 1, 1, group=2)
    full = dense_filters(weight, 2)
    assert full.shape == (12, 8, 3, 3)
    np.testing.assert_allclose(frameworks.conv(x, full, bias, 1, 1), want, atol=1e-12)
    parts = [
        frameworks.conv(half, w, b, 1, 1)
        for half, (w, b) in zip(np.split(x, 2, 1), split(weight, bias, 2), strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate(parts, 1), want)
    back = grouped(full, 2)
    assert back is not None
    np.testing.assert_array_equal(back, weight)
    full[0, 7, 1, 1] = 1e-9
    assert grouped(full, 2) is None


def test_columns_are_named_by_letters_as_long_as_there_are_some() -> None:
    def of_columns(count: int) -> dict[str, Any]:
        return {
            "conv1.weight": np.zeros((2 * count, 3, 1, 1), np.float32),
            "conv1.bias": np.zeros(2 * count, np.float32),
            "conv2.weight": np.zeros((count, 2, 1, 1), np.float32),
            "conv2.bias": np.zeros(count, np.float32),
        }

    assert {"conv2a/0", "conv2i/1"} <= set(to_caffe(of_columns(9), "split", 9))
    with pytest.raises(RunError, match="conv2 has 27 columns, and there are letters for 26"):
        to_caffe(of_columns(27), "split", 27)


def test_a_dense_file_with_zeros_is_the_grouped_net(tmp_path: Path) -> None:
    blobs = frameworks.caffe_blobs(1, WIDTH, CLASSES)
    ours = {
        f"{name[:-2]}.{'bias' if name[-1] == '1' else 'weight'}": b for name, b in blobs.items()
    }
    ours["conv1.weight"] = with_channels_reversed(ours["conv1.weight"])
    written = to_caffe(ours, "dense", 2)
    assert written["conv2/0"].shape[1] == 2 * blobs["conv2/0"].shape[1]
    np.savez(tmp_path / "dense.npz", **written)
    chosen = identify(read(tmp_path / "dense.npz")).chosen("caffenet")
    assert chosen.grouped
    np.testing.assert_array_equal(chosen.arrays["conv2.weight"], blobs["conv2/0"])
    assert {"conv2a/0", "conv2b/1", "conv3/0"} <= set(to_caffe(ours, "split", 2))
    # Without the zeros it is the net that many ports have, with 62 million parameters.
    written["conv2/0"] = written["conv2/0"] + 1
    np.savez(tmp_path / "full.npz", **written)
    (one, other) = identify(read(tmp_path / "full.npz")).candidates
    assert one.title == "Caffe's AlexNet (bvlc_alexnet), without groups"
    assert plan(one.config.architecture)[4].columns == 1
    assert other.config.architecture.columns == 1


def test_response_normalization_can_cross_columns() -> None:
    architecture = caffe_architecture(False)
    net = Network(architecture).eval()
    x = torch.randn(2, 6, 5, 5, dtype=torch.float64)
    want = reference.lrn(x.numpy(), 5, 1.0, 1e-4 / 5, 0.75, columns=1)
    np.testing.assert_allclose(net.norm1(x).numpy(), want, rtol=1e-12)
    inside = replace(architecture, lrn_across_columns=False)
    assert architecture.lrn_columns == 1
    assert inside.lrn_columns == 2
    assert Network(inside).norm1.columns == 2
    mesh = Mesh(columns=Group(ranks=(0, 1)))
    with pytest.raises(MeshError, match="sums across its columns"):
        ShardedNetwork(architecture, 0, mesh)


def test_the_commands_of_the_page_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blobs = frameworks.caffe_blobs(1, WIDTH, CLASSES)
    caffe_file(tmp_path / "bvlc_reference_caffenet.caffemodel", blobs, True)
    lines = (f"n0000000{i} thing {i}\n" for i in range(CLASSES))
    (tmp_path / "synset_words.txt").write_text("".join(lines))
    (tmp_path / "photos").mkdir()
    for name in ("photo.png", "photos/one.png"):
        (tmp_path / name).write_bytes(encode(IMAGES[0], "png"))
    (tmp_path / "photo.png").rename("photo.jpg")  # the content of a file decides, not its name
    commands = documented_commands(ROOT / "docs" / "weights.md")
    assert [command[0] for command in commands] == [
        *("which", "import", "predict", "features", "figure", "check", "export"),
        *("train", "train", "train"),
    ]
    for command in commands:
        # At full size; `test_training` begins from another run.
        if command[:2] == ["train", "caffenet"]:
            assert parse_train(command[1], command[2:]).config.init == "runs/caffenet"
        elif command[0] != "train":
            main(command)
    printed = capsys.readouterr().out
    assert "CaffeNet (bvlc_reference_caffenet)" in printed
    assert "photo.jpg: thing" in printed
    values = np.load(tmp_path / "features" / "conv1.lrn.npy")
    assert values.shape == (1, 6, 27, 27)
    with np.load(tmp_path / "caffenet.npz") as back:
        np.testing.assert_array_equal(back["conv1/0"], blobs["conv1/0"])
