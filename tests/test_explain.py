"""`alexnet explain`: one figure for each image, values as JSON, and mistakes in one sentence."""

from __future__ import annotations

import json
import shutil
from copy import copy
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from alexnet import explain as explaining
from alexnet import figures, load
from alexnet.attribution import Occlusion
from alexnet.cli import main
from alexnet.cli.explain import _outputs
from alexnet.config import Architecture, FullyConnected
from alexnet.explain import METHODS, Explanation, explain, methods_of
from alexnet.figures.explanation import FRAME_COLORS
from alexnet.inference import read_image
from alexnet.model import Network
from alexnet.trained import Trained
from tests.commands import refused
from tests.conftest import tiny_architecture

# The colors of Okabe and Ito (2002), made to be told apart by color-blind readers.
OKABE_ITO = ["#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    file = tmp_path / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture
def trained(run: Path) -> Trained:
    return load(run)


@pytest.fixture
def explained(trained: Trained, photo: Path) -> Explanation:
    return explain(trained, read_image(photo, trained.preprocess.stored_px))


@pytest.fixture
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty figure in place of the one that takes seconds to draw."""
    monkeypatch.setattr(figures, "explanation", lambda *_: Figure())


@pytest.mark.usefixtures("blank")
def test_explain_draws_each_image_and_prints_its_class(
    run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    same_name = tmp_path / "other" / "photo.png"
    same_name.write_bytes(photo.read_bytes())
    main(
        [
            "explain",
            str(run),
            str(photo),
            str(same_name),
            "--out",
            str(tmp_path),
            "--methods",
            "gradient",
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[-1] for line in lines] == [
        str(tmp_path / "photo-explain.png"),
        str(tmp_path / "photo-2-explain.png"),
    ]
    main(["predict", str(run), str(photo), "--most", "1"])
    assert lines[0].split("  ")[0] == capsys.readouterr().out.strip()
    assert (tmp_path / "photo-explain.png").exists()
    assert (tmp_path / "photo-2-explain.png").exists()


@pytest.mark.usefixtures("blank")
def test_figures_lie_in_the_run_where_no_folder_is_named(
    run: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those of `alexnet figure`; an exported file is no folder, and they lie in the current."""
    own = shutil.copytree(run, tmp_path / "own")
    main(["explain", str(own), str(photo), "--methods", "gradient"])
    assert (own / "photo-explain.png").exists()
    exported = shutil.copy(run / "last.safetensors", tmp_path / "net.safetensors")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    main(["explain", str(exported), str(photo), "--methods", "gradient"])
    assert [path.name for path in Path().iterdir()] == ["photo-explain.png"]


@pytest.mark.usefixtures("blank")
def test_a_figure_is_replaced_by_that_of_the_same_file_only(
    run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other" / "photo.png"
    other.parent.mkdir()
    shutil.copy(photo, other)
    out = tmp_path / "figures"
    for image in (photo, other, photo):
        main(["explain", str(run), str(image), "--out", str(out), "--methods", "gradient"])
    lines = capsys.readouterr().out.splitlines()
    names = [line.rpartition("/")[2] for line in lines]
    assert names == ["photo-explain.png", "photo-2-explain.png", "photo-explain.png"]


@pytest.mark.slow
def test_the_whole_figure_is_written(run: Path, photo: Path, tmp_path: Path) -> None:
    main(["explain", str(run), str(photo), "--out", str(tmp_path)])
    with Image.open(tmp_path / "photo-explain.png") as image:
        assert image.width > 1000


@pytest.mark.usefixtures("blank")
def test_json_has_the_values_of_every_method(
    run: Path,
    trained: Trained,
    photo: Path,
    explained: Explanation,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = trained.classes[2]
    arguments = [str(run), str(photo), "--out", str(tmp_path), "--json", "--target", target]
    main(["explain", *arguments, "--methods", "deconvnet,gradient,occlusion"])
    result = json.loads(capsys.readouterr().out)
    assert result["class"] == target
    assert result["image"] == str(photo)
    assert len(result["crops"]) == 10
    first = result["crops"][0]
    assert (first["top"], first["left"], first["side"], first["reflected"]) == (0, 0, 32, False)
    assert next(iter(result["average"])) == trained.classes[explained.label]
    assert {"gradient", "occlusion", "deconvnet"} == {*result} & {*METHODS}
    assert np.shape(result["gradient"]["pixels"]) == (32, 32)
    assert np.shape(result["occlusion"]["probabilities"]) == (17, 17)
    whole = explaining.to_dict(explained, trained.classes)
    assert {*METHODS} <= {*whole}
    first = whole["deconvnet"][0]
    box = explained.projections[0].box
    assert (first["layer"], first["top"], first["right"]) == ("conv1", box.top, box.right)
    assert np.shape(first["pixels"]) == (3, box.bottom - box.top, box.right - box.left)
    # Rounded to three digits of the largest value.
    wanted = explaining.per_pixel("gradient", explained.maps["gradient"])
    np.testing.assert_allclose(whole["gradient"]["pixels"], wanted, atol=1e-3 * wanted.max())
    json.dumps(whole)


def test_the_figure_has_a_panel_of_each_method_and_says_what_is_explained(
    trained: Trained, explained: Explanation
) -> None:
    figure = figures.explanation(explained, trained.names, "a$b$.png")
    titles = [ax.get_title() for ax in figure.axes]
    for title in ("gradient", "integrated gradients", "SmoothGrad", "occlusion", "Grad-CAM"):
        assert title in titles
    assert sum(title.startswith("deconvnet, conv") for title in titles) == 4
    assert "average of the 10 answers" in titles
    name = trained.names[explained.label]
    assert figure.get_suptitle().startswith(f"a$b$.png: {name} ")
    assert f"deconvnet, {name}" in titles
    assert any("points lost" in ax.get_xlabel() for ax in figure.axes)
    figure.draw_without_rendering()
    # Without methods the crops alone are drawn.
    only_crops = figures.explanation(
        replace(explained, maps={}, occlusion=None, grad_cam=None, projections=()),
        trained.names,
        "photo",
    )
    assert len(only_crops.axes) == 1 + 10 + 1


def test_color_blind_readers_tell_the_frames_of_the_crops_apart() -> None:
    assert set(FRAME_COLORS) <= set(OKABE_ITO)
    assert len(set(FRAME_COLORS)) == len(FRAME_COLORS) == 5


def test_image_is_not_rounded_to_the_precision_of_the_run(
    trained: Trained, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = read_image(photo, trained.preprocess.stored_px)
    exact = trained.preprocess.centre(torch.from_numpy(image)[None])[0]
    coarse = copy(trained.preprocess)
    coarse.dtype = torch.bfloat16
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(explaining.attribution, "crop_answers", Mock())
    monkeypatch.setattr(explaining.attribution, "saliency", lambda net, x, label: seen.append(x))
    explaining.explain(replace(trained, preprocess=coarse), image, ["gradient"], label=0)
    torch.testing.assert_close(seen[0], exact, rtol=0, atol=0)


def test_all_methods_are_those_that_suit_the_network(trained: Trained) -> None:
    assert methods_of(trained, "all") == METHODS
    assert methods_of(trained, "occlusion,gradient") == ("gradient", "occlusion")
    flat = Architecture((FullyConnected("fc1", 4), FullyConnected("fc2", 2)), input_px=32)
    assert set(METHODS) - set(methods_of(replace(trained, net=Network(flat)), "all")) == {
        "grad-cam"
    }
    tanh = replace(trained, net=Network(replace(tiny_architecture(), activation="tanh")))
    assert "deconvnet" not in methods_of(tanh, "all")


@pytest.mark.usefixtures("blank")
def test_one_file_that_is_no_image_does_not_cost_the_others(
    run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not an image")
    with pytest.raises(SystemExit) as stopped:
        arguments = [str(run), str(bad), str(photo), "--methods", "gradient"]
        main(["explain", *arguments, "--out", str(tmp_path)])
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert f"{bad} cannot be read: not an image of a known format" in printed.err
    assert "1 of the files could not be read as images" in printed.err
    assert (tmp_path / "photo-explain.png").exists()


def test_no_figure_takes_the_place_of_another(tmp_path: Path) -> None:
    files = [Path(name) for name in ("photo-2.jpg", "photo.jpg", "photo.png", "a/photo.jpg")]
    assert [path.name for path in _outputs(files, tmp_path)] == [
        "photo-2-explain.png",
        "photo-explain.png",
        "photo-3-explain.png",
        "photo-4-explain.png",
    ]


def test_name_too_long_for_its_figure_is_refused(
    run: Path, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = photo.rename(tmp_path / f"{'n' * 246}.png")
    line = refused(capsys, "explain", run, long, "--out", tmp_path)
    assert line.endswith("-explain.png: File name too long; choose a shorter name")


def test_what_is_no_whole_figure_says_nothing_of_its_source(tmp_path: Path) -> None:
    figures.save(Figure(), tmp_path / "whole.png", "photo.jpg")
    assert figures.drawn_from(tmp_path / "whole.png") == "photo.jpg"
    assert figures.drawn_from(tmp_path / "none.png") is None
    for name, content in (("cut.png", (tmp_path / "whole.png").read_bytes()[:20]), ("t.png", b"")):
        (tmp_path / name).write_bytes(content)
        assert figures.drawn_from(tmp_path / name) == ""
    assert figures.drawn_from(tmp_path) == ""


def test_points_that_a_class_gains_are_not_said_to_be_lost(trained: Trained, photo: Path) -> None:
    image = read_image(photo, trained.preprocess.stored_px)
    explained = explain(trained, image, ("occlusion",))
    for covered, whole, note in (
        (0.0, 0.5, "red: at most 50 points lost"),
        (1.0, 0.25, "red: at most 0 points lost\nblue: 75 gained"),
    ):
        occlusion = Occlusion(np.full((1, 1), covered, np.float32), np.zeros(1, int), 32, whole)
        figure = figures.explanation(
            replace(explained, occlusion=occlusion), trained.names, "photo"
        )
        assert note in [ax.get_xlabel() for ax in figure.axes]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name a run and its images, for example: alexnet explain runs/mine photo.jpg"),
        (["RUN"], "name the images to explain"),
        (["RUN", "PHOTO", "--methods", "lime"], "no method 'lime'; there are gradient, integrated"),
        (["RUN", "PHOTO", "--target", "zebra"], "the run has no class 'zebra'; it has "),
        (["RUN", "PHOTO", "--out", "PHOTO"], "is not a folder; name another one"),
        (["RUN", "none.jpg"], "none.jpg does not exist"),
        (["none", "PHOTO"], "none does not exist"),
    ],
)
def test_mistakes_of_explain_are_one_sentence(
    arguments: list[str],
    says: str,
    run: Path,
    photo: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    named = {"RUN": str(run), "PHOTO": str(photo)}
    arguments = [named.get(argument, argument) for argument in arguments]
    assert says in refused(capsys, "explain", *arguments)
