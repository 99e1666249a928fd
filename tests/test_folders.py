"""Folders of images as people have them: other formats, odd shapes, classes of one image."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from alexnet.cli import main
from alexnet.data import image
from alexnet.data.classes import read_class_names
from alexnet.data.image import FORMATS, decode, suffixes
from alexnet.data.prepare import prepare
from alexnet.data.processing import is_extreme
from alexnet.data.sources import Source, SourceSplit, find, image_folders
from alexnet.data.sources.source import (
    Options,
    is_image,
    listed_with_val,
    notes_on_left_out,
    streamed_with_val,
)
from alexnet.errors import DataError, RunError
from alexnet.inference import image_files, read_image
from tests.small_stores import SMALL, folder_of

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"


def labels_of(split: SourceSplit) -> Counter[int]:
    return Counter(item.label for item in split.items(0))


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(".jfif", "JPEG"), (".avif", "AVIF"), (".JP2", "JPEG2000"), (".pgm", "PPM")],
)
def test_image_of_a_less_usual_format_is_read(suffix: str, kind: str, tmp_path: Path) -> None:
    folder_of(tmp_path, {"cat": 2, "dog": 2})
    picture = Image.new("L" if suffix == ".pgm" else "RGB", (40, 30), 90)
    picture.save(tmp_path / "cat" / f"x{suffix}", kind)
    source = find(str(tmp_path), val_fraction=0)
    assert [item.name for item in source.splits[0].items(0)][2] == f"cat/x{suffix}"
    assert decode((tmp_path / "cat" / f"x{suffix}").read_bytes()).shape == (30, 40, 3)
    assert image_files([tmp_path])[2].name == f"x{suffix}"


def test_only_suffixes_of_named_formats_are_images() -> None:
    """An EPS file is a program that Pillow would hand to Ghostscript."""
    assert suffixes() <= {suffix for each in FORMATS.values() for suffix in each}
    for name in (
        "a.eps",
        "a.ps",
        "a.pdf",
        "a.svg",
        "a.psd",
        "a.fits",
        "a.wmf",
        "a.txt",
        "a",
        ".jpg",
    ):
        assert not is_image(name)


def test_files_that_cannot_be_read_are_counted_by_suffix_and_named_in_the_manifest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "pets", {"cat": 4, "dog": 4})
    for name in ("a.heic", "b.HEIC", "c.cr2", "d.mp4", "e", "Thumbs.db", ".DS_Store", "a.txt"):
        (folder / "cat" / name).write_bytes(HEIC)
    main(["prepare", str(folder), str(tmp_path / "store"), "--size-px", "24"])
    notes = [
        f"1 file of {folder} with the suffix .cr2 is left out: this program cannot read it; "
        "convert it to JPEG",
        f"2 files of {folder} with the suffix .heic are left out: this program cannot read them; "
        "convert them to JPEG, or install pillow-heif (`alexnet check` prints the command)",
        f"2 other files of {folder} are left out: 1 .mp4, 1 without a suffix",
    ]
    output = capsys.readouterr().out.splitlines()
    assert output[:3] == notes
    assert output[-2] == f"look at it:  alexnet look {tmp_path / 'store'}"
    assert json.loads((tmp_path / "store" / "manifest.json").read_text())["notes"] == notes


def test_other_files_of_many_kinds_have_one_short_line() -> None:
    files = [Path(f"a.x{number % 9}") for number in range(20)]
    (note,) = notes_on_left_out(files, "pets")
    assert note.startswith("20 other files of pets are left out: 3 .x0, 3 .x1, 2 .x2")
    assert note.endswith("8 of other kinds")


def test_class_of_heic_only_is_refused_with_what_can_be_done(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pets", {"cat": 2, "dog": 0})
    (folder / "dog" / "a.heic").write_bytes(HEIC)
    with pytest.raises(
        DataError, match=r"dog has no images that this .* 1 file .*\.heic .* install pillow-heif"
    ):
        find(str(folder))
    # The same if no class at all has an image that can be read.
    for path in (folder / "cat").iterdir():
        path.rename(path.with_suffix(".heic"))
    with pytest.raises(DataError, match=r"cat has no images that this .* 2 files .*\.heic"):
        find(str(folder))


def test_heic_file_under_the_name_of_a_jpeg_is_named_as_what_it_is() -> None:
    with pytest.raises(DataError, match="a HEIC image; convert it to JPEG, or install pillow-heif"):
        decode(HEIC)
    with pytest.raises(DataError, match="not an image of a known format"):
        decode(b"\0\0\0\x18ftypisom")  # a video


def test_heic_is_read_where_pillow_heif_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for pillow-heif, which registers a reader with Pillow as that does."""
    registered = (dict(Image.OPEN), list(Image.ID))

    def register_heif_opener() -> None:
        from PIL.BmpImagePlugin import BmpImageFile

        Image.register_open("HEIF", BmpImageFile, lambda prefix: prefix[:2] == b"BM")

    heif = SimpleNamespace(register_heif_opener=register_heif_opener)
    monkeypatch.setitem(sys.modules, "pillow_heif", heif)
    image._formats.cache_clear()
    suffixes.cache_clear()
    try:
        assert is_image("a.HEIC")
        folder_of(tmp_path, {"cat": 1, "dog": 1})
        Image.new("RGB", (40, 30)).save(tmp_path / "cat" / "x.heic", "BMP")
        source = find(str(tmp_path), val_fraction=0)
        assert (source.splits[0].count, source.notes) == (3, ())
    finally:
        monkeypatch.delitem(sys.modules, "pillow_heif")
        Image.OPEN.clear()
        Image.OPEN.update(registered[0])
        Image.ID[:] = registered[1]
        image._formats.cache_clear()
        suffixes.cache_clear()


