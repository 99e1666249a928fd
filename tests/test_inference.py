"""Use of a trained network: predictions, features, figures, signal, and exported files."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import checkpoint, features, figures, load, predict, recipes
from alexnet.cli.train import parse_train
from alexnet.config import Config
from alexnet.data import shapes
from alexnet.data.preprocess import Preprocess
from alexnet.data.store import Statistics, Store
from alexnet.diagnostics import BLIND, Signal, signal, warning
from alexnet.errors import RunError
from alexnet.export import write_onnx
from alexnet.inference import last_hidden
from alexnet.model import Network
from alexnet.trained import Trained, probabilities
from tests.commands import printed
from tests.conftest import RECIPES, tiny_architecture


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    images = tmp_path / "pictures"
    images.mkdir()
    for label in range(3):
        Image.fromarray(shapes.image(label, 1)).save(images / f"{label}.png")
    return images


def test_predictions_are_probabilities_best_first(run: Path, folder: Path) -> None:
    predictions = list(predict(load(run), [folder], most=10))
    assert [Path(p.file).name for p in predictions] == ["0.png", "1.png", "2.png"]
    for p in predictions:
        probabilities = [probability for _, probability in p.classes]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert {name for name, _ in p.classes} == set(shapes.CLASSES)


def test_undecodable_file_is_reported_and_the_others_are_predicted(run: Path, folder: Path) -> None:
    (folder / "1b.jpg").write_text("no picture")
    predictions = list(predict(load(run), [folder]))
    assert [p.error for p in predictions] == [None, None, "not an image of a known format", None]
    with pytest.raises(ValueError, match="does not exist"):
        list(predict(load(run), [folder / "none.jpg"]))
    # One path may stand for a list of one.
    for one in (folder / "0.png", str(folder / "0.png")):
        assert list(predict(load(run), one)) == predictions[:1]
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in"):
        list(predict(load(run), [folder / "empty"]))


def test_enormous_file_and_pipe_are_reported_without_being_read(
    run: Path, folder: Path, tmp_path: Path
) -> None:
    with (folder / "huge.png").open("wb") as file:
        file.truncate(300 << 20)
    (huge,) = (p for p in predict(load(run), [folder]) if p.error and p.file.endswith("huge.png"))
    assert huge.error == "314,572,800 bytes are more than 268,435,456"
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RunError, match="pipe is not a regular file"):
        list(predict(load(run), [tmp_path / "pipe"]))


def test_features_of_a_store_are_the_networks_activations(
    run: Path, store: Path, tmp_path: Path
) -> None:
    trained = load(run)
    assert features(trained, "fc7", store, tmp_path / "fc7") == 30
    values = np.load(tmp_path / "fc7" / "fc7.npy")
    names = (tmp_path / "fc7" / "names.txt").read_text().splitlines()
    assert values.shape == (30, 32)
    split = Store(store).split("val")
    assert names == [split.name(i) for i in range(30)]
    from alexnet.data.augment import fixed_crop
    from alexnet.data.loader import batches

    images = next(batches(split, np.arange(30), 30)).images
    x = trained.preprocess(images, fixed_crop(4, 4, False, 30))
    np.testing.assert_allclose(
        values, trained.net.activations(x)["fc7"].detach().numpy(), rtol=1e-5, atol=1e-6
    )
    features(trained, "conv2.max_pool", store, tmp_path / "maps")
    assert np.load(tmp_path / "maps" / "conv2.max_pool.npy").shape == (30, 12, 3, 3)


def test_features_of_a_folder_and_invalid_requests(run: Path, folder: Path, tmp_path: Path) -> None:
    trained = load(run)
    assert features(trained, "fc6", folder, tmp_path / "fc6") == 3
    with pytest.raises(ValueError, match="exists; choose another --out"):
        features(trained, "fc6", folder, tmp_path / "fc6")
    with pytest.raises(ValueError, match=r"no layer 'fc9'; it has conv1\.linear, conv1\.lrn"):
        features(trained, "fc9", folder, tmp_path / "x")
    (folder / "bad.png").write_text("no")
    with pytest.raises(ValueError, match=r"bad\.png cannot be read: .* known format; remove it$"):
        features(trained, "fc6", folder, tmp_path / "x")
    # All are named at once, and before the first image is computed.
    (folder / "z.png").write_text("no")
    with pytest.raises(ValueError, match=r"bad\.png .* remove it, and 1 more of 5 files"):
        features(trained, "fc6", folder, tmp_path / "x")
    Image.fromarray(shapes.image(0, 1)).save(folder / "z.png")
    (folder / "z.png").write_bytes((folder / "z.png").read_bytes()[:-500])
    (folder / "bad.png").unlink()
    with pytest.raises(ValueError, match=r"z\.png cannot be read"):
        features(trained, "fc6", folder, tmp_path / "x")
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", "fc6"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_onnx_gives_the_networks_probabilities(
    recipe: Callable[[], Config], tmp_path: Path
) -> None:
    """Every recipe at an eighth of its width; float32 sums in another order differ by 1e-4."""
    import onnx
    import onnxruntime

    config = recipe()
    px = config.architecture.input_px
    architecture = replace(config.architecture, width=0.125, scale_std=False, classes=10)
    # With the start of some recipes, all inputs would have nearly the same probabilities.
    layers = tuple(replace(layer, std=0.05) for layer in architecture.layers)
    net = Network(replace(architecture, layers=layers))
    statistics = Statistics(np.full((px + 8, px + 8, 3), 120.0), np.eye(3) * 60**2)
    preprocess = Preprocess(config.augment, statistics, px, torch.device("cpu"))
    about = {"recipe": config.recipe, "store": "none", "sha256": "none"}
    trained = Trained(net, preprocess, tuple("abcdefghij"), about)
    write_onnx(trained, tmp_path / "net.onnx")
    rgb = np.random.default_rng(0).integers(0, 256, (3, px, px, 3)).astype(np.float32)
    # Of another brightness, since noise alone looks the same to the last layer.
    rgb[1] /= 4
    session = onnxruntime.InferenceSession(
        str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"]
    )
    (got,) = session.run(None, {"rgb": np.ascontiguousarray(rgb.transpose(0, 3, 1, 2))})
    x = torch.from_numpy(rgb) - preprocess.centre_mean
    if config.augment.mean == "channel":
        x = x / (255 * torch.tensor([0.229, 0.224, 0.225]))
    with torch.no_grad():
        want = net.eval()(x.permute(0, 3, 1, 2)).softmax(1).numpy()
    np.testing.assert_allclose(got, want, atol=1e-4)
    assert np.abs(want[0] - want[1]).max() > 1e-3  # the probabilities depend on the input
    model = onnx.load(tmp_path / "net.onnx")
    lrns = sum(step.op == "lrn" for step in net.plan) * architecture.lrn_columns
    assert [node.op_type for node in model.graph.node].count("LRN") == lrns
    assert json.loads({p.key: p.value for p in model.metadata_props}["classes"]) == list(
        "abcdefghij"
    )


def test_onnx_without_links_keeps_the_columns_apart(tmp_path: Path) -> None:
    import onnxruntime

    net = Network(replace(tiny_architecture(), links=False))
    statistics = Statistics(np.full((40, 40, 3), 120.0), np.eye(3))
    preprocess = Preprocess(recipes.paper().augment, statistics, 32, torch.device("cpu"))
    about = {"recipe": "tiny", "store": "none", "sha256": "none"}
    write_onnx(Trained(net, preprocess, tuple("abcdefghij"), about), tmp_path / "net.onnx")
    rgb = np.random.default_rng(0).uniform(0, 255, (2, 3, 32, 32)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"]
    )
    with torch.no_grad():
        want = net.eval()(torch.from_numpy(rgb) - 120).softmax(1).numpy()
    np.testing.assert_allclose(session.run(None, {"rgb": rgb})[0], want, atol=1e-4)


def narrow(recipe: Config, stored_px: int) -> Trained:
    """A recipe's network at an eighth of its width, with random weights and a mean image."""
    architecture = replace(recipe.architecture, width=0.125, classes=3)
    layers = tuple(replace(layer, std=0.05) for layer in architecture.layers)
    net = Network(replace(architecture, layers=layers)).eval()
    # Not symmetric: a mean that is cropped or reflected wrongly must change the probabilities.
    mean = np.random.default_rng(1).uniform(0, 255, (stored_px, stored_px, 3))
    statistics = Statistics(mean, np.eye(3))
    px, cpu = architecture.input_px, torch.device("cpu")
    about = {"recipe": recipe.recipe, "store": "none", "sha256": "none"}
    preprocess = Preprocess(recipe.augment, statistics, px, cpu)
    return Trained(net, preprocess, tuple("abc"), about)


