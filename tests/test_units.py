"""Units of a layer: their strongest patches are those, and what is made for one maximizes it."""

from __future__ import annotations

import functools
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alexnet import figures, load
from alexnet.cli import figure, main
from alexnet.config import Architecture, Conv, FullyConnected
from alexnet.data.loader import batches
from alexnet.data.preprocess import Preprocess
from alexnet.data.store import Statistics
from alexnet.errors import ConfigError, RunError
from alexnet.figures.answers import stored_image
from alexnet.inference import split_for
from alexnet.model import Network
from alexnet.receptive_field import Box, field, seen
from alexnet.trained import Trained
from alexnet.units import _smoothed, cut, maximise, middle, spread, strongest
from tests.commands import refused


@pytest.fixture
def trained(run: Path) -> Trained:
    return load(run)


@pytest.mark.parametrize("layer", ["conv1", "conv3", "fc8"])
def test_the_strongest_places_are_those_of_all_images_at_once(trained: Trained, layer: str) -> None:
    split = split_for(trained)
    found = strongest(trained, split, layer, top_k=4)
    (batch,) = batches(split, np.arange(len(split)), len(split))
    values = trained.net.activations(trained.preprocess.centre(batch.images))[layer].detach()
    values = values.reshape(len(split), values.shape[1], -1)
    units, side = values.shape[1], round(values.shape[2] ** 0.5)
    assert found.values.shape == (units, 4)
    for unit in range(units):
        best = values[:, unit].amax(1).sort(descending=True).values[:4]
        np.testing.assert_allclose(found.values[unit], best, rtol=1e-4, atol=1e-5)
        # Each in an image of its own, and at the place that is named.
        assert len({*found.images[unit]}) == 4
        for i in range(4):
            image, row, column = found.images[unit, i], found.rows[unit, i], found.columns[unit, i]
            there = values[image, unit, row * side + column]
            np.testing.assert_allclose(there, found.values[unit, i], rtol=1e-4, atol=1e-5)


def test_a_patch_alone_gives_the_value_of_the_unit(trained: Trained) -> None:
    """Nothing else is needed: the rest of the image may be anything."""
    architecture = trained.net.architecture
    split = split_for(trained)
    found = strongest(trained, split, "conv1", top_k=1)
    image = stored_image(split, int(found.images[5, 0]))
    row, column = int(found.rows[5, 0]), int(found.columns[5, 0])
    patch = cut(architecture, "conv1", image[4:36, 4:36], row, column)
    box = seen(architecture, "conv1", row, column)
    other = np.random.default_rng(0).integers(0, 256, image.shape, dtype=np.uint8)
    inside = other[4:36, 4:36]
    inside[box.top : box.bottom, box.left : box.right] = patch.pixels[patch.inside].reshape(
        box.bottom - box.top, box.right - box.left, 3
    )
    value = trained.net.activations(trained.preprocess.centre(torch.from_numpy(other)[None]))
    assert value["conv1"][0, 5, row, column].item() == pytest.approx(found.values[5, 0], rel=1e-4)


def test_patches_of_a_layer_have_one_size_and_say_what_is_not_seen(trained: Trained) -> None:
    architecture = trained.net.architecture
    crop = np.full((32, 32, 3), 7, np.uint8)
    side = field(architecture, "conv1").size_px
    assert side < 32
    last = cut(architecture, "conv1", crop, 6, 0)
    assert last.pixels.shape == (side, side, 3)
    box = seen(architecture, "conv1", 6, 0)
    assert last.inside.sum() == (box.bottom - box.top) * (box.right - box.left) < side * side
    assert (last.pixels[last.inside] == 7).all() and not last.pixels[~last.inside].any()
    # A larger field than the image is shown in place.
    assert field(architecture, "conv4").size_px > 32
    assert cut(architecture, "conv4", crop, 0, 0).inside.shape == (32, 32)
    assert cut(architecture, "fc8", crop, 0, 0).inside.all()


