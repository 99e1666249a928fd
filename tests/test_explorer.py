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

from alexnet import checkpoint, load, recipes, snapshots
from alexnet.architecture import plan
from alexnet.cli import main
from alexnet.config import Architecture, BatchNorm, FullyConnected
from alexnet.config_checks import check
from alexnet.data.loader import batches
from alexnet.data.manifest import sealed
from alexnet.data.preprocess import Preprocess
from alexnet.data.store import Statistics
from alexnet.errors import ConfigError, RunError
from alexnet.explorer import contents as data
from alexnet.explorer import page, runtime
from alexnet.explorer.contents import Contents, choose, respond, speaks_for, thumbnail
from alexnet.export import _add, layers_onnx
from alexnet.inference import split_for
from alexnet.model import Network
from alexnet.train.start import fit, resume
from alexnet.trained import Trained
from alexnet.units import maximise
from tests.commands import printed, refused
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
        _add(None, op, trained, {})  # type: ignore[arg-type]


def test_images_are_chosen_of_all_classes_alike() -> None:
    labels = np.array([2, 0, 0, 0, 1, 2, 0, 1])
    assert choose(labels, 5).tolist() == [1, 4, 0, 2, 7]
    assert sorted(choose(labels, 100)) == list(range(8))
    # Fewer images than classes: not the first classes alone.
    assert choose(np.arange(10).repeat(3), 4).tolist() == [0, 9, 18, 27]
    assert choose(np.arange(10), 10).tolist() == list(range(10))
    assert choose(labels, 1).tolist() == [1]


