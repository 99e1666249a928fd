"""Parquet files: their labels, and damage that would crash their reader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alexnet.data.sources import find
from alexnet.data.sources.source import UnreadableImage
from alexnet.errors import DataError
from tests import layouts
from tests.layouts import TRAIN, WNIDS, check_labels, image, write


def test_parquet_rows_without_labels_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    labels = [0, 1, -1, *[2] * 21]
    layouts.rows(TRAIN, False, labels).to_parquet(tmp_path / "data" / "train-0.parquet")
    with pytest.raises(ValueError, match=r"row 2 of the split 'train' .* has the label -1"):
        find(str(tmp_path))
    layouts.rows(TRAIN, False, [-1] * 24).to_parquet(tmp_path / "data" / "train-0.parquet")
    with pytest.raises(ValueError, match=r"the split 'train' of .* has no labels"):
        find(str(tmp_path))
    write(tmp_path / "data" / "train-1.parquet", "version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="git lfs pull"):
        find(str(tmp_path))


def parquet(folder: Path, cells: Any, labels: Any = (0, 1), **options: Any) -> Path:
    """A file with bare bytes in its image column; returns its folder."""
    folder.mkdir(exist_ok=True)
    table = pa.table({"image": cells, "label": labels})
    pq.write_table(table, folder / "train-0.parquet", **options)
    return folder


def test_file_of_a_split_that_is_not_wanted_is_not_opened(tmp_path: Path) -> None:
    parquet(tmp_path, [image(0, 0), image(1, 0)])
    write(tmp_path / "test-0.parquet", "version https://git-lfs.github.com/spec/v1\n")
    assert find(str(tmp_path), splits=["train"]).splits[0].count == 2
    with pytest.raises(DataError, match=r"test-0\.parquet is a pointer of Git LFS"):
        find(str(tmp_path))


def test_column_of_another_kind_is_not_called_damage(tmp_path: Path) -> None:
    columns = {"image": {"_type": "Hologram"}, "label": {"_type": "Value", "dtype": "int64"}}
    about = {"huggingface": json.dumps({"info": {"features": columns}})}
    table = pa.table({"image": [image(0, 0)], "label": [0]}).replace_schema_metadata(about)
    pq.write_table(table, tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match=r"\(Feature type 'Hologram' not found\); install a newer"):
        find(str(tmp_path))


def test_column_of_something_else_is_not_the_image(tmp_path: Path) -> None:
    cells = [image(0, 0), image(1, 0)]
    meta = [{"width": 1}] * 2
    table = pa.table({"meta": meta, "photo": [{"bytes": cell} for cell in cells], "label": [0, 1]})
    for name in ("photo", "image"):
        pq.write_table(table, tmp_path / "train-0.parquet")
        (split,) = find(str(tmp_path)).splits
        assert [item.read() for item in split.items(0)] == cells, name
        table = pa.table({"meta": meta, "image": cells, "label": [0, 1]})
    # An address, beside the image itself.
    photo = [{"bytes": cell} for cell in cells]
    table = pa.table({"photo": photo, "image": ["http://a/0.png", "b"], "label": [0, 1]})
    pq.write_table(table, tmp_path / "train-0.parquet")
    (split,) = find(str(tmp_path)).splits
    assert [item.read() for item in split.items(0)] == cells


def test_parquet_file_that_crashes_arrow_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For some damaged metadata, such as size statistics, pyarrow ends its process."""
    from alexnet.data.sources import parquet

    program = "import os\nprint(flush=True)\nos.kill(os.getpid(), 6)\n"
    (tmp_path / "parquet_probe.py").write_text(program)
    monkeypatch.setattr(parquet, "__file__", str(tmp_path / "parquet.py"))
    with pytest.raises(DataError, match=r"^b\.parquet is damaged \(its metadata crashes Arrow\)"):
        parquet._probe([Path("a.parquet"), Path("b.parquet"), Path("c.parquet")])
    # A process that crashes after the last file accuses none.
    parquet._probe([Path("a.parquet")])


def test_parquet_files_after_a_name_that_is_not_utf8_are_probed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    probe = Path(find.__code__.co_filename).with_name("parquet_probe.py")
    run = subprocess.run(
        [sys.executable, "-P", str(probe)], input=b"caf\xe9.parquet\0b.parquet", capture_output=True
    )
    assert (run.returncode, run.stdout) == (0, b"\n\n")


