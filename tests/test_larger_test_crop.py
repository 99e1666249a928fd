"""Test crops that are larger than the input, and are rescaled to it."""

from __future__ import annotations

import functools
import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from alexnet import checkpoint, figures, load
from alexnet.config import Architecture, Augment, StepSchedule
from alexnet.config_checks import check
from alexnet.data.augment import evaluation_crops, fixed_crop
from alexnet.data.preprocess import Preprocess
from alexnet.data.store import Statistics
from alexnet.errors import ConfigError, DataError
from alexnet.evaluation import centre, evaluate
from alexnet.explain import explain
from alexnet.export import write_onnx
from alexnet.figures.answers import stored_image
from alexnet.inference import split_for
from alexnet.train.start import fit
from alexnet.trained import Trained
from alexnet.units import Patch, maximise, strongest
from tests.conftest import tiny

STORED, TEST, INPUT = 40, 36, 32  # those of the tiny config


def test_crops_have_the_larger_side() -> None:
    ten = evaluation_crops(Augment(test_px=TEST), STORED, INPUT)
    assert len(ten) == 10
    assert {crop[:2] for crop in ten} == {(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)}
    assert evaluation_crops(Augment(test_px=STORED), STORED, INPUT) == [(0, 0, False)]


def test_a_ramp_is_seen_whole_and_smaller() -> None:
    """Of a crop of 36 pixels, pixel i of 32 lies at 1.125 i + 0.0625, from the crop's first."""
    ramp = torch.arange(STORED, dtype=torch.uint8)[None, None, :, None]
    images = ramp.expand(1, STORED, STORED, 3)
    statistics = Statistics(np.zeros((STORED, STORED, 3), np.float32), np.eye(3))
    augment = Augment(test_px=TEST, mean="pixel", colour="none")
    preprocess = Preprocess(augment, statistics, INPUT, torch.device("cpu"))
    want = 2 + 1.125 * torch.arange(INPUT) + 0.0625
    x = preprocess(images, fixed_crop(2, 2, False, 1, TEST))
    torch.testing.assert_close(x[0, 0, 5], want, rtol=0, atol=1e-4)
    torch.testing.assert_close(preprocess.centre(images), x)


@pytest.mark.parametrize("mean", ["pixel", "centre", "channel"])
def test_run_is_validated_tested_and_exported_with_it(
    store: Path, tmp_path: Path, mean: Literal["pixel", "centre", "channel"]
) -> None:
    """`write_onnx` compares the probabilities of the file with those of the network."""
    pytest.importorskip("onnxruntime")
    augment = Augment(test_px=TEST, mean=mean)
    metrics = fit(tiny(store, augment=augment, schedule=StepSchedule(1)), tmp_path / "run")
    results = evaluate([tmp_path / "run"], store, device="cpu")
    assert [result.patches for result in results] == [1, 10]
    assert metrics["val_loss"] == pytest.approx(results[0].loss, rel=1e-5)
    trained = load(tmp_path / "run", device="cpu")
    with torch.no_grad():
        trained.net.fc8.weight.mul_(100)  # probabilities that depend on the image
    write_onnx(trained, tmp_path / "crop.onnx")
    write_onnx(trained, tmp_path / "ten.onnx", preprocessing=True, crops="ten")
    assert centre(checkpoint.read_config(tmp_path / "run").augment).test_px == TEST


def test_sizes_that_do_not_fit_are_refused(store: Path, tmp_path: Path) -> None:
    small = tiny(store, augment=Augment(test_px=INPUT - 1))
    with pytest.raises(
        ConfigError, match=r"^augment\.test_px is 31; it must be 0, or at least the "
    ):
        check(small)
    large = replace(small, augment=Augment(test_px=STORED + 1))
    with pytest.raises(
        DataError, match=r"^augment\.test_px is 41, and the store has 40 pixels per"
    ):
        fit(large, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def trained(run: Path) -> Trained:
    """The tiny run, with larger test crops than it was trained with."""
    small = load(run, device="cpu")
    statistics = Statistics(small.preprocess.whole_mean.numpy(), np.eye(3))
    augment = replace(small.preprocess.augment, test_px=TEST)
    return replace(small, preprocess=Preprocess(augment, statistics, INPUT, torch.device("cpu")))


@pytest.fixture
def image() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (STORED, STORED, 3), dtype=np.uint8)


def test_explanation_and_prediction_agree(trained: Trained, image: NDArray[np.uint8]) -> None:
    """Random images have other answers wherever the crop lies and however large it is."""
    explained = explain(trained, image, ("gradient",))
    answers = explained.answers
    np.testing.assert_allclose(answers.average, trained([image])[0].numpy(), rtol=1e-5)
    assert answers.side_px == TEST and answers.pixels(image, 3).shape == (TEST, TEST, 3)
    np.testing.assert_array_equal(answers.pixels(image, 3), image[4:, 4:])
    assert explained.crop.shape == (INPUT, INPUT, 3)
    title = figures.explanation(explained, trained.names, "photo").axes[0].get_title()
    assert title == f"{STORED}x{STORED} pixels, 10 crops of {TEST}x{TEST}"


def test_center_pixels_are_what_the_network_sees(
    trained: Trained, image: NDArray[np.uint8]
) -> None:
    preprocess = trained.preprocess
    pixels = preprocess.centre_pixels(image)
    x = preprocess.centre(torch.from_numpy(image)[None])[0].permute(1, 2, 0)
    # Rounded to gray levels.
    seen = (x + preprocess.centre_mean).numpy()
    np.testing.assert_allclose(pixels, seen, rtol=0, atol=0.501)


def test_patches_of_units_are_cut_from_the_pixels_the_network_sees(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["alexnet.figures.units"]
    crops: list[NDArray[np.uint8]] = []

    def remember(architecture: Architecture, layer: str, crop: NDArray[np.uint8], *_: int) -> Patch:
        crops.append(crop)
        return Patch(crop, np.ones(crop.shape[:2], bool))

    monkeypatch.setattr(module, "cut", remember)
    monkeypatch.setattr(module, "maximise", functools.partial(maximise, steps=1))
    split = split_for(trained)
    figures.units(trained, split, "conv1", [5])
    found = strongest(trained, split, "conv1", top_k=1)
    stored = stored_image(split, int(found.images[5, 0]))
    np.testing.assert_array_equal(crops[1], trained.preprocess.centre_pixels(stored))
