"""Claims are values that run; statistics say no more than the seeds do; the document is what the records are."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alexnet.cli import main
from alexnet.cli.making import PrepareArguments, parse_train
from alexnet.cli.measuring import ReproduceArguments
from alexnet.cli.parsing import parse
from alexnet.cli.using import EvaluateArguments
from alexnet.config import Config, StoreSettings
from alexnet.configfile import from_dict
from alexnet.data import shapes
from alexnet.data.prepare import prepare
from alexnet.data.store import Store
from alexnet.experiments import runner, table
from alexnet.experiments.claim import Claim, Kind
from alexnet.experiments.claims import CLAIMS, chosen
from alexnet.experiments.effects import (
    Done,
    apart,
    epochs_to,
    mixture,
    plain_over_weighted,
    together,
)
from alexnet.experiments.measures import alike, over_masks
from alexnet.experiments.statistics import estimate
from alexnet.gallery import nearest
from alexnet.kernels import colourfulness, orientedness
from alexnet.model import build, plan
from tests.conftest import tiny_architecture

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("stores") / "photographs"
    prepare(shapes.source(60, 30), folder, StoreSettings(size_px=112))
    return Store(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """As CIFAR-10 is: 32 pixels, a split named test."""
    folder = tmp_path_factory.mktemp("stores") / "small"
    source = shapes.source(60, 30)
    train, val = source.splits
    prepare(
        replace(source, splits=(train, replace(val, name="test"))),
        folder,
        StoreSettings(size_px=32),
    )
    return Store(folder)


def terms(store: Store, out: Path, seeds: int = 2) -> runner.Terms:
    return runner.Terms(store, "smoke", seeds, out, jobs=2, say=lambda line: None)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=8), st.floats(-5, 5))
def test_the_verdict_follows_from_the_interval(values: list[float], none: float) -> None:
    e = estimate(values, none)
    assert e.low is not None
    assert e.high is not None
    assert e.low <= e.mean + 1e-9
    assert e.mean <= e.high + 1e-9
    assert (e.verdict == "agrees") == (e.low > none)
    assert (e.verdict == "disagrees") == (e.high < none)


def test_an_estimate_is_students() -> None:
    e = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (e.mean, e.n) == (3.0, 5)
    np.testing.assert_allclose(
        [e.deviation, e.low, e.high], [1.58114, 1.03676, 4.96324], rtol=1e-5
    )  # a table's t: 2.776
    assert e.verdict == "agrees"
    assert estimate([-v for v in (1.0, 2.0, 3.0, 4.0, 5.0)]).verdict == "disagrees"
    assert estimate([7.0]).verdict == "cannot tell"
    for sign in (1, -1):
        assert (
            estimate([sign * v for v in (1.0, 2.0, 3.0, 4.0, 5.0)], sided=False).verdict
            == "differs"
        )
    assert estimate([-1.0, 1.0, 0.0], sided=False).verdict == "cannot tell"


def test_an_effect_as_large_as_could_be_told_is_told_four_times_in_five() -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(4000):
        noise = rng.normal(0, 1, 5)
        smallest = estimate(noise.tolist()).smallest
        assert smallest is not None
        found.append(smallest)
    effect = float(np.mean(found))
    told = [estimate((rng.normal(effect, 1, 5)).tolist()).verdict == "agrees" for _ in range(2000)]
    assert 0.75 < np.mean(told) < 0.92  # by a mean deviation, not each one's own


def done(*val_errors: float) -> Done:
    return Done(0.5, 0.5, 0.5, 100, 0.01, (), tuple({"val_error": e} for e in val_errors), *NOTHING)


NOTHING = np.zeros((0, 2), np.float32), np.zeros(0, np.int64)


def test_the_crossing_is_interpolated_and_never_is_a_lower_bound() -> None:
    assert epochs_to(0.25, done(0.5, 0.3, 0.2)) == pytest.approx(2.5)
    assert epochs_to(0.25, done(0.25)) == pytest.approx(1.0)
    assert epochs_to(0.25, done(0.5, 0.4)) == 2.0


def test_columns_are_apart_only_when_they_are() -> None:
    rng = np.random.default_rng(0)
    grey, colour = rng.uniform(0, 0.2, 24).tolist(), rng.uniform(0.5, 0.9, 24).tolist()
    further, by_chance = apart((grey, colour))
    assert further > 0.4
    assert by_chance == 0
    assert apart((colour, grey))[0] == pytest.approx(further, abs=0.02)  # another order of shuffles
    alike = [apart(np.split(rng.uniform(0, 1, 48), 2)) for _ in range(50)]  # type: ignore[arg-type]
    assert abs(np.mean([difference for difference, _ in alike])) < 0.02
    assert 0.3 < np.mean([share for _, share in alike]) < 0.7  # uniform


def member(right: np.ndarray, sure: float) -> Done:
    """A net that is right, with probability `sure`, on those pictures of two classes."""
    labels = np.arange(len(right)) % 2
    p = np.where((labels == 1) == right, sure, 1 - sure)
    return replace(
        done(), test_error=1 - right.mean(), probabilities=np.stack([1 - p, p], 1), labels=labels
    )


def test_an_ensemble_is_better_where_its_members_err_apart() -> None:
    right = np.ones((3, 90), bool)
    for net in range(3):
        right[net, 30 * net : 30 * net + 30] = False
    apart_, alike = [member(r, 0.8) for r in right], [member(right[0], 0.8)] * 3
    assert together({"base": apart_}) == pytest.approx([100 / 3] * 3)
    assert together({"base": alike}) == pytest.approx([0] * 3)


def test_searched_weights_leave_a_poor_member_out() -> None:
    rng = np.random.default_rng(0)
    good, poor = member(rng.random(400) < 0.9, 0.7), member(rng.random(400) < 0.1, 0.95)
    weights = mixture(
        np.stack([net.probabilities[np.arange(400), net.labels] for net in (good, poor)])
    )
    assert weights.sum() == pytest.approx(1)
    assert weights[0] > 0.95
    assert (
        min(plain_over_weighted({"base": [good, poor]})) > 50
    )  # the plain average follows the one that is sure


def test_nearest_is_its_slow_twin() -> None:
    asked, there = torch.randn(5, 7), torch.randn(20, 7)
    for row, found in zip(asked, nearest(asked, there, 3), strict=True):
        assert (
            found.tolist()
            == sorted(range(20), key=lambda i: float(((there[i] - row) ** 2).sum()))[:3]
        )


def test_what_is_measured_besides_is_a_share_and_repeats(run: Path) -> None:
    for measure, names in (
        (over_masks, {"masked_error", "halved_error"}),
        (alike, {"same_class_by_hidden", "same_class_by_pixels"}),
    ):
        found = measure(run)
        assert set(found) == names
        assert all(0 <= value <= 1 for value in found.values())
        assert measure(run) == found
    error = over_masks(run)["halved_error"]
    metrics = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert error == pytest.approx(metrics["val_error"])


def test_colourfulness_is_the_share_that_is_not_grey() -> None:
    net = build(replace(tiny_architecture(), classes=10))
    weight = net.get_parameter("conv1.weight")
    with torch.no_grad():
        weight[:4] = weight[:4].mean(1, keepdim=True)  # grey
        weight[4:] -= weight[4:].mean(1, keepdim=True)  # nothing but colour
    first, second = colourfulness(net)
    np.testing.assert_allclose(first, 0, atol=1e-12)
    np.testing.assert_allclose(second, 1, atol=1e-6)  # float32 means


def test_orientedness_is_one_for_a_grating_and_small_for_a_blob() -> None:
    net = build(replace(tiny_architecture(), classes=10))
    weight = net.get_parameter("conv1.weight")  # (8, 3, 5, 5)
    y, x = torch.meshgrid(torch.arange(5.0) - 2, torch.arange(5.0) - 2, indexing="ij")
    with torch.no_grad():
        weight[:4] = torch.sin(0.6 * x + 0.8 * y)
        weight[4:] = torch.exp(-(x**2 + y**2) / 2)
    gratings, blobs = orientedness(net)
    assert min(gratings) > 0.9
    assert max(blobs) < 1e-6


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


@pytest.mark.parametrize("kind", ["photographs", "cifar10"])
def test_pooling_2_2_keeps_the_sizes_of_maps_at_desk_scale(kind: Kind) -> None:
    (claim,) = chosen(["overlap"])
    architectures = [claim.config(arm, "desk", kind).architecture for arm in claim.arms]
    shapes_of = [[step.shape for step in plan(replace(one, classes=10))] for one in architectures]
    assert shapes_of[0] == shapes_of[1]


def test_claims_share_runs_and_finished_ones_are_used_again(
    photographs: Store, tmp_path: Path
) -> None:
    (colour, crops) = chosen(["colour", "crops"])
    where = terms(photographs, tmp_path)
    first = runner.run(colour, where)
    folders = set((tmp_path / "runs").iterdir())
    assert len(folders) == 4
    times = {folder: (folder / "result.json").stat().st_mtime_ns for folder in folders}
    second = runner.run(crops, where)
    assert {d.test_error for d in first["base"]} == {d.test_error for d in second["base"]}
    assert all((folder / "result.json").stat().st_mtime_ns == at for folder, at in times.items())
    assert len(list((tmp_path / "runs").iterdir())) == 6
    losses = {d.epochs[-1]["train_loss"] for d in (*first["base"], *first["no colour noise"])}
    assert len(losses) == 4  # two seeds, with and without


def test_a_reduced_store_holds_the_classes_and_pictures_that_were_asked_for(
    photographs: Store, tmp_path: Path
) -> None:
    (claim,) = chosen(["pretrain"])
    part = replace(claim.arms[1].part, train_of_each=3)  # type: ignore[type-var]
    place = runner._part(terms(photographs, tmp_path), part)
    reduced = Store(place)
    assert reduced.classes == photographs.classes[5:]
    assert np.bincount(reduced.split("train").labels).tolist() == [3] * 5
    assert len(reduced.split("val")) == 15
    assert runner._part(terms(photographs, tmp_path), part) == place


def test_wrong_stores_and_claims_are_refused_in_a_sentence(
    photographs: Store, small: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, says in (
        (["relu", "--data", photographs.name], "relu needs CIFAR-10 prepared at 32 pixels"),
        (["lrn", "--data", small.name, "--scale", "full"], "lrn needs photographs"),
        (["pretrain", "--data", small.name], "pretrain needs photographs"),
        (["ilsvrc2012", "--data", photographs.name], "ilsvrc2012 needs ImageNet"),
        (["nonsense", "--data", photographs.name], "there is no claim 'nonsense'"),
        (["lrn"], "name the prepared store"),
        (["lrn", "--data", str(tmp_path / "none")], "is no prepared store"),
        (["lrn", "--data", photographs.name, "--seeds", "0"], "at least 1"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(
                [
                    "reproduce",
                    *arguments,
                    "--out",
                    str(tmp_path / "out"),
                    "--records",
                    str(tmp_path / "records"),
                ]
            )
        assert ended.value.code == 2
        assert says in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "records").exists()


def test_without_arguments_the_table_names_every_claim(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main(["reproduce", "--records", str(tmp_path)])
    said = capsys.readouterr().out
    for claim in CLAIMS:
        assert claim.id in said
        assert claim.statement in said


def test_what_was_not_run_here_says_commands_that_are_ones() -> None:
    verbs = {
        "prepare": PrepareArguments,
        "evaluate": EvaluateArguments,
        "reproduce": ReproduceArguments,
    }
    for claim in CLAIMS:
        for command in re.findall("alexnet ([^;]+)", "; ".join(table.not_run(claim, []))):
            verb, *rest = command.replace("$n", "1").split()
            if verb == "train":
                assert parse_train(rest[0], rest[1:]).config.recipe == rest[0]
            else:
                assert isinstance(parse(verbs[verb], verb, rest), verbs[verb])
    (relu,) = chosen(["relu"])
    assert table.not_run(relu, [{"scale": "full"}]) == ()


def test_the_document_is_what_the_records_are() -> None:
    records = table.read(ROOT / "records" / "claims")
    assert (ROOT / "docs" / "reproduction.md").read_text() == table.document(records)
    for one in records:
        (claim,) = chosen([one["claim"]])
        for effect, said in zip(claim.effects, one["effects"], strict=True):
            assert said["name"] == effect.name
            again = estimate(said["values"], said["none"], effect.sided)
            assert said["mean"] == pytest.approx(again.mean)
            assert said["verdict"] == again.verdict


def test_records_are_of_what_the_claims_would_run_today() -> None:
    for one in table.read(ROOT / "records" / "claims"):
        (claim,) = chosen([one["claim"]])
        wanted = {arm.name: claim.config(arm, one["scale"], one["on"]) for arm in claim.arms}
        assert {
            name: from_dict(Config, config) for name, config in one["configs"].items()
        } == wanted


def test_the_page_holds_every_claim_and_needs_nothing_else(run: Path, tmp_path: Path) -> None:
    page, document = tmp_path / "claims.html", tmp_path / "reproduction.md"
    main(
        [
            "reproduce",
            "--report",
            str(page),
            "--records",
            str(ROOT / "records" / "claims"),
            "--runs",
            str(run),
        ]
    )
    main(["reproduce", "--document", str(document), "--records", str(ROOT / "records" / "claims")])
    text = page.read_text()
    for claim in CLAIMS:
        assert f"id={claim.id}>" in text
        assert f"**{claim.id}**" in document.read_text()
    assert text.count("<figure>") >= 5
    assert all(
        link.startswith(("#", "data:"))
        for link in re.findall(r"""(?:src|href)=["']([^"']*)""", text)
    )
    assert "<link" not in text


