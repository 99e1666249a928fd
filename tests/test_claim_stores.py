"""The stores of claims: which kind of data one holds, and the parts of it that runs train on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from alexnet.config import StoreSettings
from alexnet.data import shapes
from alexnet.data.prepare import prepare
from alexnet.data.store import Store
from alexnet.errors import AlexNetError
from alexnet.experiments import checks, records, specs
from alexnet.experiments.claims import CLAIMS, chosen
from alexnet.experiments.data_sets import DATA, Kind, Part, kind_of
from alexnet.experiments.reproduce import run_and_record
from tests.claim_stores import (
    NAMES,
    of_32_pixels,
    of_one_split,
    recognised,
    settings_for,
    two_stores,
    with_classes,
)
from tests.commands import refused


def test_a_thousand_other_classes_are_not_imagenet(tmp_path: Path) -> None:
    others = tuple(f"n{number:08d}" for number in range(1000))
    assert kind_of(with_classes(112, others, tmp_path / "others")) == "photographs"


def test_imagenet_is_recognised_by_its_ordered_class_list(tmp_path: Path) -> None:
    # The first words of the file synset_words.txt that belongs to ImageNet 2012.
    wnids = tuple((Path(__file__).parent / "imagenet_2012_wnids.txt").read_text().split())
    store = with_classes(256, wnids, tmp_path / "imagenet")
    assert kind_of(store) == "imagenet"
    small = with_classes(112, wnids, tmp_path / "small")
    mixed = (wnids[1], wnids[0], *wnids[2:])
    assert kind_of(with_classes(112, mixed, tmp_path / "mixed")) == "photographs"
    (lrn, relu, pretrain) = chosen(["lrn", "relu", "pretrain"])
    full = replace(settings_for(store, tmp_path), scale="full")
    checks.check(lrn, full)
    with pytest.raises(ValueError, match=r"the network sees 224 pixels per side, .* has 112"):
        checks.check(lrn, replace(full, store=small))
    with pytest.raises(ValueError, match="relu needs CIFAR-10"):
        checks.check(relu, full)
    with pytest.raises(ValueError, match=r"chain of commands: .*train pre_trained"):
        checks.check(pretrain, full)


def test_tiny_imagenet_is_recognised_by_its_classes_and_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wnids = tuple(f"n{number:08d}" for number in range(200))
    recognised("tiny-imagenet", wnids, monkeypatch)
    assert kind_of(with_classes(64, wnids, tmp_path / "tiny")) == "tiny-imagenet"
    assert kind_of(with_classes(112, wnids, tmp_path / "large")) == "photographs"
    assert kind_of(with_classes(64, wnids[1:], tmp_path / "part")) == "photographs"
    recognised("mini-imagenet", wnids[1:], monkeypatch)
    assert kind_of(Store(tmp_path / "part")) == "mini-imagenet"


def test_kinds_of_small_stores(photographs: Store, like_cifar: Store) -> None:
    assert kind_of(photographs) == "photographs"
    assert kind_of(like_cifar) == "cifar10"


def test_ten_other_classes_of_32_pixels_are_not_cifar10(tmp_path: Path) -> None:
    assert kind_of(of_32_pixels(shapes.CLASSES, tmp_path / "shapes")) == "photographs"


def test_reduced_store_holds_the_requested_classes_and_images(
    photographs: Store, tmp_path: Path
) -> None:
    part = Part(5, 5, train_of_each=3)
    folder = specs._prepared_part(settings_for(photographs, tmp_path), part)
    reduced = Store(folder)
    assert reduced.classes == photographs.classes[5:]
    assert np.bincount(reduced.split("train").labels).tolist() == [3] * 5
    assert len(reduced.split("val")) == 15
    assert specs._prepared_part(settings_for(photographs, tmp_path), part) == folder


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
    ("offsets", "count", "kind"),
    [(MINI_IMAGENET, 100, "mini-imagenet"), (TINY_IMAGENET, 200, "tiny-imagenet")],
)
def test_small_imagenets_are_recognised_by_their_lists_of_classes(
    offsets: str, count: int, kind: Kind
) -> None:
    wnids = [f"n{offset}" for offset in offsets.split()]
    assert len(wnids) == count
    assert hashlib.sha256("\n".join(wnids).encode()).hexdigest() == DATA[kind].wnids_sha256


@pytest.fixture
def mini_and_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Store]:
    recognised("mini-imagenet", NAMES[:50], monkeypatch)
    return two_stores(tmp_path)


def test_new_classes_are_those_that_the_first_store_lacks(
    mini_and_first: tuple[Store, Store], tmp_path: Path
) -> None:
    mini, first = mini_and_first
    settings = replace(settings_for(mini, tmp_path), first=first)
    new = Store(specs._prepared_part(settings, Part(of="new")))
    assert tuple(new.classes) == NAMES[:5]
    old = mini.split("train").labels
    assert len(new.split("train")) == sum(old < 5)
    assert np.bincount(new.split("train").labels).tolist() == np.bincount(old)[:5].tolist()
    assert specs._prepared_part(settings, Part(of="first")) == first.name
    (claim,) = chosen(["pretrain"])
    record = records.new_record(claim, {}, settings)
    assert f"--data {mini.name} --first {first.name} --scale smoke" in record["command"]
    assert record["new_classes"] == 5
    assert record["first_store"] == {"checksum": first.checksum} | record["store"]


def test_classes_that_cannot_be_learned_first_are_refused(
    mini_and_first: tuple[Store, Store], photographs: Store, tmp_path: Path
) -> None:
    mini, first = mini_and_first
    (claim,) = chosen(["pretrain"])
    settings = settings_for(mini, tmp_path)
    checks.check(claim, replace(settings, first=first))
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
            checks.check(claim, replace(settings, first=other))
    # Without the name of the claim, too.
    large = replace(settings, first=photographs)
    with pytest.raises(ValueError, match="prepare both alike"):
        list(run_and_record(CLAIMS, large, tmp_path / "records", strict=False))
    with pytest.raises(ValueError, match=r"no claim can be tested on .*mini with these options"):
        list(run_and_record(CLAIMS, settings, tmp_path / "records", strict=False))


def test_folder_of_a_part_of_a_store_keeps_its_name(photographs: Store, tmp_path: Path) -> None:
    """Else the finished runs of an earlier version would not be found."""
    text = json.dumps(
        [{"first_class": 5, "classes": 5, "train_of_each": 3}, 112, photographs.checksum]
    )
    folder = specs._prepared_part(settings_for(photographs, tmp_path), Part(5, 5, 3))
    assert Path(folder).name == hashlib.sha256(text.encode()).hexdigest()[:12]
    assert Store(folder).manifest["source"] == f"a part of a store: {text}"


def test_run_is_the_same_wherever_its_store_lies(photographs: Store, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photographs.name)
    (claim,) = chosen(["bias"])
    keys = set()
    for number, name in enumerate((photographs.name, str(tmp_path / "link"))):
        settings = replace(settings_for(Store(name), tmp_path / f"out{number}"), scale="desk")
        config = specs.plan_run(claim, claim.arms[0], 0, settings, {}).config
        part = specs._prepared_part(settings, Part(5, 5, 3))
        keys.add(specs.spec_of("a run", replace(config, data=part), settings).folder.name)
    assert len(keys) == 1


def test_claim_of_tiny_images_alone_has_no_full_scale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "kind_of", lambda store: "tiny-imagenet")
    store = with_classes(64, shapes.CLASSES, tmp_path / "tiny")
    (claim,) = chosen(["images"])
    with pytest.raises(AlexNetError, match=r"images has no full scale; on .*, give --scale desk"):
        checks.check(claim, replace(settings_for(store, tmp_path), scale="full"))


def test_wrong_stores_and_claims_are_refused_with_one_sentence(
    photographs: Store, like_cifar: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        (
            ["relu", "--data", photographs.name],
            "relu needs CIFAR-10 at 32 pixels, with its names of the classes",
        ),
        (
            ["lrn", "--data", like_cifar.name, "--scale", "full"],
            "lrn at full scale needs larger images, such as ImageNet 2012; on",
        ),
        (
            ["lrn", "--data", str(of_one_split(tmp_path))],
            "has no split 'val', which its training needs",
        ),
        (
            ["pretrain", "--data", like_cifar.name],
            "pretrain needs mini-ImageNet at 64 pixels, or ImageNet 2012; "
            f"{like_cifar.name} holds 10 classes of other images, of 32 pixels",
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
            ["lrn", "--data", photographs.name, "--first", like_cifar.name],
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