def test_links_that_lead_nowhere_are_among_the_images(tmp_path: Path) -> None:
    """As in a folder of git-annex of which a part is here: a prediction of them says why not."""
    folder = folder_of(tmp_path, {"cat": 1})
    (folder / "cat" / "1.png").symlink_to(tmp_path / "elsewhere.png")
    (folder / "cat" / "2.png").symlink_to(tmp_path)
    os.mkfifo(folder / "cat" / "3.png")
    files = image_files([folder])
    assert [path.name for path in files] == ["0.png", "1.png", "3.png"]
    for path, reason in zip(files[1:], ("cannot be read", "cannot be read"), strict=True):
        with pytest.raises(DataError, match=reason):
            read_image(path, 32)


def test_predict_leaves_out_what_prepare_leaves_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path, {"cat": 1})
    (folder / "cat" / "a.heic").write_bytes(HEIC)
    assert [path.name for path in image_files([folder])] == ["0.png"]
    assert "1 file of" in capsys.readouterr().err
    (folder / "cat" / "0.png").unlink()
    with pytest.raises(RunError, match=r"no images in .*; 1 file .* suffix \.heic is left out"):
        image_files([folder])


@pytest.mark.parametrize(
    ("height", "width", "size_px", "extreme"),
    [
        (1, 1, 256, True),
        (16, 16, 256, False),
        (15, 100, 256, True),
        (3, 4000, 256, True),
        (100, 1000, 256, False),
        (1001, 100, 256, True),
        (8, 8, 8, False),  # a store of small images: nothing is enlarged
    ],
)
def test_images_of_extreme_shapes(height: int, width: int, size_px: int, extreme: bool) -> None:
    assert is_extreme(height, width, size_px) == extreme


def test_images_of_extreme_shapes_are_stored_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "pets", {"cat": 9, "dog": 9})
    for number, size in enumerate(((1, 1), (4000, 30), (9, 9), (30, 500))):
        Image.new("RGB", size).save(folder / "cat" / f"x{number}.png")
    main(
        ["prepare", str(folder), str(tmp_path / "store"), "--size-px", "24", "--val-fraction", "0"]
    )
    note = (
        "4 images of 'train' are smaller than 16 pixels, or more than 10 times as long as wide: "
        "cat/x0.png, cat/x1.png, cat/x2.png and 1 more"
    )
    assert f"  {note}\n" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "store" / "manifest.json").read_text())
    assert manifest["notes"] == [note]
    assert manifest["splits"]["train"]["images"] == 22
    assert manifest["splits"]["train"]["extreme"] == {
        "images": 4,
        "names": [f"cat/x{number}.png" for number in range(4)],
    }


