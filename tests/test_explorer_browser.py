"""The page in a real browser: its numbers are those of our network, on a desk and on a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from alexnet import checkpoint, load, snapshots
from alexnet.attribution import crop_answers, occlusion
from alexnet.attribution.occlusion import squares
from alexnet.data.loader import batches
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
def pages(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The page of the tiny run: as one file, and as a folder with the network in pieces."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    try:
        ort = runtime.read(None, "alexnet explore RUN --out PAGE --fetch")
    except RunError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("page")
    path, in_pieces = folder / "tiny page.html", folder / "tiny page"
    filters = trained.net.get_parameter("conv1.weight").detach().numpy()
    run, other = folder / "tiny", folder / "other"
    for each, epochs, shape in ((run, (0, 5), filters.shape), (other, (0, 10, 40), (6, 3, 7, 7))):
        each.mkdir()
        checkpoint.write_config(each, trained.config)
        for epoch in epochs:
            snapshots.write(each, epoch, np.resize(filters, shape))
    beside = snapshots.growth_beside(run, other)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contents, "maximise", partial(maximise, steps=2))
        made = contents.contents(trained, split_for(trained), run, 24, 2, beside)
        patch.setattr(page, "contents", lambda *arguments: made)
        # Some pieces of the network, and hundreds of the rest.
        patch.setattr(page, "PIECE_BYTES", 3 << 12)
        for out in (path, in_pieces):
            page.write(trained, split_for(trained), run, out, ort, 24, 2, beside)
    return path, in_pieces / page.INDEX


@pytest.fixture(scope="module")
def html(pages: tuple[Path, Path]) -> Path:
    """The page as one file."""
    return pages[0]


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
    (batch,) = batches(split, number, 1)
    check_values(browser, trained, batch.images)


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
    # 32 and 112 have positions that lie in the middle between two pixels.
    for px in (32, 56, 112, 227):
        assert browser.run(f"explorer.startsOf({px})") == squares(px)[1].tolist()


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


@pytest.mark.parametrize("address", ["100%", "conv1/3%", "toString", "__proto__"])
def test_address_of_nothing_is_answered_by_a_sentence(
    browser: Browser, html: Path, address: str
) -> None:
    """A `%` that begins no code is what is left of a link that was cut."""
    # Another address of the page that is open would not load it anew.
    browser.call("Page.navigate", url="about:blank")
    browser.open(html, f"#{address}")
    browser.wait("window.explorer?.readyMs")
    assert browser.run("document.querySelectorAll('#view .layer').length") > 0
    text = "document.getElementById('status').textContent"
    assert browser.run(text) == f"There is no unit {address}."
    browser.run("location.hash = 'layers'")
    browser.run(f"location.hash = '{address}'")
    browser.wait(f"{text} == 'There is no unit {address}.'")


@pytest.mark.parametrize("width", [1280, 400])
def test_every_view_fits_the_width(browser: Browser, width: int, tmp_path: Path) -> None:
    browser.resize(width, 1500)
    # A name without a space, where a line could be broken.
    file = tmp_path / f"{'long' * 40}.png"
    Image.fromarray(np.full((40, 40, 3), 99, np.uint8)).save(file)
    dropped(browser, file)
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
        # The event of the address itself comes later; until then the view before is there.
        browser.run(f"location.hash = '{view}'; dispatchEvent(new Event('hashchange'))")
        browser.wait("document.querySelector('#view h2, #view h3')")
        assert browser.run("document.documentElement.scrollWidth") <= width, view
        assert browser.run("document.querySelectorAll('#view canvas, #view img').length") > 0
        path = tmp_path / f"{view.replace('/', '-')}.png"
        browser.screenshot(path)
        with Image.open(path) as image:
            assert image.width == width
            # Not an empty page.
            assert len(np.unique(np.asarray(image.convert("L")))) > 50, view


def test_controls_keep_the_focus_when_they_are_made_anew(browser: Browser) -> None:
    active = "document.activeElement"
    browser.run("location.hash = 'conv3/11'")
    browser.wait("document.querySelector('.unit h2')?.textContent.includes('conv3/11')")
    browser.run("document.querySelector('a[rel=next]').focus()")
    for unit in (12, 13):
        browser.press("Enter")
        browser.wait(f"document.querySelector('.unit h2').textContent.includes('conv3/{unit}')")
        assert browser.run(f"{active}.rel") == "next"
    browser.run("location.hash = 'normalization'")
    browser.wait("document.querySelector('.controls')")
    for control, use in (("button", "click()"), ("select", "dispatchEvent(new Event('change'))")):
        browser.run(f"document.querySelector('.controls {control}').focus()")
        browser.run(f"{active}.{use}")
        assert browser.run(f"{active}.tagName") == control.upper()


def test_square_goes_where_a_finger_touches_the_image(browser: Browser) -> None:
    canvas = "document.querySelector('.movable')"
    browser.resize(400, 900)
    browser.run("location.hash = 'occlusion'")
    browser.wait(canvas)
    browser.run(f"{canvas}.scrollIntoView({{block: 'center'}})")
    box = f"{canvas}.getBoundingClientRect()"
    x, y, width = (browser.run(f"{box}.{name}") for name in ("x", "y", "width"))
    # By a canvas of its own: the browser warns of several readings of the same one.
    pixel = (
        "(() => { const pixel = new OffscreenCanvas(1, 1).getContext('2d');"
        f"const canvas = {canvas}; pixel.drawImage(canvas, -canvas.width / 8, -canvas.width / 8);"
        "return pixel.getImageData(0, 0, 1, 1).data.join(); })()"
    )
    gray = "154,149,138,255"
    # The square begins in the middle.
    assert browser.run(pixel) != gray
    browser.touch(x + width / 8, y + width / 8)
    browser.wait(f"{pixel} == '{gray}'")
    # A finger that moves does not scroll the page instead.
    assert browser.run(f"getComputedStyle({canvas}).touchAction") == "none"
    browser.resize(1280, 900)


def test_camera_is_gone_after_its_image(browser: Browser) -> None:
    video, button = (f"document.getElementById('{name}')" for name in ("video", "camera"))
    seen = f"getComputedStyle({video}).display"
    assert browser.run(seen) == "none"
    # Counts the cameras: the second press comes while the first is being opened.
    browser.run(
        "(() => { const devices = navigator.mediaDevices; window.cameras = 0;"
        "const open = devices.getUserMedia.bind(devices);"
        "devices.getUserMedia = (wanted) => { cameras += 1; return open(wanted); }; })()"
    )
    browser.run(f"{button}.click(); {button}.click()")
    browser.wait(f"{button}.textContent == 'Take it'")
    assert browser.run("cameras") == 1
    assert browser.run(seen) == "block"
    browser.run(f"{button}.click()")
    browser.wait("explorer.current().name == 'camera' && explorer.current().average")
    assert browser.run(seen) == "none"
    assert browser.run(f"{video}.srcObject") is None


def test_training_of_two_runs_is_on_one_slider(browser: Browser) -> None:
    browser.run("location.hash = 'training'")
    browser.wait("document.querySelector('.training')")
    titles = "Array.from(document.querySelectorAll('.training h3'), (e) => e.textContent)"
    slider = "document.querySelector('.training input')"
    # Shares of the training: 0 and 1 of both, and 10 of 40 epochs.
    assert browser.run(f"{slider}.max") == "2"
    browser.run(f"{slider}.value = 1; {slider}.dispatchEvent(new Event('input'))")
    assert browser.run("document.querySelector('.time output').textContent") == "25 % of training"
    assert browser.run(titles) == ["tinytiny, epoch 0", "tinyother, epoch 10"]
    count = "[e.querySelectorAll('canvas').length, e.querySelector('canvas').width]"
    sections = "document.querySelectorAll('.training section')"
    assert browser.run(f"Array.from({sections}, (e) => {count})") == [[8, 5], [6, 7]]
    # Another image leaves the slider where it is.
    browser.run("document.querySelectorAll('#examples button')[2].click()")
    browser.wait("explorer.current().name == 'example 3' && explorer.current().average")
    assert browser.run(f"{slider}.value") == "1"


@pytest.mark.parametrize(
    ("view", "button", "done"),
    [
        ("training", ".time button", "!{button}.hasAttribute('aria-disabled')"),
        # It is done once for an image, and then the button stays as it is.
        ("occlusion", ".two button", "document.querySelector('.two output').textContent[0] == 'R'"),
    ],
)
def test_button_keeps_the_focus_while_it_works(
    browser: Browser, view: str, button: str, done: str
) -> None:
    browser.run(f"location.hash = '{view}'")
    button = f"document.querySelector('{button}')"
    browser.wait(button)
    browser.run(f"{button}.focus(); {button}.click()")
    assert browser.run(f"{button}.getAttribute('aria-disabled')") == "true"
    assert browser.run(f"document.activeElement == {button}")
    browser.wait(done.format(button=button))
    assert browser.run(f"document.activeElement == {button}")


def test_folder_has_the_values_of_the_one_file(pages: tuple[Path, Path]) -> None:
    found = []
    for path in pages:
        with Browser() as browser:
            browser.open(path)
            browser.wait("window.explorer?.readyMs")
            found.append(browser.run(f"[explorer.current().name, {VALUES}]"))
            assert browser.problems == []
    assert found[0] == found[1]
    pieces = list(pages[1].parent.glob("model-*.js"))
    assert len(pieces) >= 3


def test_image_that_is_dropped_before_the_network_is_there_is_answered(
    pages: tuple[Path, Path], tmp_path: Path
) -> None:
    file = tmp_path / "early.png"
    Image.fromarray(np.full((40, 40, 3), 99, np.uint8)).save(file)
    with Browser() as browser:
        browser.open(pages[1])
        browser.wait("window.explorer?.current()")
        assert browser.run("explorer.current().values") is None
        dropped(browser, file)
        assert browser.run("explorer.readyMs") > 0
        # The example that was there before it has no answer that comes later.
        assert browser.run("document.getElementById('status').textContent").startswith("early.png")
        assert browser.problems == []


def test_folder_shows_the_image_before_the_network_and_loads_nothing_from_elsewhere(
    pages: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "page"
    shutil.copytree(pages[1].parent, folder)
    (folder / "model-02.js").write_text("receivePiece(")
    with Browser() as browser:
        browser.open(folder / page.INDEX, "#training")
        status = "document.getElementById('status')?.textContent"
        browser.wait(f"{status}?.startsWith('This page cannot run')")
        assert browser.run(status) == (
            "This page cannot run the network: model-02.js, one of the files beside this page, is "
            "missing or damaged"
        )
        # The image, the examples and the training are there.
        assert browser.run("explorer.current().values") is None
        assert browser.run("document.querySelectorAll('#examples img').length") == 12
        assert browser.run("document.querySelectorAll('.training canvas').length") > 0
        browser.run("location.hash = 'layers'")
        browser.wait("document.getElementById('view').textContent.includes('being loaded')")
        browser.problems.clear()
        browser.run(
            "new Promise((resolve) => { const script = document.createElement('script');"
            "script.src = 'http://127.0.0.1:9/x.js'; script.onerror = () => resolve();"
            "document.head.append(script); })"
        )
        assert any("Content Security Policy" in problem for problem in browser.problems)


def test_sentence_about_a_file_stays_while_the_image_before_it_is_answered(
    browser: Browser, html: Path
) -> None:
    browser.open(html)
    browser.wait("window.explorer?.readyMs")
    # Pauses between the crops, in which the second file is dropped.
    browser.run("(() => { const wait = setTimeout; setTimeout = (f) => wait(f, 50); })()")
    browser.run(
        "window.drop = (content, name) => { const moved = new DataTransfer();"
        "moved.items.add(new File([content], name));"
        "dispatchEvent(new DragEvent('drop', { dataTransfer: moved })); };"
        "document.querySelectorAll('#examples button')[1].click()"
    )
    browser.wait("explorer.current().name == 'example 2'")
    browser.run("drop('no image', 'notes.txt')")
    browser.wait("explorer.current().average")
    # `look` goes on when this is there.
    browser.run("new Promise((resolve) => setTimeout(resolve))")
    text = "notes.txt is not an image that this browser can decode."
    assert browser.run("document.getElementById('status').textContent") == text


def test_sentence_about_a_file_that_was_dropped_while_the_network_loaded_stays(
    browser: Browser, html: Path
) -> None:
    # The first image is there before the network is.
    drop = (
        "const drop = () => { if (!window.explorer?.current()) return setTimeout(drop);"
        "const moved = new DataTransfer(); moved.items.add(new File(['no image'], 'notes.txt'));"
        "dispatchEvent(new DragEvent('drop', { dataTransfer: moved })); }; drop();"
    )
    browser.call("Page.enable")
    added = browser.call("Page.addScriptToEvaluateOnNewDocument", source=drop)
    browser.open(html)
    browser.call("Page.removeScriptToEvaluateOnNewDocument", **added)
    browser.wait("window.explorer?.readyMs")
    text = "notes.txt is not an image that this browser can decode."
    assert browser.run("document.getElementById('status').textContent") == text


def test_file_that_is_not_an_image_is_answered_by_a_sentence(
    browser: Browser, tmp_path: Path
) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("no image")
    browser.drop(file, 200, 300)
    text = "notes.txt is not an image that this browser can decode."
    # Before the answer stands "notes.txt …".
    browser.wait("document.getElementById('status').textContent.startsWith('notes.txt is')")
    assert browser.run("document.getElementById('status').textContent") == text