def test_number_of_a_parquet_file_may_follow_its_split_in_any_way(tmp_path: Path) -> None:
    folder = layouts.clone(tmp_path) / "data"
    (folder / "train-00000-of-00002.parquet").rename(folder / "train_0.parquet")
    (folder / "train-00001-of-00002.parquet").rename(folder / "train_1.parquet")
    (folder / "validation-00000-of-00001.parquet").rename(folder / "val_0.parquet")
    source = find(str(tmp_path))
    assert [(split.name, split.count) for split in source.splits] == [
        ("train", len(layouts.TRAIN)),
        ("val", len(layouts.VAL)),
    ]


@pytest.mark.parametrize("cut", [0, 3, 100, 3000, -1])
def test_cut_parquet_files_are_refused(cut: int, tmp_path: Path) -> None:
    (path, _) = sorted(layouts.clone(tmp_path).glob("data/train*"))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=r"train-0.*parquet is damaged \(.*\); fetch it again$"):
        find(str(tmp_path))


def test_damaged_pages_of_a_parquet_file_are_refused(tmp_path: Path) -> None:
    """The images are read later than the labels; a checksum, where there is one, is compared."""
    cells = [image(0, 0), image(1, 0)]
    parquet(tmp_path, cells, compression="none", write_page_checksum=True)
    path = tmp_path / "train-0.parquet"
    data = bytearray(path.read_bytes())
    (split,) = find(str(tmp_path)).splits
    assert len(list(split.items(0))) == 2
    data[data.index(image(1, 0)) + 50] ^= 1
    path.write_bytes(data)
    (split,) = find(str(tmp_path)).splits
    with pytest.raises(DataError, match=r"train-0\.parquet is damaged \(.*CRC"):
        list(split.items(0))


def test_small_parquet_file_cannot_take_much_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.data.sources.parquet.MAX_IMAGE_BYTES", 1 << 20)
    zeros = bytes(8 << 20)
    with pytest.raises(DataError, match=r"its row group 0 would become 16,.* bytes of "):
        find(str(parquet(tmp_path / "page", [zeros, zeros[1:]], compression="zstd")))
    # One value in the dictionary of the column, and many rows that refer to it.
    many = [bytes(1000)] * 3000
    folder = parquet(tmp_path / "many", many, [0, 1] * 1500, compression="zstd")
    (split,) = find(str(folder)).splits
    with pytest.raises(DataError, match="bytes of images or more, 100 times its size"):
        list(split.items(0))
    with pytest.raises(DataError, match=r"it has 100,000 rows"):
        find(str(parquet(tmp_path / "rows", [None] * 100_000, pa.nulls(100_000, pa.int64()))))


def test_single_bad_rows_of_a_parquet_file_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(size: int) -> None:
        if size > 5000:
            raise UnreadableImage("too large")

    monkeypatch.setattr("alexnet.data.sources.parquet.check_size", check)
    folder = parquet(tmp_path / "set", [image(0, 0), None, bytes(6000)], [0, 1, 1])
    (split,) = find(str(folder)).splits
    good, missing, large = split.items(0)
    assert good.read() == image(0, 0)
    for item, reason in ((missing, "has no image"), (large, "too large")):
        with pytest.raises(UnreadableImage, match=reason):
            item.read()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"x"], "label": ["cat"]}, "has string in place of the numbers of classes"),
        ({"image": [b"x"], "label": [0.5]}, "has double in place of the numbers of classes"),
        ({"image": [b"x"], "label": [2 * 10**9]}, "has the label 2000000000, and at most"),
        ({"image": [{"x": 1}], "label": [0]}, "needs the columns 'image', with the bytes"),
    ],
)
def test_parquet_columns_of_other_types_are_refused(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "train-0.parquet")
    with pytest.raises(DataError, match=message):
        find(str(tmp_path))


@pytest.mark.parametrize("labels", [["1", "0"], [True, False], [1.0, 0.0]])
def test_parquet_labels_may_be_numbers_of_any_type(labels: list[Any], tmp_path: Path) -> None:
    names = [f"{WNIDS[label]}_0.JPEG" for label in (1, 0)]
    cells = [{"bytes": image(i, 0), "path": name} for i, name in zip((1, 0), names, strict=True)]
    source = find(str(parquet(tmp_path / "set", cells, labels)))
    assert source.classes == tuple(WNIDS[:2])
    assert check_labels(source.splits[0]) == 2
