"""Figures of runs, and the verb that draws them."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from numpy.typing import NDArray
from PIL import Image

from alexnet import checkpoint, figures, load, recipes
from alexnet.architecture import plan
from alexnet.cli import main
from alexnet.config import StoreSettings
from alexnet.data import shapes, sources
from alexnet.data.prepare import prepare
from alexnet.data.store import Split
from alexnet.errors import DataError, RunError
from alexnet.evaluation import Result, common_store, own_test, score, worst_mistakes
from alexnet.figures.answers import ABSENT, Answer, _draw_answers, stored_image
from alexnet.figures.filters import _per_row
from alexnet.figures.style import run_names
from alexnet.inference import nearest
from alexnet.saved_config import to_dict
from alexnet.trained import Trained
from tests.commands import refused
from tests.conftest import RECIPES


def result(counts: list[list[int]]) -> Result:
    """A result with this confusion matrix."""
    labels = [i for i, row in enumerate(counts) for _ in range(sum(row))]
    predicted = [j for row in counts for j, n in enumerate(row) for _ in range(n)]
    p = np.eye(len(counts), dtype=np.float32)[predicted]
    return score(p, np.array(labels), 1)


def texts(figure: Figure) -> list[str]:
    """All texts of a figure."""
    return [text.get_text() for ax in figure.axes for text in ax.texts]


def test_no_row_of_filters_is_mostly_empty() -> None:
    assert [_per_row(count) for count in (4, 12, 16, 24, 48, 64)] == [4, 12, 16, 12, 16, 16]
    for count in range(1, 200):
        rows = -(-count // _per_row(count))
        assert rows * _per_row(count) - count < rows
        assert _per_row(count) <= 16


def test_runs_of_the_same_name_are_told_apart_by_their_parents() -> None:
    assert run_names([Path("a/mine")]) == ["mine"]
    # The folder of a demo's run, which alone says nothing.
    assert run_names([Path("a/run")]) == ["a/run"]
    assert run_names([Path("a/run"), Path("b/run")]) == ["a/run", "b/run"]
    # Matplotlib takes no half of a surrogate pair.
    assert run_names([Path("a/caf\udce9")]) == ["caf\\udce9"]
    assert run_names([Path("run\udce9"), Path("run\udce9")])[0].endswith("run\\udce9")


def write_epochs(run: Path, errors: list[float], drops: tuple[int, ...] = ()) -> Path:
    """A run that has only its metrics and the config of `demo`. `drops`: epochs of lower rates."""
    run.mkdir()
    checkpoint.write_config(run, recipes.demo())
    lines = [
        {"kind": "epoch", "step": i, "epoch": i, "lr": 0.1 / 10 ** sum(d <= i for d in drops)}
        | {"train_loss": 1.0, "val_loss": 1.0, "train_error": error, "val_error": error}
        for i, error in enumerate(errors, 1)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def with_signal(run: Path, layers: tuple[str, ...]) -> Path:
    """Add the signal of a network with these layers to the metrics of a run."""
    line = {"kind": "start", "step": 0, "signal": {layer: [0.5, 1.0] for layer in layers}}
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    return run


def test_curve_of_one_epoch_is_seen(tmp_path: Path) -> None:
    """It has a marker, inside of the axes."""
    error, loss = figures.curves([write_epochs(tmp_path / "one", [0.97])]).axes
    for ax in (error, loss):
        for line in ax.lines:
            assert line.get_marker() == "o"
            assert ax.viewLim.contains(*line.get_xydata()[0])
    (many, _) = figures.curves([write_epochs(tmp_path / "many", [0.9] * 9, (4, 8))]).axes
    assert {line.get_marker() for line in many.lines[:2]} == {""}
    entries = [text.get_text() for text in many.get_legend().get_texts()]
    assert entries == ["training", "validation", "learning rate falls"]
    # A smooth schedule falls in every epoch.
    smooth = write_epochs(tmp_path / "smooth", [0.9] * 9, tuple(range(2, 10)))
    legend = figures.curves([smooth]).axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["training", "validation"]


def test_last_epochs_are_drawn_where_lines_are_missing(tmp_path: Path) -> None:
    """As after a damaged line of the log was removed."""
    run = write_epochs(tmp_path / "run", [0.9] * 9)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[3:]))
    for figure in (figures.curves([run]), figures.training_error([run])):
        assert figure.axes[0].get_xlim()[1] >= 9


def test_legend_of_many_runs_is_below_the_curves(tmp_path: Path) -> None:
    runs = [write_epochs(tmp_path / name, [0.9] * 9, (4,)) for name in "abc"]
    figure = figures.curves(runs)
    assert [ax.get_legend() for ax in figure.axes] == [None, None]
    (legend,) = figure.legends
    figure.draw_without_rendering()
    entries = sorted(legend.get_texts(), key=lambda text: -text.get_window_extent().y0)
    rows = [{text.get_text() for text in entries[n : n + 2]} for n in range(0, 6, 2)]
    assert rows == [{f"{name}, training", f"{name}, validation"} for name in "abc"]
    assert [text.get_text() for text in entries[6:]] == ["learning rate falls"]
    assert legend.get_window_extent().y1 < min(ax.get_tightbbox().y0 for ax in figure.axes)


def test_falls_of_the_learning_rate_are_named_where_the_first_run_has_none(tmp_path: Path) -> None:
    runs = [
        write_epochs(tmp_path / "a", [0.9] * 9),
        write_epochs(tmp_path / "b", [0.9] * 9, (4, 8)),
    ]
    entries = [text.get_text() for text in figures.curves(runs).axes[0].get_legend().get_texts()]
    assert entries.count("learning rate falls") == 1


def test_run_whose_name_begins_with_an_underscore_is_in_the_legend(tmp_path: Path) -> None:
    runs = [write_epochs(tmp_path / name, [0.9, 0.8]) for name in ("_a", "b")]
    for run in runs:
        with_signal(run, ("conv1",))
    for draw in (figures.curves, figures.training_error, figures.signals):
        entries = [text.get_text() for text in draw(runs).axes[0].get_legend().get_texts()]
        assert entries[0].startswith("_a")
        assert any(entry.startswith("b") for entry in entries)


def test_no_two_of_many_runs_are_drawn_alike(tmp_path: Path) -> None:
    runs = [write_epochs(tmp_path / f"{i}", [0.9] * 9) for i in range(20)]
    for run in runs:
        with_signal(run, ("conv1", "fc8"))
    for draw, lines in ((figures.curves, 40), (figures.training_error, 20), (figures.signals, 20)):
        looks = [
            (to_hex(line.get_color()), line.get_linestyle())
            for line in draw(runs).axes[0].lines[:lines]
        ]
        assert len(set(looks)) == len(looks) == lines


def test_signal_has_the_layers_in_the_order_of_the_networks(tmp_path: Path) -> None:
    """A network with another layer may come second, as that of a longer pre-training does."""
    runs = [
        with_signal(write_epochs(tmp_path / name, [0.9]), layers)
        for name, layers in (
            ("without", ("conv1", "conv5", "fc8")),
            ("with", ("conv1", "conv5", "conv6", "fc8")),
            ("other", ("conv0", "conv1", "conv5", "fc8")),
        )
    ]
    figure = figures.signals(runs)
    figure.draw_without_rendering()
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["conv0", "conv1", "conv5", "conv6", "fc8"]
    # Each line still has the values of its own layers.
    assert list(figure.axes[0].lines[0].get_xdata(orig=False)) == [1, 2, 4]


def test_letters_that_the_font_lacks_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    runs = [write_epochs(tmp_path / name, [0.9, 0.8]) for name in ("\U0001f680 \u65e5", "b")]
    figures.save(figures.curves(runs), tmp_path / "a.png")
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        "a.png: boxes stand for letters that the font of figures lacks (\u65e5 \U0001f680);" in line
    )
    assert not recwarn.list
    figures.save(figures.curves([runs[1]]), tmp_path / "b.png")
    assert capsys.readouterr().err == ""


def test_figure_1_says_when_each_run_reaches_25_percent(tmp_path: Path) -> None:
    relu = write_epochs(tmp_path / "relu", [0.6, 0.3, 0.25, 0.2])
    tanh = write_epochs(tmp_path / "tanh", [0.7, 0.6, 0.5, 0.4])
    (ax,) = figures.training_error([relu, tanh]).axes
    entries = [text.get_text() for text in ax.get_legend().get_texts()]
    assert entries == [
        "relu: 25% after epoch 3",
        "tanh: 25% not reached",
        "25%, the line of Figure 1",
    ]
    # No text lies in the axes, where a curve could cross it.
    assert not ax.texts
    (alone,) = figures.training_error([relu]).axes
    assert alone.get_legend().get_texts()[0].get_text() == "25% after epoch 3"
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [60, 30, 25, 20])


def test_answers_have_no_label_over_a_bar(run: Path) -> None:
    figure = figures.answers(run)
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    for ax in figure.axes:
        bars = [bar.get_window_extent(renderer) for bar in ax.patches]
        for text in ax.texts:
            box = text.get_window_extent(renderer)
            assert not any(box.overlaps(bar) and bar.width > 0 for bar in bars), text.get_text()
    # Eight images, five answers to each.
    assert sum(len(ax.patches) for ax in figure.axes) == 8 * 5
    assert sum(len(ax.texts) for ax in figure.axes) >= 8 * 5


def test_answers_say_where_the_true_class_is_not_among_them() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    best = tuple((name, 0.2) for name in "abcde")
    inside, outside = Answer(image, "c", best), Answer(image, "f", best)
    figure = _draw_answers([inside, outside])
    missing = [sum(text.get_text() == ABSENT for text in ax.texts) for ax in figure.axes]
    assert missing == [0, 0, 0, 1]
    colors = [to_hex(bar.get_facecolor()) for bar in figure.axes[2].patches]
    assert [color == figures.VAL for color in colors] == [False, False, True, False, False]


def test_signal_explains_its_line(run: Path) -> None:
    (ax,) = figures.signals([run]).axes
    assert any("nearly blind" in text for text in texts(ax.figure))
    assert ax.get_legend() is None
    assert ax.get_ylim()[0] < 2


def test_file_that_cannot_be_written_is_refused_before_anything_is_drawn(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Mock()
    monkeypatch.setattr(figures, "answers", drawn)
    for name in ("none/answers.png", "answers.txt", "answers.pgf", "answers.raw", "answers.rgba"):
        with pytest.raises(SystemExit, match="2"):
            main(["figure", "answers", str(run), "--out", str(tmp_path / name)])
    drawn.assert_not_called()


def test_neighbours_of_ones_own_images(run: Path, tmp_path: Path) -> None:
    """The nearest training image of a stored training image is this image."""
    trained = load(run)
    train = trained.open_store().split("train")
    file = tmp_path / "mine.png"
    Image.fromarray(stored_image(train, 7)).save(file)
    figure = figures.neighbours(run, [file])
    images = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    assert len(images) == 1 + 6
    np.testing.assert_array_equal(images[0], images[1])
    titles = [ax.get_title() for ax in figure.axes if ax.images]
    assert titles[:2] == ["mine.png", trained.names[train.labels[7]]]
    odd = file.rename(tmp_path / "m\udcff.png")
    titles = [ax.get_title() for ax in figures.neighbours(run, [odd]).axes if ax.images]
    assert titles[0] == "m\\udcff.png"
    file.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"mine\.png cannot be read"):
        figures.neighbours(run, [file])


def test_nearest_matches_sorting_by_distance() -> None:
    """For any division of the rows into blocks."""
    there, own = torch.randn(30, 8, dtype=torch.float64), np.array([0, 4, 29, 12, 7])
    asked = there[own]
    order = (asked[:, None] - there).norm(dim=2).argsort(1)
    for size in (1, 4, 7, 30):
        blocks = there.split(size)
        with torch.device("meta"):  # which the program around may have set, as any other device
            assert torch.equal(nearest(asked, blocks), order[:, :6])
        # Each of `asked` is the nearest one to itself.
        assert torch.equal(nearest(asked, blocks, own=own), order[:, 1:7])
        assert torch.equal(nearest(asked, blocks, 40, own), order[:, 1:])


def test_neighbours_keep_the_features_of_one_batch(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, most = list[weakref.ref[torch.Tensor]](), 0
    # The package has a function of the module's name.
    answers = import_module("alexnet.figures.answers")
    in_batches, hidden = answers.centre_crops, answers.last_hidden

    def in_small_batches(trained: Trained, split: Split, order: NDArray[np.int64]) -> Iterator[Any]:
        for part in np.array_split(order, 10):
            yield from in_batches(trained, split, part)

    def counted(trained: Trained, x: torch.Tensor) -> torch.Tensor:
        nonlocal most
        features.append(weakref.ref(rows := hidden(trained, x)))
        most = max(most, sum(kept() is not None for kept in features))
        return rows

    monkeypatch.setattr(answers, "centre_crops", in_small_batches)
    monkeypatch.setattr(answers, "last_hidden", counted)
    figures.neighbours(run)
    assert len(features) == 11
    assert most <= 3  # of the images that are asked for, of a batch, and of the next one


def assert_not_among_neighbours(figure: Figure) -> None:
    """Each row has an image and its six neighbors."""
    images = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    assert len(images) == 5 * 7
    for row in range(0, len(images), 7):
        for neighbour in images[row + 1 : row + 7]:
            assert not np.array_equal(images[row], neighbour)


def test_image_is_no_neighbour_of_itself(run: Path) -> None:
    assert_not_among_neighbours(figures.neighbours(run, split=load(run).config.val_split))


def test_image_is_no_neighbour_of_itself_where_a_run_is_tested_on_its_training_images(
    copied_run: Path,
) -> None:
    saved = checkpoint.read(copied_run)
    config = replace(saved.config, val_split=saved.config.train_split)
    about = saved.about | {"config": to_dict(config)}
    file = copied_run / "last.safetensors"
    checkpoint.write(file, saved.weights, {}, saved.mean, about)
    assert_not_among_neighbours(figures.neighbours(file))


def test_neighbours_of_too_many_images_are_refused(run: Path, tmp_path: Path) -> None:
    for number in range(41):
        (tmp_path / f"{number}.png").touch()
    with pytest.raises(RunError, match="41 images are too many for a figure; name at most 40"):
        figures.neighbours(run, [tmp_path])


def test_neighbours_in_another_store_have_its_classes(run: Path, tmp_path: Path) -> None:
    """A store of other classes is searched in the split that is named, and names its images."""
    trained = load(run)
    side_px = trained.preprocess.stored_px
    rng = np.random.default_rng(0)
    for name in ("oaks", "elms"):
        (tmp_path / "trees" / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (side_px, side_px, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "trees" / name / f"{number}.png")
    settings = StoreSettings(size_px=side_px, encoding="png")
    prepare(sources.find(str(tmp_path / "trees")), tmp_path / "store", settings)
    file = tmp_path / "trees" / "oaks" / "0.png"
    figure = figures.neighbours(run, [file], tmp_path / "store", "train")
    titles = [ax.get_title() for ax in figure.axes if ax.images]
    assert titles[0] == "0.png" and set(titles[1:]) == {"oaks", "elms"}
    assert "the stored images nearest" in figure.get_supxlabel()
    with pytest.raises(DataError, match="has no split 'tset'"):
        figures.neighbours(run, [file], split="tset")


def test_confusion_shows_counts_and_shares() -> None:
    figure = figures.confusion(result([[3, 1], [0, 8]]), ["a$b$", "c"])
    ax = figure.axes[0]
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.75, 0.25], [0, 1]])
    assert [text.get_text() for text in ax.texts] == ["3", "1", "8"]
    figure.draw_without_rendering()
    assert ax.get_xticklabels()[0].get_text() == "a$b$"
    # A class without images divides by nothing.
    assert np.isfinite(figures.confusion(result([[0, 0], [1, 1]]), "ab").axes[0].images[0]._A).all()


def test_confusion_of_too_many_classes_is_refused_with_the_way_out() -> None:
    many = result(np.eye(51, dtype=int).tolist())
    with pytest.raises(RunError, match="51 classes cannot be read; `alexnet report`"):
        figures.confusion(many, ["x"] * 51)


def test_surest_mistakes_come_first(run: Path) -> None:
    test = own_test(run)
    shown = worst_mistakes(test, 12)
    assert shown
    assert [one.probability for one in shown] == sorted(
        (one.probability for one in shown), reverse=True
    )
    wrong = np.flatnonzero(test.p.argmax(1) != test.split.labels)
    assert {one.index for one in shown} <= set(wrong.tolist())
    assert shown[0].probability == pytest.approx(test.p[wrong].max())
    assert shown[0].true == shapes.CLASSES[test.split.labels[shown[0].index]] != shown[0].predicted
    figure = figures.mistakes(test)
    assert sum(len(ax.images) for ax in figure.axes) == len(shown)
    assert f"true: {shown[0].true}" in texts(figure)
    # Red is the true class, as in `answers`.
    for ax in figure.axes:
        for text in ax.texts[:2]:
            color = figures.VAL if text.get_text().startswith("true: ") else figures.TRAIN
            assert text.get_color() == color


@pytest.mark.parametrize("config", RECIPES, ids=lambda recipe: recipe.__name__)
def test_figure_2_has_every_layer_of_every_recipe(config: object) -> None:
    architecture = config().architecture  # type: ignore[operator]
    found = texts(figures.network(architecture))
    for op in plan(architecture):
        assert op.layer.name in found
        if op.op == "linear":
            assert any(text.startswith(f"{op.shape[0]} ") for text in found)


def test_figure_2_gives_window_and_result_of_a_pooling() -> None:
    (lines,) = [
        text
        for text in texts(figures.network(recipes.paper().architecture))
        if text.startswith("96 filters")
    ]
    assert lines.endswith("max pooling 3x3\nstride 2, to 27x27")


def test_figure_2_shows_what_is_left_of_dropout_without_masks() -> None:
    architecture = recipes.paper().architecture
    without = replace(architecture, dropout=replace(architecture.dropout, masks=False))
    # The later form leaves nothing.
    later = replace(without, dropout=replace(without.dropout, form="inverted"))
    for net, word in (
        (architecture, "dropout"),
        (without, "values x 0.5"),
        (later, "all connected"),
    ):
        fully_connected = [text for text in texts(figures.network(net)) if "4096 units" in text]
        assert [text.splitlines()[-1] for text in fully_connected] == [word] * 2


def test_figure_2_of_the_paper_has_two_columns_linked_where_the_paper_links_them() -> None:
    figure = figures.network(recipes.paper().architecture)
    found = texts(figure)
    # Each of the two columns has half of the maps: 48, 128, 192, 192, 128, 2048, 2048.
    for half, times in (("48", 2), ("128", 4), ("192", 4), ("2048", 4), ("1000", 1), ("224", 1)):
        assert found.count(half) == times
    red = [line for line in figure.axes[0].lines if line.get_color() == figures.VAL]
    # In both directions: four corners of the filter of conv3, four lines to fc6 and to fc7.
    assert len(red) == 2 * (4 + 4 + 4)
    alone = figures.network(recipes.original_one_column().architecture)
    assert not [line for line in alone.axes[0].lines if line.get_color() == figures.VAL]
    assert [patch for patch in alone.axes[0].patches if isinstance(patch, Polygon)]


def test_the_verb_draws_every_figure_and_refuses_what_it_does_not_use(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("confusion", "mistakes", "network", "training-error"):
        main(["figure", kind, str(run), "--out", str(tmp_path / f"{kind}.png")])
        with Image.open(tmp_path / f"{kind}.png") as image:
            assert np.asarray(image.convert("L")).std() > 5
    monkeypatch.chdir(tmp_path)
    main(["figure", "network", "cifar_11"])
    assert (tmp_path / "cifar_11-network.png").is_file()
    main(["figure", "filters", str(run / "last.safetensors")])
    assert (tmp_path / "filters.png").is_file()
    sentence = refused(capsys, "figure", "network")
    assert "name the run or recipe to draw: " in sentence
    assert sentence.endswith("figure network RUN|RECIPE")
    for kind in ("filters", "answers", "confusion", "mistakes", "network"):
        sentence = refused(capsys, "figure", kind, run, "cat.jpeg")
        assert f"`alexnet figure {kind}` draws one run and has no use for cat.jpeg" in sentence


def test_evaluate_tests_on_the_store_of_the_runs(
    run: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["evaluate", str(run), str(run), "--json"])
    printed = capsys.readouterr()
    assert [r["images"] for r in json.loads(printed.out)] == [30, 30]
    assert f"tested on {store}, the store of the training" in printed.err
    assert "the ensemble of 2 runs: their probabilities are averaged" in printed.err
    assert "kept nowhere" not in printed.err
    main(["evaluate", str(run), str(run)])
    keeping = f"alexnet evaluate {run} {run} --json > FILE\n"
    text = "the errors of an ensemble are kept nowhere; to keep them in a file: "
    assert capsys.readouterr().err.endswith(text + keeping)
    main(["evaluate", str(run / "best.safetensors")])
    keeping = f"a single file are kept nowhere; to keep them in a file: alexnet evaluate {run}/best"
    assert keeping in capsys.readouterr().err
    saved = checkpoint.read(run)
    for name, changes, message in (
        ("other", {"store": "0" * 64}, "were trained on different stores"),
        (
            "gone",
            {"config": saved.about["config"] | {"data": str(tmp_path / "none")}},
            "is not there any more",
        ),
    ):
        file = tmp_path / f"{name}.safetensors"
        checkpoint.write(file, saved.weights, {}, saved.mean, saved.about | changes)
        runs = [run, file] if name == "other" else [file]
        with pytest.raises((RunError, DataError), match=message):
            common_store(runs)


def test_foreign_files_are_named_and_not_called_damaged(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("a.pth", "a.onnx", "a.npy", "a.safetensors", "b")}
    torch.save({"features.0.weight": torch.zeros(2)}, files["a.pth"])
    files["a.onnx"].write_bytes(b"\x08\x0a\x12\x07alexnet")
    np.save(files["a.npy"], np.zeros(3))
    from safetensors.torch import save_file

    save_file({"features.0.weight": torch.zeros(2)}, files["a.safetensors"])
    files["c.safetensors"] = tmp_path / "c.safetensors"
    save_file({"weight": torch.zeros(2)}, files["c.safetensors"])
    files["b"].write_bytes(b"")
    files["d.caffemodel"] = tmp_path / "d.caffemodel"
    files["d.caffemodel"].write_bytes(b"\x0a\x00")
    for name, what in (
        ("d.caffemodel", "a file of Caffe; .* make one of it with `alexnet import`"),
        ("a.pth", "a file of PyTorch, which may execute code"),
        ("a.onnx", "an ONNX file, .* or make a run of it with `alexnet import`"),
        ("a.npy", "a file of NumPy"),
        ("a.safetensors", "it was not written by it, .* make one of it with `alexnet import`"),
        ("c.safetensors", "it was not written by it, .* give the folder of a run"),
        ("b", "not a .safetensors file"),
    ):
        with pytest.raises(RunError, match=rf"{name} is not a run of this program: .*{what}"):
            checkpoint.read(files[name])


def test_predict_without_images_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in ((["runs/mine"], "name the images"), ([], "name a run and its")):
        sentence = refused(capsys, "predict", *arguments)
        assert message in sentence
        assert "alexnet predict runs/mine photo.jpg" in sentence