@pytest.mark.parametrize("crops", ["centre", "nine", "ten"])
@pytest.mark.parametrize("mean", ["pixel", "centre", "channel"])
def test_onnx_with_preprocessing_gives_what_the_trained_network_gives(
    mean: Literal["pixel", "centre", "channel"],
    crops: Literal["centre", "nine", "ten"],
    tmp_path: Path,
) -> None:
    """The file takes stored images and averages its crops as `alexnet.load(run)(images)` does."""
    import onnxruntime

    recipe = recipes.demo()
    augment = replace(recipe.augment, mean=mean, test_patches=crops)
    # 121 - 112 is odd, so the center crop is not in the middle.
    trained = narrow(replace(recipe, augment=augment), 121)
    images = np.random.default_rng(0).integers(0, 256, (2, 121, 121, 3), np.uint8)
    images[1] //= 4  # a dark image, which has other probabilities than a bright one
    write_onnx(trained, tmp_path / "net.onnx", preprocessing=True, crops=crops)
    session = onnxruntime.InferenceSession(
        str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"]
    )
    (got,) = session.run(["probabilities"], {"images": images})
    want = trained(images).numpy()
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(want[0] - want[1]).max() > 1e-3  # the probabilities depend on the images
    if crops != "centre":
        centre = probabilities(
            trained.net,
            trained.preprocess,
            torch.from_numpy(images),
            replace(augment, test_patches="centre"),
        )
        assert np.abs(centre.numpy() - want).max() > 1e-4  # the crops do matter