KILLED = """
import sys
from alexnet.data.store import Store
from alexnet.experiments import runner
from alexnet.experiments.claims import chosen
(claim,) = chosen(["colour"])
runner.run(claim, runner.Terms(Store(sys.argv[1]), "smoke", 2, __import__("pathlib").Path(sys.argv[2]), jobs=2))
"""


@pytest.mark.slow
def test_a_stopped_set_takes_up_where_it_stood(photographs: Store, tmp_path: Path) -> None:
    (claim,) = chosen(["colour"])
    whole = runner.run(claim, terms(photographs, tmp_path / "whole"))
    command = [sys.executable, "-c", KILLED, photographs.name, str(tmp_path / "stopped")]
    for after_s in (4, 8):
        process = subprocess.Popen(command, cwd=ROOT)
        time.sleep(after_s)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        runs = [
            path
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if _says(path, str(tmp_path / "stopped"))
        ]
        assert not runs, "a run outlived the program"
    again = runner.run(claim, terms(photographs, tmp_path / "stopped"))
    for arm, runs_of in whole.items():
        for one, other in zip(runs_of, again[arm], strict=True):
            assert one.test_error == other.test_error
            assert np.array_equal(one.probabilities, other.probabilities)


def _says(path: Path, text: str) -> bool:
    try:
        return text in path.read_text() and int(path.parent.name) != os.getpid()
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    ("claim", "kind"),
    [(claim, kind) for claim in CLAIMS if claim.arms for kind in claim.kinds if kind != "imagenet"],
    ids=lambda value: getattr(value, "id", value),
)
def test_every_claim_runs_at_smoke_scale(
    claim: Claim, kind: Kind, photographs: Store, small: Store, tmp_path: Path
) -> None:
    store = small if kind == "cifar10" else photographs
    (said,) = table.reproduce(
        [claim], terms(store, tmp_path / "out"), tmp_path / "records", picky=True
    )
    (found,) = table.read(tmp_path / "records")
    assert (found["claim"], found["on"]) == (claim.id, kind)
    assert all(
        len(effect["values"]) == 2 and effect["verdict"] in said for effect in found["effects"]
    )
    assert json.dumps(found)
    assert claim.id in table.document([found])