def test_what_maximizes_a_filter_looks_like_it(trained: Trained) -> None:
    """Of all images of one length, the filter itself has the largest product with the filter."""
    architecture = Architecture(
        (Conv("conv1", 4, 7, std=0.1, then=()), FullyConnected("fc2", 2)), input_px=32
    )
    net = Network(architecture)
    made = maximise(net, trained.preprocess, "conv1", [2, 0], steps=40, step_size=2, jitter_px=0)
    assert made.shape == (2, 32, 32, 3)
    row, column = middle(architecture, "conv1")
    box = seen(architecture, "conv1", row, column)
    assert box == Box(row, column, row + 7, column + 7)
    mean = trained.preprocess.centre_mean.numpy()
    for image, unit in zip(made, (2, 0), strict=True):
        change = (image - mean)[box.top : box.bottom, box.left : box.right].transpose(2, 0, 1)
        kernel = net.conv1.weight[unit].detach().numpy()
        assert np.corrcoef(change.ravel(), kernel.ravel())[0, 1] > 0.97
    # Outside of the field only the faint noise of the beginning is left, and decays.
    outside = np.abs(made - mean)
    outside[:, box.top : box.bottom, box.left : box.right] = 0
    assert outside.max() < 10


def test_default_device_of_pytorch_changes_no_made_image(trained: Trained) -> None:
    """The noise is drawn by a generator of the CPU."""
    wanted = maximise(trained.net, trained.preprocess, "conv1", [0], steps=2)
    with torch.device("meta"):
        made = maximise(trained.net, trained.preprocess, "conv1", [0], steps=2)
    assert np.array_equal(made, wanted)


@pytest.mark.parametrize("layer", ["conv1", "fc8"])
def test_a_made_image_is_stronger_than_any_of_the_store(trained: Trained, layer: str) -> None:
    unit = 3
    made = maximise(trained.net, trained.preprocess, layer, [unit], steps=32)
    again = maximise(trained.net, trained.preprocess, layer, [unit], steps=32)
    np.testing.assert_array_equal(made, again)
    mean = trained.preprocess.centre_mean.numpy()
    x = torch.from_numpy(made - mean).permute(0, 3, 1, 2)
    value = trained.net.activations(x)[layer][0, unit].detach()
    value = value if value.dim() == 0 else value[middle(trained.net.architecture, layer)]
    assert float(value) > strongest(trained, split_for(trained), layer).values[unit, 0]


def test_made_image_stays_within_the_values_of_an_image(trained: Trained) -> None:
    """Where the mean image differs between pixels, black must not become white, nor the reverse."""
    stored_px = trained.preprocess.stored_px
    stripes = np.zeros((stored_px, stored_px, 3))
    stripes[::2] = 255
    preprocess = Preprocess(
        trained.preprocess.augment,
        Statistics(stripes, np.eye(3)),
        trained.preprocess.input_px,
        torch.device("cpu"),
    )
    made = maximise(trained.net, preprocess, "conv1", [3], steps=1, step_size=0, decay=0)
    # The faint noise of the beginning is all that may be seen.
    assert np.abs(made - preprocess.centre_mean.numpy()).max() < 128


def test_units_are_chosen_among_those_that_respond() -> None:
    values = np.array([0, 1, 0, 2, 3, 0, 4, 5], np.float32)
    assert spread(values, 3) == [1, 4, 7]
    assert spread(values, 99) == [1, 3, 4, 6, 7]
    assert spread(np.zeros(5, np.float32), 2) == [0, 4]