def test_more_than_a_page_can_number_is_refused(
    trained: Trained, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for most, images, message in (
        (19, 20, "20 images are too many for a page; give --images 19 or fewer"),
        (9, 9, "10 classes are too many for a page; 9 fit"),
        (20, 20, r"the maps of conv1 have \d+ x \d+ positions, which are too many for a page"),
    ):
        monkeypatch.setattr(data, "MOST_NUMBERED", most)
        with pytest.raises(RunError, match=message):
            data.contents(trained, split_for(trained), run, images, units=1)


def test_page_has_the_name_of_a_run_that_is_not_utf_8(trained: Trained, tmp_path: Path) -> None:
    content = data.contents(trained, split_for(trained), tmp_path / "r\udcff", 2, units=0)
    assert content.about["run"] == "r\\udcff"
    assert "".join(page.render(content, b"", ORT)).encode()


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
    content = replace(content, about=content.about | {"classes": classes})
    html = "".join(page.render(content, b"net", ORT))
    # An address only as a namespace, or in a comment.
    assert not re.search(r"(src|href)=[\"'](?!#|data:)", html.replace("src: imageAddress", ""))
    assert not re.search(r"https?://", html)
    # It contains another program, whose license asks for this.
    assert "Copyright (c) Microsoft Corporation" in html
    assert "permission notice shall be included in all copies or substantial portions" in html
    assert "default-src 'none'" in html
    assert "script-src 'unsafe-inline' 'wasm-unsafe-eval' blob:;" in html
    (about,) = re.findall(r'id="about">(.*?)</script>', html)
    assert json.loads(about)["classes"][0] == "</script><b>"
    blobs = dict(re.findall(r'id="blob-(\w+)"[^>]*>([^<]*)</script>', html))
    assert gzip.decompress(b64decode(blobs["model"])) == b"net"
    assert gzip.decompress(b64decode(blobs["wasm"])) == ORT[runtime.WASM]
    assert b64decode(blobs["data"]) == page.pack(content)[1]


def folder_of(content: Contents, folder: Path, model: bytes) -> dict[str, bytes]:
    """Write a page as a folder, and join the pieces of each blob, by name."""
    page.write_folder(folder, content, model, ORT)
    blobs: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.js"), key=lambda path: int(path.stem.split("-")[1])):
        found = re.fullmatch(
            r'receivePiece\("([^"]*)", \(\) => \{/\*([^*]*)\*/\}\);\n', path.read_text()
        )
        assert found and found[1] == path.name
        name = path.name.split("-")[0]
        blobs[name] = blobs.get(name, b"") + b64decode(found[2])
    return blobs


def test_folder_has_the_network_in_pieces_of_limited_size(
    content: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert page.PIECE_BYTES % 3 == 0, "the base64 of several pieces cannot be joined"
    assert page.PIECE_BYTES * 4 / 3 <= 16 << 20
    monkeypatch.setattr(page, "PIECE_BYTES", 300)
    model = np.random.default_rng(0).bytes(300 * 120 + 1)
    out = tmp_path / "page"
    blobs = folder_of(content, out, model)
    assert blobs["model"] == model
    assert gzip.decompress(blobs["wasm"]) == ORT[runtime.WASM]
    assert blobs["data"] == page.pack(content)[1]
    pieces = {path.name: path.stat().st_size for path in out.glob("*.js")}
    assert max(pieces.values()) <= 400 + len('receivePiece("model-000.js", () => {/**/});\n')
    html = (out / "index.html").read_text()
    assert "blob: 'self' file:;" in html
    assert 'id="blob-' not in html
    (about,) = re.findall(r'id="about">(.*?)</script>', html)
    named = json.loads(about)["blobs"]
    # In the order of the bytes, also those of the number 100.
    assert named["model"]["pieces"] == [f"model-{i:02}.js" for i in range(121)]
    assert {name for blob in named.values() for name in blob["pieces"]} == set(pieces)
    assert {name: blob["bytes"] for name, blob in named.items()} == {
        name: len(blob) for name, blob in blobs.items()
    }


def test_folder_is_written_whole_or_not_at_all(
    content: Contents, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "page"
    page.write_folder(out, content, b"first", ORT)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    written: list[list[str]] = []

    def interrupted(name: str, text: str) -> str:
        written.append([path.name for path in (tmp_path / ".page.writing").iterdir()])
        if name.startswith("model"):
            raise KeyboardInterrupt
        return "x"

    with monkeypatch.context() as patch:
        patch.setattr(page, "_piece", interrupted)
        with pytest.raises(KeyboardInterrupt):
            page.write_folder(out, content, b"second", ORT)
    # What a kill at any of these moments leaves does not look like a page.
    assert len(written) == 4
    assert not any("index.html" in names for names in written)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert list(tmp_path.iterdir()) == [out]
    assert folder_of(content, out, b"third")["model"] == b"third"
    assert list(tmp_path.iterdir()) == [out]
    # By a link, the folder itself is replaced.
    link = tmp_path / "link"
    link.symlink_to(out)
    assert folder_of(content, link, b"fourth")["model"] == b"fourth"
    assert link.is_symlink() and out.is_dir()
    assert sorted(tmp_path.iterdir()) == [link, out]


def test_only_a_page_is_replaced(content: Contents, tmp_path: Path) -> None:
    out = tmp_path / "page"
    page.check_out(out, force=False)
    page.write_folder(out, content, b"net", ORT)
    page.check_out(out, force=True)
    with pytest.raises(RunError, match=r"page exists; choose another name, or --force"):
        page.check_out(out, force=False)

    def refuse(why: str) -> None:
        kept = sorted(out.rglob("*")) if out.is_dir() else out.read_bytes()
        with pytest.raises(RunError, match=f"page {why}, and is not removed; choose another"):
            page.write_folder(out, content, b"other", ORT)
        assert (sorted(out.rglob("*")) if out.is_dir() else out.read_bytes()) == kept

    (out / "notes.txt").write_text("mine")
    refuse("has notes.txt, which is not a part of the page")
    (out / "notes.txt").unlink()
    (out / "model-99.js").mkdir()
    refuse("has model-99.js, which is not a part of the page")
    (out / "model-99.js").rmdir()
    (out / "index.html").write_bytes(b"\xff<title>mine</title>")
    refuse("has an index.html that alexnet explore has not written")
    (out / "index.html").unlink()
    refuse("is a folder without index.html")
    shutil.rmtree(out)
    out.write_text("mine")
    refuse("is a file without the ending .html")
    with pytest.raises(RunError, match=r"is a folder; choose another name for a page of one file"):
        (tmp_path / "x.html").mkdir()
        page.check_out(tmp_path / "x.html", force=True)


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


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_scripts_are_without_an_error_of_syntax() -> None:
    checking = ["node", "--input-type=module", "--check", "-"]
    checked = subprocess.run(checking, input=page.script().encode(), capture_output=True)
    assert checked.returncode == 0, checked.stderr


def in_node(about: dict[str, Any], program: str, folder: Path) -> Any:
    """Run a module of JavaScript that imports those of the page; returns what it prints, as JSON.

    Args:
        about: What the page has under this name.
    """
    shutil.copytree(page.HERE / "js", folder, dirs_exist_ok=True)
    (folder / "package.json").write_text('{"type": "module"}')
    stubs = (
        f"const text = {json.dumps(json.dumps(about))};"
        "globalThis.document = { getElementById: () => ({ textContent: text }) };"
        "globalThis.window = globalThis;"
        "globalThis.ImageData = class { constructor(width, height) { this.width = width;"
        "this.data = new Uint8ClampedArray(width * height * 4); } };"
    )
    (folder / "stubs.js").write_text(stubs)
    (folder / "test.js").write_text(f'import "./stubs.js";\n{program}')
    ran = subprocess.run(["node", folder / "test.js"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_units_of_layers_with_any_name_have_addresses(tmp_path: Path) -> None:
    names = ["conv1", "conv-1", "conv 2", "couche_é", "fc6.dropout", "a\\b", "a/b", "a%20b", "é%"]
    about = {"ops": [{"name": name, "shape": [4, 2, 2]} for name in names]}
    # A browser turns some characters of an address into codes, as a URL does here.
    program = (
        'import { unitOf } from "./unit.js";'
        'import { addressOf, addressed } from "./data.js";'
        f"const names = {json.dumps(names)};"
        'const hashes = [...names.map((name) => addressOf(name, 3)), "#conv 2/3", "#couche_é/3",'
        '"#conv1/4", "#other/0", "#layers", "#100%"];'
        'const seen = hashes.map((hash) => new URL(hash, "file:///a").hash);'
        "console.log(JSON.stringify(seen.map((hash) => unitOf(addressed(hash))?.op.name)));"
    )
    assert in_node(about, program, tmp_path) == [*names, "conv 2", "couche_é", *[None] * 4]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node.js")
def test_page_draws_and_averages_the_pixels_that_the_network_sees(
    trained: Trained, tmp_path: Path
) -> None:
    """A test crop of 36 pixels is rescaled to the input of 32."""
    augment = replace(trained.preprocess.augment, test_px=36)
    statistics = Statistics(trained.preprocess.whole_mean.numpy(), np.eye(3))
    preprocess = Preprocess(augment, statistics, 32, torch.device("cpu"))
    about = data._preprocessing(replace(trained, preprocess=preprocess)) | {"thumbnail_px": 16}
    image = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    program = (
        'import { seenPixels, thumbnail } from "./image.js";'
        f"const seen = seenPixels({image.flatten().tolist()}, {json.dumps(about['centre'])});"
        "console.log(JSON.stringify([[...seen.data], [...thumbnail(seen)]]));"
    )
    seen, small = in_node(about, program, tmp_path)
    want = preprocess.centre_pixels(image)
    pixels = np.reshape(seen, (32, 32, 4))
    assert (pixels[..., 3] == 255).all()
    np.testing.assert_array_equal(pixels[..., :3], want)
    np.testing.assert_array_equal(np.reshape(small, (16, 16, 3)), thumbnail(want))


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
    other = tmp_path / "caf\udce9"
    other.mkdir()
    checkpoint.write_config(other, replace(recipes.demo(), recipe="another"))
    for epoch in (0, 20, 90):
        snapshots.write(other, epoch, np.full((6, 3, 7, 7), epoch, np.float32))
    beside = snapshots.growth_beside(run, other)
    made = data.contents(trained, split_for(trained), run, 4, units=1, other_growth=beside)
    columns = recipes.demo().architecture.columns
    assert made.about["snapshots"] == [
        {"run": "run", "recipe": "tiny", "columns": 2, "epochs": [0, 3]},
        {"run": "caf\\udce9", "recipe": "another", "columns": columns, "epochs": [0, 20, 90]},
    ]
    assert np.array_equal(made.arrays["snapshots/0"], filters)
    assert made.arrays["snapshots/1"].shape == (3, 6, 3, 7, 7)
    (run / "snapshots" / "epoch-0003.npy").write_bytes(b"nothing")
    with pytest.raises(RunError, match=r"epoch-0003\.npy is damaged .*remove it"):
        snapshots.read(run)


def test_snapshot_that_a_kill_prevented_is_written_by_the_resumed_run(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, write = tmp_path / "run", snapshots.write

    def killed(run: Path, epoch: int, filters: Any) -> None:
        if epoch:
            raise KeyboardInterrupt
        write(run, epoch, filters)

    monkeypatch.setattr(snapshots, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny(store, snapshots=1), run)
    monkeypatch.setattr(snapshots, "write", write)
    resume(run)
    kept = snapshots.read(run)
    assert kept is not None and kept[0] == [0, 3]


def test_snapshots_are_in_the_order_of_their_epochs(tmp_path: Path) -> None:
    """Also where the numbers have unequal lengths: names have four digits or more."""
    for epoch in (9999, 10000, 0):
        snapshots.write(tmp_path, epoch, np.full((2, 3, 5, 5), epoch % 7, np.float32))
    kept = snapshots.read(tmp_path)
    assert kept is not None
    assert kept[0] == [0, 9999, 10000]


def test_snapshots_need_filters(store: Path) -> None:
    layers = (FullyConnected("fc1", 10, std=0.1, then=()),)
    flat = Architecture(layers, input_px=32, columns=1)
    with pytest.raises(ConfigError, match="snapshots keeps the filters of the first layer"):
        check(tiny(store, architecture=flat, snapshots=2))
    with pytest.raises(ConfigError, match="snapshots is -1; it must be at least 0"):
        check(tiny(store, snapshots=-1))


def test_mistakes_are_answered_by_one_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = tmp_path / "page.html"
    assert "name a run and the page" in refused(capsys, "explore")
    assert "there is no folder" in refused(
        capsys, "explore", run, "--out", tmp_path / "no" / "page.html"
    )
    assert "it must be at least 1" in refused(capsys, "explore", run, "--out", out, "--images", "0")
    line = refused(capsys, "explore", run, "--out", out)
    assert f"not in {tmp_path}/cache/alexnet/onnxruntime-web-" in line
    assert line.endswith(f"fetch it once with npm: alexnet explore {run} --out {out} --fetch")
    for name in runtime.SHA256:
        (tmp_path / name).write_text("another version")
    assert "is not the file of onnxruntime-web" in refused(
        capsys, "explore", run, "--out", out, "--ort", tmp_path
    )
    out.write_text("mine")
    assert "exists; choose another name" in refused(capsys, "explore", run, "--out", out)
    assert out.read_text() == "mine"
    folder = tmp_path / "photos"
    folder.mkdir()
    assert "exists; choose another name" in refused(capsys, "explore", run, "--out", folder)
    line = refused(capsys, "explore", run, "--out", folder, "--force")
    assert line.endswith("is a folder without index.html, and is not removed; choose another name")
    assert folder.is_dir()


def test_another_run_that_cannot_be_put_beside_is_answered_by_one_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "read", lambda folder, fetching: ORT)
    other, empty = tmp_path / "other", tmp_path / "empty"
    for folder in (other, empty):
        folder.mkdir()
        checkpoint.write_config(folder, load(run).config)
    snapshots.write(other, 0, np.zeros((6, 3, 7, 7)))
    options = "--out", tmp_path / "page.html", "--beside"
    line = refused(capsys, "explore", run, *options, other)
    assert f"{run} has kept no snapshots, so that nothing can be put beside them" in line
    line = refused(capsys, "explore", other, *options, empty)
    assert f"{empty} has kept no snapshots to put beside those of {other}; train it with" in line
    assert "is not a run: it has no config.json" in refused(
        capsys, "explore", other, *options, tmp_path
    )
    line = refused(capsys, "explore", other, *options, tmp_path / "empty" / ".." / "other")
    assert "is the run itself; name another run" in line


def test_one_file_of_a_large_network_says_that_a_folder_opens_faster(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "read", lambda folder, fetching: ORT)
    monkeypatch.setattr(page, "write", lambda *arguments: 5 << 20)
    out = tmp_path / "page.html"
    main(["explore", str(run), "--out", str(out)])
    assert capsys.readouterr().out == f"{out}: 5.0 MiB; open it in a browser, it needs no network\n"
    monkeypatch.setattr(page, "LARGE_BYTES", 1000)
    main(["explore", str(run), "--out", str(out)])
    first, _ = capsys.readouterr().out.splitlines()
    assert first.endswith(f"; a folder opens faster: --out {tmp_path / 'page'}")
    main(["explore", str(run), "--out", str(tmp_path / "page")])
    (line,) = capsys.readouterr().out.splitlines()
    assert f"; open {tmp_path / 'page' / 'index.html'} in a browser" in line


def test_run_without_its_store_is_answered_by_one_sentence(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "read", lambda folder, fetching: ORT)
    line = refused(capsys, "explore", run, "--out", tmp_path / "x.html", "--data", tmp_path / "no")
    assert str(tmp_path / "no") in line


def test_store_of_other_classes_is_refused_except_by_a_run_that_has_no_names(
    store: Path,
    copied_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(runtime, "read", lambda folder, fetching: ORT)
    monkeypatch.setattr(page, "write", lambda *arguments: 5 << 20)
    manifest = json.loads((store / "manifest.json").read_text())
    letters = "abcdefghijk"
    for name, classes in (("ten", letters[:10]), ("eleven", letters)):
        shutil.copytree(store, tmp_path / name)
        (tmp_path / name / "manifest.json").write_text(
            json.dumps(sealed(manifest | {"classes": list(classes)}))
        )
    arguments = "explore", copied_run, "--out", tmp_path / "page.html", "--data"
    line = refused(capsys, *arguments, tmp_path / "ten")
    assert f"{copied_run} was trained on other classes than {tmp_path / 'ten'} has" in line
    assert "page.html: 5.0 MiB" in printed(capsys, *arguments, store)
    saved = checkpoint.read(copied_run)
    about = saved.about | {"classes": [f"class {number}" for number in range(10)]}
    file = copied_run / "last.safetensors"
    checkpoint.write(file, saved.weights, saved.velocity, saved.mean, about)
    assert "page.html: 5.0 MiB" in printed(capsys, *arguments, tmp_path / "ten")
    line = refused(capsys, *arguments, tmp_path / "eleven")
    assert line.endswith("eleven has: 10, and 11 in the store")


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
    (runtime.cached() / runtime.WASM).write_bytes(b"cut")
    with pytest.raises(RunError, match="is not the file of onnxruntime-web"):
        runtime.read(None, "")
    runtime.fetch()  # again, since a file is damaged
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
