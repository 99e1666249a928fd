"""`alexnet golden`: the values of every layer as files, from which others check theirs."""

from __future__ import annotations

import errno
import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from alexnet import golden, load
from alexnet.checkpoint import state_of
from alexnet.cli import main
from alexnet.data import shapes
from alexnet.errors import AlexNetError, RunError
from alexnet.inference import activations, read_image
from alexnet.model import Network
from alexnet.trained import Trained
from tests import reference
from tests.commands import refused

TOLERANCE = 1e-5
"""Relative to the largest value: the inputs in the files are float32, each off by up to 6e-8, and a
sum of a few hundred products of them by some ten times as much."""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "disc.png"
    Image.fromarray(shapes.image(0, 1)).save(path)
    return path


@pytest.fixture(scope="module")
def vectors(run: Path, image: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The vectors of the tiny run, with its weights."""
    out = tmp_path_factory.mktemp("golden") / "out"
    main(["golden", str(run), str(image), str(out), "--weights"])
    return out


def manifest_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "golden.json").read_text())
    return result


def close(got: NDArray[np.float64], want: NDArray[np.float32]) -> bool:
    return bool(np.abs(got - want).max() <= TOLERANCE * np.abs(want).max())


def test_layers_can_be_computed_again_from_the_vectors_alone(vectors: Path) -> None:
    """A convolution in columns, both normalizations, a pool, an activation and a layer of units."""
    manifest = manifest_of(vectors)
    layers = {layer["name"]: layer for layer in manifest["layers"]}

    def value(name: str) -> NDArray[np.float64]:
        entry = manifest["values"][name]
        raw = np.fromfile(vectors / entry["float32"]["file"], "<f4").reshape(entry["shape"])
        assert np.array_equal(raw, np.load(vectors / entry["npy"]["file"]))
        return raw.astype(np.float64)

    conv = layers["conv2.linear"]
    assert conv["columns"] == 2
    before, after = conv["pad"]
    x = np.pad(value(conv["reads"]), ((0, 0), (before, after), (before, after)))
    weight, bias = value(conv["weight"]), value(conv["bias"])
    kernels, maps, size, _ = weight.shape
    result = np.empty(value("conv2.linear").shape)
    for k in range(kernels):
        column = k // (kernels // conv["columns"])
        own = x[column * maps : (column + 1) * maps]
        for i, j in np.ndindex(result.shape[1:]):
            top, left = i * conv["stride"], j * conv["stride"]
            patch = own[:, top : top + size, left : left + size]
            result[k, i, j] = (patch * weight[k]).sum() + bias[k]
    assert close(result, value("conv2.linear"))

    relu = layers["conv2"]
    assert relu["function"] == "relu"
    assert np.array_equal(np.maximum(value(relu["reads"]), 0), value("conv2"))

    norm = layers["conv2.lrn"]
    constants = (norm["n"], norm["k"], norm["alpha"], norm["beta"], norm["columns"])
    assert norm["columns"] == 2
    result = reference.lrn(value(norm["reads"])[None], *constants)[0]
    assert close(result, value("conv2.lrn"))

    square = layers["conv2.spatial_norm"]
    constants = (square["size"], square["k"], square["alpha"], square["beta"])
    result = reference.spatial_norm(value(square["reads"])[None], *constants)[0]
    assert close(result, value("conv2.spatial_norm"))

    pool = layers["conv2.max_pool"]
    window = (pool["size"], pool["stride"], pool["partial"], "max")
    result = reference.pool(value(pool["reads"])[None], *window)[0]
    assert np.array_equal(result, value("conv2.max_pool"))

    dropout = layers["fc6.dropout"]
    assert dropout["factor"] == 0.5
    assert close(dropout["factor"] * value(dropout["reads"]), value("fc6.dropout"))

    units = layers["fc6.linear"]
    result = value(units["weight"]) @ value(units["reads"]).ravel() + value(units["bias"])
    assert close(result, value("fc6.linear"))


def changed(trained: Trained, **changes: Any) -> Trained:
    """The run with random weights in a network with another architecture."""
    net = Network(replace(trained.net.architecture, **changes)).eval()
    return replace(trained, net=net)


def test_a_normalization_across_columns_says_so(run: Path, image: Path, tmp_path: Path) -> None:
    """As in Caffe, where the convolution before it has groups."""
    trained = changed(load(run), lrn_across_columns=True)
    manifest = golden.write(trained, image, tmp_path / "out", "conv2.linear,conv2.lrn")
    conv, norm = manifest["layers"]
    assert (conv["columns"], norm["columns"]) == (2, 1)
    x, want = (np.load(tmp_path / f"out/npy/{name}.npy") for name in (norm["reads"], "conv2.lrn"))
    constants = (norm["n"], norm["k"], norm["alpha"], norm["beta"], norm["columns"])
    assert close(reference.lrn(x[None].astype(np.float64), *constants)[0], want)


def test_batch_normalization_can_be_computed_again(run: Path, image: Path, tmp_path: Path) -> None:
    trained = load(run)
    layers = tuple(
        replace(layer, then=("batch_norm", *layer.then))
        if layer.name in ("conv2", "fc6")
        else layer
        for layer in trained.net.architecture.layers
    )
    trained = changed(trained, layers=layers)
    for name, tensor in state_of(trained.net).items():
        if "_bn" in name:
            tensor.uniform_(0.5, 2)
    out = tmp_path / "out"
    layer = "conv2.batch_norm,fc6.batch_norm"
    manifest = golden.write(trained, image, out, layer, weights=True)
    assert [norm["writes"] for norm in manifest["layers"]] == layer.split(",")
    for norm in manifest["layers"]:
        a = np.load(out / f"npy/{norm['reads']}.npy").astype(np.float64)
        gain, bias, mean, variance = (
            np.load(out / f"npy/{norm[part]}.npy").reshape(-1, *[1] * (a.ndim - 1))
            for part in ("gain", "bias", "mean", "variance")
        )
        assert norm["formula"].startswith("gain * (a - mean) / sqrt(variance + epsilon) + bias")
        result = gain * (a - mean) / np.sqrt(variance + norm["epsilon"]) + bias
        assert close(result, np.load(out / f"npy/{norm['writes']}.npy"))


def test_vectors_are_the_values_of_the_network(vectors: Path, run: Path, image: Path) -> None:
    trained = load(run)
    manifest = manifest_of(vectors)
    names = [op.name for op in trained.net.plan]
    assert [layer["name"] for layer in manifest["layers"]] == names
    stored = read_image(image, trained.preprocess.stored_px)
    x = trained.preprocess.centre(torch.from_numpy(stored)[None])
    wanted = activations(trained, names, x)
    for name in names:
        assert close(np.load(vectors / f"npy/{name}.npy"), wanted[name][0].detach().numpy()), name
    assert manifest["answer"] == trained.classes[int(wanted["fc8"][0].argmax())]
    assert manifest["run"]["sha256"] == trained.about["sha256"]
    assert manifest["code"].startswith("alexnet ")


def test_int8_has_the_scale_of_its_value_and_every_file_its_checksum(vectors: Path) -> None:
    manifest = manifest_of(vectors)
    listed = {"golden.json"}
    for name, value in manifest["values"].items():
        for form in ("npy", "float32", "int8"):
            file = vectors / value[form]["file"]
            assert hashlib.sha256(file.read_bytes()).hexdigest() == value[form]["sha256"]
            listed.add(value[form]["file"])
        exact = np.fromfile(vectors / value["float32"]["file"], "<f4")
        integers = np.fromfile(vectors / value["int8"]["file"], np.int8).astype(np.float64)
        scale = value["int8"]["scale"]
        assert np.abs(integers).max() == 127, name
        # Half a step, and the rounding of the division.
        assert np.abs(integers * scale - exact).max() <= 0.5 * scale * (1 + 1e-9), name
    files = {str(path.relative_to(vectors)) for path in vectors.rglob("*") if path.is_file()}
    assert files == listed


def test_int8_of_zeros_and_of_halves() -> None:
    integers, scale = golden.quantise(np.zeros(3, np.float32))
    assert (integers.tolist(), scale) == ([0, 0, 0], 1.0)
    integers, scale = golden.quantise(np.array([127, 0.5, 1.5, -2.5, -127], np.float32))
    assert (integers.tolist(), scale) == ([127, 0, 2, -2, -127], 1.0)


def test_chosen_layers_and_a_replaced_folder(run: Path, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    trained = load(run)
    golden.write(trained, image, out, "fc8")
    assert (out / "npy" / "fc8.npy").exists()
    manifest = golden.write(trained, image, out, "conv2.lrn,conv1.linear", force=True)
    assert list(manifest["values"]) == ["input", "conv1.linear", "conv2", "conv2.lrn"]
    assert [layer["name"] for layer in manifest_of(out)["layers"]] == ["conv1.linear", "conv2.lrn"]
    assert not (out / "npy" / "fc8.npy").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_force_replaces_nothing_but_vectors(run: Path, image: Path, tmp_path: Path) -> None:
    out, trained = tmp_path / "out", load(run)
    golden.write(trained, image, out, "conv1")
    link = tmp_path / "link"
    link.symlink_to(out)
    for _ in range(2):
        golden.write(trained, image, link, "conv2", force=True)
    assert link.is_symlink() and list(manifest_of(out)["values"])[-1] == "conv2"
    # Beside the references, too, where another program may write its own.
    for name in ("notes.txt", "npy/conv2.mine.npy"):
        (out / name).write_text("mine")
        with pytest.raises(RunError, match=f"has a file of another kind, {name}"):
            golden.write(trained, image, out, "fc8", force=True)
        (out / name).unlink()
    (out / "golden.json").write_text("{}")
    with pytest.raises(RunError, match="is not of this program; choose another name"):
        golden.write(trained, image, out, "fc8", force=True)
    assert (out / "npy" / "conv2.npy").exists()


def test_layers_are_chosen_by_the_names_of_other_programs(
    run: Path, image: Path, tmp_path: Path
) -> None:
    manifest = golden.write(load(run), image, tmp_path / "out", "norm2,relu1")
    assert [layer["name"] for layer in manifest["layers"]] == ["conv1", "conv2.lrn"]


def test_bad_requests_are_one_sentence_and_leave_nothing(
    run: Path,
    image: Path,
    vectors: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damaged, other = tmp_path / "damaged.png", tmp_path / "other"
    damaged.write_bytes(image.read_bytes()[:60])
    other.mkdir()
    out = tmp_path / "out"
    for arguments, message in (
        ([image, out, "--layer", "conv2,norm9"], "the network has no layer 'norm9'; it has conv1"),
        ([image, vectors], "exists; choose another name, or --force to replace it"),
        ([image, other, "--force"], "has no golden.json and is not replaced"),
        ([damaged, out], "damaged.png cannot be read"),
        ([tmp_path / "none.png", out], "none.png is not a file; name one image"),
    ):
        assert message in refused(capsys, "golden", run, *arguments)
    monkeypatch.setattr("alexnet.files.free_space", lambda folder: (folder, 1000))
    with pytest.raises(AlexNetError, match="the vectors need"):
        golden.write(load(run), image, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["damaged.png", "other"]


def test_an_error_while_replacing_keeps_the_old_folder(
    run: Path, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    trained = load(run)
    golden.write(trained, image, out, "conv1")
    before = (out / "golden.json").read_bytes()
    # A process that was killed between the renames has left this.
    out.rename(tmp_path / ".out.old")

    def full_disk(manifest: dict[str, Any]) -> str:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(golden, "_text", full_disk)
    with pytest.raises(OSError, match="no space left"):
        golden.write(trained, image, out, "conv2", force=True)
    assert (out / "golden.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
