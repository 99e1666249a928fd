"""The arms of claims are the nets that they name, and tables say what the recorded runs say."""

from __future__ import annotations

import copy
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet import recipes
from alexnet.cli import main
from alexnet.config import Architecture, StepSchedule, scaled
from alexnet.experiments import records, table
from alexnet.experiments.claim import Kind, Scale
from alexnet.experiments.claims import CLAIMS, chosen
from alexnet.experiments.estimates import holm
from alexnet.experiments.records import Record
from alexnet.model import build, plan

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "records" / "claims"


def test_every_arm_is_a_net_that_can_be_built() -> None:
    for claim in CLAIMS:
        for scale, kind, arm in itertools.product(
            ("smoke", "desk", "full"), claim.kinds, claim.arms
        ):
            steps = plan(replace(claim.config(arm, scale, kind).architecture, classes=7))
            assert steps[-1].shape == (7, 1, 1), f"{claim.id}, {scale}, {kind}, {arm.name}"


def test_arms_of_a_claim_differ() -> None:
    for claim in CLAIMS:
        configs = [
            (claim.config(arm, "desk", claim.kinds[0]), arm.part, arm.init) for arm in claim.arms
        ]
        assert len({repr(config) for config in configs}) == len(claim.arms), claim.id


def maps(architecture: Architecture) -> dict[str, tuple[int, int]]:
    """The side of the maps before and after each step of the network, by the step's name."""
    steps = plan(replace(architecture, classes=10))
    return {step.name: (step.in_shape[1], step.shape[1]) for step in steps}


@pytest.mark.parametrize(
    ("scale", "kind"), [("desk", "photographs"), ("desk", "cifar10"), ("full", "imagenet")]
)
def test_pooling_windows_see_every_row_on_both_sides_of_the_comparison(
    scale: Scale, kind: Kind
) -> None:
    (claim,) = chosen(["overlap"])
    architectures = [claim.config(arm, scale, kind).architecture for arm in claim.arms]
    for architecture in architectures:
        pool, pooled = architecture.pool, 0
        for name, (before, after) in maps(architecture).items():
            if "max_pool" in name:
                starts = [pool.stride * number for number in range(after)]
                seen = {row for start in starts for row in range(start, start + pool.size_px)}
                assert seen >= set(range(before)), name
                assert starts[-1] < before, "a window lies outside"
                pooled += 1
        assert pooled == 3
    base, ablated = (maps(architecture) for architecture in architectures)
    assert base["conv3"] == ablated["conv3"]
    assert base["conv5.max_pool"][1] == ablated["conv5.max_pool"][1]


def test_at_full_scale_the_maps_of_2_2_pooling_are_those_of_net_147() -> None:
    (claim,) = chosen(["overlap"])
    ablated = maps(claim.config(claim.arms[1], "full", "imagenet").architecture)
    assert ablated["conv1.linear"][1] == 55
    assert [ablated[f"conv{i}.max_pool"][1] for i in (1, 2, 5)] == [28, 13, 6]


def test_the_net_without_dropout_sees_the_values_that_the_base_sees_at_test() -> None:
    (claim,) = chosen(["dropout"])
    base, without = (
        build(replace(claim.config(arm, "smoke", "photographs").architecture, classes=10))
        for arm in claim.arms
    )
    x = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(without(x, dropout_key=(0, 0)), without(x))
        assert torch.equal(without(x), base(x))
        assert not torch.equal(base(x, dropout_key=(0, 0)), base(x))


def test_the_desk_schedule_has_the_originals_end_game_in_proportion() -> None:
    (colour,) = chosen(["colour"])
    desk = colour.config(colour.arms[0], "desk", "photographs")
    whole = scaled(recipes.original().schedule, 24)
    assert isinstance(desk.schedule, StepSchedule)
    assert isinstance(whole, StepSchedule)
    assert desk.schedule.colour_until == whole.colour_until == 18
    ends = [(r.layer, r.epoch, r.weights_only) for r in desk.schedule.layer_lrs]
    assert ends == [(r.layer, r.epoch, r.weights_only) for r in whole.layer_lrs]
    assert ends == [("conv1", 18, True), ("conv1", 19, False)]
    slow, frozen = desk.schedule.layer_lrs
    assert slow.lr == pytest.approx(desk.sgd.lr / 10)
    assert frozen.lr == 0


@pytest.fixture(scope="module")
def recorded() -> list[Record]:
    return records.read(RECORDS)


def raw(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDS / f"{name}.json").read_text())
    return found


# Computed by other code than this package's, from the runs in the records.
AUDITED = [
    ("bias", "photographs", "validation loss", 0.11, 0.10, 0.13),
    ("bias", "cifar10", "validation loss", 0.09, 0.06, 0.12),
    ("crops", "photographs", "gap", 15.4, 14.0, 16.8),
    ("crops", "cifar10", "gap", 20.7, 19.4, 22.1),
    ("relu", "cifar10", "epochs", 4.41, 3.58, 5.24),
]


