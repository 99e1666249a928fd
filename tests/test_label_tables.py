"""Tables of labels beside flat folders: what they give, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from alexnet.data.sources import find, tables
from alexnet.errors import DataError
from tests import layouts
from tests.layouts import (
    TRAIN,
    VAL,
    WNIDS,
    WORDS,
    check_labels,
    flat,
    image,
    pets,
    write,
)
from tests.small_stores import folder_of


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labels.csv", "name,label\na b.jpg,golden retriever\nc.png,cat\nd.JPG,cat\n"),
        ("labels.csv", "\ufeffa b.jpg,golden retriever\nc.png,cat\nd.JPG,cat"),
        ("labels.csv", "breed;x;id\ngolden retriever;3;a b\ncat;4;c\ncat;5;d\n"),
        ("any.tsv", "a b.jpg\tgolden retriever\nc.png\tcat\n\nd.JPG\tcat\n"),
        ("y.csv", 'Label,file_name\n"golden retriever",pets/set/a b.jpg\ncat,./c.png\ncat,d.JPG'),
    ],
)
@pytest.mark.parametrize("inside", ["", "images"])
def test_flat_folder_with_a_table_of_labels(
    file: str, text: str, inside: str, tmp_path: Path
) -> None:
    source = pets(tmp_path, text.replace("set/", f"{inside}/"), file, inside)
    assert source.classes == ("cat", "golden retriever")
    assert check_labels(source.splits[0]) == 3
    assert source.notes == ()


@pytest.mark.parametrize("row", ["b/1.png", "set/b/1.png", "b/1"])
def test_row_of_another_folder_does_not_name_an_image_of_this_one(row: str, tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / "a" / f"{number}.png", image(number % 2, number))
    rows = "name,label\na/0.png,cat\nset/a/2.png,dog\n3,dog\n"
    write(tmp_path / "labels.csv", rows)
    assert find(str(tmp_path)).classes == ("cat", "dog")
    write(tmp_path / "labels.csv", f"{rows}{row},dog\n")
    with pytest.raises(DataError, match=f"1 rows of .* name no image .* first is '{row}' in"):
        find(str(tmp_path))


def test_two_columns_of_labels_are_taken_only_if_they_mean_the_same(tmp_path: Path) -> None:
    text = "name,class_id,label\na b.jpg,7,golden retriever\nc.png,3,cat\nd.JPG,3,cat\n"
    assert pets(tmp_path, text).classes == ("3", "7")
    for other in ("7,cat", "3,golden retriever"):
        with pytest.raises(DataError, match=r"'class_id' and 'label', which divide the"):
            pets(tmp_path, text.replace("7,golden retriever", other))


def test_table_labels_may_be_numbers(tmp_path: Path) -> None:
    for name, number in (("7.jpg", 10), ("9.jpg", 9), ("10.jpg", 10)):
        write(tmp_path / name, image(number - 9, 0))
    write(tmp_path / "val.txt", "9.jpg 9\n10.jpg 10\n")
    write(tmp_path / "train.txt", "7.jpg 10\n9.jpg 9\n")
    with pytest.raises(ValueError, match=r"9\.jpg is in 2 splits"):
        find(str(tmp_path))
    write(tmp_path / "8.jpg", image(0, 0))
    write(tmp_path / "train.txt", "7.jpg 10\n8.jpg 9\n")
    source = find(str(tmp_path))
    assert source.classes == ("9", "10")
    assert [check_labels(split) for split in source.splits] == [2, 2]
    write(tmp_path / "classes.txt", "".join(f"class{i}\n" for i in range(10)))
    with pytest.raises(ValueError, match="names 10 classes, counted from 0, and a label is 10"):
        find(str(tmp_path))
    write(tmp_path / "classes.txt", "".join(f"class{i}\n" for i in range(11)))
    assert find(str(tmp_path)).classes[9:] == ("class9", "class10")


@pytest.mark.parametrize("names", [("train", "val"), ("training", "valid")])
@pytest.mark.parametrize("beside", [False, True])
def test_tables_of_splits_name_images_of_their_own_folders(
    names: tuple[str, str], beside: bool, tmp_path: Path
) -> None:
    """Both folders have images of the same names; a table lies in its folder or beside it."""
    for name in names:
        for number in range(4):
            write(tmp_path / name / f"{number}.jpg", image(number % 2, number))
        rows = "name,label\n" + "".join(f"{n}.jpg,{'ab'[n % 2]}\n" for n in range(4))
        write(tmp_path / f"{name}.csv" if beside else tmp_path / name / "labels.csv", rows)
    source = find(str(tmp_path))
    assert [(split.name, split.count) for split in source.splits] == [("train", 4), ("val", 4)]
    assert [check_labels(split) for split in source.splits] == [4, 4]


@pytest.mark.parametrize("order", ["utf-16", "utf-16-le"])
def test_table_of_windows_may_be_utf_16(order: str, tmp_path: Path) -> None:
    text = "name,label\na b.jpg,golden retriever\nc.png,Bär\nd.JPG,Bär\n"
    pets(tmp_path, text)
    marked = text if order == "utf-16" else "\ufeff" + text
    write(tmp_path / "labels.csv", marked.encode(order))
    assert find(str(tmp_path)).classes == ("Bär", "golden retriever")


def test_table_names_images_however_their_accents_are_written(tmp_path: Path) -> None:
    for number, name in enumerate(("Ba\u0308r.jpg", "cat.jpg")):
        write(tmp_path / name, image(number, 0))
    write(tmp_path / "labels.csv", "name,label\nB\u00e4r.jpg,bear\ncat.jpg,cat\n")
    assert find(str(tmp_path), val_fraction=0).splits[0].count == 2


@pytest.mark.parametrize("name", ["IMG_4.HEIC", "IMG_4"])
def test_row_of_an_image_that_cannot_be_decoded_says_so(name: str, tmp_path: Path) -> None:
    write(tmp_path / "IMG_4.HEIC", b"whatever")
    with pytest.raises(DataError, match=r"left out, .*IMG_4\.HEIC among .* convert it to JPEG, or"):
        pets(tmp_path, f"{VALID_TABLE}{name},dog\n")


def test_images_that_cannot_be_decoded_are_reported_beside_a_table_too(tmp_path: Path) -> None:
    for number in range(2):
        write(tmp_path / f"IMG_{number}.HEIC", b"whatever")
    (note,) = pets(tmp_path, VALID_TABLE).notes
    assert note.startswith(f"2 files of {tmp_path} with the suffix .heic are left out")


def test_images_of_which_none_can_be_decoded_are_named(tmp_path: Path) -> None:
    write(tmp_path / "IMG_4.HEIC", b"whatever")
    write(tmp_path / "labels.csv", "IMG_4.HEIC,dog\n")
    with pytest.raises(DataError, match=r"at least 2 are needed.* 1 file .*\.heic .* convert it"):
        find(str(tmp_path))


def test_name_of_an_image_that_is_not_utf_8_says_how_to_save_the_table(tmp_path: Path) -> None:
    """Spreadsheet programs save a CSV in the code page of the system."""
    write(tmp_path / "K\u00fcche.jpg", image(0, 0))
    write(tmp_path / "labels.csv", f"{VALID_TABLE}K\u00fcche.jpg,dog\n".encode("cp1252"))
    for number, name in enumerate(("a b.jpg", "c.png", "d.JPG")):
        write(tmp_path / name, image(number % 2, 1))
    with pytest.raises(DataError, match=r"labels\.csv, line 4, .* not UTF-8; save the table as"):
        find(str(tmp_path))


def test_images_of_one_class_alone_are_said_to_lie_in_one_folder(tmp_path: Path) -> None:
    folder_of(tmp_path, {"cat": 3})
    with pytest.raises(
        DataError, match=r"3 images of .* lie in one folder, cat/, and .*at least 2"
    ):
        find(str(tmp_path))


def test_label_whose_quotation_mark_is_not_closed_is_refused(tmp_path: Path) -> None:
    """It would take the rows after it."""
    with pytest.raises(ValueError, match=r"labels.csv, line 4, ends a label of several lines"):
        pets(tmp_path, 'name,label\na b.jpg,dog\nc.png,"cat\nd.JPG,cat\n')


def test_folder_in_a_folder_is_named(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write(tmp_path / "flowers" / name / "1.jpg", image(0, 0))
    with pytest.raises(ValueError, match=f"if the classes are the folders of {tmp_path}/flowers"):
        find(str(tmp_path))


def test_archive_of_the_images_beside_a_table_is_not_read(tmp_path: Path) -> None:
    source = pets(tmp_path, "a b.jpg,dog\nc.png,cat\nd.JPG,cat\n", "labels.csv")
    write(tmp_path / "images.tar", b"whatever")
    assert find(str(tmp_path)).classes == source.classes


def test_images_without_a_row_are_reported_and_images_are_held_out(tmp_path: Path) -> None:
    flat(tmp_path / "train", TRAIN)
    flat(tmp_path / "test", VAL)
    lines = "".join(
        f"{name[:-5]},{WORDS[WNIDS[label]].split(',')[0]}x{label}\n" for name, label, _ in TRAIN
    )
    write(tmp_path / "labels.csv", "id,breed\n" + lines)
    write(tmp_path / "sample_submission.csv", "id,cat,dog\nILSVRC2012_val_00000001,0.5,0.5\n")
    source = find(str(tmp_path), val_fraction=0.25)
    assert [split.count for split in source.splits] == [18, 6]
    (note,) = source.notes
    assert note.startswith(f"12 images are in no row of {tmp_path / 'labels.csv'} and are left out")
    write(tmp_path / "test.csv", "".join(f"{name}\n" for name, *_ in VAL))
    write(tmp_path / "train.csv", (tmp_path / "labels.csv").read_text())
    (tmp_path / "labels.csv").unlink()
    source = find(str(tmp_path), val_fraction=0.25)
    assert source.notes == (f"the split 'test' of {tmp_path} has no labels and is left out",)
    assert [split.count for split in source.splits] == [18, 6]


def test_held_out_images_of_folders_do_not_depend_on_the_wanted_splits(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", {"cat": 20, "dog": 20})
    write(tmp_path / "test" / "0.jpg", image(0, 0))
    for rows, expected in (("", 36), ("0.jpg,cat\n", 40), ("0.jpg,cat\n0.jpg,dog\n", 40)):
        write(tmp_path / "test" / "labels.csv", rows)
        # With two labels of one image, only the training split can be prepared.
        for splits in ((), ("train",)) if rows.count("\n") < 2 else (("train",),):
            assert find(str(tmp_path), splits=splits).splits[0].count == expected


def test_labels_of_a_split_that_is_not_wanted_are_not_checked(tmp_path: Path) -> None:
    flat(tmp_path, [(f"{n}.JPEG", n % 2, 0) for n in range(4)])
    rows = "name,label,split\n0.JPEG,x,train\n1.JPEG,y,train\n2.JPEG,x,val\n3.JPEG,,val\n"
    write(tmp_path / "labels.csv", rows)
    assert [split.count for split in find(str(tmp_path), splits=("train",)).splits] == [2]
    with pytest.raises(DataError, match=r"the row of .*3\.JPEG has no label; write one or take"):
        find(str(tmp_path))


@pytest.mark.parametrize(
    "row",
    [
        "test.csv|x.jpg,cat\n0.JPEG,cat\n",
        "test.csv|filename,width,height\n0.JPEG,4,3\n",
        "labels.csv|x.jpg,cat,test\n",
    ],
)
def test_errors_of_rows_of_a_split_that_is_not_wanted_do_not_matter(
    row: str, tmp_path: Path
) -> None:
    flat(tmp_path, [(f"{n}.JPEG", n % 2, 0) for n in range(4)])
    file, text = row.split("|")
    rows = "name,label,split\n1.JPEG,x,train\n2.JPEG,y,train\n3.JPEG,y,val\n"
    write(tmp_path / "labels.csv", rows)
    write(tmp_path / file, (rows if file == "labels.csv" else "") + text)
    source = find(str(tmp_path), splits=("train", "val"))
    assert [split.count for split in source.splits] == [2, 1]
    # Its images may have rows.
    assert source.notes == ()
    with pytest.raises(DataError, match=r"name no image|not clear which"):
        find(str(tmp_path))
    # Without val the faulty split is the one to validate on.
    write(tmp_path / "labels.csv", (tmp_path / "labels.csv").read_text().replace("val", "train"))
    assert [split.count for split in find(str(tmp_path), splits=("train",)).splits] == [3]
    with pytest.raises(DataError, match=r"name no image|not clear which"):
        find(str(tmp_path), splits=("train", "val"))


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("place", ["{split}.txt", "{split}/labels.txt"])
def test_table_without_suffixes_that_lacks_images_is_no_lack_of_labels(
    split: str, place: str, tmp_path: Path
) -> None:
    """Half of its rows name an image, as few lines of a README do by chance."""
    folder_of(tmp_path / "train", {"cat": 2, "dog": 2})
    flat(tmp_path / split, [(f"{n}.JPEG", n % 2, 0) for n in range(3)])
    rows = "".join(f"{n} {'cat' if n % 2 else 'dog'}\n" for n in range(6))
    write(tmp_path / place.format(split=split), rows)
    with pytest.raises(DataError, match=r"3 rows of .*\.txt name no image .* is '3' in line 4"):
        find(str(tmp_path))
    assert find(str(tmp_path), splits=["train"]).splits[0].count == 4


@pytest.mark.parametrize("table", ["labels.txt", "train.txt"])
def test_incomplete_images_of_a_flat_folder_are_named(table: str, tmp_path: Path) -> None:
    flat(tmp_path, [(f"{n}.JPEG", n % 2, 0) for n in range(3)])
    write(tmp_path / table, "".join(f"{n} {'ab'[n % 2]}\n" for n in range(6)))
    if table == "train.txt":
        write(tmp_path / "val.csv", "0,a\n")
    with pytest.raises(DataError, match=r"3 rows of .*\.txt name no image .* is '3' in line 4"):
        find(str(tmp_path))


def test_text_beside_images_without_labels_is_no_table(tmp_path: Path) -> None:
    readme = "Images of the test\n1 has a watermark\nAll were taken in 2019\nby us\n"
    folder_of(tmp_path / "train", {"cat": 10, "dog": 10})
    flat(tmp_path / "test", [(f"{n}.JPEG", n % 2, 0) for n in range(3)])
    write(tmp_path / "test" / "README.txt", readme)
    source = find(str(tmp_path))
    assert "has no labels and is left out" in source.notes[0]
    assert [split.name for split in find(str(tmp_path), splits=["train", "val"]).splits] == [
        "train",
        "val",
    ]
    alone = tmp_path / "alone"
    flat(alone, [(f"{n}.JPEG", n % 2, 0) for n in range(3)])
    write(alone / "README.txt", readme)
    with pytest.raises(DataError, match="put them into folders"):
        find(str(alone))


def test_line_that_is_shown_is_that_of_a_csv(tmp_path: Path) -> None:
    flat(tmp_path, [("0.JPEG", 0, 0), ("1.JPEG", 1, 0)])
    write(tmp_path / "LICENSE.txt", "Free\nfor all\n")
    write(tmp_path / "labels.csv", "0.PNG,a\n1.PNG,b\n")
    with pytest.raises(DataError, match=r"line 2 of labels\.csv is '1\.PNG,b', and"):
        find(str(tmp_path))


@pytest.mark.parametrize("text", ["train_log.txt", "test_notes.txt"])
def test_table_without_a_split_is_for_all_of_them(text: str, tmp_path: Path) -> None:
    flat(tmp_path, [("0.JPEG", 0, 0), ("1.JPEG", 1, 0)])
    write(tmp_path / "labels.csv", "0.JPEG,a\n1.JPEG,b\n")
    write(tmp_path / text, "".join(f"{n} loss 0.5\n" for n in range(9)))
    assert find(str(tmp_path), val_fraction=0).classes == ("a", "b")


def test_incomplete_table_beside_that_of_another_split_is_named(tmp_path: Path) -> None:
    flat(tmp_path, [(f"{n}.JPEG", n % 2, 0) for n in range(4)])
    write(tmp_path / "val.csv", "2.JPEG,a\n3.JPEG,b\n")
    write(tmp_path / "labels.txt", "".join(f"{n}.JPEG {'ab'[n % 2]}\n" for n in range(9)))
    with pytest.raises(DataError, match=r"val\.csv and .*labels\.txt both name images"):
        find(str(tmp_path))


@pytest.mark.parametrize(
    "file",
    [
        "classes.txt|0\n1\n",
        "README.txt|Two kinds:\n\n1 is a dog\n",
        "README.txt|1, 0, and others, of a dog\n\nand\na cat\n",
        "README.txt|1.JPEG is the cover\nof the\nbook\n",
    ],
)
def test_text_that_names_an_image_by_chance_is_no_table(file: str, tmp_path: Path) -> None:
    flat(tmp_path, [("0.JPEG", 0, 0), ("1.JPEG", 1, 0)])
    write(tmp_path / "labels.csv", "0.JPEG,0\n1.JPEG,1\n")
    name, text = file.split("|")
    write(tmp_path / name, text)
    assert find(str(tmp_path), val_fraction=0).classes == ("0", "1")


def test_whole_path_of_an_image_names_no_other_one(tmp_path: Path) -> None:
    flat(tmp_path, [("0.JPEG", 0, 0), ("1.JPEG", 1, 0), ("extra/1.JPEG", 2, 0)])
    write(tmp_path / "labels.csv", "0.JPEG,a\n1.JPEG,b\n")
    source = find(str(tmp_path), val_fraction=0)
    assert [item.read() for item in source.splits[0].items(0)] == [image(0, 0), image(1, 0)]
    write(tmp_path / "labels.csv", "0.JPEG,a\nother/1.JPEG,b\n")
    with pytest.raises(DataError, match="or more than one"):
        find(str(tmp_path))
    # Kaggle's tables name images without their suffixes.
    write(tmp_path / "labels.csv", "id,label\n0,a\n1,b\n")
    source = find(str(tmp_path), val_fraction=0)
    assert [item.read() for item in source.splits[0].items(0)] == [image(0, 0), image(1, 0)]


def test_numbers_that_pandas_wrote_with_a_point_are_numbers(tmp_path: Path) -> None:
    flat(tmp_path, [(f"{n}.JPEG", n % 2, 0) for n in range(4)])
    write(tmp_path / "labels.csv", "name,label\n0.JPEG,0.0\n1.JPEG,10.0\n2.JPEG,9.0\n")
    assert find(str(tmp_path), val_fraction=0).classes == ("0", "9", "10")
    write(tmp_path / "classes.txt", "".join(f"class{i}\n" for i in range(11)))
    source = find(str(tmp_path), val_fraction=0)
    assert [source.classes[item.label] for item in source.splits[0].items(0)] == [
        "class0",
        "class10",
        "class9",
    ]
    # A column of another table may have had no gap.
    write(tmp_path / "train.csv", (tmp_path / "labels.csv").read_text())
    (tmp_path / "labels.csv").unlink()
    write(tmp_path / "val.csv", "name,label\n3.JPEG,9\n")
    (val,) = find(str(tmp_path)).splits[1].items(0)
    assert source.classes[val.label] == "class9"


VALID_TABLE = "a b.jpg,dog\nc.png,cat\nd.JPG,cat\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            VALID_TABLE + "e.png,cat\n",
            r"1 rows of .*labels\.csv name no image .*'e\.png' in line 4",
        ),
        (
            "Photo,Kind\n" + VALID_TABLE,
            "'Photo' in line 1.*if it is a heading, call its columns name",
        ),
        (
            "x.jpg,dog\ny.jpg,cat\n",
            r"3 images of .* lie in no class folder; .* no line of labels\.csv names one of them; "
            r"line 2 of labels\.csv is 'y\.jpg,cat', and the first image is a b\.jpg$",
        ),
        ("", r"3 images of .* lie in no class folder; put them into folders"),
        (
            VALID_TABLE + "c.png,dog\n",
            r"line 4, calls c\.png 'dog', and a line before calls it 'cat'",
        ),
        (VALID_TABLE + "d.JPG\n", "calls d.JPG '', and"),
        ("a b.jpg,dog\nc.png,cat\nd.JPG,\n", r"the row of .*d\.JPG has no label"),
        ("a b.jpg,0\nc.png,1\nd.JPG,-1\n", r"the row of .*d\.JPG has no label"),
        ("a b.jpg,\nc.png,\nd.JPG,\n", "the split 'train' of .* has no labels"),
        ("a b.jpg,1,2,3,dog\nc.png,1,2,3,cat\n", "5 columns and it is not clear"),
        ("name,kind,sort\na b.jpg,1,dog\nc.png,1,cat\n", "3 columns and it is not clear"),
        ("a b.jpg,cat\nc.png,cat\n", "1 labels; at least 2"),
        ("name,label,split\na b.jpg,dog,fold1\nc.png,cat,train", "line 2, has the split 'fold1'"),
        ("name,label,split\na b.jpg,dog,val\nc.png,cat,val", "no row of .* is in the training"),
        (
            "name,label,split\na b.jpg,dog,train\nc.png,cat,train\nd.JPG,cow,val",
            r"d\.JPG of the split 'val' has the label 'cow', which no training image has",
        ),
    ],
)
def test_invalid_tables_are_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        pets(tmp_path, text)


def test_wrong_label_of_a_split_that_is_left_out_does_not_matter(tmp_path: Path) -> None:
    text = "name,label,split\na b.jpg,dog,train\nc.png,cat,train\nd.JPG,cow,val"
    with pytest.raises(ValueError, match="or leave the split out with --splits of alexnet prep"):
        pets(tmp_path, text)
    assert find(str(tmp_path), splits=["train"]).splits[0].count == 2


def test_two_tables_of_the_same_images_are_refused(tmp_path: Path) -> None:
    pets(tmp_path, VALID_TABLE)
    write(tmp_path / "more.csv", VALID_TABLE)
    with pytest.raises(ValueError, match="both name images; keep one"):
        find(str(tmp_path))


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that are walked through."""
    folders, walk = list[Path](), tables.files_below

    def walking(folder: Path) -> list[Path]:
        folders.append(folder)
        return walk(folder)

    monkeypatch.setattr(tables, "files_below", walking)
    return folders


