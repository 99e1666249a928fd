"""Every script of examples/ runs, and the plain network is the network of the package."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import re
import runpy
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

import alexnet
from alexnet import checkpoint
from alexnet.config import StoreSettings
from alexnet.data import shapes
from alexnet.data.prepare import prepare
from alexnet.data.sources import find
from alexnet.figures.answers import stored_image
from tests.small_stores import folder_of

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name: str, *arguments: object) -> str:
    """Standard output of `python examples/NAME`, run as the docstring of the example shows it."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    path = os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    completed = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of eight images, one folder for each class."""
    folder = tmp_path_factory.mktemp("images")
    return folder_of(folder, dict.fromkeys(shapes.CLASSES[:3], 8), shapes.image)


@pytest.mark.slow
def test_plain_alexnet_has_the_logits_and_gradients_of_the_paper_recipe() -> None:
    plain = runpy.run_path(str(EXAMPLES / "plain_alexnet.py"))["AlexNet"](classes=10)
    architecture = replace(alexnet.recipes.paper().architecture, classes=10)
    net = alexnet.Network(architecture, seed=1).double().eval()
    assert {n: p.shape for n, p in plain.named_parameters()} == {
        n: p.shape for n, p in net.named_parameters()
    }
    # The recipe's deviation of 0.01 leaves almost nothing of an image in fc8; larger weights do.
    for parameter in net.parameters():
        if parameter.dim() > 1:
            parameter.data *= 3
    plain.load_state_dict(net.state_dict(), assign=True)
    plain.eval()
    x, labels = 50 * torch.randn(2, 3, 224, 224, dtype=torch.float64), torch.tensor([3, 7])
    results = []
    for model in (net, plain):
        logits = model(x)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        results.append((logits, torch.autograd.grad(loss, tuple(model.parameters()))))
    (logits, gradients), (plain_logits, plain_gradients) = results
    assert float((logits[0] - logits[1]).detach().abs().max()) > 1e-3  # the images do matter
    torch.testing.assert_close(plain_logits, logits, rtol=1e-10, atol=1e-12)
    for ours, theirs in zip(gradients, plain_gradients, strict=True):
        scale = float(ours.abs().max())
        assert scale > 0
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-10 * scale)


def test_plain_alexnet_starts_and_drops_as_the_paper_says() -> None:
    plain = runpy.run_path(str(EXAMPLES / "plain_alexnet.py"))["AlexNet"](classes=10)
    net = alexnet.Network(replace(alexnet.recipes.paper().architecture, classes=10))
    for (name, ours), theirs in zip(net.named_parameters(), plain.parameters(), strict=True):
        if ours.dim() == 1:
            assert torch.equal(ours, theirs), name
        else:
            # The deviation of 35,000 draws of conv1 is known to 3.8e-5 of its own: five times that.
            assert abs(float(theirs.detach().std()) - 0.01) < 2e-4, name
    dropped = plain.train().dropout(torch.ones(1000))
    assert set(dropped.tolist()) == {0.0, 1.0}
    # Of 1,000 halves the sum has a deviation of 16: five times that.
    assert 420 < float(dropped.sum()) < 580
    assert set(plain.eval().dropout(torch.ones(10)).tolist()) == {0.5}


@pytest.mark.slow
def test_plain_alexnet_prints_its_parameters() -> None:
    assert "60,965,224 parameters" in run_example("plain_alexnet.py")


@pytest.mark.slow
def test_train_on_a_folder_then_look_at_features(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    output = run_example("train_on_a_folder.py", images, out, "--epochs", 1)
    assert "center crop: top-1 error" in output
    assert "10 crops: top-1 error" in output
    for layer, shape in (("conv1", (24, 24, 13, 13)), ("fc7", (24, 1024))):
        folder = tmp_path / layer
        output = run_example("look_at_features.py", out / "run", images, folder, "--layer", layer)
        assert output.startswith(f"{layer}: 24 images")
        assert np.load(folder / f"{layer}.npy").shape == shape
        assert (folder / f"{layer}.png").stat().st_size > 1000


def in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, *words: object
) -> tuple[int | str | None, str]:
    """The exit code and the output of an example, run here: a process of its own takes seconds."""
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    capsys.readouterr()
    code: int | str | None = 0
    try:
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    except SystemExit as stopped:
        code = stopped.code
    finally:
        logging.disable(logging.NOTSET)
    output = capsys.readouterr()
    return code, output.out + output.err


