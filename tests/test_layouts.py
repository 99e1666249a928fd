"""Layouts of ImageNet and of other data sets: labels, splits and the list of classes."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest

from alexnet import checkpoint, evaluate
from alexnet.cli import main
from alexnet.config import StepSchedule, StoreSettings
from alexnet.data.classes import class_list, short_names, wnids_of_labels
from alexnet.data.manifest import sealed
from alexnet.data.prepare import prepare
from alexnet.data.sources import find
from alexnet.data.sources.source import MAX_IMAGE_BYTES
from alexnet.data.store import Store
from alexnet.errors import DataError
from alexnet.train.start import fit
from alexnet.trained import check_store, load
from tests import layouts
from tests.conftest import tiny
from tests.layouts import (
    LAYOUTS,
    TRAIN,
    VAL,
    WNIDS,
    WORDS,
    check_labels,
    flat,
    image,
    names_of_images,
    pets,
    tar,
    write,
)
from tests.small_stores import folder_of

HUB = "people/imagenet"


def write_layout(layout: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a layout; returns its name as `alexnet prepare` takes it."""
    if layout != "hub":
        return str(LAYOUTS[layout](folder))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, streaming: layouts.streams())
    return HUB


@pytest.mark.parametrize("layout", [*LAYOUTS, "hub"])
def test_every_form_of_imagenet_has_the_same_classes_words_and_labels(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = find(write_layout(layout, tmp_path / "set", monkeypatch))
    assert source.classes == tuple(WNIDS)
    assert source.words == tuple(WORDS.values())
    # The authors used the images as they are, so all forms must give the same pixels.
    assert not source.upright
    assert [split.name for split in source.splits] == ["train", "val"]
    assert [check_labels(split) for split in source.splits] == [24, 12]
    assert all(split.count in (None, n) for split, n in zip(source.splits, (24, 12), strict=True))
    has_unlabelled_test = layout.startswith(("clone", "hub", "kaggle", "tiny"))
    assert len(source.notes) == has_unlabelled_test
    assert all("test" in note and "left out" in note for note in source.notes)


@pytest.mark.slow
def test_run_trained_on_one_form_evaluates_on_every_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The errors are equal, because the validation images are the same bytes in every store."""
    stores = {}
    for layout in [*LAYOUTS, "hub"]:
        source = find(write_layout(layout, tmp_path / layout, monkeypatch))
        stores[layout] = tmp_path / f"{layout} store"
        prepare(source, stores[layout], StoreSettings(size_px=40, encoding="jpeg"))
    config = tiny(stores["tiny-imagenet"], schedule=StepSchedule(epochs=1, drops=()))
    fit(config, tmp_path / "run")
    results = {layout: evaluate([tmp_path / "run"], store) for layout, store in stores.items()}
    first = results["tiny-imagenet"]
    for layout, layout_results in results.items():
        assert [r.images for r in layout_results] == [12] * len(first), layout
        for result, expected in zip(layout_results, first, strict=True):
            assert result.confusion == expected.confusion, layout
            assert result.loss == pytest.approx(expected.loss, rel=1e-6), layout
    tars = find(str(layouts.class_tars(tmp_path / "tars")), val_fraction=0.5)
    prepare(tars, tmp_path / "tars store", StoreSettings(size_px=40))
    assert evaluate([tmp_path / "run"], tmp_path / "tars store")[0].images == 12
    check_displayed_words(tmp_path / "run", stores["kaggle"], capsys)


def check_displayed_words(run: Path, store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """predict and evaluate show words; JSON has the wnids and the words."""
    names = (
        "tench",
        "crane (n02012849)",
        "golden retriever",
        "crane, derrick",
        "power drill",
        "banana",
    )
    assert load(run).names == names
    path = run / "x.jpg"
    path.write_bytes(image(2, 0))
    capsys.readouterr()
    main(["predict", str(run), str(path), "--most", "6"])
    output = capsys.readouterr().out
    assert all(f"{name} " in output for name in names)
    assert "n01440764" not in output
    main(["predict", str(run), str(path), "--most", "6", "--json"])
    line = json.loads(capsys.readouterr().out)
    assert line["words"] == WORDS
    assert set(line["classes"]) == set(WNIDS)
    main(["evaluate", str(run), "--data", str(store)])
    table = capsys.readouterr().out.splitlines()[-6:]
    assert [row.split("  ")[0].strip() or row.strip().split("  ")[0] for row in table] == list(
        names
    )


def test_evaluation_on_other_classes_is_refused_naming_the_first_difference(
    run: Path, store: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["classes"][3] = "pentagon"
    (copy / "manifest.json").write_text(json.dumps(sealed(manifest)))
    with pytest.raises(ValueError, match="class 4 is 'triangle', and 'pentagon' in the store"):
        evaluate([run], copy)
    # Names that only differ in how an accent is written are those of one class.
    saved = checkpoint.read(run)
    for form, other in (("B\u00e4r", "Ba\u0308r"), ("Ba\u0308r", "B\u00e4r")):
        manifest["classes"][3] = form
        (copy / "manifest.json").write_text(json.dumps(sealed(manifest)))
        file = tmp_path / "accents.safetensors"
        names = [*manifest["classes"][:3], other, *manifest["classes"][4:]]
        about = saved.about | {"classes": names}
        checkpoint.write(file, saved.weights, {}, saved.mean, about)
        check_store(load(file), Store(copy))
    manifest["classes"].pop()
    (copy / "manifest.json").write_text(json.dumps(sealed(manifest)))
    with pytest.raises(ValueError, match=r"other classes than .* has: 10, and 9 in the store"):
        evaluate([run], copy)


def test_a_store_without_words_still_opens(store: Path, run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    del manifest["words"]
    (copy / "manifest.json").write_text(json.dumps(sealed(manifest)))
    assert Store(copy).words == []
    assert evaluate([run], copy) == evaluate([run], store)


def test_displayed_class_names_are_unique() -> None:
    classes = ("n1", "n2", "n3", "n4", "n5")
    words = ("crane", "crane", "bat, flying mammal", "bat, club", "tench, Tinca tinca")
    assert short_names(classes, words) == (
        "crane (n1)",
        "crane (n2)",
        "bat, flying mammal",
        "bat, club",
        "tench",
    )
    assert short_names(("cat", "dog"), ()) == ("cat", "dog")


def test_class_tars_hold_out_validation_images_of_each_class(tmp_path: Path) -> None:
    """The held-out images are the same every time and a fraction of each class."""
    for label, wnid in enumerate(WNIDS[:3]):
        files = {f"{wnid}_{n}.JPEG": image(label, n % 7) for n in range(7 * (label + 1))}
        tar(tmp_path / f"{wnid}.tar", files | {"README.txt": b"no image"})
    source = find(str(tmp_path), val_fraction=0.3)
    train, val = (list(split.items(0)) for split in source.splits)
    assert [check_labels(split) for split in source.splits] == [len(train), len(val)]
    assert len(train) + len(val) == 42
    assert not {item.name for item in train} & {item.name for item in val}
    held_out = Counter(item.label for item in val)
    for label in range(3):
        assert abs(held_out[label] - 0.3 * 7 * (label + 1)) < 1
    repeated = find(str(tmp_path), val_fraction=0.3).splits[1]
    assert [item.name for item in repeated.items(0)] == [item.name for item in val]
    (train_only,) = find(str(tmp_path), val_fraction=0).splits
    assert check_labels(train_only) == 42


def test_train_val_and_test_folders_are_three_splits(tmp_path: Path) -> None:
    layouts.class_folders(tmp_path)
    shutil.copytree(tmp_path / "val", tmp_path / "test")
    source = find(str(tmp_path))
    assert [split.name for split in source.splits] == ["train", "val", "test"]
    assert [check_labels(split) for split in source.splits] == [24, 12, 12]
    assert [s.name for s in find(str(tmp_path), splits=("train", "test")).splits] == [
        "train",
        "test",
    ]
    shutil.rmtree(tmp_path / "val")
    source = find(str(tmp_path))  # the test split becomes the validation split
    assert [split.name for split in source.splits] == ["train", "val"]
    shutil.rmtree(tmp_path / "test")
    source = find(str(tmp_path), val_fraction=0.25)
    assert [split.count for split in source.splits] == [18, 6]
    shutil.move(tmp_path / "train", tmp_path / "val")
    with pytest.raises(ValueError, match="has no train/ beside val/"):
        find(str(tmp_path))


def test_a_split_can_be_left_out(tmp_path: Path) -> None:
    layouts.kaggle(tmp_path / "set")
    main(["prepare", str(tmp_path / "set"), str(tmp_path / "store"), "--splits", "train"])
    assert list(Store(tmp_path / "store").manifest["splits"]) == ["train"]
    (tmp_path / "set" / "LOC_val_solution.csv").unlink()  # errors of other splits do not matter
    assert [s.name for s in find(str(tmp_path / "set"), splits=["train"]).splits] == ["train"]
    with pytest.raises(ValueError, match=r"the split 'val' of .* has no labels; .* with --splits"):
        find(str(tmp_path / "set"))
    with pytest.raises(ValueError, match="must name train: the mean"):
        find(str(tmp_path / "set"), splits=["val"])
    for name, why in (("extra", "has train, val"), ("test", "has no labels and is left out")):
        with pytest.raises(ValueError, match=f"--splits names '{name}'.*{why}"):
            find(str(layouts.tiny_imagenet(tmp_path / name)), splits=["train", "val", name])


def test_only_split_to_test_on_is_asked_for_as_val(tmp_path: Path) -> None:
    for split in ("train", "test"):
        folder_of(tmp_path / split, {"cat": 2, "dog": 2})
    with pytest.raises(DataError, match=r"names 'test', and .* has train.*; .* is called val$"):
        find(str(tmp_path), splits=["train", "test"])
    assert [s.name for s in find(str(tmp_path), splits=["train", "val"]).splits] == ["train", "val"]


def test_omitted_splits_are_reported_before_preparation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["prepare", str(layouts.clone(tmp_path / "set")), str(tmp_path / "store")])
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"the split 'test' of {tmp_path / 'set'} has no labels and is left out"
    assert rest[:2] == [
        f"{tmp_path / 'store'}: 6 classes, 40 pixels a side",
        "  train: 24 images, 0 skipped, 24 kept byte for byte",
    ]
    split = Store(tmp_path / "store").split("train")
    assert split.name(0) == "n07753592_3_n07753592.JPEG"  # the name of the row
    assert split.encoded(0) == image(5, 3)


# Other data sets, and invalid sources.


def test_the_devkit_of_tasks_1_and_2_is_required(tmp_path: Path) -> None:
    folder = layouts.archives(tmp_path)
    (folder / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(
        ValueError, match=r"no devkit with a meta\.mat of tasks 1 and 2.*_t12\.tar\.gz"
    ):
        find(str(folder))
    (folder / "ILSVRC2012_devkit_t3.tar.gz").unlink()
    with pytest.raises(ValueError, match=r"no devkit with a meta\.mat"):
        find(str(folder))


def test_source_with_only_test_images_is_refused(tmp_path: Path) -> None:
    folder = layouts.clone(tmp_path / "clone")
    for path in folder.glob("data/*.parquet"):
        if not path.name.startswith("test"):
            path.unlink()
    with pytest.raises(ValueError, match="no training files; their names contain 'train'"):
        find(str(folder))
    flat(tmp_path / "tiny" / "test" / "images", VAL)
    with pytest.raises(ValueError, match="has no train/ beside test/"):
        find(str(tmp_path / "tiny"))
    tar(tmp_path / "shards" / "test-0.tar", {"0.jpg": image(0, 0), "0.cls": b"0"})
    with pytest.raises(ValueError, match="no training tars"):
        find(str(tmp_path / "shards"))


def test_class_names_are_kept_where_wnids_are_unknown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = find(str(layouts.clone(tmp_path / "set", wnids=False)))
    assert (source.classes, source.words) == (tuple(WORDS.values()), ())
    assert check_labels(source.splits[0]) == 24
    stream = layouts.streams(wnids=False)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, streaming: stream)
    source = find(HUB)
    assert (source.classes, source.words) == (tuple(WORDS.values()), ())


def test_classes_are_sorted_by_wnid_together_with_their_words() -> None:
    """The order of the labels in the data set does not matter."""
    class_labels = class_list(
        ["crane", "tench", "ostrich"], ["n02012849", "n01440764", "n01518878"]
    )
    assert class_labels.classes == ("n01440764", "n01518878", "n02012849")
    assert class_labels.words == ("tench", "ostrich", "crane")
    assert [class_labels.label(label) for label in range(3)] == [2, 0, 1]
    assert class_list(class_labels.classes).classes == class_labels.classes


def test_wnids_are_used_only_if_they_match_labels_one_to_one() -> None:
    """Classes that consist of several synsets keep their names."""
    names = ["n01440764_1.JPEG", "train/n02012849/n02012849_7_n02012849.JPEG"]
    assert wnids_of_labels([(names[0], 1), (names[1], 0)], 2) == ["n02012849", "n01440764"]
    assert wnids_of_labels([(names[0], 1), (names[1], 0), (names[1], 1)], 2) is None
    assert wnids_of_labels([(names[0], 1), (names[0], 0)], 2) is None
    assert wnids_of_labels([(names[0], 1)], 2) is None
    assert wnids_of_labels([("tench.jpg", 0), (names[0], 1)], 2) is None
    assert wnids_of_labels([(None, 0)], 1) is None
    endless: Any = ((names[i % 2], i % 2) for i in iter(int, 1))
    assert wnids_of_labels(endless, 1, enough=5) == ["n01440764"]


@pytest.mark.parametrize("stem", ["shard-{}", "imagenet1k-train-{}", "{:05}", "train"])
def test_shards_without_labels_are_never_mistaken_for_classes(stem: str, tmp_path: Path) -> None:
    for number in range(2):
        files = {f"{i}.jpg": image(number, i) for i in range(3)}
        tar(tmp_path / f"{stem.format(number)}.tar", files)
    with pytest.raises(ValueError, match=r"0 needs an image and a \.cls, a \.json with a label"):
        find(str(tmp_path))


def test_shards_without_split_names_have_images_held_out(tmp_path: Path) -> None:
    for shard in range(2):
        out: dict[str, bytes] = {}
        for name, label, number in TRAIN[shard::2]:
            out |= {f"a/{name[:-5]}.txt": b"tench", f"a/{name[:-5]}.jpeg": image(label, number)}
            out[f"a/{name[:-5]}.cls"] = WNIDS[label].encode()
        tar(tmp_path / f"{shard:06}.tar", out)
    source = find(str(tmp_path), val_fraction=0.25)
    assert source.classes == tuple(WNIDS)
    assert sum(check_labels(split) for split in source.splits) == 24
    assert check_labels(source.splits[1]) == 6
    tar(tmp_path / "val-0.tar", out)
    with pytest.raises(ValueError, match=r"000000\.tar contains no split"):
        find(str(tmp_path))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"x.cls": b"0"}, "x needs an image"),
        ({"x.jpg": b"", "x.cls": b"cat"}, "labels that are numbers and labels that are names"),
        ({"x.jpg": b"", "x.cls": b"7"}, "names 2 classes, and a label is 7"),
        ({"x.jpg": b"", "x.cls": b"-5"}, "has the label -5, and labels are numbers from 0"),
        ({"x.jpg": b"", "x.json": b"{]"}, "x needs an image and a"),
        ({"x.jpg": b"", "x.png": b"", "x.cls": b"0"}, "several images, jpg, png; take all but one"),
        (
            {"x.jpg": b"", "x.JPG": b"", "x.cls": b"0"},
            r"x has two files \.jpg; take one of",
        ),
        ({"README.md": b""}, "it has md; add what is missing, or take it out of the tar"),
        # Masks, of an image that is missing or cannot be decoded.
        (
            {"x.mask.png": b"", "x.cls": b"0"},
            r"has mask\.png, cls; .* \(if mask\.png is the image, rename it to png\), or take",
        ),
        ({"x.heic": b"", "x.mask.png": b"", "x.cls": b"0"}, "x needs an image"),
    ],
)
def test_shards_with_an_invalid_sample_are_refused(
    sample: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    write(tmp_path / "classes.txt", "one\ntwo\n")
    tar(tmp_path / "train-0.tar", {"a.jpg": image(0, 0), "a.cls": b"0"} | sample)
    with pytest.raises(ValueError, match=message):
        find(str(tmp_path))


@pytest.mark.parametrize("names", [("cls", "depth.png", "jpg"), ("cls", "jpg", "mask.png")])
def test_mask_of_a_sample_is_not_its_image(names: tuple[str, ...], tmp_path: Path) -> None:
    parts = {"cls": b"0", "jpg": image(2, 0), "depth.png": image(0, 0), "mask.png": image(0, 0)}
    tar(tmp_path / "train-0.tar", {f"a.{name}": parts[name] for name in names})
    (item,) = find(str(tmp_path), val_fraction=0).splits[0].items(0)
    assert item.read() == image(2, 0)


def test_labels_of_test_shards_that_training_lacks_are_named(tmp_path: Path) -> None:
    for split, name in (("train", b"cat"), ("test", b"cow")):
        tar(tmp_path / f"{split}-0.tar", {"0.jpg": image(0, 0), "0.cls": name})
    with pytest.raises(DataError, match=r"'test' .* has the label 'cow', .* with --splits"):
        find(str(tmp_path))


def test_class_tars_are_recognised_by_their_members(tmp_path: Path) -> None:
    for folder, stems, key_is_class in (
        ("words", ("cat", "dog"), False),
        ("numbers", ("boeing707", "boeing737"), True),
    ):
        for label, stem in enumerate(stems):
            files = {f"{stem if key_is_class else 'x'}_{n}.jpg": image(label, n) for n in range(3)}
            tar(tmp_path / folder / f"{stem}.tar", files)
        assert find(str(tmp_path / folder)).classes == stems


def test_empty_line_of_classes_txt_is_refused(tmp_path: Path) -> None:
    """It would give each later class the name of the next one."""
    write(tmp_path / "classes.txt", "cat\n\ndog\n")
    with pytest.raises(DataError, match=r"classes\.txt, line 2, is empty"):
        pets(tmp_path, "a b.jpg,0\nc.png,1\nd.JPG,1\n")
    write(tmp_path / "classes.txt", "cat\ndog\n\n")
    assert find(str(tmp_path)).classes == ("cat", "dog")


def test_hidden_files_are_no_images(tmp_path: Path) -> None:
    """Beside each file, macOS writes one with a dot and an underscore before its name."""
    out: dict[str, bytes] = {}
    for name, label, number in TRAIN:
        write(tmp_path / "folders" / f"class{label}" / name, image(label, number))
        write(tmp_path / "folders" / f"class{label}" / f"._{name}", b"Mac OS X")
        parts = {f"{name[:-5]}.jpg": image(label, number), f"{name[:-5]}.cls": b"%d" % label}
        out |= {f"{dots}{part}": data for part, data in parts.items() for dots in ("._", "")}
    tar(tmp_path / "shards" / "train-0.tar", out)
    write(tmp_path / "shards" / "._train-0.tar", b"Mac OS X")
    for kind in ("folders", "shards"):
        source = find(str(tmp_path / kind), val_fraction=0)
        assert check_labels(source.splits[0]) == len(TRAIN)
        assert source.notes == ()


def test_single_tar_does_not_hide_the_class_folders_beside_it(tmp_path: Path) -> None:
    layouts.class_folders(tmp_path)
    tar(tmp_path / "everything.tar", {"a.jpg": image(0, 0)})
    write(tmp_path / "._everything.tar", b"Mac OS X")
    assert [check_labels(split) for split in find(str(tmp_path)).splits] == [24, 12]
    # Without another split the classes lie in a single folder.
    shutil.rmtree(tmp_path / "val")
    assert check_labels(find(str(tmp_path), val_fraction=0).splits[0]) == 24


def test_messages_name_the_files_and_folders_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "folders" / "Validation").mkdir(parents=True)
    with pytest.raises(DataError, match="has no train/ beside Validation/; put it there"):
        find(str(tmp_path / "folders"))
    folder = layouts.archives(tmp_path / "archives")
    shutil.copy(folder / "ILSVRC2012_img_val.tar", folder / "ILSVRC2012_images_val.tar")
    with pytest.raises(DataError, match=r"ILSVRC2012_images_val\.tar and ILSVRC2012_img_val\.tar"):
        find(str(folder))
    folder = layouts.table(tmp_path / "tables", column=False)
    write(folder / "images" / "other.jpg", image(0, 0))
    (note,) = find(str(folder)).notes
    assert note.startswith(f"1 images are in no row of the tables of {folder} and are left out")


def test_only_folders_and_tars_are_taken_for_devkits(tmp_path: Path) -> None:
    folder = layouts.archives(tmp_path)
    for name in ("A_devkit_t12_readme.pdf", "._ILSVRC2012_devkit_t12.tar.gz"):
        write(folder / name, b"not a tar")
    assert find(str(folder)).classes == tuple(WNIDS)


def pet_folders(folder: Path, name: str = "cat") -> Path:
    for label, pet in enumerate((name, "dog")):
        for number in range(3):
            write(folder / pet / f"{number}.jpg", image(label, number))
    return folder


def test_images_in_folders_of_ones_own_are_turned_upright(tmp_path: Path) -> None:
    assert find(str(pet_folders(tmp_path))).upright


def test_files_that_are_not_images_but_pipes_or_links_are_skipped(tmp_path: Path) -> None:
    """They are counted, reported with their reasons, and never waited for."""
    cats = pet_folders(tmp_path / "set") / "cat"
    os.mkfifo(cats / "pipe.jpg")
    (cats / "loop.jpg").symlink_to("loop.jpg")
    (cats / "lost.jpg").symlink_to("nowhere")
    (cats / "device.jpg").symlink_to("/dev/zero")
    (cats / "circle").symlink_to(cats)
    (cats / "folder.jpg").mkdir()
    with (cats / "large.jpg").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)  # a hole, which takes no space on the disk
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(cats / "socket.jpg"))
    source = find(str(tmp_path / "set"), val_fraction=0)
    settings = StoreSettings(size_px=40, most_skipped=0.5)
    skipped = prepare(source, tmp_path / "store", settings)["splits"]["train"]["skipped"]
    assert [name for name, _ in skipped] == [
        f"cat/{name}.jpg" for name in ("device", "large", "loop", "lost", "pipe", "socket")
    ]
    reasons = dict(skipped)
    assert reasons["cat/pipe.jpg"] == "not a regular file"
    assert reasons["cat/large.jpg"] == "268,435,457 bytes are more than 268,435,456"
    assert "No such file" in reasons["cat/lost.jpg"]


def test_folders_that_cannot_be_read_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(pet_folders(tmp_path) / "cat" / "more" / "x.jpg", image(0, 0))
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # root may read everything
        if Path(path).name == "more":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"cat/more cannot be read \(Permission denied\); change"):
        find(str(tmp_path))


def test_names_that_are_not_utf8_are_written_in_letters(tmp_path: Path) -> None:
    """In class folders, in tars and in tables; a terminal and Arrow can write the result."""
    odd = os.fsdecode(b"caf\xe9")
    escaped = "caf\\udce9"
    folder = pet_folders(tmp_path / odd / "folders", odd)
    write(folder / odd / f"{odd}.jpg", image(0, 0))
    source = find(str(folder), val_fraction=0)
    assert source.classes == (escaped, "dog")
    assert f"/{escaped}/folders" in source.description
    prepare(source, tmp_path / "store", StoreSettings(size_px=40))
    split = Store(tmp_path / "store").split("train")
    assert split.name(3) == f"{escaped}/{escaped}.jpg"
    write(folder / escaped / "0.jpg", image(0, 0))
    with pytest.raises(DataError, match="has 2 classes named"):
        find(str(folder))
    for name in ("cat", "dog"):
        tar(tmp_path / "tars" / f"{name}.tar", {f"{odd}.jpg": image(0, 0)})
    names = [item.name for s in find(str(tmp_path / "tars")).splits for item in s.items(0)]
    assert names == [f"{escaped}.jpg"] * 2
    for name in (odd, "a"):
        write(tmp_path / "table" / f"{name}.jpg", image(0, 0))
    write(tmp_path / "table" / "labels.csv", b"caf\xe9.jpg,cat\na.jpg,dog\n")
    assert names_of_images(tmp_path / "table") == [f"{escaped}.jpg", "a.jpg"]
    write(tmp_path / "table" / "labels.csv", b"a.jpg,cat\na.jpg,d" + bytes(512))
    with pytest.raises(DataError, match=r"labels\.csv, line 2, has a zero byte and is damaged"):
        find(str(tmp_path / "table"))
    write(tmp_path / "table" / "labels.csv", b"caf\xe9.jpg,cat\na.jpg,dog\xe9\n")
    with pytest.raises(DataError, match=r"labels\.csv, line 2, has a label that is not UTF-8"):
        find(str(tmp_path / "table"))


def test_failing_stream_of_the_hub_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    streams = layouts.streams()
    monkeypatch.setattr(datasets, "load_dataset", lambda name, streaming: streams)
    train = find(HUB).splits[0]

    def fail(stream: Any) -> Any:
        raise pa.ArrowInvalid("no Parquet\nor so")

    monkeypatch.setattr(datasets.IterableDataset, "__iter__", fail)
    with pytest.raises(DataError, match=f"hub stopped sending {HUB}: no Parquet; run"):
        list(train.items(0))