@pytest.mark.parametrize(("claim", "kind", "name", "mean", "low", "high"), AUDITED)
def test_recorded_runs_give_the_audited_effects(
    claim: str, kind: str, name: str, mean: float, low: float, high: float, recorded: list[Record]
) -> None:
    (one,) = (one for one in recorded if (one.claim.id, one.raw["on"]) == (claim, kind))
    (row,) = (row for row in one.rows if row.effect.name.startswith(name))
    e = row.estimate
    digits = 1 if mean > 5 else 2
    assert e.low is not None
    assert e.high is not None
    assert [round(v, digits) for v in (e.mean, e.low, e.high)] == [mean, low, high]
    assert e.verdict == "same sign"


def test_the_document_is_what_the_records_are(recorded: list[Record]) -> None:
    assert (ROOT / "docs" / "reproduction.md").read_text() == table.document(recorded)
    assert all("effects" not in one.raw for one in recorded)


def test_a_changed_run_changes_its_row_and_the_document(recorded: list[Record]) -> None:
    changed = raw("columns-photographs-desk")
    before = records.opened(changed).rows[0].estimate.mean
    changed["arms"]["one column"][0]["test_error"] += 0.05
    after = records.opened(changed)
    assert after.rows[0].estimate.mean == pytest.approx(before + 1)
    others = [after if one.claim.id == "columns" else one for one in recorded]
    assert table.document(records.adjusted(others)) != table.document(recorded)


def test_a_desk_record_never_says_an_opposite_sign_alone(recorded: list[Record]) -> None:
    verdicts = [(one, one.verdict(row)) for one in recorded for row in one.rows]
    opposite = [(one, said) for one, said in verdicts if said.startswith("opposite")]
    assert opposite
    assert all(said.startswith("opposite sign at desk scale") for _, said in opposite)
    for text in (table.document(recorded), table.listing(recorded, {})):
        assert not re.search(r"opposite sign\*?(?! at desk scale)(,|;| \|)", text)
        for one in recorded:
            assert text.count(one.setting()) >= len(one.rows)


def test_a_row_says_its_scale_in_words_from_its_record() -> None:
    lrn = raw("lrn-photographs-desk")
    small = "desk, photographs, 5 seeds: a quarter of the width, 4,000 images, training error "
    assert records.opened(lrn).setting() == f"{small}29 %: underfitted"
    for one in lrn["arms"]["base"]:
        one["train_error"] = 0.1
    assert records.opened(lrn).setting() == f"{small}10 %"
    assert "10,000 images" in records.opened(raw("lrn-cifar10-desk")).setting()
    assert "1,000 images" in records.opened(raw("pretrain-photographs-desk")).setting()
    assert records.opened(raw("relu-cifar10-full")).setting() == (
        "full, CIFAR-10, 3 seeds: full width, 50,000 images, training error 25 %"
    )


def test_relu_says_training_error_and_that_six_is_outside(recorded: list[Record]) -> None:
    (relu,) = (one for one in recorded if one.claim.id == "relu")
    assert relu.verdict(relu.rows[0]) == "same sign, 6 outside the interval"
    assert all(line.startswith("training error, ") for line in relu.errors())
    (section,) = re.findall(r"\*\*relu\*\*.*?\n\*\*columns", table.document([relu]), re.DOTALL)
    assert "test error" not in section
    lrn = records.opened(raw("lrn-photographs-desk"))
    assert all(line.startswith("test error, ") for line in lrn.errors())


def test_one_ensemble_has_no_interval_and_two_have(recorded: list[Record]) -> None:
    (one,) = (one for one in recorded if one.claim.id == "ensemble")
    row = one.rows[0]
    assert row.estimate.mean == pytest.approx(2.7)
    assert row.adjusted_p is None
    assert one.verdict(row) == "inconclusive (one ensemble: no interval)"
    doubled = copy.deepcopy(one.raw)
    second = copy.deepcopy(one.raw["arms"]["base"])
    for member_ in second:
        member_["also"]["ensemble_error"] += 0.001
    doubled["arms"]["base"] += second
    assert records.opened(doubled).rows[0].estimate.n == 2
    assert records.opened(doubled).rows[0].estimate.low is not None


def test_p_values_are_adjusted_over_all_rows(recorded: list[Record]) -> None:
    rows = [row for one in recorded for row in one.rows if row.adjusted_p is not None]
    assert [row.adjusted_p for row in rows] == holm([row.estimate.p or 0.0 for row in rows])
    standing = sum((row.adjusted_p or 0.0) <= 0.05 for row in rows)
    said = " ".join(table.document(recorded).split())
    assert f"the {len(rows)} rows of the table" in said
    assert f"family-wise error of 5 %: {standing} do." in said