def test_prune_sets_the_smallest_weights_of_a_layer_to_zero(
    run: Path,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def example(*words: object) -> tuple[int | str | None, str]:
        return in_process(monkeypatch, capsys, "prune.py", run, store, *words)

    out = tmp_path / "out.safetensors"
    code, output = example(out, "--share", 0.75, "--layer", "conv2,fc6")
    assert code == 0
    assert re.search(r"^conv2 +0\.0% +75\.0% +\d", output, re.MULTILINE)
    assert re.search(r"^fc7 +0\.0% +0\.0% +\d", output, re.MULTILINE)
    # The share of zeros in what a layer multiplies with its weights, over images of all classes.
    trained, split = alexnet.load(run), alexnet.Store(store).split("val")
    images = torch.from_numpy(np.stack([stored_image(split, index) for index in range(30)]))
    for layer in ("conv2", "fc7"):
        read: list[torch.Tensor] = []
        module = trained.net.get_submodule(layer)
        with module.register_forward_pre_hook(lambda _, x, read=read: read.append(x[0])):
            trained.net(trained.preprocess.centre(images))
        share = f"{(read[0] == 0).float().mean():.1%}"
        assert re.search(rf"^{layer} .* {share}$", output, re.MULTILINE), (layer, share)
    before, after = alexnet.load(run).net, alexnet.load(out).net
    for name, weight in before.state_dict().items():
        kept = after.state_dict()[name]
        if name not in ("conv2.weight", "fc6.weight"):
            assert torch.equal(kept, weight), name
            continue
        zero = kept == 0
        assert int(zero.sum()) == round(0.75 * kept.numel())
        assert torch.equal(kept[~zero], weight[~zero])
        assert float(weight[zero].abs().max()) <= float(weight[~zero].abs().min())
    # What training measured belongs to the weights before.
    assert "evaluation" in checkpoint.read(run).about
    assert "evaluation" not in checkpoint.read(out).about
    for state in ("before", "after"):
        assert re.search(rf"^top-1 error {state} pruning: \d+\.\d% \(1 crops\), \d", output, re.M)
    for words, message in (
        ([out], "OUT must be a new .safetensors file"),
        ([tmp_path / "x.safetensors", "--share", 2], "--share a number from 0 to 1"),
        ([tmp_path / "x.safetensors", "--layer", "conv9"], "no layer 'conv9'; it has conv1"),
    ):
        code, output = example(*words)
        assert code == 2
        assert message in output
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]


