"""Running claims: the runs that they share, their metrics, and `alexnet reproduce`."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import numpy as np
import pytest
import torch

from alexnet import cli
from alexnet.architecture import plan
from alexnet.checkpoint import read_config
from alexnet.cli import main
from alexnet.cli.arguments import parse
from alexnet.cli.evaluate import EvaluateArguments
from alexnet.cli.prepare import PrepareArguments
from alexnet.cli.reproduce import ReproduceArguments
from alexnet.cli.train import parse_train
from alexnet.config import StepSchedule, StoreSettings
from alexnet.data import resident, shapes
from alexnet.data.prepare import prepare
from alexnet.data.sources.cifar import CIFAR_CLASSES
from alexnet.data.storage import StoreLost
from alexnet.data.store import Store
from alexnet.diagnostics import colourfulness, orientedness
from alexnet.errors import AlexNetError
from alexnet.experiments import cost, job, records, runner, table
from alexnet.experiments.bases import five_convolutions
from alexnet.experiments.claim import Claim, Kind, Part
from alexnet.experiments.claims import CLAIMS, chosen
from alexnet.experiments.effects import RunResult
from alexnet.experiments.measures import alike, over_masks
from alexnet.model import Network
from alexnet.progress import Progress
from alexnet.provenance import code_version
from alexnet.saved_config import to_dict
from tests import layouts
from tests.commands import refused
from tests.conftest import tiny, tiny_architecture
from tests.processes import until
from tests.runs import interrupted

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("stores") / "photographs"
    prepare(shapes.source(60, 30), folder, StoreSettings(size_px=112))
    return Store(folder)


def of_32_pixels(classes: tuple[str, ...], folder: Path) -> Store:
    """Images of 32 pixels in a training split and one named test, as CIFAR-10 has them."""
    source = shapes.source(60, 30)
    train, val = source.splits
    source = replace(source, splits=(train, replace(val, name="test")), classes=classes)
    prepare(source, folder, StoreSettings(size_px=32))
    return Store(folder)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store that counts as CIFAR-10."""
    return of_32_pixels(CIFAR_CLASSES, tmp_path_factory.mktemp("stores") / "small")


def settings_for(store: Store, out: Path, seeds: int = 2) -> runner.Settings:
    return runner.Settings(store, "smoke", seeds, out, jobs=2, say=lambda line: None)


