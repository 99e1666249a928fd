"""Test crops that are larger than the input, and are rescaled to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from alexnet import checkpoint, load
from alexnet.config import Augment, StepSchedule, check
from alexnet.data.augment import Preprocess, evaluation_crops, fixed_crop
from alexnet.data.store import Statistics
from alexnet.errors import ConfigError, DataError
from alexnet.evaluation import centre, evaluate
from alexnet.export import write_onnx
from alexnet.train.loop import fit
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
