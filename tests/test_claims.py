"""The arms of claims are the intended networks, and the tables agree with the recorded runs."""

from __future__ import annotations

import copy
import itertools
import json
import re
import shutil
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from alexnet import recipes
from alexnet.architecture import plan
from alexnet.cli import main
from alexnet.config import Architecture, Conv, FullyConnected, StepSchedule, scaled
from alexnet.cores import available_cores
from alexnet.data.store import Store
from alexnet.errors import RunError
from alexnet.experiments import cost, job, records, report, runner, table
from alexnet.experiments.bases import fine_tuned
from alexnet.experiments.claim import Kind, Part, Scale
from alexnet.experiments.claims import CLAIMS, chosen
from alexnet.experiments.effects import RunResult
from alexnet.experiments.estimates import estimate, holm
from alexnet.experiments.records import Record
from alexnet.model import Network
from alexnet.ops import trial
from alexnet.saved_config import to_dict

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "records" / "claims"


def test_network_of_every_arm_can_be_built() -> None:
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
    """Height of the maps before and after each operation, by the name of the operation."""
    steps = plan(replace(architecture, classes=10))
    return {step.name: (step.in_shape[1], step.shape[1]) for step in steps}


@pytest.mark.parametrize(
    ("scale", "kind"), [("desk", "photographs"), ("desk", "cifar10"), ("full", "imagenet")]
)
def test_pooling_windows_cover_every_row_in_both_arms(scale: Scale, kind: Kind) -> None:
    (claim,) = chosen(["overlap"])
    architectures = [claim.config(arm, scale, kind).architecture for arm in claim.arms]
    for architecture in architectures:
        pool, pooled = architecture.pool, 0
        for name, (before, after) in maps(architecture).items():
            if "max_pool" in name:
                starts = [pool.stride * number for number in range(after)]
                covered = {row for start in starts for row in range(start, start + pool.size_px)}
                assert covered >= set(range(before)), name
                assert starts[-1] < before, "a window lies outside the map"
                pooled += 1
        assert pooled == 3
    base, ablated = (maps(architecture) for architecture in architectures)
    assert base["conv3"] == ablated["conv3"]
    assert base["conv5.max_pool"][1] == ablated["conv5.max_pool"][1]


def test_maps_of_2_2_pooling_at_full_scale_are_those_of_net_147() -> None:
    (claim,) = chosen(["overlap"])
    ablated = maps(claim.config(claim.arms[1], "full", "imagenet").architecture)
    assert ablated["conv1.linear"][1] == 55
    assert [ablated[f"conv{i}.max_pool"][1] for i in (1, 2, 5)] == [28, 13, 6]


def test_net_without_dropout_computes_what_the_base_computes_at_test() -> None:
    (claim,) = chosen(["dropout"])
    base, without = (
        Network(
            replace(claim.config(arm, "smoke", "photographs").architecture, classes=10)
        ).double()
        for arm in claim.arms
    )
    # In float64, which is computed in one way in training and at test.
    x = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    with torch.no_grad():
        trained, dropped = without(x, dropout_key=(0, 0)), base(x, dropout_key=(0, 0))
        tested, without_tested = base.eval()(x), without.eval()(x)
    assert torch.equal(trained, tested)
    assert torch.equal(without_tested, tested)
    assert not torch.equal(dropped, tested)


def test_desk_schedule_scales_the_end_game_of_original() -> None:
    (colour,) = chosen(["colour"])
    desk = colour.config(colour.arms[0], "desk", "photographs")
    scaled_schedule = scaled(recipes.original().schedule, 24)
    assert isinstance(desk.schedule, StepSchedule)
    assert isinstance(scaled_schedule, StepSchedule)
    assert desk.schedule.colour_until == scaled_schedule.colour_until == 18
    ends = [(r.layer, r.epoch, r.weights_only) for r in desk.schedule.layer_lrs]
    assert ends == [(r.layer, r.epoch, r.weights_only) for r in scaled_schedule.layer_lrs]
    assert ends == [("conv1", 18, True), ("conv1", 19, False)]
    slow, frozen = desk.schedule.layer_lrs
    assert slow.lr == pytest.approx(desk.sgd.lr / 10)
    assert frozen.lr == 0


def test_fine_tuning_of_the_original_is_the_authors() -> None:
    there, ours = recipes.fine_tuned(), fine_tuned(recipes.original_six_conv())
    assert replace(ours, recipe="fine_tuned") == there