def test_quantised_network_is_smaller_and_answers_nearly_the_same(
    run: Path,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import onnx

    def example(*words: object) -> tuple[int | str | None, str]:
        return in_process(monkeypatch, capsys, "quantise.py", run, store, *words)

    out = tmp_path / "out.onnx"
    code, output = example(tmp_path / "none" / "x.onnx")
    assert (code, "there is no folder" in output) == (2, True)
    code, output = example(out, "--images", 16)
    assert code == 0, output
    printed = re.search(r"largest change of a probability: (.*)$", output, re.MULTILINE)
    assert printed is not None
    # Measured: 0.003, of probabilities near a tenth.
    assert 0 < float(printed[1]) < 0.01
    assert re.search(r"^float32 +\d\.\d\d MB  top-1 error \d", output, re.MULTILINE)
    assert re.search(r"^int8 +\d\.\d\d MB  top-1 error \d", output, re.MULTILINE)
    model = onnx.load(out)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("LRN") == 4  # float32, for each column
    # A product without a quantized input would be computed in float32.
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            assert [makers[name] for name in node.input[:2]] == ["DequantizeLinear"] * 2
    assert {prop.key for prop in model.metadata_props} >= {"classes", "input", "sha256"}
    for words, message in (
        ([out], "OUT must be a new .onnx file"),
        ([tmp_path / "x.onnx", "--images", 0], "--images at least 1"),
        ([tmp_path / "x.onnx", "--weight-bits", 9], "(choose from 7, 8)"),
    ):
        code, output = example(*words)
        assert code == 2
        assert message in output
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    code, output = example(tmp_path / "x.onnx")
    assert code == 2
    assert output.startswith("quantise.py: 8 bits needs onnx and onnxruntime: ")
    assert [path.name for path in tmp_path.iterdir()] == ["out.onnx"]


def test_prune_leaves_no_file_for_a_store_that_it_cannot_measure_on(
    run: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other, out = tmp_path / "store", tmp_path / "out.safetensors"
    prepare(find(str(images)), other, StoreSettings(size_px=40), workers=1)
    code, output = in_process(monkeypatch, capsys, "prune.py", run, other, out)
    assert code == 2
    assert "was trained on other classes than" in output
    assert not out.exists()


def test_train_on_a_folder_says_what_it_continues(
    run: Path,
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "run").symlink_to(run)
    (tmp_path / "store").symlink_to(store)
    monkeypatch.setattr(alexnet, "resume", lambda folder: None)
    monkeypatch.setattr(alexnet, "evaluate", lambda *_: [])
    words = ("images", tmp_path, "--recipe", "demo", "--epochs", 9)
    code, output = in_process(monkeypatch, capsys, "train_on_a_folder.py", *words)
    assert code == 0
    epochs = checkpoint.read_config(run).schedule.epochs
    assert output == f"continuing {tmp_path / 'run'}: tiny, {epochs} epochs\n"


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("look_at_features.py", "{none} {images} {out}", "{none} does not exist"),
        ("look_at_features.py", "{run} {images} {out} --layer conv9", "no layer 'conv9'"),
        ("prune.py", "{none} {store} {out}.safetensors", "{none} does not exist"),
        ("prune.py", "{run} {store} {none}/out.safetensors", "there is no folder {none}"),
        ("quantise.py", "{run} {none} {out}.onnx", "{none} is not a prepared store"),
        ("run_one_claim.py", "{store} {out} --claim lnr", "there is no claim 'lnr'"),
        ("serve.py", "{none}", "{none} does not exist"),
        ("train_on_a_folder.py", "{none} {out}", "{none} does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(
    name: str,
    arguments: str,
    message: str,
    run: Path,
    store: Path,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    paths = {"none": tmp_path / "none", "out": tmp_path / "out"}
    paths |= {"run": run, "store": store, "images": images}
    words = [word.format(**paths) for word in arguments.split()]
    code, output = in_process(monkeypatch, capsys, name, *words)
    assert code == 2
    *_, sentence = output.splitlines()
    assert sentence.startswith(f"{name}: ")
    assert message.format(**paths) in sentence


def test_serve_names_the_packages_that_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    code, output = in_process(monkeypatch, capsys, "serve.py", "run")
    assert code == 2
    assert output.startswith("serve.py: the server needs fastapi and uvicorn: ")


@contextlib.contextmanager
def serving(app: Any, **settings: Any) -> Iterator[tuple[str, int]]:
    """Serve an application in a thread, with these settings of uvicorn; yield its address."""
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, **settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def server(run: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[http.client.HTTPConnection]:
    """A connection to `examples/serve.py` with the tiny run and a limit of 50 kB."""
    serve = runpy.run_path(str(EXAMPLES / "serve.py"))["application"]
    monkeypatch.setitem(serve.__globals__, "MAX_BYTES", 50_000)
    with serving(serve(run), log_level="error") as address:
        connection = http.client.HTTPConnection(*address, timeout=30)
        yield connection
        connection.close()


def test_serve_answers_images_and_survives_bad_uploads(
    server: http.client.HTTPConnection, run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "disc.jpg"
    Image.fromarray(shapes.image(0, 1)).save(path)

    def post(body: bytes | Iterator[bytes]) -> tuple[int, dict[str, Any]]:
        server.request("POST", "/predict", body, encode_chunked=not isinstance(body, bytes))
        response = server.getresponse()
        return response.status, json.loads(response.read())

    (prediction,) = alexnet.predict(alexnet.load(run), [path], most=10)
    for bad, status, message in (
        (b"", 400, "the body is empty"),
        (b"no image", 400, "not an image of a known format"),
        (path.read_bytes()[:-200], 400, "truncated"),
        (bytes(50_001), 413, "more than 50000 bytes"),
        (iter([bytes(30_000)] * 2), 413, "more than 50000 bytes"),  # without a length in the header
    ):
        got, answer = post(bad)
        assert (got, message in answer["detail"]) == (status, True), answer
        got, answer = post(path.read_bytes())
        assert got == 200
        assert list(answer) == [name for name, _ in prediction.classes]
        assert list(answer.values()) == pytest.approx([p for _, p in prediction.classes])
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    server.request("POST", "/predict", path.read_bytes(), form)
    response = server.getresponse()
    assert response.status == 400
    assert "not a form" in json.loads(response.read())["detail"]
    server.request("GET", "/health")
    assert json.loads(server.getresponse().read())["recipe"] == "tiny"


def test_serve_takes_as_many_connections_as_it_says(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = Mock()
    monkeypatch.setattr("uvicorn.run", served)
    code, output = in_process(monkeypatch, capsys, "serve.py", run)
    assert code == 0, output
    (app,), settings = served.call_args
    limit = settings["limit_concurrency"]
    answers = []
    with (
        serving(app, log_level="critical", limit_concurrency=limit) as address,
        contextlib.ExitStack() as opened,
    ):
        for _ in range(51):
            connection = http.client.HTTPConnection(*address, timeout=30)
            opened.callback(connection.close)
            connection.request("GET", "/health")
            response = connection.getresponse()
            response.read()
            answers.append(response.status)
    assert answers == [200] * 50 + [503]


def test_example_says_of_a_claim_that_the_paper_does_not_make_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (tmp_path / "none", tmp_path / "out", "--claim", "links")
    code, output = in_process(monkeypatch, capsys, "run_one_claim.py", *words)
    assert code == 2
    assert "err less than columns that never meet (not in the paper)\n" in output


@pytest.mark.slow
def test_run_one_claim(tmp_path: Path) -> None:
    store = tmp_path / "store"
    prepare(shapes.source(40, 20), store, StoreSettings(size_px=112), workers=2)
    output = run_example(
        "run_one_claim.py", store, tmp_path / "out", "--scale", "smoke", "--seeds", 1
    )
    assert "arms: base, no normalisation" in output
    assert "n = 1" in output