def test_file_of_boxes_beside_each_image_is_no_table(walks: list[Path], tmp_path: Path) -> None:
    """A class number of Darknet would name another image, and each file be a walk of the folder."""
    for number in range(4):
        write(tmp_path / "images" / f"{number}.png", image(number % 2, 0))
        write(tmp_path / "images" / f"{number}.txt", f"{number % 2} 0.5 0.5 0.2 0.2\n")
    says = r"or add a table of labels .*; files of single images are not read, such as .*0\.txt$"
    with pytest.raises(ValueError, match=says):
        find(str(tmp_path))
    assert walks == [tmp_path]
    write(tmp_path / "images" / "labels.csv", "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(4)))
    assert check_labels(find(str(tmp_path), val_fraction=0).splits[0]) == 4


def test_folder_with_many_tables_is_walked_through_once(walks: list[Path], tmp_path: Path) -> None:
    for number in range(4):
        write(tmp_path / "images" / f"{number}.png", image(number % 2, 0))
        write(tmp_path / "images" / f"words{number}.txt", f"{number} {'ab'[number % 2]}\n")
    with pytest.raises(ValueError, match="both name images; keep one"):
        find(str(tmp_path))
    assert walks == [tmp_path, tmp_path / "images"]


def test_invalid_table_of_a_flat_validation_folder_is_refused(tmp_path: Path) -> None:
    folder = layouts.tiny_imagenet(tmp_path)
    file = folder / "val" / "val_annotations.txt"
    valid = file.read_text()
    file.write_text(valid + "val_99.JPEG\tn01440764\t0\t32\t44\t62\n")
    with pytest.raises(
        ValueError, match=r"1 rows of .*val_annotations.* 'val_99\.JPEG' in line 13"
    ):
        find(str(folder))
    file.write_text(valid.replace("n02099601", "n09999999"))
    with pytest.raises(ValueError, match="label 'n09999999', which no training image has"):
        find(str(folder))
    file.write_text(valid[: valid.index("\n") + 1])
    assert find(str(folder)).notes[0].startswith("11 images are in no row of")
    assert find(str(folder)).splits[1].count == 1
    truth = layouts.flat_val_with_devkit(tmp_path / "devkit")
    (truth / "val" / VAL[0][0]).unlink()
    with pytest.raises(ValueError, match="has 11 images, and the devkit has 12 labels"):
        find(str(truth))


def test_ignored_tables_beside_class_folders_are_reported(tmp_path: Path) -> None:
    for label, name in enumerate(("cat", "dog")):
        write(tmp_path / name / "0.jpg", image(label, 0))
    write(tmp_path / "labels.csv", "0.jpg,cow\n")
    write(tmp_path / "logo.png", image(0, 0))
    source = find(str(tmp_path), val_fraction=0)
    assert check_labels(source.splits[0]) == 2
    assert [note.split(" ")[0] for note in source.notes] == ["1", str(tmp_path / "labels.csv")]


def table_of(folder: Path, labels: list[str], heading: str = "") -> None:
    """Write a table of the first images of two folders with as many images each."""
    images = sorted(folder.glob("*/*.png"))[: len(labels)]
    names = (str(path.relative_to(folder)) for path in images)
    rows = (f"{name},{label}\n" for name, label in zip(names, labels, strict=True))
    write(folder / "labels.csv", heading + "".join(rows))


@pytest.mark.parametrize("heading", ["", "photo,Class\n"])
@pytest.mark.parametrize("labels", [["cat", "dog"] * 4, ["cat"] * 2 + ["dog"] * 4 + ["cat"] * 2])
def test_table_with_other_labels_than_the_folders_is_not_overlooked(
    labels: list[str], heading: str, tmp_path: Path
) -> None:
    """The folders are those of years, for example, and not the classes."""
    table_of(folder_of(tmp_path, {"2021": 4, "2022": 4}), labels, heading)
    with pytest.raises(DataError, match=r"labels\.csv gives half of the .* into one folder if"):
        find(str(tmp_path))


@pytest.mark.parametrize(
    ("labels", "heading"),
    [
        # Numbers for the folders, labels of half of the images, dates, and columns without meaning.
        (["0"] * 4 + ["1"] * 4, ""),
        (["cat", "dog"] * 2, ""),
        (list("abcdefgh"), ""),
        (["1,2,3"] * 8, ""),
        # Some labels were corrected.
        (["2021"] * 4 + ["2022"] * 2 + ["2021"] * 2, ""),
        # Columns that are called something else, under a heading that is known and one that is not.
        (["0", "1"] * 4, "filename,fold\n"),
        (["0", "1"] * 4, "photo,fold\n"),
    ],
)
def test_other_tables_beside_class_folders_are_not_read(
    labels: list[str], heading: str, tmp_path: Path
) -> None:
    table_of(folder_of(tmp_path, {"2021": 4, "2022": 4}), labels, heading)
    (note,) = find(str(tmp_path)).notes
    assert note.endswith(f"labels.csv is not read: the folders of {tmp_path} are the classes")


def test_table_beside_class_folders_is_no_reason_to_walk_through_them_again(
    walks: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table_of(folder_of(tmp_path, {"2021": 4, "2022": 4}), ["2021"] * 4 + ["2022"] * 4)
    find(str(tmp_path))
    assert walks == []
    # A table of a few images is not even compared with their names.
    table_of(tmp_path, ["cat", "dog", "cat"])
    monkeypatch.delattr(tables, "_by_endings")
    find(str(tmp_path))


def test_label_is_the_same_however_its_accents_are_written(tmp_path: Path) -> None:
    for number, label in enumerate(("B\u00e4r", "Ba\u0308r", "cat")):
        for split in ("train", "val"):
            write(tmp_path / split / f"{number}.png", image(number, 0))
            with (tmp_path / f"{split}.csv").open("a") as table:
                table.write(f"{number}.png,{label}\n")
    train, val = find(str(tmp_path)).splits
    assert [item.label for item in train.items(0)] == [item.label for item in val.items(0)]
    assert sorted(item.label for item in train.items(0)) == [0, 0, 1]
    # Class folders with a table of the validation images.
    write(tmp_path / "zoo" / "train" / "Ba\u0308r" / "0.png", image(0, 0))
    write(tmp_path / "zoo" / "train" / "cat" / "0.png", image(1, 0))
    write(tmp_path / "zoo" / "val" / "1.png", image(0, 1))
    write(tmp_path / "zoo" / "val" / "labels.csv", "1.png,B\u00e4r\n")
    (item,) = find(str(tmp_path / "zoo")).splits[1].items(0)
    assert find(str(tmp_path / "zoo")).classes[item.label] == "B\u00e4r"