def test_desk_scale_fine_tunes_at_a_tenth_of_the_rate_and_its_end_game_is_in_proportion() -> None:
    (claim,) = chosen(["pretrain"])
    scratch, first, tuned = (claim.config(arm, "desk", "mini-imagenet") for arm in claim.arms)
    assert tuned.sgd.lr == pytest.approx(scratch.sgd.lr / 10)
    assert tuned.sgd.bias_lr == scratch.sgd.bias_lr
    assert tuned.init_layers == recipes.fine_tuned().init_layers
    lengths = [config.schedule.epochs for config in (scratch, first, tuned)]
    # 1.2 million presentations of 37,500 images and of 100,000; 54 of 91 epochs.
    assert lengths == [32, 12, 19]
    assert isinstance(tuned.schedule, StepSchedule)
    assert tuned.schedule.drops == (8, 15)
    rates = [(r.layer, r.epoch, r.lr / tuned.sgd.lr) for r in tuned.schedule.layer_lrs]
    assert rates == [
        *[("conv1", 0, pytest.approx(0.1)), ("conv1", 2, pytest.approx(0.01)), ("conv1", 2, 0)],
        *[("fc8", 0, pytest.approx(10)), ("fc8", 3, pytest.approx(1))],
        *[("fc8", 8, pytest.approx(0.1)), ("fc8", 15, pytest.approx(0.01))],
    ]
    layers = scratch.architecture.layers
    assert [layer.name for layer in layers] == [
        layer.name for layer in recipes.six_conv().architecture.layers
    ]
    assert scratch.architecture.input_px == 56
    conv1 = layers[0]
    assert isinstance(conv1, Conv)
    assert (conv1.size_px, conv1.stride, conv1.std) == (7, 2, 0.015)
    # That of the other convolutions of 3x3, at this width too.
    assert [layer.std for layer in layers if layer.name in ("conv5", "conv6")] == [0.06, 0.06]


def test_cost_of_pretrain_counts_the_images_of_its_parts() -> None:
    """Of 37,500 images 32 and 19 epochs, and of 100,000 twelve."""
    (claim,) = chosen(["pretrain"])
    macs = sum(
        op.multiply_adds
        for op in plan(
            replace(claim.config(claim.arms[0], "desk", "mini-imagenet").architecture, classes=75)
        )
    )
    images = 37_500 * (32 + 19) + 100_000 * 12
    seconds = cost.claims_s([claim], 1e11, seeds=1)["pretrain"]
    # The head of the first net has 200 classes, which is next to nothing.
    assert seconds == pytest.approx(images * 3 * macs / 0.5e11, rel=0.01)


def test_full_scale_of_pretrain_has_the_net_of_the_authors() -> None:
    (claim,) = chosen(["pretrain"])
    scratch = claim.config(claim.arms[0], "full", "imagenet")
    assert replace(scratch, recipe="original_six_conv") == recipes.original_six_conv()


@pytest.fixture(scope="module")
def recorded() -> list[Record]:
    return records.read(RECORDS)


