"""Zoomed crops: random sizes and aspect ratios, rescaled to the input."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alexnet import recipes
from alexnet.config import Augment
from alexnet.config_checks import check, without_effect
from alexnet.data.augment import ASPECT, Augmentation, sample_augmentation
from alexnet.data.preprocess import Preprocess
from alexnet.data.store import Statistics
from alexnet.errors import ConfigError

STORED, INPUT = 16, 12
CPU = torch.device("cpu")


def statistics() -> Statistics:
    rng = np.random.default_rng(3)
    return Statistics(rng.uniform(90, 150, (STORED, STORED, 3)).astype(np.float32), np.eye(3))


def sample(augment: Augment, count: int = 500, epoch: int = 0) -> Augmentation:
    index = np.arange(count)
    return sample_augmentation(augment, statistics(), INPUT, 7, epoch, index, index)


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """The value at a point; the centers of pixels lie at half-integers, and the edge goes on."""
    y, x = (float(np.clip(v - 0.5, 0, STORED - 1)) for v in (y, x))
    top, left = int(y), int(x)
    bottom, right = min(top + 1, STORED - 1), min(left + 1, STORED - 1)
    dy, dx = y - top, x - left
    above = (1 - dx) * image[top, left] + dx * image[top, right]
    below = (1 - dx) * image[bottom, left] + dx * image[bottom, right]
    return (1 - dy) * above + dy * below


@pytest.mark.parametrize("mean", ["pixel", "centre", "channel"])
def test_zoomed_crops_equal_bilinear_interpolation_by_hand(
    mean: Literal["pixel", "centre", "channel"],
) -> None:
    augment = Augment(zoom=0.3, zoom_to=1.7, mean=mean, colour="original")
    drawn = sample(augment, 6)
    assert drawn.sides is not None and drawn.sides.min() < INPUT < drawn.sides.max()
    images = np.random.default_rng(0).integers(0, 256, (6, STORED, STORED, 3), np.uint8)
    preprocess = Preprocess(augment, statistics(), INPUT, CPU)
    batch = torch.from_numpy(images)
    got = preprocess(batch, drawn)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert drawn.sides is not None
    assert drawn.flip.any() and not drawn.flip.all()
    whole_mean = statistics().mean if mean == "pixel" else 0
    for i in range(6):
        height, width = drawn.sides[:, i]
        values = np.empty((INPUT, INPUT, 3))
        for row in range(INPUT):
            for column in range(INPUT):
                along = INPUT - 1 - column if drawn.flip[i] else column
                y = drawn.top[i] + (row + 0.5) * height / INPUT
                x = drawn.left[i] + (along + 0.5) * width / INPUT
                values[row, column] = bilinear(images[i] - whole_mean, y, x)
        if mean != "pixel":
            values -= preprocess.centre_mean.numpy()
        values = (values + drawn.shift[i]) * drawn.scale
        if preprocess.deviation is not None:
            values /= preprocess.deviation.numpy()
        # float32 coordinates of up to 16 pixels, times a contrast of up to 255 gray levels.
        for one in (got[i].permute(1, 2, 0), preprocess.zoomed(batch, drawn)[i]):
            assert np.abs(values - one.numpy()).max() < 2e-3


@pytest.mark.parametrize("mean", ["pixel", "centre", "channel"])
def test_compiled_zoomed_crops_in_bfloat16_are_the_rounded_ones(
    mean: Literal["pixel", "centre", "channel"],
) -> None:
    augment = Augment(zoom=0.3, mean=mean)
    drawn = sample(augment, 6)
    images = torch.randint(0, 256, (6, STORED, STORED, 3), dtype=torch.uint8)
    exact = Preprocess(augment, statistics(), INPUT, CPU)(images, drawn)
    got = Preprocess(augment, statistics(), INPUT, CPU, torch.bfloat16)(images, drawn)
    assert torch.equal(got, exact.bfloat16())


def test_a_zoomed_crop_of_the_inputs_size_is_the_ordinary_crop() -> None:
    augment = Augment(colour="none", mean="pixel")
    drawn = sample(augment, 8)
    whole = replace(drawn, sides=np.full((2, 8), float(INPUT)))
    images = torch.randint(0, 256, (8, STORED, STORED, 3), dtype=torch.uint8)
    preprocess = Preprocess(augment, statistics(), INPUT, CPU)
    assert (preprocess(images, drawn) - preprocess(images, whole)).abs().max() < 1e-3


@given(least=st.floats(0.01, 0.99), most=st.floats(1, 1.5), epoch=st.integers(0, 5))
def test_zoomed_crops_lie_inside_and_have_the_area_and_aspect(
    least: float, most: float, epoch: int
) -> None:
    drawn = sample(Augment(zoom=least, zoom_to=most), 200, epoch)
    assert drawn.sides is not None
    height, width = drawn.sides
    for start, side in ((drawn.top, height), (drawn.left, width)):
        assert (start >= 0).all()
        assert (start + side <= STORED + 1e-9).all()
    inside = (height < STORED) & (width < STORED)
    area = (height * width / INPUT**2)[inside]
    assert (area >= least - 1e-9).all()
    assert (area <= most + 1e-9).all()
    assert np.abs(np.log(width / height)).max() <= math.log(ASPECT) + 1e-9


def test_zoom_depends_on_the_epoch_and_leaves_the_other_draws_alone() -> None:
    plain, zoomed = sample(Augment()), sample(Augment(zoom=0.5))
    assert (plain.flip == zoomed.flip).all()
    assert (plain.shift == zoomed.shift).all()
    assert plain.sides is None
    later = sample(Augment(zoom=0.5), epoch=1)
    assert zoomed.sides is not None and later.sides is not None
    assert (zoomed.sides != later.sides).any()
    areas = zoomed.sides.prod(0) / INPUT**2
    # The mean of 500 areas, uniform from 0.5 to 1, has a deviation of 0.0065: three times that.
    assert areas.mean() == pytest.approx(0.75, abs=3 * 0.0065)


def test_chunks_share_a_zoomed_crop() -> None:
    drawn = sample(Augment(zoom=0.5, chunk=5), 20)
    assert drawn.sides is not None
    assert len(np.unique(drawn.sides[0])) == 4


def test_the_published_random_resized_crop_is_a_range_of_zooms() -> None:
    """8 % to 100 % of the stored image: the mean share is 54 % where no side is cut off."""
    stored_share = STORED**2 / INPUT**2
    drawn = sample(Augment(zoom=0.08 * stored_share, zoom_to=stored_share), 5000)
    assert drawn.sides is not None
    height, width = drawn.sides
    assert height.max() == width.max() == STORED
    # A side of a nearly square crop of the whole image is cut off at the border, which takes half a
    # percent. The mean of 5,000 shares has a deviation of 0.004: three times that.
    assert (height * width).mean() / STORED**2 == pytest.approx(0.535, abs=3 * 0.004)
    only_larger = sample(Augment(zoom_to=1.5), 200)
    assert only_larger.sides is not None
    # Cut off at the border or not, none is smaller than the input.
    assert (only_larger.sides.prod(0) >= INPUT**2 - 1e-9).all()


@pytest.mark.parametrize("most", [0.5, 4.5, math.nan])
def test_impossible_largest_zoom_is_refused(most: float) -> None:
    config = replace(recipes.modern_small(), augment=Augment(zoom_to=most))
    with pytest.raises(ConfigError, match=r"^augment\.zoom_to is .* between 1 and 4$"):
        check(config)


@pytest.mark.parametrize("zoom", [0.0, -1.0, 1.5, math.nan])
def test_impossible_zoom_is_refused(zoom: float) -> None:
    config = replace(recipes.modern_small(), augment=Augment(zoom=zoom))
    with pytest.raises(ConfigError, match=r"between 0\.01 and 1"):
        check(config)


def test_zoom_without_crops_is_said_to_have_no_effect() -> None:
    config = replace(recipes.modern_small(), augment=Augment(zoom=0.5, crops=False))
    assert any("augment.zoom" in sentence for sentence in without_effect(config))
    config = replace(config, augment=Augment(zoom_to=1.5, crops=False))
    assert any("augment.zoom_to" in sentence for sentence in without_effect(config))