def test_a_run_on_a_gpu_is_not_that_on_a_cpu(
    photographs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(photographs, tmp_path)
    (claim,) = chosen(["lrn"])
    folders = []
    for device in ("cpu", "cuda"):
        monkeypatch.setattr(runner, "device_type", lambda name, device=device: device)
        folders.append(runner.plan_run(claim, claim.arms[0], 0, settings, {}).folder)
    assert folders[0] != folders[1]


def test_the_rate_that_reaches_the_error_first_is_taken(
    small: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both end in the second of two epochs, one of them sooner; a third one never gets there."""
    # By the factor of the rate, the training error after each epoch.
    errors = {2.0: (0.9, 0.25), 4.0: (0.5, 0.1), 8.0: (0.9, 0.9, 0.9)}

    def run_all(specs: list[runner.RunSpec], *options: object, **named: object) -> list[Any]:
        return [
            replace(result, epochs=tuple({"val_error": error} for error in errors[factor]))
            for _ in ("relu", "tanh")
            for factor in errors
        ]

    result = RunResult(0.1, 0.1, 0.1, 1, 0.01, (), (), 1)
    monkeypatch.setattr(runner, "run_all", run_all)
    monkeypatch.setattr(runner, "SEARCH_EPOCHS", 3)
    claim = replace(chosen(["relu"])[0], rates=tuple(errors))
    settings = replace(settings_for(small, tmp_path), scale="desk")
    assert runner._search_rates(claim, settings) == {"relu": 4.0, "tanh": 4.0}


def test_interrupted_run_goes_on_though_its_store_was_moved(store: Path, tmp_path: Path) -> None:
    config = tiny(tmp_path / "store")
    (tmp_path / "store").symlink_to(store)
    interrupted(config, tmp_path / "run", 2)
    (tmp_path / "store").rename(tmp_path / "moved")
    wanted = replace(config, data=str(tmp_path / "moved"))
    (tmp_path / job.CONFIG_FILE).write_text(json.dumps(to_dict(wanted)))
    job.work(tmp_path)
    result = job.read(tmp_path)
    assert isinstance(result, RunResult)
    assert len(result.epochs) == config.schedule.epochs
    assert result.origin["device"] == "cpu"
    assert result.origin["precision"] == "float32"
    assert result.origin["code"] == code_version()


def test_number_and_time_of_the_runs_are_said_before_they_begin(
    photographs: Store, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    settings = replace(settings_for(photographs, tmp_path), scale="desk", say=said.append)
    (claim,) = chosen(["bias"])
    specs = [runner.plan_run(claim, arm, 0, settings, {}) for arm in claim.arms]
    # The classes of the store are known only beside it.
    config = specs[0].config
    ops = plan(replace(config.architecture, classes=len(photographs.classes)))
    macs = sum(op.multiply_adds for op in ops if op.op == "linear")
    # At this peak of a run the two take ten minutes, side by side: three passes over 60 images, at
    # half of the peak.
    peak = 3 * macs * config.schedule.epochs * 60 / 600 / 0.5
    measured = Mock(return_value=peak)
    monkeypatch.setattr(cost, "peak_macs_per_s", measured)
    runner._announce(specs, settings)
    epochs = config.schedule.epochs
    stopping = StepSchedule(epochs, until_error=0.25)
    early = replace(specs[0], config=replace(config, schedule=stopping))
    runner._announce([early], settings)
    # A run that was interrupted after three of its epochs, a fifth.
    schedule = StepSchedule(15)
    (tmp_path / "begun").mkdir()
    shutil.copytree(run, tmp_path / "begun" / "run")
    begun = replace(specs[0], config=replace(config, schedule=schedule), folder=tmp_path / "begun")
    runner._announce([begun], settings)
    runner._announce(specs[:1], replace(settings, scale="smoke"))
    runner._announce([], settings)
    stop = " on this machine. Ctrl-C stops them, and the same command continues."
    assert said == [
        f"2 runs, 2 at a time: about 10 min{stop}",
        f"1 run: at most about 10 min{stop}",
        f"1 run: about {0.8 * 10 * 15 / epochs:.0f} min{stop}",
        "1 run. Ctrl-C stops them, and the same command continues.",
    ]
    assert measured.call_args_list == 3 * [call(runner.threads_of_a_run(settings.jobs))]


def test_presentations_of_finished_epochs_are_shown_while_runs_last(
    copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LOOK_EVERY_S", 0.0)
    process, bar = Mock(), Mock()
    process.poll.side_effect = [None, None, None, 0]
    presented = Mock(side_effect=[40, 40, 60, 100])
    assert runner._wait_for_any([process], presented, bar) == [process]
    assert bar.advance.call_args_list == [call(20), call(40)]
    spec = runner.RunSpec("a run", read_config(copied_run), copied_run.parent)
    assert runner._epochs_done(spec) == spec.config.schedule.epochs
    assert runner._epochs_done(replace(spec, folder=copied_run)) == 0


def test_bar_counts_ended_and_interrupted_runs(
    photographs: Store, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three runs with 60 images and 2 epochs, the first was interrupted after one of them."""
    config = replace(five_convolutions("smoke", "photographs"), data=photographs.name)
    config = replace(config, schedule=StepSchedule(2))
    specs = [runner.RunSpec(str(n), config, tmp_path / str(n)) for n in range(3)]
    monkeypatch.setattr(runner, "_epochs_done", lambda spec: int(spec is specs[0]))
    monkeypatch.setattr(sys, "executable", shutil.which("true"))
    bars = []

    class Bar(Progress):
        def __init__(self, *arguments: Any) -> None:
            bars.append(arguments)
            super().__init__(*arguments)

    monkeypatch.setattr(runner, "Progress", Bar)
    settings = replace(settings_for(photographs, tmp_path), jobs=1)
    assert list(runner._run_processes(specs, settings)) == specs
    assert bars == [("training", 360, "presentations", done) for done in (60, 120, 240)]


def test_images_are_decoded_once_where_all_runs_fit_into_memory(
    photographs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 3 * 112**2 * 60
    (claim,) = chosen(["bias"])
    for jobs, most, device, expected in (
        (2, 2 * size, "cpu", True),
        (2, 2 * size - 1, "cpu", False),
        (1, size, "cpu", True),
        (1, size, "cuda", False),
        (1, size, "mps", False),
    ):
        monkeypatch.setattr(resident, "MAX_CPU_BYTES", most)
        monkeypatch.setattr(runner, "device_type", lambda name, device=device: device)
        settings = replace(settings_for(photographs, tmp_path), jobs=jobs)
        spec = runner.plan_run(claim, claim.arms[0], 0, settings, {})
        assert spec.config.resident == expected
        # The result is the same, so a run that was finished either way is used again.
        other = runner._spec_of("other", replace(spec.config, resident=not expected), settings)
        assert other.folder == spec.folder


def test_extra_metrics_are_fractions_and_reproducible(run: Path) -> None:
    for measure, names in (
        (over_masks, {"masked_error", "halved_error"}),
        (alike, {"same_class_by_hidden", "same_class_by_pixels"}),
    ):
        values = measure(run)
        assert set(values) == names
        assert all(0 <= value <= 1 for value in values.values())
        assert measure(run) == values
    error = over_masks(run)["halved_error"]
    metrics = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert error == pytest.approx(metrics["val_error"])


def test_colourfulness_is_the_fraction_that_is_not_grey() -> None:
    net = Network(replace(tiny_architecture(), classes=10))
    weight = net.get_parameter("conv1.weight")
    with torch.no_grad():
        weight[:4] = weight[:4].mean(1, keepdim=True)  # grey
        weight[4:] -= weight[4:].mean(1, keepdim=True)  # without grey
    first, second = colourfulness(net)
    np.testing.assert_allclose(first, 0, atol=1e-12)
    np.testing.assert_allclose(second, 1, atol=1e-6)  # float32 means


def test_orientedness_is_one_for_a_grating_and_small_for_a_blob() -> None:
    net = Network(replace(tiny_architecture(), classes=10))
    weight = net.get_parameter("conv1.weight")  # (8, 3, 5, 5)
    y, x = torch.meshgrid(torch.arange(5.0) - 2, torch.arange(5.0) - 2, indexing="ij")
    with torch.no_grad():
        weight[:4] = torch.sin(0.6 * x + 0.8 * y)
        weight[4:] = torch.exp(-(x**2 + y**2) / 2)
    gratings, blobs = orientedness(net)
    assert min(gratings) > 0.9
    assert max(blobs) < 1e-6


def with_classes(store_px: int, classes: tuple[str, ...], folder: Path) -> Store:
    source = shapes.source(10, 10)
    prepare(replace(source, classes=classes), folder, StoreSettings(size_px=store_px))
    return Store(folder)


def test_a_thousand_other_classes_are_not_imagenet(tmp_path: Path) -> None:
    others = tuple(f"n{number:08d}" for number in range(1000))
    assert runner.kind_of(with_classes(112, others, tmp_path / "others")) == "photographs"


def test_imagenet_is_recognised_by_its_ordered_class_list(tmp_path: Path) -> None:
    # The first words of the file synset_words.txt that belongs to ImageNet 2012.
    wnids = tuple((Path(__file__).parent / "imagenet_2012_wnids.txt").read_text().split())
    store = with_classes(256, wnids, tmp_path / "imagenet")
    assert runner.kind_of(store) == "imagenet"
    small = with_classes(112, wnids, tmp_path / "small")
    mixed = (wnids[1], wnids[0], *wnids[2:])
    assert runner.kind_of(with_classes(112, mixed, tmp_path / "mixed")) == "photographs"
    (lrn, relu, pretrain) = chosen(["lrn", "relu", "pretrain"])
    full = replace(settings_for(store, tmp_path), scale="full")
    runner.check(lrn, full)
    with pytest.raises(ValueError, match=r"the network sees 224 pixels per side, .* has 112"):
        runner.check(lrn, replace(full, store=small))
    with pytest.raises(ValueError, match="relu needs CIFAR-10"):
        runner.check(relu, full)
    with pytest.raises(ValueError, match=r"chain of commands: .*train pre_trained"):
        runner.check(pretrain, full)


def test_tiny_imagenet_is_recognised_by_its_classes_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wnids = tuple(f"n{number:08d}" for number in range(200))
    digest = hashlib.sha256("\n".join(wnids).encode()).hexdigest()
    monkeypatch.setattr(runner, "TINY_IMAGENET_SHA256", digest)
    assert runner.kind_of(with_classes(64, wnids, tmp_path / "tiny")) == "tiny-imagenet"
    assert runner.kind_of(with_classes(112, wnids, tmp_path / "large")) == "photographs"
    assert runner.kind_of(with_classes(64, wnids[1:], tmp_path / "part")) == "photographs"
    digest = hashlib.sha256("\n".join(wnids[1:]).encode()).hexdigest()
    monkeypatch.setattr(runner, "MINI_IMAGENET_SHA256", digest)
    assert runner.kind_of(Store(tmp_path / "part")) == "mini-imagenet"


def test_kinds_of_small_stores(photographs: Store, small: Store) -> None:
    assert runner.kind_of(photographs) == "photographs"
    assert runner.kind_of(small) == "cifar10"


def test_ten_other_classes_of_32_pixels_are_not_cifar10(tmp_path: Path) -> None:
    assert runner.kind_of(of_32_pixels(shapes.CLASSES, tmp_path / "shapes")) == "photographs"


def test_every_five_seeds_form_an_ensemble_and_the_rest_none() -> None:
    runs = [RunResult(n / 100, 0.5, 0.5, 1, 0.01, (), (), 1, {"other": n}) for n in range(12)]

    def mean_error(members: Sequence[RunResult]) -> dict[str, float]:
        return {"ensemble_error": float(np.mean([run.test_error for run in members]))}

    measured = runner._with_ensembles(mean_error, runs)
    errors = [run.extra_metrics.get("ensemble_error") for run in measured]
    assert errors == pytest.approx([0.02] * 5 + [0.07] * 5 + [None] * 2)
    assert [run.extra_metrics["other"] for run in measured] == list(range(12))
    (effect, _) = chosen(["ensemble"])[0].effects
    assert effect.values({"base": measured}) == pytest.approx([0, 0])
    assert effect.values({"base": measured[:4]}) == []


def test_run_that_crashes_gives_no_result_and_names_its_log(
    photographs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (claim,) = chosen(["bias"])
    said: list[str] = []
    settings = replace(settings_for(photographs, tmp_path), say=said.append)
    spec = runner.plan_run(claim, claim.arms[0], 0, settings, {})
    monkeypatch.setattr(runner, "_run_processes", lambda specs, settings: iter(specs))
    assert runner.run_all([spec], settings, may_crash=True) == [None]
    assert f"failed, see {spec.folder}/log; " in said[-1]
    # The search for a learning rate may not take it for one at which the loss is not finite.
    for may_fail in (False, True):
        with pytest.raises(ValueError, match=f"gave no numbers: see {spec.folder}/log"):
            runner.run_all([spec], settings, may_fail)


def test_claim_without_numbers_costs_no_other_claim_its_record(
    photographs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = RunResult(0.4, 0.4, 0.3, 1, 0.01, (), (), 1)

    def run(claim: Claim, settings: runner.Settings) -> dict[str, list[RunResult]]:
        if claim.id == "bias":
            raise AlexNetError("bias, base, seed 0 gave no numbers: the loss is nan")
        return {arm.name: [result, result] for arm in claim.arms}

    monkeypatch.setattr(table, "run_ahead", lambda claims, settings: None)
    monkeypatch.setattr(table, "run", run)
    settings = settings_for(photographs, tmp_path)
    texts = table.reproduce(chosen(["bias", "colour"]), settings, tmp_path / "records", strict=True)
    lines = [next(texts), next(texts)]
    assert any("bias: bias, base, seed 0 gave no numbers: the loss is nan" in s for s in lines)
    with pytest.raises(ValueError, match="1 of the claims have no record; see above"):
        next(texts)
    (record,) = records.read(tmp_path / "records")
    assert record.claim.id == "colour"


def test_run_whose_store_is_lost_ends_though_its_threads_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(job, "work", Mock(side_effect=StoreLost("the store is gone")))
    monkeypatch.setattr(os, "_exit", ended.append)
    job.main(tmp_path)
    assert ended == [2]


def test_claims_that_are_stopped_end_with_the_number_of_the_signal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(arguments: list[str]) -> None:
        with runner._ended_together({}):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)

    monkeypatch.setattr(cli, "function_of", lambda verb: stopped)
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", "--data", "store"])
    assert ended.value.code == 143
    assert capsys.readouterr().err == "stopped; the same command continues\n"


@pytest.mark.slow
def test_claims_share_runs_and_reuse_finished_ones(photographs: Store, tmp_path: Path) -> None:
    (colour, crops) = chosen(["colour", "crops"])
    settings = settings_for(photographs, tmp_path, seeds=1)
    first = runner.run(colour, settings)
    folders = set((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    times = {folder: (folder / "result.json").stat().st_mtime_ns for folder in folders}
    second = runner.run(crops, settings)
    assert {run.test_error for run in first["base"]} == {run.test_error for run in second["base"]}
    assert all(
        (folder / "result.json").stat().st_mtime_ns == mtime_ns
        for folder, mtime_ns in times.items()
    )
    assert len(list((tmp_path / "runs").iterdir())) == 3
    losses = {run.epochs[-1]["train_loss"] for run in (*first["base"], *first["no colour noise"])}
    assert len(losses) == 2  # with and without


def test_reduced_store_holds_the_requested_classes_and_images(
    photographs: Store, tmp_path: Path
) -> None:
    part = Part(5, 5, train_of_each=3)
    folder = runner._part(settings_for(photographs, tmp_path), part)
    reduced = Store(folder)
    assert reduced.classes == photographs.classes[5:]
    assert np.bincount(reduced.split("train").labels).tolist() == [3] * 5
    assert len(reduced.split("val")) == 15
    assert runner._part(settings_for(photographs, tmp_path), part) == folder


# Offsets in WordNet of the 100 classes of mini-ImageNet, in order.
MINI_IMAGENET = """
01532829 01558993 01704323 01749939 01770081 01843383 01855672 01910747 01930112 01981276
02074367 02089867 02091244 02091831 02099601 02101006 02105505 02108089 02108551 02108915
02110063 02110341 02111277 02113712 02114548 02116738 02120079 02129165 02138441 02165456
02174001 02219486 02443484 02457408 02606052 02687172 02747177 02795169 02823428 02871525
02950826 02966193 02971356 02981792 03017168 03047690 03062245 03075370 03127925 03146219
03207743 03220513 03272010 03337140 03347037 03400231 03417042 03476684 03527444 03535780
03544143 03584254 03676483 03770439 03773504 03775546 03838899 03854065 03888605 03908618
03924679 03980874 03998194 04067472 04146614 04149813 04243546 04251144 04258138 04275548
04296562 04389033 04418357 04435653 04443257 04509417 04515003 04522168 04596742 04604644
04612504 06794110 07584110 07613480 07697537 07747607 09246464 09256479 13054560 13133613
"""


# The same of the 200 classes of tiny-imagenet-200.
TINY_IMAGENET = """
01443537 01629819 01641577 01644900 01698640 01742172 01768244 01770393 01774384 01774750
01784675 01855672 01882714 01910747 01917289 01944390 01945685 01950731 01983481 01984695
02002724 02056570 02058221 02074367 02085620 02094433 02099601 02099712 02106662 02113799
02123045 02123394 02124075 02125311 02129165 02132136 02165456 02190166 02206856 02226429
02231487 02233338 02236044 02268443 02279972 02281406 02321529 02364673 02395406 02403003
02410509 02415577 02423022 02437312 02480495 02481823 02486410 02504458 02509815 02666196
02669723 02699494 02730930 02769748 02788148 02791270 02793495 02795169 02802426 02808440
02814533 02814860 02815834 02823428 02837789 02841315 02843684 02883205 02892201 02906734
02909870 02917067 02927161 02948072 02950826 02963159 02977058 02988304 02999410 03014705
03026506 03042490 03085013 03089624 03100240 03126707 03160309 03179701 03201208 03250847
03255030 03355925 03388043 03393912 03400231 03404251 03424325 03444034 03447447 03544143
03584254 03599486 03617480 03637318 03649909 03662601 03670208 03706229 03733131 03763968
03770439 03796401 03804744 03814639 03837869 03838899 03854065 03891332 03902125 03930313
03937543 03970156 03976657 03977966 03980874 03983396 03992509 04008634 04023962 04067472
04070727 04074963 04099969 04118538 04133789 04146614 04149813 04179913 04251144 04254777
04259630 04265275 04275548 04285008 04311004 04328186 04356056 04366367 04371430 04376876
04398044 04399382 04417672 04456115 04465501 04486054 04487081 04501370 04507155 04532106
04532670 04540053 04560804 04562935 04596742 04597913 06596364 07579787 07583066 07614500
07615774 07695742 07711569 07715103 07720875 07734744 07747607 07749582 07753592 07768694
07871810 07873807 07875152 07920052 09193705 09246464 09256479 09332890 09428293 12267677
"""


@pytest.mark.parametrize(
    ("offsets", "count", "sha256"),
    [
        (MINI_IMAGENET, 100, runner.MINI_IMAGENET_SHA256),
        (TINY_IMAGENET, 200, runner.TINY_IMAGENET_SHA256),
    ],
)
def test_small_imagenets_are_recognised_by_their_lists_of_classes(
    offsets: str, count: int, sha256: str
) -> None:
    wnids = [f"n{offset}" for offset in offsets.split()]
    assert len(wnids) == count
    assert hashlib.sha256("\n".join(wnids).encode()).hexdigest() == sha256


NAMES = tuple(f"n{number:08d}" for number in range(55))


@pytest.fixture
def two_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Store]:
    """What stands for mini-ImageNet, and the store whose classes are learned first.

    The images are of the first ten classes of each, and the first store lacks five of the other's.
    """
    digest = hashlib.sha256("\n".join(NAMES[:50]).encode()).hexdigest()
    monkeypatch.setattr(runner, "MINI_IMAGENET_SHA256", digest)
    return with_classes(64, NAMES[:50], tmp_path / "mini"), with_classes(
        64, NAMES[5:], tmp_path / "first"
    )


def test_new_classes_are_those_that_the_first_store_lacks(
    two_stores: tuple[Store, Store], tmp_path: Path
) -> None:
    mini, first = two_stores
    settings = replace(settings_for(mini, tmp_path), first=first)
    new = Store(runner._part(settings, Part(of="new")))
    assert tuple(new.classes) == NAMES[:5]
    old = mini.split("train").labels
    assert len(new.split("train")) == sum(old < 5)
    assert np.bincount(new.split("train").labels).tolist() == np.bincount(old)[:5].tolist()
    assert runner._part(settings, Part(of="first")) == first.name
    (claim,) = chosen(["pretrain"])
    record = records.new_record(claim, {}, settings)
    assert f"--data {mini.name} --first {first.name} --scale smoke" in record["command"]
    assert record["new_classes"] == 5
    assert record["first_store"] == {"checksum": first.checksum} | record["store"]


def test_classes_that_cannot_be_learned_first_are_refused(
    two_stores: tuple[Store, Store], photographs: Store, tmp_path: Path
) -> None:
    mini, first = two_stores
    (claim,) = chosen(["pretrain"])
    settings = settings_for(mini, tmp_path)
    runner.check(claim, replace(settings, first=first))
    without = tmp_path / "without"
    prepare(
        replace(shapes.source(10, 10), splits=shapes.source(10, 10).splits[:1]),
        without,
        StoreSettings(size_px=64),
    )
    for other, message in (
        (Store(without), "without has no split 'val', which its training needs"),
        (None, "name their store, such as tiny-imagenet-200 at 64 pixels: --first STORE"),
        (photographs, "has images of 112 pixels and .* of 64; prepare both alike"),
        (mini, "has fewer than two classes that .* has not"),
    ):
        with pytest.raises(ValueError, match=message):
            runner.check(claim, replace(settings, first=other))
    # Without the name of the claim, too.
    large = replace(settings, first=photographs)
    with pytest.raises(ValueError, match="prepare both alike"):
        list(table.reproduce(CLAIMS, large, tmp_path / "records", strict=False))
    with pytest.raises(ValueError, match=r"no claim can be tested on .*mini with these options"):
        list(table.reproduce(CLAIMS, settings, tmp_path / "records", strict=False))


def test_folder_of_a_part_of_a_store_keeps_its_name(photographs: Store, tmp_path: Path) -> None:
    """Else the finished runs of an earlier version would not be found."""
    text = json.dumps(
        [{"first_class": 5, "classes": 5, "train_of_each": 3}, 112, photographs.checksum]
    )
    folder = runner._part(settings_for(photographs, tmp_path), Part(5, 5, 3))
    assert Path(folder).name == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert Store(folder).manifest["source"] == f"a part of {photographs.name}: {text}"


def of_one_split(folder: Path) -> Path:
    """A store whose images are all for training."""
    source = shapes.source(10, 10)
    source = replace(source, splits=source.splits[:1])
    prepare(source, folder / "one", StoreSettings(size_px=112))
    return folder / "one"


def test_claim_of_tiny_images_alone_has_no_full_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "kind_of", lambda store: "tiny-imagenet")
    store = with_classes(64, shapes.CLASSES, tmp_path / "tiny")
    (claim,) = chosen(["images"])
    with pytest.raises(AlexNetError, match=r"images has no full scale; on .*, give --scale desk"):
        runner.check(claim, replace(settings_for(store, tmp_path), scale="full"))


def test_wrong_stores_and_claims_are_refused_with_one_sentence(
    photographs: Store, small: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (
            ["relu", "--data", photographs.name],
            "relu needs CIFAR-10 at 32 pixels, with its names of the classes",
        ),
        (
            ["lrn", "--data", small.name, "--scale", "full"],
            "lrn at full scale needs larger images, such as ImageNet 2012; on",
        ),
        (
            ["lrn", "--data", str(of_one_split(tmp_path))],
            "has no split 'val', which its training needs",
        ),
        (
            ["pretrain", "--data", small.name],
            "pretrain needs mini-ImageNet at 64 pixels; "
            f"{small.name} holds 10 classes of other images, of 32 pixels",
        ),
        *(
            (["lrn", option, value], f"{option} has an effect beside --data alone")
            for option, value in (
                ("--first", photographs.name),
                ("--scale", "full"),
                ("--precision", "float32"),
                ("--seeds", "3"),
                ("--jobs", "2"),
            )
        ),
        (["lrn"], "--out has an effect beside --data alone"),
        (
            ["lrn", "--data", photographs.name, "--runs", "mine"],
            "--runs has an effect beside --report alone",
        ),
        (
            ["lrn", "--data", photographs.name, "--first", small.name],
            "--first names what claim pretrain learns first",
        ),
        (["lrn", "--data", photographs.name, "--first", "none"], "is not a prepared store"),
        (["ilsvrc2012", "--data", photographs.name], "ilsvrc2012 needs ImageNet"),
        (["nonsense", "--data", photographs.name], "there is no claim 'nonsense'"),
        (["nonsense"], "there is no claim 'nonsense'"),
        (["lrn", "--data", str(tmp_path / "none")], "is not a prepared store"),
        (["lrn", "--report", str(tmp_path / "page.html")], "run claims without them"),
        (["lrn", "--data", photographs.name, "--seeds", "0"], "at least 1"),
        (["ensemble", "--data", photographs.name, "--seeds", "4"], "use --seeds 5, or 10"),
        (
            ["pretrain", "--data", photographs.name, "--scale", "full"],
            "alexnet train fine_tuned --data STORE --seed 1 --init runs/all-1 --out runs/tuned-1",
        ),
    ):
        folders = "--out", tmp_path / "out", "--records", tmp_path / "records"
        assert message in refused(capsys, "reproduce", *arguments, *folders)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "records").exists()


def test_without_arguments_the_table_names_every_claim(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    main(["reproduce", "--records", str(tmp_path)])
    table_text = " ".join(capsys.readouterr().out.split())
    assert f"{tmp_path} has no records" in table_text
    for claim in CLAIMS:
        assert f"{claim.id}: {claim.statement}" in table_text


VERBS = {
    "prepare": PrepareArguments,
    "evaluate": EvaluateArguments,
    "reproduce": ReproduceArguments,
}


def commands(claim: Claim) -> list[str]:
    """The arguments of each `alexnet` command for the setting of the paper, for seed 1."""
    matches = re.findall("alexnet ([^;]+)", "; ".join(table.not_run(claim, [])))
    return [command.replace("$n", "1") for command in matches]


def test_commands_of_claims_that_were_not_run_can_be_parsed() -> None:
    for claim in CLAIMS:
        for command in commands(claim):
            verb, *rest = command.split()
            if verb == "train":
                assert parse_train(rest[0], rest[1:]).config.recipe == rest[0]
            else:
                assert isinstance(parse(VERBS[verb], verb, rest), VERBS[verb])


def test_commands_train_the_recipes_behind_the_papers_numbers() -> None:
    trained = {
        claim.id: [command.split()[1] for command in commands(claim) if "train " in command]
        for claim in CLAIMS
        if claim.manual_commands
    }
    assert trained == {
        "pretrain": ["original", "pre_trained", "fine_tuned"],
        "ilsvrc2010": ["original_2010"],
        "ilsvrc2012": ["original"],
        "seven": ["original", "pre_trained", "fine_tuned"],
    }
    (of_2010,) = chosen(["ilsvrc2010"])
    assert of_2010.manual_commands[-1].endswith("--split test")


@pytest.mark.slow
def test_pre_training_commands_run_on_small_stand_in_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, write in (("ARCHIVES", layouts.archives), ("FALL_2011", layouts.class_tars)):
        Path(name).mkdir()
        write(Path(name))
    (claim,) = chosen(["pretrain"])
    smaller = {
        "prepare": ["--size-px", "256"],  # the stand-ins have 40 pixels
        "train": ["--epochs", "1", "--architecture.width", "0.0625", "--device", "cpu"],
    }
    for command in commands(claim):
        # Of the four images of a class, one hundredth would be none.
        verb, *rest = command.replace("--val-fraction 0.01", "--val-fraction 0.3").split()
        main([verb, *rest, *smaller.get(verb, [])])
    output = capsys.readouterr().err
    taken = re.findall(r"from runs/(.*?-1): (.*)", output)
    assert [run for run, _ in taken] == ["net-1", "all-1"]
    assert "conv5" in taken[0][1]
    assert "conv6" in taken[1][1]
    assert sorted(path.name for path in Path("runs").iterdir()) == ["all-1", "net-1", "tuned-1"]


def test_ensemble_metrics_are_assigned_to_each_member_run(
    photographs: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (claim,) = chosen(["ensemble"])
    labels = np.arange(4) % 2
    right, wrong = np.eye(2, dtype=np.float32)[labels], np.eye(2, dtype=np.float32)[1 - labels]
    # Each of the five nets errs on one of the four images.
    nets = []
    for net, rows in enumerate(np.arange(4)[:, None] != np.arange(5)[:, None, None] % 4):
        path = tmp_path / f"{net}.npz"
        np.savez(path, probabilities=np.where(rows, right, wrong), labels=labels)
        nets.append(RunResult(0.25, 0.25, 0.2, 1, 0.01, (), (), 1, predictions=path))
    monkeypatch.setattr(runner, "run_all", lambda specs, settings: list(nets))
    results = runner.run(claim, settings_for(photographs, tmp_path, seeds=5))
    assert {run.extra_metrics["ensemble_error"] for run in results["base"]} == {0.0}
    assert claim.effects[0].values(results) == pytest.approx([25])


def test_precision_reaches_every_run_and_its_record(photographs: Store, tmp_path: Path) -> None:
    (claim,) = chosen(["colour"])
    for precision in ("auto", "float32"):
        settings = replace(settings_for(photographs, tmp_path), precision=precision)
        spec = runner.plan_run(claim, claim.arms[0], 0, settings, {})
        assert spec.config.precision == precision
        record = records.new_record(claim, {}, settings)
        assert record["configs"]["base"]["precision"] == precision
        assert ("--precision float32" in record["command"]) == (precision == "float32")
        assert record["code"] == code_version()


RUN_CLAIM = """
import sys
from pathlib import Path
from alexnet.data.store import Store
from alexnet.experiments import runner
from alexnet.experiments.claims import chosen
(claim,) = chosen(["colour"])
store, out = Store(sys.argv[1]), Path(sys.argv[2])
runner.run(claim, runner.Settings(store, "smoke", 2, out, jobs=2))
"""


@pytest.mark.slow
def test_interrupted_claim_continues_with_the_same_results(
    photographs: Store, tmp_path: Path
) -> None:
    (claim,) = chosen(["colour"])
    undisturbed = runner.run(claim, settings_for(photographs, tmp_path / "whole"))
    command = [sys.executable, "-c", RUN_CLAIM, photographs.name, str(tmp_path / "stopped")]

    def begun(runs: int) -> bool:
        return len(list((tmp_path / "stopped").glob("runs/*/run/metrics.jsonl"))) >= runs

    for runs_begun in (1, 3):
        process = subprocess.Popen(command, cwd=ROOT)
        until(partial(begun, runs_begun), f"run {runs_begun} began", process)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
        results = list((tmp_path / "stopped").glob("runs/*/result.json"))
        assert len(results) < 4, "nothing was interrupted"
        running = [
            path
            for path in Path("/proc").glob("[0-9]*/cmdline")
            if _command_contains(path, str(tmp_path / "stopped"))
        ]
        assert not running, "a run continued after the program had ended"
    continued = runner.run(claim, settings_for(photographs, tmp_path / "stopped"))
    for arm, expected in undisturbed.items():
        for first, second in zip(expected, continued[arm], strict=True):
            assert first.test_error == second.test_error
            assert first.predictions is not None
            assert second.predictions is not None
            with np.load(first.predictions) as a, np.load(second.predictions) as b:
                assert np.array_equal(a["probabilities"], b["probabilities"])


def _command_contains(path: Path, text: str) -> bool:
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
    claim: Claim,
    kind: Kind,
    photographs: Store,
    small: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    store = small if kind == "cifar10" else photographs
    if kind == "tiny-imagenet":
        classes = tuple(f"n{number:08d}" for number in range(50))
        store = with_classes(64, classes, tmp_path / "tiny")
        digest = hashlib.sha256("\n".join(classes).encode()).hexdigest()
        monkeypatch.setattr(runner, "TINY_IMAGENET_SHA256", digest)
    first = None
    if kind == "mini-imagenet":
        store, first = request.getfixturevalue("two_stores")
    seeds = 5 if claim.together else 2
    settings = replace(settings_for(store, tmp_path / "out", seeds), first=first)
    (text,) = table.reproduce([claim], settings, tmp_path / "records", strict=True)
    (record,) = records.read(tmp_path / "records")
    assert (record.claim.id, record.raw["on"]) == (claim.id, kind)
    # The stores of ten classes have too few for a top-5 error.
    with_top5 = kind == "tiny-imagenet"
    assert len(record.rows) == sum(with_top5 or not effect.top5 for effect in claim.effects)
    for row in record.rows:
        assert row.estimate.n == seeds // row.effect.nets
        assert record.verdict(row) in text
        assert row.repeat == ()
    assert claim.id in table.document([record])