def raw(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((RECORDS / f"{name}.json").read_text())
    return record


# Computed from the recorded runs by code that is not part of this package.
AUDITED = [
    ("bias", "photographs", "validation loss", 0.12, 0.07, 0.16),
    ("bias", "cifar10", "validation loss", 0.09, 0.06, 0.12),
    ("crops", "tiny-imagenet", "gap", 32.6, 31.1, 34.2),
    ("crops", "tiny-imagenet", "test error", 1.96, 0.58, 3.34),
    ("dropout", "tiny-imagenet", "gap", 47.3, 44.5, 50.1),
    ("columns", "tiny-imagenet", "test error", 3.55, 1.95, 5.14),
    ("links", "tiny-imagenet", "test error", 2.20, 1.16, 3.24),
    ("lrn", "tiny-imagenet", "test error", 3.13, 0.15, 6.12),
    ("lrn", "tiny-imagenet", "top-5", 2.43, 0.66, 4.19),
    ("lrn-cifar", "cifar10", "test error, ablated", -0.89, -1.68, -0.10),
    ("features", "tiny-imagenet", "six nearest", 22.7, 22.0, 23.5),
    ("pretrain", "mini-imagenet", "test error", -7.09, -9.37, -4.82),
    ("pretrain", "mini-imagenet", "top-5", -5.39, -6.53, -4.25),
    ("relu", "cifar10", "epochs", 4.41, 3.58, 5.24),
]


@pytest.mark.parametrize(("claim", "kind", "name", "mean", "low", "high"), AUDITED)
def test_recorded_runs_give_the_audited_effects(
    claim: str, kind: str, name: str, mean: float, low: float, high: float, recorded: list[Record]
) -> None:
    (record,) = (
        record for record in recorded if (record.claim.id, record.raw["on"]) == (claim, kind)
    )
    (row,) = (row for row in record.rows if row.effect.name.startswith(name))
    e = row.estimate
    digits = 1 if mean > 5 else 2
    assert e.low is not None
    assert e.high is not None
    assert [round(v, digits) for v in (e.mean, e.low, e.high)] == [mean, low, high]
    assert e.verdict == ("same sign" if low > 0 else "opposite sign")


def test_records_travel_with_a_wheel_and_own_ones_take_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside a checkout `reproduce` shows the records of the project, and one's own over them."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    (source, target) = wheel["targets"]["wheel"]["force-include"].popitem()
    assert ROOT / source == RECORDS
    # What the wheel contains, in another place than the checkout.
    shutil.copytree(RECORDS, tmp_path / "site" / target)
    monkeypatch.setattr(records, "PACKAGE", tmp_path / "site" / "alexnet")
    monkeypatch.chdir(tmp_path)
    everything = records.read(None)
    assert [one.raw for one in everything] == [one.raw for one in records.read(RECORDS)]
    own = copy.deepcopy(everything[0].raw) | {"code": {"version": "mine"}}
    records.write(own, records.OWN)
    assert [one.raw["code"] for one in records.read(None)] == [
        own["code"],
        *[one.raw["code"] for one in everything[1:]],
    ]
    # A folder that is named stands alone.
    assert len(records.read(records.OWN)) == 1
    main(["reproduce", "--document", "claims.md"])
    assert "not run" not in (tmp_path / "claims.md").read_text().split("## ")[0]


def test_document_agrees_with_the_records(recorded: list[Record]) -> None:
    assert (ROOT / "docs" / "reproduction.md").read_text() == table.document(recorded)
    assert all("effects" not in record.raw for record in recorded)


def test_a_changed_run_changes_its_row_and_the_document(recorded: list[Record]) -> None:
    changed = raw("columns-photographs-desk")
    before = records.opened(changed).rows[0].estimate.mean
    changed["arms"]["one column"][0]["test_error"] += 0.05
    after = records.opened(changed)
    assert after.rows[0].estimate.mean == pytest.approx(before + 1)
    others = [after if record.claim.id == "columns" else record for record in recorded]
    assert table.document(records.adjusted(others)) != table.document(recorded)


def test_opposite_sign_at_desk_scale_is_always_qualified(recorded: list[Record]) -> None:
    verdicts = [(record, record.verdict(row)) for record in recorded for row in record.rows]
    opposite = [(record, verdict) for record, verdict in verdicts if verdict.startswith("opposite")]
    assert opposite
    assert all(verdict.startswith("opposite sign at desk scale") for _, verdict in opposite)
    listing = " ".join(table.listing(CLAIMS, recorded, {}, RECORDS).split())
    document = table.document(recorded)
    for text in (document, listing):
        assert not re.search(r"opposite sign\*?(?! at desk scale)(,|;| \|)", text)
    for record in recorded:
        assert all(record.setting(row) in document for row in record.rows)
        # On the terminal the setting stands once, above the rows of the record.
        assert record.setting() in listing


@pytest.mark.parametrize(
    ("p", "words"),
    [
        (None, ""),
        (0.0004, "<0.001"),
        (0.0123, "0.012"),
        (0.05, "0.050"),
        (0.050001, "0.0501"),
        (0.05021, "0.0503"),
        (0.0506, "0.051"),
        (1.0, "1.000"),
    ],
)
def test_p_value_never_looks_smaller_than_the_limit_that_it_is_above(
    p: float | None, words: str
) -> None:
    assert table.p_in_words(p) == words


def test_numbers_of_the_table_have_no_negative_zero(recorded: list[Record]) -> None:
    """The plain average of five nets minus the weighted one is -2e-15, which reads 0.00."""
    ours = [row.ours for row in table.table_rows(recorded)]
    assert any(number.startswith("0.00") for number in ours)
    assert not any("-0.00" in number for number in ours)


def test_only_an_effect_that_stands_has_a_colored_verdict(recorded: list[Record]) -> None:
    """An interval beside no effect is not enough where many rows are read together."""
    rows = list(table.table_rows(recorded))
    for row in rows:
        assert row.stands == (row.p == "<0.001" or (bool(row.p) and float(row.p) <= 0.05))
    assert any(row.outcome == "same sign" and not row.stands for row in rows)
    tested = sum(bool(row.p) for row in rows)
    rule = f"{sum(row.stands for row in rows)} of the {tested} that have a p value do."
    page = report.page(recorded)
    assert rule in page
    badges = re.findall('class="chip ([a-z-]+)">', page)
    colored = [row.outcome.replace(" ", "-") for row in rows if row.stands]
    # Each row stands in the table, and once more with its claim.
    assert sorted(badge for badge in badges if badge != "inconclusive") == sorted(2 * colored)
    listing = " ".join(table.listing(CLAIMS, recorded, {}, RECORDS).split())
    assert listing.startswith("An effect stands only where p is at most 0.05: ")
    assert rule in listing
    assert listing.count(", stands;") == len(colored)


def test_overview_names_each_claim_once_and_counts_the_effects_that_stand(
    recorded: list[Record],
) -> None:
    text = " ".join(table.overview(recorded, {}, RECORDS).split())
    for claim in CLAIMS:
        assert text.count(f" {claim.id}: {claim.statement}") == 1
    for record in recorded:
        if len(record.rows) > 1:
            assert f"{records.where(record.raw)}: {len(record.rows)} effects: " in text
    counts = re.findall(r"; (\d+) stand", text)
    alone = text.count(", stands")
    standing = sum(row.stands for row in table.table_rows(recorded))
    assert sum(map(int, counts)) + alone == standing


def test_the_error_without_dropout_is_that_of_the_same_net(recorded: list[Record]) -> None:
    tested = {
        (record.raw["scale"], record.raw["on"]): record
        for record in recorded
        if record.claim.id == "dropout"
    }
    for record in recorded:
        dropout = tested.get((record.raw["scale"], record.raw["on"]))
        first = record.claim.arms[0].name
        if (
            dropout is None
            or record.config(first) != dropout.config("base")
            or Part(**record.raw["parts"][first]) != Part(**dropout.raw["parts"]["base"])
        ):
            assert record.without_dropout is None
        else:
            errors = [run.train_error for run in dropout.results["no dropout"]]
            assert record.without_dropout == pytest.approx(sum(errors) / len(errors))
    assert {r.claim.id for r in recorded if r.without_dropout is not None} > {"lrn", "crops"}


def test_arms_are_named_in_american_english(recorded: list[Record]) -> None:
    errors = "\n".join(line for record in recorded for line in record.errors())
    for name in ("normalisation", "colour"):
        assert name not in errors
    assert "normalisation" not in table.document(recorded)


def test_rows_describe_their_scale_from_the_record() -> None:
    lrn = raw("lrn-tiny-imagenet-desk")
    small = "desk, tiny-imagenet, 3 seeds: a quarter of the width, 25,000 images, training error "
    assert records.opened(lrn).setting() == f"{small}48 %: underfitted"
    for run in lrn["arms"]["base"]:
        run["train_error"] = 0.1
    assert records.opened(lrn).setting() == f"{small}10 %"
    assert replace(records.opened(lrn), without_dropout=0.3).setting() == (
        f"{small}10 %; 30 % for the net trained without dropout: underfitted"
    )
    assert "10,000 images" in records.opened(raw("bias-cifar10-desk")).setting()
    assert records.opened(raw("relu-cifar10-full")).setting() == (
        "full, CIFAR-10, 3 seeds: full width, 50,000 images, training error 25 %"
    )


def test_relu_reports_training_error_and_that_six_is_outside_the_interval(
    recorded: list[Record],
) -> None:
    (relu,) = (record for record in recorded if record.claim.id == "relu")
    assert relu.verdict(relu.rows[0]) == "same sign, 6 outside the interval"
    assert all(line.startswith("training error, ") for line in relu.errors())
    (section,) = re.findall(r"\*\*relu\*\*.*?\n\*\*columns", table.document([relu]), re.DOTALL)
    assert "test error" not in section
    lrn = records.opened(raw("lrn-tiny-imagenet-desk"))
    assert all(line.startswith("test error, ") for line in lrn.errors())


def test_one_ensemble_has_no_interval_but_two_do(recorded: list[Record]) -> None:
    (record,) = (record for record in recorded if record.claim.id == "ensemble")
    row = record.rows[0]
    assert row.estimate.mean == pytest.approx(2.48)
    assert row.adjusted_p is None
    assert record.verdict(row) == "inconclusive (one ensemble: no interval)"
    doubled = copy.deepcopy(record.raw)
    second = copy.deepcopy(record.raw["arms"]["base"])
    for member in second:
        member["also"]["ensemble_error"] += 0.001
    doubled["arms"]["base"] += second
    assert records.opened(doubled).rows[0].estimate.n == 2
    assert records.opened(doubled).rows[0].estimate.low is not None


def test_tests_of_the_program_take_no_part_in_the_adjustment(recorded: list[Record]) -> None:
    bare = [
        replace(one, rows=tuple(replace(row, adjusted_p=None) for row in one.rows))
        for one in recorded
    ]
    smoke = [replace(one, raw=one.raw | {"scale": "smoke"}) for one in bare[:3]]
    assert records.adjusted([*smoke, *bare]) == [*smoke, *recorded]


def test_record_of_other_images_is_kept(
    recorded: list[Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = recorded[0].raw
    path = records.write(raw, tmp_path)
    records.write(raw, tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    other = raw | {"store_checksum": "another"}
    records.write(other, tmp_path)
    assert json.loads(path.with_suffix(".json.1.bak").read_text()) == raw
    assert "the record before, of other images or more seeds, is" in capsys.readouterr().err
    fewer = other | {"arms": {name: runs[:1] for name, runs in raw["arms"].items()}}
    records.write(fewer, tmp_path)
    assert json.loads(path.with_suffix(".json.2.bak").read_text()) == other
    assert json.loads(path.read_text()) == fewer


def test_setting_counts_the_images_of_a_part(recorded: list[Record]) -> None:
    record = next(one for one in recorded if one.raw["on"] == "cifar10")
    first = record.claim.arms[0].name
    for of_each, images in ((0, 25_000), (1_000, 5_000)):
        part = record.raw["parts"][first] | {"classes": 5, "train_of_each": of_each}
        parts = record.raw["parts"] | {first: part}
        setting = replace(record, raw=record.raw | {"parts": parts}).setting()
        assert f" {images:,} images, " in setting
    parts = record.raw["parts"] | {first: {"of": "new"}}
    new = record.raw | {"parts": parts, "new_classes": 7}
    assert " 35,000 images, " in replace(record, raw=new).setting()


def test_damaged_record_of_ones_own_does_not_hide_that_of_the_project(
    recorded: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "shipped"
    path = records.write(recorded[0].raw, shipped)
    monkeypatch.setattr(records, "shipped", lambda: shipped)
    monkeypatch.setattr(records, "OWN", tmp_path / "own")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / path.name).write_text("{")
    assert [one.raw for one in records.read(None)] == [recorded[0].raw]


@pytest.mark.parametrize("content", ["{", "[]", '{"scale": "desk", "claim": "none"}'])
def test_file_that_is_no_record_costs_no_other(
    recorded: list[Record], tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    records.write(recorded[0].raw, tmp_path)
    (tmp_path / "another.json").write_text(content)
    assert [one.raw for one in records.read(tmp_path)] == [recorded[0].raw]
    assert "another.json is no record of this version" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["arms", "parts", "store", "configs", "on"])
def test_record_that_lacks_something_costs_no_other(
    recorded: list[Record], tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    records.write(recorded[0].raw, tmp_path)
    for value in ([], {}, None):
        content = raw("lrn-tiny-imagenet-desk") | {missing: value}
        (tmp_path / "another.json").write_text(json.dumps(content))
        assert [one.raw for one in records.read(tmp_path)] == [recorded[0].raw]
        assert "another.json is no record of this version" in capsys.readouterr().err


def test_run_without_epochs_costs_no_other_record(
    recorded: list[Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records.write(recorded[0].raw, tmp_path)
    content = raw("bias-cifar10-desk")
    content["arms"]["base"][0]["epochs"] = []
    (tmp_path / "another.json").write_text(json.dumps(content))
    assert len(records.read(tmp_path)) == 1
    assert "another.json is no record of this version" in capsys.readouterr().err


def test_a_change_of_the_network_that_an_arm_begins_with_is_a_reason_to_repeat() -> None:
    content = raw("pretrain-mini-imagenet-desk")
    before = records.opened(content).rows[0].repeat
    content["configs"]["on the first classes"]["seed"] += 1
    assert records.opened(content).rows[0].repeat == (*before, "seed 1 -> 0")


def test_machines_are_those_of_the_runs() -> None:
    content = raw("relu-cifar10-full")
    assert records.opened(content).machines() == content["environment"]["machine"]
    for runs in content["arms"].values():
        for run in runs:
            run["origin"] = {"machine": "one, 1 cores"}
    runs[0]["origin"] = {"machine": "another, 2 cores"}
    assert records.opened(content).machines() == "another, 2 cores; one, 1 core"


def test_rows_by_number_of_images_name_the_images_of_their_own_arms() -> None:
    run = raw("dropout-tiny-imagenet-desk")["arms"]["base"][0]
    (claim,) = chosen(["images"])
    arms = {
        arm.name: [run | {"train_error": 0.3 if "dropout" in arm.name else 0.4}]
        for arm in claim.arms
    }
    parts = {arm.name: asdict(claim.part(arm, "desk", "tiny-imagenet")) for arm in claim.arms}
    configs = {arm.name: to_dict(claim.config(arm, "desk", "tiny-imagenet")) for arm in claim.arms}
    content = raw("dropout-tiny-imagenet-desk") | {
        "claim": "images",
        "arms": arms,
        "parts": parts,
        "configs": configs,
    }
    record = records.opened(content)
    start = "desk, tiny-imagenet, 1 seed: a quarter of the width, "
    assert record.setting() == f"{start}3,100 to 25,000 images"
    for row in record.rows:
        if row.effect.images:
            assert record.setting(row) == (
                f"{start}{row.effect.images:,} images, training error 40 %; 30 % for the net "
                "trained without dropout: underfitted"
            )
        else:
            assert record.setting(row) == record.setting()


def test_record_of_data_that_the_claim_left_costs_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = raw("lrn-tiny-imagenet-desk")
    for content in (kept, kept | {"claim": "pretrain", "on": "photographs"}):
        (tmp_path / f"{content['claim']}.json").write_text(json.dumps(content))
    assert [one.claim.id for one in records.read(tmp_path)] == ["lrn"]
    assert "pretrain.json is no record of this version" in capsys.readouterr().err


def test_record_of_another_first_store_is_kept(tmp_path: Path) -> None:
    first = raw("lrn-tiny-imagenet-desk") | {"first_store": {"checksum": "a"}}
    path = records.write(first, tmp_path)
    records.write(first, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    records.write(first | {"first_store": {"checksum": "b"}}, tmp_path)
    assert json.loads(path.with_suffix(".json.1.bak").read_text()) == first


def test_error_without_dropout_is_found_beside_a_record_with_newer_fields(tmp_path: Path) -> None:
    lrn, dropout = raw("lrn-tiny-imagenet-desk"), raw("dropout-tiny-imagenet-desk")
    assert "of" not in dropout["parts"]["base"]
    lrn["parts"]["base"]["of"] = "store"
    # The same images, prepared elsewhere.
    lrn["store_checksum"] = "0" * 64
    for record in (lrn, dropout):
        records.write(record, tmp_path)
    assert all(
        "; 4 % for the net trained without dropout" in one.setting()
        for one in records.read(tmp_path)
    )


def test_p_values_are_adjusted_over_all_rows(recorded: list[Record]) -> None:
    rows = [row for record in recorded for row in record.rows if row.adjusted_p is not None]
    assert [row.adjusted_p for row in rows] == holm([row.estimate.p or 0.0 for row in rows])
    standing = sum((row.adjusted_p or 0.0) <= 0.05 for row in rows)
    text = " ".join(table.document(recorded).split())
    assert f"the {len(rows)} rows of the table" in text
    assert f"family-wise error of 5 %: {standing} do." in text


def test_claims_on_the_same_data_share_their_base_runs(recorded: list[Record]) -> None:
    """The document says that the rows are not independent for this reason."""
    bases: dict[str, list[list[float]]] = {}
    for record in recorded:
        if record.claim.base.__name__ == "five_convolutions" and "base" in record.results:
            made = f"{record.raw['on']}, {record.raw['scale']}, {record.raw['environment']}"
            errors = [run.test_error for run in record.results["base"]]
            bases.setdefault(made, []).append(errors)
    for made, runs in bases.items():
        # Some claims have more seeds than others.
        assert all(run == max(runs, key=len)[: len(run)] for run in runs), made
    assert sum(len(runs) - 1 for runs in bases.values()) >= 10


def test_rows_are_marked_for_repetition_exactly_if_their_configs_differ_today(
    recorded: list[Record],
) -> None:
    for record in recorded:
        arms = {arm.name: arm for arm in record.claim.arms}
        for row in record.rows:
            if row.effect.first_epochs is None:
                same = all(
                    # The number of decoding threads changes no result.
                    replace(record.config(name), workers=None)
                    == record.claim.config(arms[name], *scale_and_kind(record))
                    for name in row.effect.arms
                )
                assert same == (not row.repeat), (record.claim.id, row.effect.name)


def scale_and_kind(record: Record) -> tuple[Any, Any]:
    return record.raw["scale"], record.raw["on"]


def test_differing_settings_are_named_unless_they_act_after_the_measurement() -> None:
    bias = raw("bias-cifar10-desk")
    first, last = records.opened(bias).rows
    assert first.repeat == ()  # measured after one epoch; the end game begins at 18
    assert last.repeat == ("schedule.layer_lrs", "schedule.colour_until none -> 18")
    bias["configs"]["base"]["schedule"] |= {"drops": [12, 22], "epochs": 30}
    first, last = records.opened(bias).rows
    assert first.repeat == ()
    assert last.repeat[:2] == ("schedule.epochs 30 -> 24", "schedule.drops")
    bias["configs"]["base"]["sgd"]["lr"] = 0.01
    first, _ = records.opened(bias).rows
    assert first.repeat == ("sgd.lr 0.01 -> 0.003",)
    overlap = raw("overlap-tiny-imagenet-desk")
    assert records.opened(overlap).rows[0].repeat == ()
    pooled = overlap["configs"]["pooling 2/2"]["architecture"]
    pooled["pool"]["partial"] = False
    (conv2,) = (layer for layer in pooled["layers"] if layer["name"] == "conv2")
    conv2["pad"] = [2, 2]
    assert records.opened(overlap).rows[0].repeat == (
        "architecture.layers.conv2.pad",
        "architecture.pool.partial false -> true",
    )
    relu = raw("relu-cifar10-full")
    relu["configs"]["tanh"]["precision"] = "float32"  # a choice of the user, not part of the claim
    assert records.opened(relu).rows[0].repeat == ()
    relu["parts"]["tanh"]["train_of_each"] = 100
    assert records.opened(relu).rows[0].repeat == ("part.train_of_each 100 -> 0",)


def test_document_explains_repetition_only_if_a_row_needs_it(recorded: list[Record]) -> None:
    assert "is named, the runs had no end game" in " ".join(table.document(recorded).split())
    relu = records.adjusted([records.opened(raw("relu-cifar10-full"))])
    assert "To be repeated" not in table.document(relu)
    assert "end game" not in table.reading(relu)


def test_full_scale_counts_as_the_papers_setting_only_on_its_data() -> None:
    lrn = raw("lrn-tiny-imagenet-desk") | {"scale": "full"}
    for run in lrn["arms"]["no normalisation"]:
        run["test_error"] = 0.1
    on_others = records.opened(lrn)
    assert on_others.verdict(on_others.rows[0]).startswith("opposite sign on other images")
    assert table.not_run(on_others.claim, [on_others])
    assert table.NOT_RUN in table.document(records.adjusted([on_others])).split("**lrn**")[1]
    on_imagenet = records.opened(lrn | {"on": "imagenet"})
    assert on_imagenet.verdict(on_imagenet.rows[0]).startswith("opposite sign, ")
    assert table.not_run(on_imagenet.claim, [on_imagenet]) == ()
    (relu,) = chosen(["relu"])
    assert table.not_run(relu, [records.opened(raw("relu-cifar10-full"))]) == ()


def test_claim_that_has_no_full_scale_is_done_with_its_desk_record() -> None:
    (claim,) = chosen(["images"])
    of_scale = {
        scale: records.Record(claim, {"scale": scale, "on": "tiny-imagenet"}, {}, ())
        for scale in ("smoke", "desk")
    }
    (command,) = table.not_run(claim, [of_scale["smoke"]])
    assert command.endswith("--scale desk")
    assert table.not_run(claim, list(of_scale.values())) == ()


def test_report_page_holds_every_claim_and_is_self_contained(run: Path, tmp_path: Path) -> None:
    page, document = tmp_path / "claims.html", tmp_path / "reproduction.md"
    options = ["--records", str(RECORDS)]
    both = "--report", str(page), "--document", str(document)
    main(["reproduce", *both, *options, "--runs", str(run)])
    text = page.read_text()
    for claim in CLAIMS:
        assert f'id="{claim.id}">' in text
        assert f"**{claim.id}**" in document.read_text()
    for record in records.read(RECORDS):
        # In each row, and above the list of the claim.
        assert record.setting() in text
        assert all(record.setting(row) in text for row in record.rows)
    assert "**" not in text
    assert "](" not in text
    assert "opposite sign<" not in text
    assert text.count("<figure>") >= 5
    links = re.findall(r"""(?:src|href)=["']([^"']*)""", text)
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "<link" not in text


def test_report_of_a_run_without_filters_is_refused_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layers = FullyConnected("fc1", 6, then=("activation",)), FullyConnected("fc2", 10, then=())
    flat = Mock(net=Network(Architecture(layers, input_px=32, columns=1)))
    monkeypatch.setattr(report, "load", lambda run: flat)
    with pytest.raises(RunError, match="fc1 has no filters to draw"):
        report.page([], [Path("flat")])


def test_effects_by_number_of_images_are_three_curves() -> None:
    (claim,) = chosen(["images"])
    rows = tuple(
        records.Row(effect, estimate([1.0 * n, 1.1 * n, 1.3 * n], 0.0, True), ())
        for n, effect in enumerate(claim.effects)
    )
    (axes,) = report._by_images(records.Record(claim, {}, {}, rows)).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "without dropout minus with it",
        "without random crops and reflections minus with them",
        "without color noise minus with it",
    ]
    ticks = [label.get_text() for label in axes.get_xticklabels()]
    assert ticks == ["3,100", "6,250", "12,500", "25,000"]
    # Twelve intervals, three curves and the line of no effect.
    assert len(axes.lines) == 16


def test_claim_that_is_a_chain_of_commands_lists_them_whole_and_names_no_data() -> None:
    (claim,) = chosen(["seven"])
    lines = table.listing([claim], [], {}, RECORDS).splitlines()
    assert [line.strip() for line in lines[lines.index("  Run it:") + 1 :]] == list(
        claim.manual_commands
    )
    assert not any(line.strip().startswith("Data:") for line in lines)


def test_every_interval_of_the_figure_names_its_data(recorded: list[Record]) -> None:
    points = [
        (record, row)
        for record in recorded
        for row in record.rows
        if record.claim.id in ("lrn", "lrn-cifar") and not row.effect.top5
    ]
    (axes,) = report._bars(points).axes
    names = [text.get_text().split(":")[0] for text in reversed(axes.texts)]
    assert names == ["lrn (tiny-imagenet)", "lrn-cifar (CIFAR-10)", "lrn-cifar (CIFAR-10)"]


def test_arms_of_all_numbers_of_images_see_as_many_presentations() -> None:
    (claim,) = chosen(["images"])
    for arm in claim.arms:
        of_each = claim.part(arm, "desk", "tiny-imagenet").train_of_each or 500
        schedule = claim.config(arm, "desk", "tiny-imagenet").schedule
        assert isinstance(schedule, StepSchedule)
        epochs = schedule.epochs
        assert 50 * of_each * epochs == pytest.approx(1_200_000, rel=0.01)


@pytest.mark.slow
def test_first_seed_of_a_record_repeats_to_the_last_digit(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first arm of a record of photographs, whose data and settings are today's.

    The last digit depends on the order of the sums: on the processor, on the number of threads, and
    on how each layer multiplies, which the record says and a new run would time anew.
    """
    here = records.environment(jobs=available_cores())
    recorded = [
        record.raw
        for record in records.read(RECORDS, ["desk"])
        if record.raw["on"] == "photographs"
        and record.raw["environment"] == here
        and not any(row.repeat for row in record.rows)
    ]
    arms = [(raw, next(iter(raw["arms"].items()))) for raw in recorded]
    found = [(raw, name, runs[0]) for raw, (name, runs) in arms if "products" in runs[0]]
    if not found:
        pytest.skip(f"no record of photographs was made on {here}; sums have another order here")
    raw, name, before = found[0]
    main(["prepare", str(pictures / "imagenette"), str(tmp_path / "store")])
    store = Store(str(tmp_path / "store"))
    (claim,) = chosen([raw["claim"]])
    arm = next(arm for arm in claim.arms if arm.name == name)
    settings = runner.Settings(store, "desk", 1, tmp_path)
    spec = runner.plan_run(claim, arm, 0, settings, {})
    spec.folder.mkdir(parents=True)
    (spec.folder / job.CONFIG_FILE).write_text(json.dumps(to_dict(spec.config)))
    monkeypatch.setattr(trial, "_CHOICES", dict(before["products"]))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(here["threads"])
        job.work(spec.folder)
    finally:
        torch.set_num_threads(threads)
    result = job.read(spec.folder)
    assert isinstance(result, RunResult)
    again = json.loads(json.dumps(records._run(result)))
    for run in (again, before):
        # What the clock and the memory of the machine say, and with which code.
        del run["images_per_s"]
        run.pop("origin", None)
        for epoch in run["epochs"]:
            for key in ("images_per_s", "waited_share", "peak_memory_bytes", "elapsed_s"):
                epoch.pop(key, None)
    assert again == before
