"""Records of claims: what is read, what is kept, and how their rows are described."""

from __future__ import annotations

import copy
import errno
import json
import re
import shutil
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alexnet.cli import main
from alexnet.cores import available_cores
from alexnet.data.store import Store
from alexnet.experiments import job, records, specs, table
from alexnet.experiments.claims import chosen
from alexnet.experiments.data_sets import Part
from alexnet.experiments.measures import RunResult
from alexnet.experiments.record import Record
from alexnet.files import write_whole
from alexnet.ops import trial
from alexnet.saved_config import to_dict
from tests.claim_records import RECORDS, ROOT, raw

# Computed from the recorded runs by code that is not part of this package.
AUDITED = [
    ("bias", "tiny-imagenet", "validation loss", 0.25, 0.08, 0.43),
    ("ladder", "photographs", "error with the center crop, without warm-up", 1.88, 0.72, 3.04),
    ("ladder", "photographs", "error with the center crop, without mixup", -1.06, -2.09, -0.03),
    ("ladder", "photographs", "error with the center crop, without CutMix", -6.62, -8.16, -5.08),
    ("ladder", "photographs", "error with the center crop, one column", 3.58, 2.14, 5.02),
    ("ladder", "tiny-imagenet", "error with the center crop, without batch", 6.0, 4.3, 7.7),
    ("ladder", "tiny-imagenet", "error with the center crop, without random", -3.97, -6.04, -1.90),
    ("ladder", "tiny-imagenet", "error with the center crop, without CutMix", -5.76, -7.36, -4.16),
    ("ladder", "tiny-imagenet", "error with the center crop, without larger", -4.80, -7.65, -1.95),
    ("ladder", "tiny-imagenet", "error with the center crop, one column", 6.0, 5.7, 6.3),
    ("crops", "tiny-imagenet", "gap", 32.6, 31.1, 34.2),
    ("crops", "tiny-imagenet", "test error", 1.96, 0.58, 3.34),
    ("dropout", "tiny-imagenet", "gap", 47.3, 44.5, 50.1),
    ("columns", "tiny-imagenet", "test error", 3.55, 1.95, 5.14),
    ("depth", "tiny-imagenet", "test error, without conv2", 2.79, 1.11, 4.47),
    ("links", "tiny-imagenet", "test error", 2.20, 1.16, 3.24),
    ("lrn", "tiny-imagenet", "test error", 3.13, 0.15, 6.12),
    ("lrn", "tiny-imagenet", "top-5", 2.43, 0.66, 4.19),
    ("lrn-cifar", "cifar10", "test error, ablated", -0.89, -1.68, -0.10),
    ("features", "tiny-imagenet", "six nearest", 22.7, 22.0, 23.5),
    ("pretrain", "mini-imagenet", "test error", -7.09, -9.37, -4.82),
    ("pretrain", "mini-imagenet", "top-5", -5.39, -6.53, -4.25),
    ("modern", "tiny-imagenet", "error with the center crop", 8.1, 7.6, 8.6),
    ("modern", "tiny-imagenet", "test error", 8.4, 6.9, 9.8),
    ("modern", "tiny-imagenet", "top-5 test error", 5.4, 4.3, 6.4),
    ("relu", "cifar10", "epochs", 4.35, 3.54, 5.16),
]


# Likewise; one seed, by the number of training images.
BY_IMAGES = {
    "without dropout": [5.04, 7.12, 9.48, 3.36],
    "without random crops": [7.96, 10.92, 11.68, 5.04],
    "without color noise": [2.00, 2.40, 1.00, 0.76],
}


def test_recorded_runs_give_the_audited_effects_by_number_of_images(recorded: list[Record]) -> None:
    (record,) = (record for record in recorded if record.claim.id == "images")
    for name, differences in BY_IMAGES.items():
        for images, difference in zip((3100, 6250, 12500, 25000), differences, strict=True):
            (row,) = (row for row in record.rows if f"{images:,} images, {name}" in row.effect.name)
            assert round(row.estimate.mean, 2) == difference


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


def test_every_record_names_the_commit_of_its_runs(recorded: list[Record]) -> None:
    for record in recorded:
        assert re.fullmatch("[0-9a-f]{40}", record.raw["code"]["commit"]), record.claim.id


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
    # The document has its figures beside it.
    shown = re.findall(r"\]\((claims-figures/.*\.png)\)", (tmp_path / "claims.md").read_text())
    assert len(shown) > 3
    assert all((tmp_path / name).is_file() for name in shown)
    # The document has the effects of the shipped records, of which one is the user's own.
    rows = (tmp_path / "claims.md").read_text().count("\n| ")
    assert rows == len([*table.table_rows(everything)]) + 1


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


