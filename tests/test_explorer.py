"""The page that runs a network: what Python puts into it, and that it loads nothing."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from alexnet import load, snapshots
from alexnet.architecture import plan
from alexnet.cli import main
from alexnet.config import Architecture, BatchNorm, FullyConnected, check
from alexnet.data.loader import batches
from alexnet.errors import ConfigError, RunError
from alexnet.explorer import contents as data
from alexnet.explorer import page, runtime
from alexnet.explorer.contents import Contents, choose, respond, speaks_for, thumbnail
from alexnet.export import _step, layers_onnx
from alexnet.inference import split_for
from alexnet.model import Network
from alexnet.train.loop import fit
from alexnet.trained import Trained
from alexnet.units import maximise
from tests.conftest import tiny, tiny_architecture

IMAGES = 20
ORT = {name: f"{name} here".encode() for name in runtime.SHA256}
"""In place of the files of onnxruntime-web, which only a browser needs."""


@pytest.fixture(scope="module")
def trained(run: Path) -> Trained:
    return load(run, device="cpu")


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    """Images that maximize a unit take seconds; nobody looks at these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "maximise", partial(maximise, steps=2))
        yield


@pytest.fixture(scope="module")
def content(trained: Trained, run: Path) -> Contents:
    return data.contents(trained, split_for(trained), run, IMAGES, units=1)


def values_in_file(model: bytes, x: torch.Tensor) -> dict[str, Any]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": x.numpy()}), strict=True))


@pytest.mark.parametrize("with_batch_norm", [False, True])
def test_the_file_of_the_page_gives_every_value_of_the_network(
    trained: Trained, with_batch_norm: bool
) -> None:
    architecture = tiny_architecture()
    if with_batch_norm:
        layers = tuple(
            replace(layer, then=("batch_norm", *layer.then)) for layer in architecture.layers[:-1]
        )
        architecture = replace(
            architecture, layers=(*layers, architecture.layers[-1]), batch_norm=BatchNorm()
        )
    net = Network(architecture, seed=1).eval()
    x = 30 * torch.randn(3, 3, 32, 32)
    values = values_in_file(layers_onnx(replace(trained, net=net)), x)
    wanted = net.activations(x)
    assert list(values) == list(wanted) == [op.name for op in plan(architecture)]
    for name, value in wanted.items():
        ours = value.detach().numpy().reshape(values[name].shape)
        np.testing.assert_allclose(values[name], ours, atol=1e-3, err_msg=name)


def test_operation_that_the_export_lacks_is_refused_by_its_name(trained: Trained) -> None:
    op = replace(trained.net.plan[0], op="wavelet", name="conv1.wavelet")
    with pytest.raises(RunError, match=r"conv1\.wavelet: the ONNX export has no operation"):
        _step(None, op, trained, {})  # type: ignore[arg-type]


def test_images_are_chosen_of_all_classes_alike() -> None:
    labels = np.array([2, 0, 0, 0, 1, 2, 0, 1])
    assert choose(labels, 5).tolist() == [1, 4, 0, 2, 7]
    assert sorted(choose(labels, 100)) == list(range(8))


def test_a_unit_speaks_for_the_classes_whose_logit_it_raises() -> None:
    adds = np.array([[1, 0], [3, 0], [-5, 2], [7, 1]], np.float32)
    classes, means = speaks_for(adds, np.array([0, 0, 4, 9]), 10)
    assert classes.tolist() == [[9, 0, 4], [4, 9, 0]]
    assert means.tolist() == [[7, 2, -5], [2, 1, 0]]