def test_images_in_hidden_folders_are_not_read(tmp_path: Path) -> None:
    """They are earlier versions and thumbnails of photographs, and those in the trash."""
    folder = folder_of(tmp_path / "pets", {"cat": 2, "dog": 2})
    picture = (folder / "cat" / "0.png").read_bytes()
    for hidden in (
        "cat/.picasaoriginals",
        "dog/more/.thumbnails/large",
        ".Trash-1000/files",
        "cat/@eaDir/0.png",
        "@eaDir/thumbnails",
    ):
        (folder / hidden).mkdir(parents=True)
        (folder / hidden / "x.png").write_bytes(picture)
    source = find(str(folder), val_fraction=0)
    assert [item.name for item in source.splits[0].items(0)] == [
        "cat/0.png",
        "cat/1.png",
        "dog/0.png",
        "dog/1.png",
    ]
    assert len(image_files([folder])) == 4
    # Nor do they make a class folder of the one above them.
    for number in range(2):
        (folder / "cat" / f"{number}.png").rename(folder / f"cat{number}.png")
    (folder / "labels.csv").write_text("cat0.png,a\ncat1.png,b\n")
    assert find(str(folder), val_fraction=0).classes == ("a", "b")


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=6),
    st.floats(0.01, 0.9),
    st.integers(0, 3),
)
def test_each_class_gives_its_share_and_none_gives_all(
    sizes: list[int], fraction: float, seed: int
) -> None:
    files = [
        (Path(f"{label}-{n}"), f"{label}-{n}", label)
        for label, size in enumerate(sizes)
        for n in range(size)
    ]
    options = Options(val_fraction=fraction, seed=seed)
    train, *held_out = listed_with_val(files, options)
    val = labels_of(held_out[0]) if held_out else Counter[int]()
    for label, size in enumerate(sizes):
        assert val[label] == min(max(1, round(fraction * size)), size - 1)
        assert labels_of(train)[label] == size - val[label] >= 1
    # The choice within a class does not depend on the other classes.
    alone = listed_with_val([file for file in files if file[2] == 0], options)
    assert [item.name for item in alone[0].items(0)] == [
        item.name for item in train.items(0) if item.label == 0
    ]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.floats(0.01, 0.9))
def test_no_class_of_a_stream_is_without_a_training_image(
    sizes: list[int], fraction: float
) -> None:
    rows = [(f"{label}-{n}", label, bytes) for label, size in enumerate(sizes) for n in range(size)]
    train, val = streamed_with_val(lambda: iter(rows), Options(val_fraction=fraction))
    for label, size in enumerate(sizes):
        assert labels_of(train)[label] >= 1
        assert abs(labels_of(val)[label] - fraction * size) < 1


def named(classes: dict[str, int]) -> list[tuple[Path, str, int]]:
    """Files of class folders with so many images each."""
    return [
        (Path(name), name, label)
        for label, (letter, count) in enumerate(classes.items())
        for name in (f"{letter}/{number}.jpg" for number in range(count))
    ]


def held_out(classes: dict[str, int], seed: int = 0) -> set[str]:
    train, val = listed_with_val(named(classes), Options(seed=seed))
    assert train.count + val.count == sum(classes.values())
    return {item.name for item in val.items(0)}


@pytest.mark.parametrize("seed", [0, 1])
def test_images_keep_their_side_when_images_and_classes_are_added(seed: int) -> None:
    """A run that begins with the weights of another is tested on what that one did not see."""
    before = held_out({"cat": 300, "dog": 300}, seed)
    assert len(before) == 60
    # One more class in front of the others, and one more image: none that was trained on is tested.
    after = held_out({"ape": 300, "cat": 301, "dog": 300}, seed)
    assert len(after - before) == 30 + len({"cat/300.jpg"} & after)
    assert len(before - after) == len({"cat/300.jpg"} & after)
    # Of 400 images a tenth is held out, some of them new: at most 10 others change sides.
    more = held_out({"cat": 400, "dog": 300}, seed)
    new = {f"cat/{number}.jpg" for number in range(300, 400)}
    assert len(more) == 70
    assert len(more - before - new) <= 10
    assert len(before - more) <= len(new & more)


def test_one_image_more_may_bring_another_of_a_small_class_to_the_test() -> None:
    """The number that is held out is rounded, so it grows by one for one image that is added."""
    seen = []
    for seed in range(100):
        before, after = (held_out({"cat": count}, seed) for count in (14, 15))
        assert (len(before), len(after)) == (1, 2)
        seen.append(len(after - before - {"cat/14.jpg"}))
    # Half of the test was trained on, unless the new image is held out itself.
    assert set(seen) == {0, 1}
    assert sum(seen) > 80


