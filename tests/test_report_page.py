"""The page about a run: RUN/report.html and RUN/predictions.csv."""

from __future__ import annotations

import codecs
import csv
import re
import shutil
from copy import copy as shallow_copy
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alexnet import recipes, run_report
from alexnet.cli import main
from alexnet.config import Plateau, StepSchedule
from alexnet.data import shapes
from alexnet.evaluation import OwnTest, evaluate, own_test, same_answer, score
from alexnet.provenance import machine
from alexnet.saved_config import to_dict
from tests.commands import printed, refused
from tests.test_disk import read_only


@pytest.fixture(scope="module")
def copy(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run, since the page is written into its folder."""
    folder = tmp_path_factory.mktemp("report") / "tiny"
    shutil.copytree(run, folder)
    return folder


@pytest.fixture(scope="module")
def test(run: Path) -> OwnTest:
    return own_test(run)


def test_the_verb_writes_a_page_that_needs_no_other_file(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["report", str(copy)])
    assert capsys.readouterr().out.strip() == str(copy / "report.html")
    page = (copy / "report.html").read_text()
    # Addresses of namespaces and licenses inside <svg> are not loaded.
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=\"(?!data:)", page)
    assert page.count("<svg") == 4
    for heading in ("How it learned", "What it confuses", "The surest mistakes", "Settings"):
        assert f"<h2>{heading}</h2>" in page
    for name in shapes.CLASSES:
        assert name in page
    assert f"<td>machine of the training</td><td>{machine()}</td>" in page


def test_page_states_the_errors_of_evaluate_and_computes_none_again(
    run: Path, store: Path, test: OwnTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The errors of `own_test` are those of `evaluate`."""
    known = evaluate([run], store)
    assert list(test.results) == known
    monkeypatch.setattr("alexnet.evaluation.measure", None)
    page = run_report.page(run, test)
    for result in known:
        assert f"{100 * result.top1_error:.1f}\u00a0%" in page


def test_predictions_csv_has_every_validation_image(copy: Path, test: OwnTest) -> None:
    run_report.write(copy, test)
    # As spreadsheet programs recognize it.
    assert (copy / "predictions.csv").read_bytes().startswith(codecs.BOM_UTF8)
    with (copy / "predictions.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [test.split.name(i) for i in range(30)]
    assert [shapes.CLASSES.index(row["true"]) for row in rows] == test.split.labels.tolist()
    wrong = np.mean([row["true"] != row["predicted"] for row in rows])
    assert wrong == pytest.approx(test.results[-1].top1_error)


def test_page_of_a_run_that_cannot_be_written_goes_elsewhere(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = copy.parent / "page"
    before = {path.name for path in copy.iterdir()}
    read_only(monkeypatch, copy)
    assert "Read-only file system" in refused(capsys, "report", copy)
    expected = f"there is no folder {out}; make it first"
    assert expected in refused(capsys, "report", copy, "--out", out)
    out.mkdir()
    assert printed(capsys, "report", copy, "--out", out).strip() == str(out / "report.html")
    assert {path.name for path in out.iterdir()} == {"report.html", "predictions.csv"}
    assert {path.name for path in copy.iterdir()} == before


def test_wilson_interval() -> None:
    """The values of Wilson's formula, and its limits where no image or every image is wrong."""
    assert run_report.wilson(5, 50) == pytest.approx((0.0435, 0.2136), abs=1e-4)
    assert run_report.wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert run_report.wilson(10, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_names_of_classes_cannot_become_html_or_formulas(run: Path, test: OwnTest) -> None:
    names = ("<script>x</script>", "$a_b$ & c", "日本", *shapes.CLASSES[3:])
    page = run_report.page(run, replace(test, trained=replace(test.trained, classes=names)))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "$a_b$ &amp; c" in page


def test_page_and_evaluate_leave_out_the_top5_error_of_few_classes(
    run: Path, test: OwnTest, capsys: pytest.CaptureFixture[str]
) -> None:
    assert test.results[-1].top5_error is not None
    assert "top-5" not in run_report.page(run, test)
    main(["evaluate", str(run)])
    assert "top-5" not in capsys.readouterr().out
    names = tuple(f"class {i}" for i in range(20))
    result = score(np.full((30, 20), 0.05, np.float32), test.split.labels, 1)
    many = replace(test, trained=replace(test.trained, classes=names), results=(result,))
    assert "top-5 error" in run_report.page(run, many)


def test_page_says_what_prepare_left_out(run: Path, test: OwnTest) -> None:
    heading = "What was left out"
    assert heading not in run_report.page(run, test)
    manifest = deepcopy(test.store.manifest)
    manifest["splits"]["train"]["skipped"] = [["a<b>.jpg", "truncated"]]
    manifest["notes"] = ["1 class has no image in 'val': orchid"]
    store = shallow_copy(test.store)
    store.manifest = manifest
    page = run_report.page(run, replace(test, store=store))
    assert heading in page
    assert "1 of train: a&lt;b&gt;.jpg (truncated)" in page
    assert (
        '<td class="name">note</td><td>1 class has no image in &#39;val&#39;: orchid</td>' in page
    )


def test_network_of_one_answer_is_called_that(run: Path, test: OwnTest) -> None:
    p = np.eye(10, dtype=np.float32)[np.full(30, 3)]
    one = score(p, test.split.labels, 1)
    page = run_report.page(run, replace(test, p=p, results=(one,)))
    assert f"Every test image was called {shapes.CLASSES[3]}: the network has learned" in page
    names = list("abcdefghij")
    assert (same_answer(one, names) or "").startswith("every test image was called d: ")
    # Where the images are all of one class, one answer may be right.
    assert same_answer(score(p, np.full(30, 3), 1), names) is None
    p[0] = p[0, ::-1]
    assert same_answer(score(p, test.split.labels, 1), names) is None


def test_many_classes_have_a_table_in_place_of_a_matrix(run: Path, test: OwnTest) -> None:
    names = tuple(f"class {i}" for i in range(60))
    p = np.full((30, 60), 0.01, np.float32)
    p[:, 59] = 0.4
    result = score(p, test.split.labels, 1)
    many = replace(test, trained=replace(test.trained, classes=names), p=p, results=(result,))
    page = run_report.page(run, many)
    assert page.count("<svg") == 3
    assert "<td>class 59</td>" in page


def test_page_says_what_the_test_images_have_decided(run: Path, test: OwnTest) -> None:
    def page(**changes: object) -> str:
        about = test.trained.about | {"config": to_dict(replace(test.trained.config, **changes))}
        return run_report.page(run, replace(test, trained=replace(test.trained, about=about)))

    ended = replace(test.trained.config.schedule, until_error=0.25)
    for changes, words in (
        ({}, None),
        ({"schedule": Plateau(3)}, "also decided when the learning rate fell, so"),
        ({"schedule": ended}, "also decided when the training ended, so"),
    ):
        text = page(**changes)
        assert (words in text) if words else ("also decided" not in text)
    assert "tested on\n30 others" in page()
    assert "tested on\nthe same images" in page(val_split="train")


def test_confused_pairs_are_sorted_by_number() -> None:
    p = np.eye(3, dtype=np.float32)[[0, 1, 1, 2, 2, 2, 0]]
    result = score(p, np.array([0, 0, 0, 1, 1, 1, 2]), 1)
    pairs = [("b", "c", 3, 3), ("a", "b", 2, 3), ("c", "a", 1, 1)]
    assert run_report.confused_pairs(result, "abc", 9) == pairs
    assert run_report.confused_pairs(result, "abc", 1) == pairs[:1]


def test_only_settings_that_differ_from_the_recipe_are_listed() -> None:
    base = recipes.demo()
    for precision in ("auto", "float32"):
        auto = replace(base, data="somewhere", device="cpu", precision=precision)
        assert run_report.changed_settings(auto) == []
    for device, precision in (("cpu", "bfloat16"), ("cuda", "float32")):
        chosen = replace(base, device=device, precision=precision)
        assert run_report.changed_settings(chosen) == [("precision", precision, "auto")]
    layers = base.architecture.layers
    changed = replace(
        base,
        sgd=replace(base.sgd, lr=0.5),
        architecture=replace(
            base.architecture, layers=(replace(layers[0], kernels=7), *layers[1:]), classes=3
        ),
    )
    assert run_report.changed_settings(changed) == [
        ("architecture.layers.conv1.kernels", "7", str(layers[0].kernels)),
        ("sgd.lr", "0.5", str(base.sgd.lr)),
    ]
    assert run_report.changed_settings(replace(base, recipe="tiny", schedule=StepSchedule(1))) == []