def test_net_that_was_not_trained_without_dropout_is_not_called_underfitted() -> None:
    """Of another net on the same images it is known how little the error with dropout says."""
    one_column = raw("lrn-tiny-imagenet-desk")
    one_column["configs"]["base"]["architecture"]["columns"] = 1
    dropout = records.opened(raw("dropout-tiny-imagenet-desk"))
    for beside, end in (
        ([dropout], "training error 48 %, not measured without dropout"),
        ([], "training error 48 %: underfitted"),
    ):
        record = records._without_dropout([records.opened(one_column), *beside])[0]
        assert record.without_dropout is None
        assert record.setting().endswith(end)


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
    assert ", 4,000 images, " in records.opened(raw("ladder-photographs-desk")).setting()
    assert records.opened(raw("relu-cifar10-full")).setting() == (
        "full, CIFAR-10, 3 seeds: full width, 50,000 images, training error 25 %"
    )


def test_one_ensemble_has_no_interval_but_two_do(recorded: list[Record]) -> None:
    (record,) = (record for record in recorded if record.claim.id == "ensemble")
    row = record.rows[0]
    assert row.estimate.mean == pytest.approx(2.48)
    assert row.adjusted_p is None
    assert record.verdict(row) == ("inconclusive (one ensemble: no interval)", "")
    doubled = copy.deepcopy(record.raw)
    second = copy.deepcopy(record.raw["arms"]["base"])
    for member in second:
        member["also"]["ensemble_error"] += 0.001
    doubled["arms"]["base"] += second
    assert records.opened(doubled).rows[0].estimate.n == 2
    assert records.opened(doubled).rows[0].estimate.low is not None


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
    assert "the record before, of other images, another device or more seeds, or" in (
        capsys.readouterr().err
    )
    fewer = other | {"arms": {name: runs[:1] for name, runs in raw["arms"].items()}}
    records.write(fewer, tmp_path)
    assert json.loads(path.with_suffix(".json.2.bak").read_text()) == other
    assert json.loads(path.read_text()) == fewer
    origin = {"device": "cuda", "precision": "bfloat16"}
    on_gpu = {
        name: [run | {"origin": origin} for run in runs] for name, runs in other["arms"].items()
    }
    again = other | {"command": "another"}
    records.write(again, tmp_path)
    records.write(other | {"arms": on_gpu}, tmp_path)
    assert json.loads(path.with_suffix(".json.3.bak").read_text()) == again