def test_side_of_an_image_does_not_depend_on_how_its_accents_are_written() -> None:
    def positions(form: Literal["NFC", "NFD"]) -> list[int]:
        names = [unicodedata.normalize(form, f"K\u00fcche/{number}.jpg") for number in range(50)]
        files = [(Path(name), name, 0) for name in names]
        _, val = listed_with_val(files, Options())
        return [names.index(item.name) for item in val.items(0)]

    assert positions("NFC") == positions("NFD")


def test_choice_of_held_out_images_is_that_of_earlier_versions() -> None:
    """Another choice divides sources anew: change docs/data.md then, and for streams `STATE`."""
    files = [
        (Path(f"{letter}{number}"), f"{letter}{number}", label)
        for label, letter in enumerate("abc")
        for number in range(10 * label + 10)
    ]
    rows = [(name, label, bytes) for _, name, label in files]
    for seed, listed, streamed in (
        (
            0,
            "a8 a9 b2 b4 b5 b19 c4 c10 c11 c16 c22 c29",
            "a2 a7 b1 b6 b11 b16 c4 c9 c14 c19 c24 c29",
        ),
        (
            1,
            "a2 a8 b6 b7 b11 b16 c6 c9 c12 c15 c19 c24",
            "a2 a7 b3 b8 b13 b18 c3 c8 c13 c18 c23 c28",
        ),
    ):
        options = Options(val_fraction=0.2, seed=seed)
        _, val = listed_with_val(files, options)
        assert [item.name for item in val.items(0)] == listed.split()
        _, val = streamed_with_val(lambda: iter(rows), options)
        assert [item.name for item in val.items(0)] == streamed.split()


def test_class_that_a_split_lacks_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(tmp_path / "pets", {"cat": 1, "dog": 9, "owl": 1})
    main(["prepare", str(folder), str(tmp_path / "store"), "--size-px", "24"])
    note = "2 classes have no image in 'val': cat (1 in all), owl (1 in all)"
    assert f"  {note}\n" in capsys.readouterr().out


@pytest.mark.parametrize("names", [("Training", "Testing"), ("TRAIN", "Val")])
def test_capital_letters_make_no_classes_of_the_splits(
    tmp_path: Path, names: tuple[str, str]
) -> None:
    for name in names:
        folder_of(tmp_path / "pets" / name, {"cat": 2, "dog": 2})
    source = find(str(tmp_path / "pets"))
    assert source.classes == ("cat", "dog")
    assert [(split.name, split.count) for split in source.splits] == [("train", 4), ("val", 4)]


def test_capital_letters_do_not_count_beside_a_train_of_classes(tmp_path: Path) -> None:
    for name in ("train", "Test"):
        folder_of(tmp_path / "pets" / name, {"cat": 2, "dog": 2})
    folder_of(tmp_path / "pets", {"annotations": 1})
    source = find(str(tmp_path / "pets"))
    assert [(split.name, split.count) for split in source.splits] == [("train", 4), ("val", 4)]
    # So a store may lie there, and does not change what the source is.
    assert image_folders(str(tmp_path / "pets")) == [
        tmp_path / "pets" / s for s in ("train", "Test")
    ]
    # Without a third folder it would.
    folder_of(tmp_path / "all" / "Train", {"cat": 2, "dog": 2})
    assert image_folders(str(tmp_path / "all")) == [tmp_path / "all"]


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize(
    ("inside", "classes", "says"),
    [
        (
            "",
            ("cat", "grey-dog"),
            "val has class folders that .*train lacks: cat, grey-dog; rename",
        ),
        ("", ("cat",), "val has class folders that .*train lacks: cat; rename"),
        ("images", ("cat", "dog"), "the class folders of .*val lie in .*val/images; move them to"),
        ("images", ("Cat",), "the class folders of .*val lie in .*val/images; move them to"),
    ],
)
def test_classes_of_a_split_by_other_names_are_no_lack_of_labels(
    split: str, inside: str, classes: tuple[str, ...], says: str, tmp_path: Path
) -> None:
    folder_of(tmp_path / "train", {"Cat": 20, "Grey dog": 20})
    folder_of(tmp_path / split / inside, dict.fromkeys(classes, 2))
    with pytest.raises(DataError, match=says.replace("val", split)):
        find(str(tmp_path))
    # Errors of a split that is not wanted do not matter, and it may have labels.
    assert find(str(tmp_path), splits=["train"]).splits[0].count == 40