def test_claims_on_the_same_data_share_their_base_runs(recorded: list[Record]) -> None:
    """The document says so."""
    for kind in ("photographs", "cifar10"):
        bases = {
            tuple(run.test_error for run in one.results["base"])
            for one in recorded
            if one.raw["on"] == kind and one.raw["scale"] == "desk"
            if one.claim.base.__name__ == "five_convolutions" and "base" in one.results
        }
        assert len(bases) == 1


def test_rows_are_to_be_repeated_exactly_where_their_arms_run_otherwise_today(
    recorded: list[Record],
) -> None:
    for one in recorded:
        arms = {arm.name: arm for arm in one.claim.arms}
        for row in one.rows:
            if row.effect.first_epochs is None:
                same = all(
                    one.config(name) == one.claim.config(arms[name], *place(one))
                    for name in row.effect.arms
                )
                assert same == (not row.repeat), (one.claim.id, row.effect.name)


def place(one: Record) -> tuple[Any, Any]:
    return one.raw["scale"], one.raw["on"]


def test_a_setting_that_differs_is_named_and_one_that_acts_later_is_not() -> None:
    bias = raw("bias-photographs-desk")
    first, last = records.opened(bias).rows
    assert first.repeat == ()  # the end game begins at epoch 18
    assert last.repeat == ("schedule.layer_lrs", "schedule.colour_until none -> 18")
    bias["configs"]["base"]["schedule"] |= {"drops": [12, 22], "epochs": 30}
    first, last = records.opened(bias).rows
    assert first.repeat == ()
    assert last.repeat[:2] == ("schedule.epochs 30 -> 24", "schedule.drops")
    bias["configs"]["base"]["sgd"]["lr"] = 0.01
    first, _ = records.opened(bias).rows
    assert first.repeat == ("sgd.lr 0.01 -> 0.003",)
    overlap = records.opened(raw("overlap-photographs-desk")).rows[0].repeat
    assert "architecture.layers.conv2.pad" in overlap
    assert "architecture.pool.partial false -> true" in overlap
    relu = raw("relu-cifar10-full")
    relu["configs"]["tanh"]["precision"] = "float32"  # the user's choice, not the claim's
    assert records.opened(relu).rows[0].repeat == ()
    relu["parts"]["tanh"]["train_of_each"] = 100
    assert records.opened(relu).rows[0].repeat == ("part.train_of_each 100 -> 0",)


def test_a_reason_that_no_setting_shows_stands_in_the_record(recorded: list[Record]) -> None:
    (one,) = (one for one in recorded if one.claim.id == "pretrain")
    assert one.raw["to_be_repeated"] in one.rows[0].repeat
    assert one.raw["to_be_repeated"] in table.document(recorded)


def test_the_document_tells_of_repeats_only_where_there_are_any(recorded: list[Record]) -> None:
    assert "the recorded runs had no end game" in " ".join(table.document(recorded).split())
    relu = records.adjusted([records.opened(raw("relu-cifar10-full"))])
    assert "To be repeated" not in table.document(relu)
    assert "end game" not in table.reading(relu)


def test_full_scale_is_the_papers_setting_on_the_papers_data_alone() -> None:
    lrn = raw("lrn-photographs-desk") | {"scale": "full"}
    for one in lrn["arms"]["no normalisation"]:
        one["test_error"] = 0.1
    on_photographs = records.opened(lrn)
    assert on_photographs.verdict(on_photographs.rows[0]).startswith("opposite sign on other")
    assert table.not_run(on_photographs.claim, [on_photographs])
    assert table.NOT_RUN in table.document(records.adjusted([on_photographs])).split("**lrn**")[1]
    on_imagenet = records.opened(lrn | {"on": "imagenet"})
    assert on_imagenet.verdict(on_imagenet.rows[0]).startswith("opposite sign, ")
    assert table.not_run(on_imagenet.claim, [on_imagenet]) == ()
    (relu,) = chosen(["relu"])
    assert table.not_run(relu, [records.opened(raw("relu-cifar10-full"))]) == ()


def test_the_page_holds_every_claim_and_needs_nothing_else(run: Path, tmp_path: Path) -> None:
    page, document = tmp_path / "claims.html", tmp_path / "reproduction.md"
    where = ["--records", str(RECORDS)]
    main(["reproduce", "--report", str(page), *where, "--runs", str(run)])
    main(["reproduce", "--document", str(document), *where])
    text = page.read_text()
    for claim in CLAIMS:
        assert f'id="{claim.id}">' in text
        assert f"**{claim.id}**" in document.read_text()
    for one in records.read(RECORDS):
        assert text.count(one.setting()) > len(one.rows)  # in each row, and over the claim's list
    assert "**" not in text
    assert "opposite sign<" not in text
    assert text.count("<figure>") >= 5
    links = re.findall(r"""(?:src|href)=["']([^"']*)""", text)
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "<link" not in text