def test_responses_are_the_largest_values_and_their_part_of_the_logit(trained: Trained) -> None:
    split = split_for(trained)
    chosen = np.array([3, 0, 11])
    responses, crops = respond(trained, split, chosen)
    (batch,) = batches(split, chosen, 3)
    assert np.array_equal(crops, batch.images[:, 4:36, 4:36])
    values = trained.net.activations(trained.preprocess.centre(batch.images))
    maps = values["conv2"].detach().flatten(2).numpy()
    found = responses["conv2"]
    np.testing.assert_allclose(found.values, maps.max(2), rtol=1e-5, atol=1e-6)
    there = np.take_along_axis(maps, found.places[..., None], 2)[..., 0]
    np.testing.assert_allclose(found.values, there, rtol=1e-5, atol=1e-6)
    # The logits themselves: each class adds its own logit, less its part of the mean.
    logits = values["fc8"].detach().flatten(1).numpy()
    own = np.eye(10)[split.labels[chosen]]
    np.testing.assert_allclose(responses["fc8"].adds, logits * (own - 0.1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("px", [32, 40, 112, 227])
def test_thumbnail_keeps_the_mean_of_each_square(px: int) -> None:
    crop = np.random.default_rng(0).integers(0, 256, (px, px, 3), np.uint8)
    small = thumbnail(crop)
    first, last = px // 16, 15 * px // 16
    assert small.shape == (16, 16, 3)
    np.testing.assert_allclose(small[0, 0], crop[:first, :first].mean((0, 1)), atol=0.51)
    np.testing.assert_allclose(small[15, 0], crop[last:, :first].mean((0, 1)), atol=0.51)
    assert (thumbnail(np.full((px, px, 3), 77, np.uint8)) == 77).all()


def test_arrays_and_files_are_found_again_by_the_index() -> None:
    arrays = {"a": np.arange(3, dtype=np.uint8), "b": np.ones((2, 3), np.float16)}
    index, packed = page.pack(Contents({}, arrays, {"files": [b"one", b"three"]}))
    for name, array in arrays.items():
        dtype, shape, offset = index[name]
        assert offset % 4 == 0
        same = np.frombuffer(packed, dtype, array.size, offset).reshape(shape)
        assert np.array_equal(same, array)
    start, middle, end = index["files"]
    assert (packed[start:middle], packed[middle:end]) == (b"one", b"three")


def test_page_is_one_file_that_loads_nothing(content: Contents) -> None:
    classes = ("</script><b>", *content.about["classes"][1:])
    html = page.render(replace(content, about=content.about | {"classes": classes}), b"net", ORT)
    # An address only as a namespace, or in a comment.
    assert not re.search(r"(src|href)=[\"'](?!#|data:)", html.replace("src: imageAddress", ""))
    assert not re.search(r"https?://", html)
    assert "default-src 'none'" in html
    (about,) = re.findall(r'id="about">(.*?)</script>', html)
    assert json.loads(about)["classes"][0] == "</script><b>"
    blobs = dict(re.findall(r'id="blob-(\w+)"[^>]*>([^<]*)</script>', html))
    assert gzip.decompress(b64decode(blobs["model"])) == b"net"
    assert gzip.decompress(b64decode(blobs["wasm"])) == ORT[runtime.WASM]
    assert b64decode(blobs["data"]) == page.pack(content)[1]


def test_page_has_what_it_says_of_each_layer(content: Contents) -> None:
    layers = [f"conv{i}" for i in range(1, 5)] + ["fc6", "fc7", "fc8"]
    assert content.about["layers"] == layers
    assert content.about["hidden"] == "fc7"
    assert content.arrays["hidden"].shape == (IMAGES, 32)
    assert content.arrays["conv3/images"].shape == (16, 9)
    for layer in layers:
        assert len(content.files[f"{layer}/made"]) == len(content.about["made"][layer]) <= 1
        assert content.arrays[f"{layer}/images"].max() < IMAGES
        values = content.arrays[f"{layer}/values"]
        assert (np.diff(values, axis=1) <= 0).all()
    assert len(content.files["images"]) == IMAGES
    assert all(name.startswith(b"\x89PNG") for name in content.files["examples"])


def test_scripts_are_one_program_without_imports() -> None:
    text = page.script()
    assert {path.stem for path in (page.HERE / "js").glob("*.js")} == set(page.SCRIPTS)
    assert not re.search(r"^(import [^(]|export )", text, re.MULTILINE)
    names = re.findall(r"^(?:async )?(?:function|const|let) (\w+)", text, re.MULTILINE)
    assert len(names) == len(set(names)), "two modules define the same name"
    if node := shutil.which("node"):
        checking = [node, "--input-type=module", "--check", "-"]
        assert subprocess.run(checking, input=text.encode(), capture_output=True).returncode == 0


def test_snapshots_are_kept_at_equal_distances_and_come_into_the_page(
    store: Path, trained: Trained, tmp_path: Path
) -> None:
    due = [epoch for epoch in range(11) if snapshots.is_due(epoch, 10, 3)]
    assert due == [0, 4, 7, 10]
    assert [epoch for epoch in range(4) if snapshots.is_due(epoch, 3, 9)] == [0, 1, 2, 3]
    assert not snapshots.is_due(0, 10, 0)
    run = tmp_path / "run"
    fit(tiny(store, snapshots=1), run)
    kept = snapshots.read(run)
    assert kept is not None
    epochs, filters = kept
    assert epochs == [0, 3]
    last = load(run).net.get_parameter("conv1.weight").detach().numpy()
    np.testing.assert_allclose(filters[1], last, atol=1e-3)
    made = data.contents(trained, split_for(trained), run, 4, units=1)
    assert made.about["snapshots"] == [0, 3]
    assert np.array_equal(made.arrays["snapshots"], filters)
    (run / "snapshots" / "epoch-0003.npy").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"epoch-0003\.npy is damaged .*remove it"):
        snapshots.read(run)


def test_snapshots_need_filters(store: Path) -> None:
    layers = (FullyConnected("fc1", 10, std=0.1, then=()),)
    flat = Architecture(layers, input_px=32, columns=1)
    with pytest.raises(ConfigError, match="snapshots keeps the filters of the first layer"):
        check(tiny(store, architecture=flat, snapshots=2))
    with pytest.raises(ConfigError, match="snapshots is -1; it must be at least 0"):
        check(tiny(store, snapshots=-1))


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["explore", *map(str, arguments)])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_mistakes_are_answered_by_one_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "page.html"
    assert "name a run and the page" in refused(capsys)
    assert "does not end in .html" in refused(capsys, run, "--out", tmp_path / "page")
    assert "there is no folder" in refused(capsys, run, "--out", tmp_path / "no" / "page.html")
    assert "it must be at least 1" in refused(capsys, run, "--out", out, "--images", "0")
    line = refused(capsys, run, "--out", out)
    assert f"not in {tmp_path}/cache/alexnet/onnxruntime-web-" in line
    assert line.endswith(f"fetch it once with npm: alexnet explore {run} --out {out} --fetch")
    for name in runtime.SHA256:
        (tmp_path / name).write_text("another version")
    assert "is not the file of onnxruntime-web" in refused(
        capsys, run, "--out", out, "--ort", tmp_path
    )
    out.write_text("mine")
    assert "exists; choose another name" in refused(capsys, run, "--out", out)
    assert out.read_text() == "mine"


