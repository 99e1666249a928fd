"""The settings of today, one rung after the other: what each changes, and what it stands on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from alexnet import recipes
from alexnet.architecture import plan
from alexnet.config import Config, SmoothSchedule
from alexnet.config_checks import check, without_effect
from alexnet.experiments import drawings, records
from alexnet.experiments.claims import chosen
from alexnet.experiments.measures import RunResult
from alexnet.experiments.pictures import pictures
from alexnet.experiments.record import Record
from alexnet.ladder import LEFT_OUT, RUNGS, climb, kept
from alexnet.saved_config import differences, to_dict
from tests.claim_records import raw

(CLAIM,) = chosen(["ladder"])
ONE_COLUMN = CLAIM.config(CLAIM.arms[0], "desk", "photographs")


def changed(before: Config, after: Config) -> set[str]:
    """The first two parts of the names of the settings that differ."""
    names = (line.split(" ")[0] for line in differences(to_dict(before), to_dict(after)))
    return {".".join(name.split(".")[:2]) for name in names}


def test_each_rung_changes_only_what_its_name_says() -> None:
    changes = [changed(ONE_COLUMN, rung.change(ONE_COLUMN)) for rung in RUNGS]
    assert changes == [
        {"architecture.layers"},
        {"sgd.lr", "sgd.bias_lr", "sgd.bias_lr_follows", "schedule"},
        {"label_smoothing"},
        {"sgd.ema_decay"},
        {"augment.zoom", "augment.zoom_to"},
        {"augment.mixup"},
        {"augment.cutmix"},
        {"augment.test_px"},
    ]
    for rung in RUNGS:
        check(rung.change(ONE_COLUMN))
        assert without_effect(rung.change(ONE_COLUMN)) == [], rung.name


def test_batch_normalization_is_the_only_one_and_stands_before_dropout() -> None:
    (rung, *_) = RUNGS
    architecture = replace(rung.change(recipes.original()).architecture, classes=3)
    assert [op.name for op in plan(architecture) if op.op in ("batch_norm", "dropout")] == [
        *(f"conv{number}.batch_norm" for number in range(1, 6)),
        *("fc6.batch_norm", "fc6.dropout", "fc7.batch_norm", "fc7.dropout"),
    ]
    assert not {"lrn", "spatial_norm"} & {op.op for op in plan(architecture)}
    assert {layer.bias for layer in architecture.layers} == {0.0}
    # On the values that the next layer sees, not on those before the activation.
    assert architecture.layers[0].then == ("max_pool", "activation", "batch_norm")


def test_warm_up_and_cosine_keep_the_length_of_training() -> None:
    schedule = RUNGS[1].change(ONE_COLUMN).schedule
    assert schedule == SmoothSchedule(ONE_COLUMN.schedule.epochs, "cosine", 2.0)
    assert RUNGS[1].change(ONE_COLUMN).sgd.lr == pytest.approx(0.01)


def test_test_crops_reach_the_border_of_the_stored_image() -> None:
    for input_px, stored_px in ((224, 256), (56, 64), (96, 110)):
        architecture = replace(ONE_COLUMN.architecture, input_px=input_px)
        larger = RUNGS[-1].change(replace(ONE_COLUMN, architecture=architecture))
        assert larger.augment.test_px == stored_px


def test_a_rung_stands_on_those_below_it_that_are_kept() -> None:
    names = [rung.name for rung in RUNGS]
    assert set(names) > LEFT_OUT
    assert [rung.name for rung in kept()] == [name for name in names if name not in LEFT_OUT]
    by_name = {arm.name: CLAIM.config(arm, "desk", "photographs") for arm in CLAIM.arms}
    for effect, rung in zip(CLAIM.effects, RUNGS, strict=False):
        below, on_top = effect.arms
        assert on_top == rung.name
        assert below not in LEFT_OUT
        assert rung.change(by_name[below]) == by_name[on_top]
    bottom, top = CLAIM.effects[-1].arms
    assert by_name[bottom] == ONE_COLUMN
    assert by_name[top] == climb(ONE_COLUMN, kept())


def result(error: float) -> RunResult:
    return RunResult(error, error, error, 100.0, 0.01, (), (), 0)


def test_figure_has_each_rung_and_those_left_out_are_hollow() -> None:
    results: dict[str, Any] = {
        arm.name: [result(0.3 - 0.01 * number) for _ in range(3)]
        for number, arm in enumerate(CLAIM.arms)
    }
    (axes,) = drawings.ladder(Record(CLAIM, {}, results, ())).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == list(results)
    hollow = [line.get_ydata()[0] for line in axes.lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == len(LEFT_OUT)


def test_caption_of_the_figure_says_whether_points_are_means() -> None:
    content = raw("ladder-photographs-desk")
    (picture,) = pictures([records.opened(content)])
    assert picture.caption.endswith("Small points are seeds, large ones their means.")
    content["arms"] = {name: runs[:1] for name, runs in content["arms"].items()}
    (picture,) = pictures([records.opened(content)])
    assert picture.caption.endswith("A point is one run: there is no interval.")


def test_seed_0_of_the_record_decides_two_rungs_otherwise_as_the_note_says() -> None:
    errors = {
        name: runs[0].centre_error
        for name, runs in records.opened(raw("ladder-photographs-desk")).results.items()
    }
    kept_before, otherwise = CLAIM.arms[0].name, set()
    for rung in RUNGS:
        is_kept = rung.name not in LEFT_OUT
        if (errors[rung.name] < errors[kept_before]) != is_kept:
            otherwise.add(rung.name)
        kept_before = rung.name if is_kept else kept_before
    assert otherwise == {"batch normalization", "larger test crops"}