def test_figure_units_draws_a_row_for_each_unit(
    run: Path, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["alexnet.figures.units"]
    monkeypatch.setattr(module, "maximise", functools.partial(maximise, steps=2))
    monkeypatch.setattr(module, "UNITS", 2)
    out = tmp_path / "units.png"
    main(["figure", "units", str(run), "--layer", "conv1", "--unit", "5", "--out", str(out)])
    assert out.stat().st_size > 10_000
    figure = figures.units(trained, split_for(trained), "fc8", [4])
    titles = [ax.get_title() for ax in figure.axes if ax.images]
    assert titles[0] == f"unit 4, {trained.names[4]}"
    assert len(titles) == 1 + 9
    # As many decimals for a round number as for the others.
    assert all(re.fullmatch(r"-?\d+\.\d", title) for title in titles[1:])
    norm = figures.units(trained, split_for(trained), "norm2", [1])
    assert norm.get_suptitle().startswith("conv2.lrn: a unit sees ")
    assert "whole crop of 32x32" in figure.get_suptitle()
    last_convolution = figures.units(trained, split_for(trained))
    assert last_convolution.get_suptitle().startswith("conv4: a unit sees ")
    titles = [ax.get_title() for ax in last_convolution.axes if ax.images]
    assert len(titles) == 2 * (1 + 9)
    assert {titles[0].split(", ")[1], titles[10].split(", ")[1]} == {"column 1", "column 2"}


def test_smoothing_keeps_the_sum_and_a_narrow_one_every_pixel() -> None:
    x = torch.zeros(1, 3, 21, 21)
    x[:, :, 10, 10] = 1
    wide = _smoothed(x, 1.5)
    torch.testing.assert_close(wide.sum((2, 3)), torch.ones(1, 3), rtol=0, atol=1e-3)
    # The logarithm of a Gaussian falls by half of the squared distance in deviations.
    fall = torch.log(wide[0, 0, 10, 10] / wide[0, 0, 12, 13])
    torch.testing.assert_close(fall, torch.tensor((4 + 9) / (2 * 1.5**2)), rtol=1e-4, atol=0)
    torch.testing.assert_close(_smoothed(x, 0.1), x)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["units", "RUN", "--layer", "conv9"], "no layer 'conv9'; it has conv1.linear"),
        (
            ["units", "RUN", "--layer", "conv3", "--unit", "16"],
            "conv3 has 16 units, 0 to 15; there",
        ),
        (["units", "RUN", "--unit", "x"], "--unit x: units have numbers, from 0"),
        (["units", "RUN", "--data", "nowhere"], "nowhere"),
        (["units", "RUN", "--split", "test"], "has no split 'test'; it has train, val"),
        (["units", "RUN", "OTHER"], "draws one run and has no use for OTHER"),
        (["filters", "RUN", "--layer", "conv1"], "--layer is an option of alexnet figure units"),
        (
            ["answers", "RUN", "--data", "store"],
            "--data is an option of alexnet figure units and alexnet figure neighbours alone",
        ),
        (["neighbours", "RUN", "--data", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_of_a_figure_of_units_are_one_sentence(
    arguments: list[str], says: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(run) if argument == "RUN" else argument for argument in arguments]
    assert says in refused(capsys, "figure", *arguments)


def test_figure_without_a_drawing_is_not_drawn_as_another_one(run: Path) -> None:
    new: Any = "histogram"
    with pytest.raises(AssertionError, match="histogram"):
        figure._draw(figure.FigureArguments(new, (run,)), named_recipe=False)


def test_option_that_no_figure_names_is_not_ignored(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure, "OPTIONS_OF", {**figure.OPTIONS_OF})
    del figure.OPTIONS_OF["split"]
    with pytest.raises(KeyError, match="split"):
        figure.figure(["answers", str(run), "--split", "test"])


def test_too_many_units_and_images_of_another_size_are_refused(trained: Trained) -> None:
    split = split_for(trained)
    with pytest.raises(RunError, match="41 units are too many for a figure; name at most 40"):
        figures.units(trained, split, "fc7", [0] * 41)
    with pytest.raises(ConfigError, match="no layer 'conv9'"):
        strongest(trained, split, "conv9")
    larger = replace(trained, preprocess=type("Other", (), {"stored_px": 64})())
    with pytest.raises(RunError, match=r"the run needs images of 64 pixels, and .* has 40"):
        split_for(larger)