def test_run_without_its_store_is_answered_by_one_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "read", lambda folder, fetching: ORT)
    line = refused(capsys, run, "--out", tmp_path / "x.html", "--data", tmp_path / "no")
    assert str(tmp_path / "no") in line


def test_runtime_is_fetched_once_and_compared_with_its_checksums(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # A program in place of npm, which makes an archive as npm does.
    files = tmp_path / "package" / "dist"
    files.mkdir(parents=True)
    for name in runtime.SHA256:
        (files / name).write_bytes(ORT[name])
    npm = tmp_path / "npm"
    npm.write_text(f'#!/bin/sh\ntar -czf "$PWD/x.tgz" -C {tmp_path} package\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(RunError, match=r"npm fetched another ort\."):
        runtime.fetch()
    assert not any(runtime.cached().iterdir())
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in ORT.items()}
    monkeypatch.setattr(runtime, "SHA256", sums)
    runtime.fetch()
    assert runtime.read(None, "") == ORT
    npm.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    runtime.fetch()  # from the cache
    shutil.rmtree(runtime.cached())
    with pytest.raises(RunError, match=r"failed \(no network\)"):
        runtime.fetch()
    monkeypatch.setenv("PATH", str(tmp_path / "cache"))
    with pytest.raises(RunError, match="npm is not installed"):
        runtime.fetch()


def test_network_of_one_column_without_maps_has_a_page(trained: Trained) -> None:
    """Fully connected layers alone have no filters, no columns and one receptive field."""
    layers = FullyConnected("fc1", 6, then=("activation",)), FullyConnected("fc2", 10, then=())
    net = Network(Architecture(layers, input_px=32, columns=1)).eval()
    flat = replace(trained, net=net)
    made = data.contents(flat, split_for(trained), Path("flat"), 4, units=1)
    assert "filters" not in made.arrays
    assert made.about["hidden"] == "fc1"