def test_record_that_cannot_be_written_leaves_the_one_before(
    recorded: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = recorded[0].raw
    path = records.write(raw, tmp_path)

    def full(to: Path, data: bytes) -> None:
        if to == path:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_whole(to, data)

    monkeypatch.setattr(records, "write_whole", full)
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            records.write(raw | {"store_checksum": "another"}, tmp_path)
    assert json.loads(path.read_text()) == raw
    assert set(tmp_path.iterdir()) == {path, path.with_suffix(".json.1.bak")}


def test_text_of_a_record_has_a_line_for_each_epoch(recorded: list[Record]) -> None:
    text = records.text_of(recorded[0].raw)
    assert json.loads(text) == recorded[0].raw
    epochs = [line for line in text.splitlines() if '"epoch":' in line]
    runs = [run for runs in recorded[0].results.values() for run in runs]
    assert len(epochs) == sum(len(run.epochs) for run in runs)
    assert all('"val_error":' in line for line in epochs)
    hostile = {"name": 'a "[\n  ]" {\n  b}', "empty": [], "nested": [[1, 2], {"a": [3]}]}
    assert json.loads(records.text_of(hostile)) == hostile


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


@pytest.mark.parametrize("missing", ["arms", "parts", "store", "configs", "on", "environment"])
def test_record_that_lacks_something_costs_no_other(
    recorded: list[Record], tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    records.write(recorded[0].raw, tmp_path)
    for value in ([], {}, None):
        content = raw("lrn-tiny-imagenet-desk") | {missing: value}
        (tmp_path / "another.json").write_text(json.dumps(content))
        assert [one.raw for one in records.read(tmp_path)] == [recorded[0].raw]
        assert "another.json is no record of this version" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["command", "store_checksum", "environment", "scale"])
def test_record_without_a_key_costs_no_other(
    recorded: list[Record], tmp_path: Path, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    records.write(recorded[0].raw, tmp_path)
    content = raw("ladder-photographs-desk")
    del content[missing]
    for run in (run for runs in content["arms"].values() for run in runs):
        run["origin"].pop("machine")
    (tmp_path / "another.json").write_text(json.dumps(content))
    assert [one.raw for one in records.read(tmp_path)] == [recorded[0].raw]
    assert "another.json is no record of this version" in capsys.readouterr().err


def test_own_record_of_another_version_lies_in_a_checkout_among_the_others(
    recorded: list[Record],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    records.write(recorded[0].raw, tmp_path)
    (tmp_path / "new.json").write_text(json.dumps(recorded[0].raw | {"claim": "of a new version"}))
    monkeypatch.setattr(records, "shipped", lambda: tmp_path)
    monkeypatch.setattr(records, "OWN", tmp_path)
    assert [one.raw for one in records.read(None)] == [recorded[0].raw]
    assert "new.json is no record of this version" in capsys.readouterr().err


def test_every_record_of_the_project_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(records.read(RECORDS)) == len([*RECORDS.glob("*.json")]) > 15
    assert capsys.readouterr().err == ""


def test_net_is_the_same_with_another_precision_or_number_of_workers() -> None:
    dropout, lrn = raw("dropout-tiny-imagenet-desk"), raw("lrn-tiny-imagenet-desk")
    lrn["configs"]["base"] |= {"precision": "float32", "workers": 2}
    of_dropout, of_lrn = records._without_dropout([*map(records.opened, (dropout, lrn))])
    assert of_lrn.without_dropout == of_dropout.without_dropout is not None
    assert not of_lrn.other_net_without_dropout


def test_runs_that_end_at_a_training_error_are_not_called_underfitted() -> None:
    content = raw("relu-cifar10-full") | {"scale": "desk"}
    assert records.opened(content).setting().endswith("training error 25 %")


def test_run_without_epochs_costs_no_other_record(
    recorded: list[Record], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records.write(recorded[0].raw, tmp_path)
    content = raw("bias-tiny-imagenet-desk")
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
    assert "(" not in records.opened(content).errors()[-1]
    runs[0]["origin"] = {"machine": "another, 2 cores"}
    record = records.opened(content)
    assert record.machines() == "another, 2 cores; one, 1 core"
    first, *others = (f"{100 * run.test_error:.1f}" for run in record.results["tanh"])
    assert record.errors()[-1] == (
        f"training error, tanh: {first} % (another, 2 cores), {', '.join(others)} % (one, 1 core)"
    )


def test_environment_of_a_record_is_that_of_its_runs(
    photographs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later command with other --jobs, or on another machine, makes no run again."""
    for module in (specs, records):
        monkeypatch.setattr(module, "available_cores", lambda: 2)
    (claim,) = chosen(["colour"])
    run = RunResult(0.4, 0.4, 0.3, 1, 0.01, (), (), 1)
    settings = specs.Settings(photographs, "desk", 2, tmp_path)
    now = records.environment(jobs=1)
    assert now["threads"] == 2
    before = now | {"threads": 1, "torch": "2.0.0"}
    for origins, expected, jobs in (
        ([{}, {}], now, ""),
        # The command gives the runs as many threads as they had.
        ([before, before], before, " --jobs 2"),
        ([before, now], now | {"threads": "1; 2", "torch": f"2.0.0; {torch.__version__}"}, ""),
        # The number of threads was not kept from the beginning.
        ([{"torch": "2.0.0"}] * 2, now | {"torch": "2.0.0"}, ""),
    ):
        results = {"base": [replace(run, origin=origin) for origin in origins]}
        record = records.new_record(claim, results, settings)
        assert record["environment"] == expected
        assert record["command"].endswith(f" --seeds 2{jobs}")


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
    assert record.errors()[0] == "error with the center crop, base, 3,100 images: 56.6 %"
    start = "desk, tiny-imagenet, 1 seed: a quarter of the width, "
    assert record.setting() == f"{start}3,100 to 25,000 images"
    for row in record.rows:
        if row.effect.images:
            assert record.setting(row) == (
                f"{start}{row.effect.images:,} images, training error 40 %; 30 % for the net "
                "trained without dropout: underfitted"
            )
        else:
            assert record.setting(row) == f"{start}3,100 and 25,000 images"


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


def test_claims_on_the_same_data_share_their_base_runs(recorded: list[Record]) -> None:
    """The document says that the rows are not independent for this reason."""
    bases: dict[str, list[list[float]]] = {}
    for record in recorded:
        if record.claim.base.__name__ == "five_convolutions" and "base" in record.results:
            first = record.raw["arms"]["base"][0]
            commit = first.get("origin", record.raw)["code"]["commit"]
            made = f"{record.raw['on']}, {record.raw['scale']}, {commit}"
            errors = [run.test_error for run in record.results["base"]]
            bases.setdefault(made, []).append(errors)
    for made, runs in bases.items():
        # Some claims have more seeds than others.
        assert all(run == max(runs, key=len)[: len(run)] for run in runs), made
    assert sum(len(runs) - 1 for runs in bases.values()) >= 11


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
    bias = raw("bias-tiny-imagenet-desk")
    assert [row.repeat for row in records.opened(bias).rows] == [(), ()]
    bias["configs"]["base"]["schedule"] |= {"drops": [12, 22], "epochs": 30}
    first, last = records.opened(bias).rows
    assert first.repeat == ()  # measured after one epoch
    assert last.repeat[:2] == ("schedule.epochs 30 -> 48", "schedule.drops")
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
        pytest.skip(
            f"no record of photographs with today's settings was made on {here}; on another "
            "processor sums have another order"
        )
    raw, name, before = found[0]
    main(["prepare", str(pictures / "imagenette"), str(tmp_path / "store")])
    store = Store(str(tmp_path / "store"))
    (claim,) = chosen([raw["claim"]])
    arm = next(arm for arm in claim.arms if arm.name == name)
    settings = specs.Settings(store, "desk", 1, tmp_path)
    spec = specs.plan_run(claim, arm, 0, settings, {})
    spec.folder.mkdir(parents=True)
    (spec.folder / job.CONFIG_FILE).write_text(json.dumps(to_dict(spec.config)))
    install = trial.install
    monkeypatch.setattr(trial, "install", lambda choices: install(before["products"]))
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