def test_unlabelled_test_images_in_several_folders_are_left_out(tmp_path: Path) -> None:
    for split, folders in (("train", ("cat", "dog")), ("test", ("part1", "part2"))):
        folder_of(tmp_path / split, dict.fromkeys(folders, 20))
    for splits in ((), ("train", "val")):
        source = find(str(tmp_path), splits=splits)
        assert [(split.name, split.count) for split in source.splits] == [("train", 36), ("val", 4)]
    (note,) = find(str(tmp_path)).notes
    assert note.endswith(f"left out; part1/ is no class of {tmp_path / 'train'}")
    (tmp_path / "test").rename(tmp_path / "val")
    with pytest.raises(DataError, match=r"folders that .*train lacks: part1, part2; rename"):
        find(str(tmp_path))


def test_files_of_a_flat_split_are_not_asked_for_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network disk this takes minutes for the 150,000 images of ImageNet."""
    folder_of(tmp_path / "train", {"cat": 20, "dog": 20})
    folder_of(tmp_path, {"test": 20})
    (tmp_path / "train" / "owl").symlink_to(tmp_path / "train" / "cat")
    asked, stat = list[str](), Path.stat

    def asking(path: Path, **options: bool) -> os.stat_result:
        asked.append(path.name)
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", asking)
    # A link to a folder of images is a class.
    assert find(str(tmp_path)).classes == ("cat", "dog", "owl")
    assert "0.png" not in asked


def test_images_beside_the_class_folders_of_any_split_are_reported(tmp_path: Path) -> None:
    for split in ("train", "val"):
        folder_of(tmp_path / split, {"cat": 2, "dog": 2})
        (tmp_path / split / f"{split}.png").write_bytes(b"")
    notes = find(str(tmp_path)).notes
    assert [note.split()[-3] for note in notes] == ["train.png", "val.png"]


@pytest.mark.parametrize("train", ["Train", "train"])
def test_class_of_trains_is_no_split(tmp_path: Path, train: str) -> None:
    folder = folder_of(tmp_path / "vehicles", {"Bus": 3, "Car": 3, train: 3})
    (folder / "README.txt").write_text("photographs of vehicles")
    assert find(str(folder)).classes == ("Bus", "Car", train)


def test_split_with_folders_is_no_class_whatever_lies_beside_it(tmp_path: Path) -> None:
    folder_of(tmp_path / "pets" / "train", {"cat": 3, "dog": 3})
    folder_of(tmp_path / "pets", {"extra": 3})
    assert find(str(tmp_path / "pets")).classes == ("cat", "dog")


@pytest.mark.parametrize("names", [("val", "valid"), ("train", "Train"), ("test", "Testing")])
def test_two_folders_of_one_split_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in {"train", *names}:
        folder_of(tmp_path / "pets" / name, {"cat": 2, "dog": 2})
    with pytest.raises(DataError, match=f"are both folders of the split '{names[0]}'; keep one"):
        find(str(tmp_path / "pets"))


def test_splits_of_other_names_are_not_taken_for_classes(tmp_path: Path) -> None:
    """Kaggle's ImageNet-100 has train.X1 to train.X4 and val.X."""
    for wnids in (True, False):
        folder = tmp_path / str(wnids)
        names = ("n01440764", "n02012849") if wnids else ("cat", "dog")
        for split in ("train.X1", "val.X"):
            folder_of(folder / split, dict.fromkeys(names, 2))
        says = f"{names[0]}/ and {names[1]}/ lie in several of them; if those are the classes, move"
        if wnids:
            with pytest.raises(DataError, match=says):
                find(str(folder))
        else:
            assert says in find(str(folder)).notes[0]


def test_link_to_a_folder_is_not_followed_and_is_named(tmp_path: Path) -> None:
    """It may lead to a folder above, whose images are of other classes."""
    folder = folder_of(tmp_path / "pets", {"cat": 10, "dog": 10})
    (folder / "cat" / "all").symlink_to(folder)
    source = find(str(folder))
    assert sum(split.count or 0 for split in source.splits) == 20
    assert source.notes == (
        f"1 link to folders is not followed, {folder / 'cat' / 'all'} among them; "
        "put the images themselves there",
    )