@pytest.mark.parametrize("preprocessing", [False, True])
def test_metadata_of_onnx_lead_from_an_image_to_the_probabilities(
    preprocessing: bool, tmp_path: Path
) -> None:
    """An image is preprocessed with Pillow and NumPy by what the metadata say, and nothing else."""
    import onnxruntime

    demo = recipes.demo()
    centre = replace(demo, augment=replace(demo.augment, test_patches="centre"))
    trained = narrow(centre, 128)
    write_onnx(trained, tmp_path / "net.onnx", preprocessing)
    session = onnxruntime.InferenceSession(
        str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"]
    )
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == ["a", "b", "c"]
    assert json.loads(about["recipe"]) == "demo"
    assert json.loads(about["code"]).startswith("alexnet ")
    before = json.loads(about["input"])["before"]
    image = np.asarray(Image.fromarray(shapes.image(0, 1)).resize((200, 150)))
    factor = before["shorter_side_px"] / 150
    size = round(200 * factor), before["shorter_side_px"]
    rescaled = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))
    side = before["center_crop_px"]
    top, left = (rescaled.shape[0] - side) // 2, (rescaled.shape[1] - side) // 2
    x = rescaled[top : top + side, left : left + side].astype(before["dtype"])[None]
    x = x.transpose(0, 3, 1, 2) if before["layout"] == "NCHW" else x
    (got,) = session.run(None, {session.get_inputs()[0].name: np.ascontiguousarray(x)})
    # `alexnet` rescales and crops in one step, which may differ by a part of a pixel.
    np.testing.assert_allclose(got, trained(image[None]).numpy(), atol=0.02)
    assert json.loads(about["input"])["inside"] == {
        "crop_px": 112,
        "crops": 1,
        "subtracts": "the mean image",
        "divides_by": None,
    }


