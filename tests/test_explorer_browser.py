"""The page in a real browser: its numbers are those of our network, on a desk and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import load, snapshots
from alexnet.attribution import crop_answers, occlusion
from alexnet.errors import RunError
from alexnet.explorer import contents, page, runtime
from alexnet.inference import predict, read_image, split_for
from alexnet.trained import Trained
from alexnet.units import maximise
from tests.browser import CHROMIUM, Browser

pytestmark = pytest.mark.slow

TOLERANCE = 1e-3
VALUES = """Object.fromEntries(Object.entries(explorer.current().values)
    .map(([name, values]) => [name, Array.from(values)]))"""


@pytest.fixture(scope="module")
def trained(run: Path) -> Trained:
    return load(run, device="cpu")


@pytest.fixture(scope="module")
def html(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the tiny run."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    try:
        ort = runtime.read(None, "alexnet explore RUN --out PAGE --fetch")
    except RunError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("page")
    path, with_snapshots = folder / "tiny page.html", folder / "tiny"
    with_snapshots.mkdir()
    filters = trained.net.get_parameter("conv1.weight").detach().numpy()
    for epoch in (0, 5):
        snapshots.write(with_snapshots, epoch, filters)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contents, "maximise", partial(maximise, steps=2))
        page.write(trained, split_for(trained), with_snapshots, path, ort, images=24, units=2)
    return path


@pytest.fixture(scope="module")
def browser(html: Path) -> Iterator[Browser]:
    with Browser() as browser:
        browser.open(html)
        browser.wait("window.explorer?.readyMs")
        yield browser
        assert browser.problems == []


def dropped(browser: Browser, file: Path) -> None:
    """Drop a file onto the page and wait for its answers."""
    browser.drop(file, 200, 300)
    browser.wait(f"explorer.current().name == '{file.name}' && explorer.current().average")


def check_values(browser: Browser, trained: Trained, image: torch.Tensor) -> None:
    """Compare the values of all operations with ours for a stored image."""
    with torch.no_grad():
        wanted = trained.net.activations(trained.preprocess.centre(image))
    values: dict[str, Any] = browser.run(VALUES)
    assert list(values) == list(wanted)
    for name, value in wanted.items():
        np.testing.assert_allclose(
            values[name], value.flatten().numpy(), atol=TOLERANCE, err_msg=name
        )


def test_dropped_image_has_the_numbers_of_predict(
    browser: Browser, trained: Trained, tmp_path: Path
) -> None:
    """PNG files, which every program decodes alike; the page rescales them as Pillow does."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (9, 12, 3), np.uint8))
    for width, height in ((40, 40), (97, 61), (300, 401), (25, 25)):
        file = tmp_path / f"{width}x{height}.png"
        coarse.resize((width, height)).save(file)
        dropped(browser, file)
        image = torch.from_numpy(read_image(file, trained.preprocess.stored_px).copy())[None]
        stored = browser.run("Array.from(explorer.current().stored)")
        assert np.array_equal(stored, image.flatten()), "rescaled in another way"
        check_values(browser, trained, image)
        (prediction,) = predict(trained, [file], most=10)
        average = browser.run("Array.from(explorer.current().average)")
        ours = dict(prediction.classes)
        np.testing.assert_allclose(average, [ours[c] for c in trained.classes], atol=TOLERANCE)
        answers = browser.run("explorer.current().answers.map((p) => Array.from(p))")
        crops = crop_answers(trained, image[0].numpy()).probabilities
        np.testing.assert_allclose(answers, crops, atol=TOLERANCE)


def test_example_has_the_numbers_of_its_stored_image(browser: Browser, trained: Trained) -> None:
    browser.run("document.querySelectorAll('#examples button')[1].click()")
    browser.wait("explorer.current().name == 'example 2' && explorer.current().average")
    split = split_for(trained)
    number = contents.choose(split.labels, 24)[[1]]
    (image,) = contents._stored(split, number)
    check_values(browser, trained, torch.from_numpy(image)[None])


def test_normalization_and_occlusion_of_the_page_are_ours(
    browser: Browser, trained: Trained
) -> None:
    assert browser.run("explorer.lrnDifference(explorer.current().values)") < TOLERANCE
    stored = np.array(browser.run("Array.from(explorer.current().stored)"), np.uint8)
    x = trained.preprocess.centre(torch.from_numpy(stored.reshape(1, 40, 40, 3)))[0]
    ours = occlusion(trained.net, x, 3)
    top, left = (int(ours.starts_px[i]) for i in (2, 9))
    covered = f"explorer.covered(explorer.current().input, {top}, {left})"
    p = browser.run(f"explorer.probabilitiesOf([{covered}]).then(([p]) => p[3])")
    assert p == pytest.approx(float(ours.probabilities[2, 9]), abs=TOLERANCE)


def test_unit_has_an_address_and_is_reached_by_keys(browser: Browser, html: Path) -> None:
    browser.open(html, "#conv3/11")
    browser.wait("window.explorer?.readyMs")
    assert "conv3/11" in browser.run("document.querySelector('.unit h2').textContent")
    assert browser.run("document.querySelectorAll('.patches canvas').length") > 0
    browser.run("document.querySelector('a[rel=next]').click()")
    browser.wait("document.querySelector('.unit h2').textContent.includes('conv3/12')")
    browser.run("location.hash = 'layers'")
    # The first sheet of conv2; two units to the right, and Enter.
    browser.wait("document.querySelector('#layer-conv2 .sheet')")
    browser.run("document.querySelector('#layer-conv2 .steps button:last-child').focus()")
    for key in ("Tab", "ArrowRight", "ArrowRight", "Enter"):
        browser.press(key)
    browser.wait("location.hash == '#conv2.max_pool/2' || location.hash == '#conv2/2'")
    browser.run("location.hash = 'conv9/1'")
    browser.wait("document.getElementById('status').textContent == 'There is no unit conv9/1.'")


@pytest.mark.parametrize("width", [1280, 400])
def test_every_view_fits_the_width(browser: Browser, width: int, tmp_path: Path) -> None:
    browser.resize(width, 1500)
    browser.wait("explorer.current().average")
    views = (
        "layers",
        "normalization",
        "crops",
        "occlusion",
        "nearest",
        "training",
        "conv1/3",
        "fc8/1",
    )
    for view in views:
        browser.run(f"location.hash = '{view}'")
        browser.wait("document.querySelector('#view h2, #view h3')")
        assert browser.run("document.documentElement.scrollWidth") <= width, view
        assert browser.run("document.querySelectorAll('#view canvas, #view img').length") > 0
        path = tmp_path / f"{view.replace('/', '-')}.png"
        browser.screenshot(path)
        with Image.open(path) as image:
            assert image.width == width
            # Not an empty page.
            assert len(np.unique(np.asarray(image.convert("L")))) > 50, view


def test_file_that_is_not_an_image_is_answered_by_a_sentence(
    browser: Browser, tmp_path: Path
) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no image")
    browser.drop(file, 200, 300)
    text = "notes.txt is not an image that this browser can decode."
    browser.wait("document.getElementById('status').textContent.includes('notes.txt')")
    assert browser.run("document.getElementById('status').textContent") == text