def test_names_compare_however_their_accents_are_written(tmp_path: Path) -> None:
    """macOS writes a letter and its accent as two characters."""
    for split, form in (("train", "NFC"), ("val", "NFD")):
        names = (unicodedata.normalize(form, name) for name in ("Bär", "Bison"))
        folder_of(tmp_path / "zoo" / split, dict.fromkeys(names, 2))
    source = find(str(tmp_path / "zoo"))
    assert source.classes == ("Bison", "Bär")
    assert [split.count for split in source.splits] == [4, 4]
    # Also if there is no other class in both.
    (tmp_path / "zoo" / "val" / "Bison").rename(tmp_path / "Bison")
    assert [split.count for split in find(str(tmp_path / "zoo")).splits] == [4, 2]
    # A class has the same name on every system.
    folder = folder_of(tmp_path / "mac", {unicodedata.normalize("NFD", "Bär"): 2, "Bison": 2})
    assert find(str(folder)).classes == source.classes


def test_two_classes_of_one_name_are_refused() -> None:
    """A prediction would hold one of them only, and `load_from_disk` refuses such a store."""
    with pytest.raises(DataError, match="has 2 classes named 'crane'"):
        Source("cranes", ("crane", "heron", "crane"), ())
    with pytest.raises(DataError, match="has 2 classes named 'Bär'"):
        Source("bears", ("B\u00e4r", "Ba\u0308r"), ())


def test_first_image_of_a_table_is_not_taken_for_a_heading(tmp_path: Path) -> None:
    """Its label is one of the words that columns of labels have."""
    folder_of(tmp_path / "photos", {"a": 3})
    names = ["IMG_0.PNG", "IMG_1.PNG", "IMG_2.PNG"]
    for old, new in zip(sorted((tmp_path / "photos" / "a").iterdir()), names, strict=True):
        old.rename(tmp_path / "photos" / new)
    (tmp_path / "photos" / "a").rmdir()
    rows = zip(names, ("target", "other", "other"), strict=True)
    (tmp_path / "photos" / "labels.csv").write_text("".join(f"{n},{c}\n" for n, c in rows))
    source = find(str(tmp_path / "photos"), val_fraction=0)
    assert (source.classes, source.splits[0].count) == (("other", "target"), 3)


def test_mark_at_the_beginning_of_a_windows_file_is_no_part_of_a_class(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("cat\ndog\n", encoding="utf-8-sig")
    assert read_class_names(tmp_path / "classes.txt") == ["cat", "dog"]


def test_several_unreadable_images_are_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "pets", {"cat": 2, "dog": 2})
    for number in range(4):
        (folder / "cat" / f"x{number}.jpg").write_bytes(b"no image")
    source = find(str(folder), val_fraction=0)
    with pytest.raises(
        DataError,
        match=r"4 of 8 images of 'train' cannot be read, cat/x0\.jpg \(not .*cat/x1\.jpg .*"
        r"cat/x2\.jpg \([^)]*\) and 1 more; repair them",
    ):
        prepare(source, tmp_path / "store", SMALL)


def test_preparation_of_another_choice_of_validation_images_is_refused(tmp_path: Path) -> None:
    """The description is the same, but images of one split would be in the other one.

    An earlier version chose others of a folder or a table, with the same state.
    """
    folder = folder_of(tmp_path / "pets", {"cat": 20, "dog": 20})
    for number in range(3):
        (folder / "dog" / f"x{number}.jpg").write_bytes(b"no image")
    begun = find(str(folder))
    with pytest.raises(DataError, match="cannot be read"):
        prepare(begun, tmp_path / "store", SMALL)
    other = find(str(folder))
    files = [item for split in other.splits for item in split.items(0)]
    changed = listed_with_val(
        [(folder / item.name, item.name, item.label) for item in files], Options(seed=1)
    )
    again = Source(begun.description, begun.classes, changed, upright=True)
    with pytest.raises(
        DataError, match="images of the split 'train' have changed, or an earlier version held out"
    ):
        prepare(again, tmp_path / "store", SMALL)