def test_onnx_refuses_several_crops_without_preprocessing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="needs --with-preprocessing"):
        write_onnx(narrow(recipes.demo(), 128), tmp_path / "net.onnx", crops="ten")
    assert not list(tmp_path.iterdir())


def test_a_wrong_onnx_file_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet.export._subtract_mean", lambda *arguments: None)
    with pytest.raises(RunError, match="probabilities differ by"):
        write_onnx(narrow(recipes.demo(), 128), tmp_path / "net.onnx", True, "ten")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("is_wrong", [True, False])
def test_file_of_a_network_with_nearly_equal_answers_is_compared(
    is_wrong: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = narrow(recipes.demo(), 128)
    *_, weight, _ = trained.net.parameters()
    with torch.no_grad():
        weight.mul_(1e-3)
    path = tmp_path / "net.onnx"
    if not is_wrong:
        assert write_onnx(trained, path)
        return
    monkeypatch.setattr("alexnet.export._subtract_mean", lambda *arguments: None)
    with pytest.raises(RunError, match=r"differ by \d(\.\d+)?e-(0[5-9]|1).*, and their log"):
        write_onnx(trained, path)


def test_a_network_whose_answers_are_not_numbers_is_not_exported(tmp_path: Path) -> None:
    """A difference that is not a number is no smaller than the limit."""
    trained = narrow(recipes.demo(), 128)
    *_, bias = trained.net.parameters()
    torch.nn.init.constant_(bias, torch.nan)
    with pytest.raises(RunError, match="differ by nan, and their logarithms by nan; nothing was"):
        write_onnx(trained, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_missing_onnx_is_one_sentence_with_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(RunError) as raised:
        write_onnx(narrow(recipes.demo(), 128), tmp_path / "net.onnx")
    command = f"{sys.executable} -m pip install onnx onnxruntime"
    assert str(raised.value) == f"writing ONNX needs onnx and onnxruntime: {command}"


def test_export_says_where_a_file_was_not_compared_with_the_run(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    says = "the file was not compared with the run: the comparison needs onnxruntime: "
    assert says not in printed(capsys, "export", run, tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert says in printed(capsys, "export", run, tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").is_file()


def test_weights_without_velocity_can_be_loaded(run: Path, tmp_path: Path) -> None:
    saved = checkpoint.read(run)
    checkpoint.write(tmp_path / "net.safetensors", saved.weights, {}, saved.mean, saved.about)
    again = checkpoint.read(tmp_path / "net.safetensors")
    assert not again.velocity
    assert all(torch.equal(again.weights[n], saved.weights[n]) for n in saved.weights)
    assert load(tmp_path / "net.safetensors").classes == shapes.CLASSES


def test_figures_are_not_blank(run: Path, tmp_path: Path) -> None:
    figures.filters(load(run).net).savefig(tmp_path / "filters.png")
    figures.curves([run]).savefig(tmp_path / "curves.png")
    figures.signals([run]).savefig(tmp_path / "signal.png")
    for name in ("filters", "curves", "signal"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 150
            assert np.asarray(image.convert("L")).std() > 5
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ValueError, match="no finished epoch"):
        figures.curves([tmp_path])


def test_figure_3_shows_the_filters_of_each_column(run: Path) -> None:
    """Each filter is scaled by its largest absolute weight, and zero is grey."""
    net = load(run).net
    weight = net.get_parameter("conv1.weight").detach()
    sheets = [axes.images[0].get_array() for axes in figures.filters(net).axes]
    assert len(sheets) == 2
    for column, sheet in enumerate(sheets):
        first = weight[column * len(weight) // 2]
        want = 0.5 + 0.5 * (first / first.abs().max()).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(sheet[1:6, 1:6], want, atol=1e-6)


def test_the_last_hidden_layer_is_fc7(run: Path) -> None:
    trained = load(run)
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        want = trained.net.activations(x)["fc7"].flatten(1)
        torch.testing.assert_close(last_hidden(trained, x), want)


def test_figure_4_has_the_papers_counts(run: Path) -> None:
    """Eight test images with five classes each, and five with their six nearest training images."""
    answers = figures.answers(run)
    assert sum(len(axes.images) for axes in answers.axes) == 8
    bars = [len(axes.patches) for axes in answers.axes if len(axes.patches)]
    assert bars == [5] * 8
    assert sum(len(axes.images) for axes in figures.neighbours(run).axes) == 5 * (1 + 6)


def test_signal_is_the_mean_difference_divided_by_the_mean_norm() -> None:
    net = Network(tiny_architecture())
    images = torch.randn(3, 3, 32, 32) * 50
    with torch.no_grad():
        f = net.eval().activations(images)["fc7"].flatten(1).double()
    distances = (f[0] - f[1]).norm() + (f[0] - f[2]).norm() + (f[1] - f[2]).norm()
    norms = f.norm(dim=1).sum()
    assert signal(net, images)[-2].difference == pytest.approx(float(distances / norms))
    assert signal(net, images)[-2].rms == pytest.approx(float(f.square().mean().sqrt()))
    assert BLIND == 0.02
    blind = [Signal("conv1", 1, 1), Signal("fc7", 0.019, 1), Signal("fc8", 1, 1)]
    seeing = [Signal("conv1", 1, 1), Signal("fc7", 0.021, 1), Signal("fc8", 1, 1)]
    assert warning(blind, tiny_architecture())
    assert not warning(seeing, tiny_architecture())


def test_signal_is_zero_for_equal_images_and_positive_for_different_ones() -> None:
    net = Network(tiny_architecture())
    image = torch.randn(1, 3, 32, 32) * 50
    assert all(s.difference < 1e-5 for s in signal(net, image.expand(3, -1, -1, -1)))
    signals = signal(net, torch.randn(4, 3, 32, 32) * 50)
    assert [s.layer for s in signals] == ["conv1", "conv2", "conv3", "conv4", "fc6", "fc7", "fc8"]
    assert signals[0].difference > BLIND
    assert warning(signals, tiny_architecture()) is None
    with pytest.raises(ValueError, match="needs at least 2"):
        signal(net, image)


@pytest.mark.parametrize("width", [pytest.param(1.0, marks=pytest.mark.slow), 0.25])
def test_the_mend_for_a_blind_network_restores_the_signal(width: float) -> None:
    """The command line of the warning, applied until the network sees."""
    images = torch.randn(6, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 60
    flags = {
        "--architecture.input-px": "96",
        "--architecture.width": str(width),
        "--architecture.scale-std": "False",
    }
    differences = []
    for _ in range(8):
        arguments = [word for flag in flags.items() for word in flag]
        architecture = parse_train("paper", arguments).config.architecture
        signals = signal(Network(replace(architecture, classes=5)), images)
        differences.append(signals[-2].difference)
        text = warning(signals, architecture)
        if text is None:
            break
        match = re.search(r"(--architecture\.\S+) ([^\s)]+)\)", text)
        assert match is not None, text
        flags[match[1]] = match[2]
    assert differences[0] < BLIND <= differences[-1]


def test_signal_of_an_untrained_paper_net_is_below_that_of_original() -> None:
    """Narrow networks, for speed; records/imagenette-signal has the same order at full size."""
    images = torch.randn(6, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 60
    paper, original = (
        signal(Network(replace(recipe().architecture, width=0.25)), images)[-2].difference  # fc7
        for recipe in (recipes.paper, recipes.original)
    )
    assert paper < original
