"""The activations of several layers, written in one pass."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import features, golden, load
from alexnet.cli import main
from alexnet.config import Architecture, FullyConnected
from alexnet.data import shapes
from alexnet.data.loader import batches
from alexnet.data.store import Store
from alexnet.errors import ConfigError, DataError, RunError
from alexnet.inference import activations, read_image
from alexnet.model import Network
from tests.conftest import tiny_architecture
from tests.weight_files import CLASSES, run_of


def test_several_layers_are_computed_in_one_pass_and_equal_single_ones(
    run: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, real = [], Network.activations

    def counted(self: Network, *arguments: object) -> object:
        passes.append(1)
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Network, "activations", counted)
    trained = load(run)
    assert features(trained, "conv4,conv2.max_pool,fc7", store, tmp_path / "a") == 30
    assert len(passes) == 1  # 30 images are one batch
    for layer in ("conv4", "conv2.max_pool", "fc7"):
        features(trained, [layer], store, tmp_path / layer)
        several, one = (np.load(tmp_path / out / f"{layer}.npy") for out in ("a", layer))
        assert several.dtype == np.float32
        np.testing.assert_array_equal(several, one)


def test_all_layers_and_the_labels_of_a_store(
    run: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    main(["features", str(run), "--data", str(store), "--out", str(out), "--layer", "all"])
    lines = capsys.readouterr().out.splitlines()
    layers = [layer.name for layer in tiny_architecture().layers]
    assert lines == [
        *(f"{out}/{layer}.npy: 30 images" for layer in layers),
        f"{out}/labels.npy: their classes, as numbers",
    ]
    assert {path.name for path in out.iterdir()} == {
        *(f"{layer}.npy" for layer in layers),
        "names.txt",
        "labels.npy",
        "about.json",
    }
    split = Store(store).split("val")
    labels = next(batches(split, np.arange(30), 30)).labels.numpy()
    np.testing.assert_array_equal(np.load(out / "labels.npy"), labels)
    assert np.load(out / "fc8.npy").shape == (30, 10)
    about = json.loads((out / "about.json").read_text())
    opened, header = Store(store), load(run).about
    assert about.pop("images") == {
        "data": str(store),
        "split": "val",
        "store": opened.checksum,
        "classes": list(shapes.CLASSES),
    }
    assert about["code"].startswith("alexnet 0.")
    assert about["run"] == {key: header[key] for key in ("recipe", "sha256", "store")}
    said = [about[key] for key in ("crop", "device", "precision")]
    assert said == ["center", load(run).preprocess.device.type, "float32"]
    assert about["layers"].keys() == set(layers)
    for layer, shape in about["layers"].items():
        assert [30, *shape] == list(np.load(out / f"{layer}.npy").shape)


def test_images_are_described_as_they_were_when_reading_began(
    run: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is gone after the last batch does not cost the activations."""
    copy = Path(shutil.copytree(store, tmp_path / "store"))
    checksum, real = Store(copy).checksum, Network.activations

    def gone(self: Network, *arguments: object) -> object:
        (copy / "manifest.json").unlink(missing_ok=True)
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Network, "activations", gone)
    assert features(load(run), "fc7", copy, tmp_path / "out") == 30
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert about["images"]["store"] == checksum


def test_folder_of_images_has_no_labels(run: Path, tmp_path: Path) -> None:
    (tmp_path / "images" / "cat").mkdir(parents=True)
    Image.fromarray(shapes.image(0, 1)).save(tmp_path / "images" / "cat" / "0.png")
    # Other programs have files of this name, too.
    (tmp_path / "images" / "manifest.json").write_text('{"name": "my app"}')
    features(load(run), "fc6,fc7,fc6", tmp_path / "images", tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"fc6.npy", "fc7.npy", "names.txt", "about.json"}
    about = json.loads((tmp_path / "out" / "about.json").read_text())
    assert about["images"] == {"data": str(tmp_path / "images")}
    assert about["layers"] == {"fc6": [32], "fc7": [32]}
    with pytest.raises(RunError, match=r"images is not a store and has no split 'val'; leave out"):
        features(load(run), "fc6", tmp_path / "images", tmp_path / "other", "val")


def test_names_are_those_of_the_files_but_for_what_ends_a_line(run: Path, tmp_path: Path) -> None:
    """Names with spaces of other kinds, as macOS gives screenshots, find their files again."""
    images = tmp_path / "images"
    images.mkdir()
    given = [
        f"3.04.12\u202fPM{space}.png" for space in ("\u3000", "\u00a0", "\u00ad", "\n", "\u2028")
    ]
    for name in given:
        Image.fromarray(shapes.image(0, 1)).save(images / name)
    features(load(run), "fc7", images, tmp_path / "out")
    lines = (tmp_path / "out" / "names.txt").read_text().splitlines()
    names = [name.replace("\n", "?").replace("\u2028", "?") for name in given]
    assert sorted(lines) == sorted(str(images / name) for name in names)


def test_name_of_a_layer_can_have_a_slash(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    architecture = Architecture((FullyConnected("/a/b", CLASSES),), input_px=8)
    (tmp_path / "images").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "a.png")
    run_of(architecture, "paper", tmp_path / "run")
    trained = load(tmp_path / "run", device="cpu")
    out = tmp_path / "out"
    run, images = str(tmp_path / "run"), str(tmp_path / "images")
    main(["features", run, "--layer", "all", "--data", images, "--out", str(out)])
    assert f"{out}/a/b.npy: 1 images" in capsys.readouterr().out
    assert np.load(out / "a" / "b.npy").shape == (1, CLASSES)
    golden.write(trained, tmp_path / "images" / "a.png", tmp_path / "golden")
    assert (tmp_path / "golden" / "npy" / "a" / "b.npy").exists()


def test_activations_are_arrays_of_numpy_without_further_ado(run: Path) -> None:
    trained = load(run)
    x = torch.zeros(2, 3, 32, 32)
    values = activations(trained, ["conv4", "fc7"], x)
    assert values["fc7"].numpy().shape == (2, 32)
    assert not any(value.requires_grad for value in values.values())


def test_store_at_a_url_is_named_by_both_of_its_slashes(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="memory://nowhere/none is not a prepared store"):
        features(load(run), "fc7", "memory://nowhere/none", tmp_path / "out")


def test_an_image_is_read_by_its_name_too(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    Image.fromarray(shapes.image(0, 1)).save(file)
    np.testing.assert_array_equal(read_image(str(file), 40), read_image(file, 40))
    with pytest.raises(DataError, match=r"none\.png cannot be read: No such file"):
        read_image(str(tmp_path / "none.png"), 40)


def test_unknown_layer_of_a_list_is_named(run: Path, store: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no layer 'fc9'; it has conv1\.linear"):
        features(load(run), "fc7,fc9", store, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
