"""A store has equal bytes however it is made, is never half-finished, and names what it skipped."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import datasets
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from alexnet.cli import main
from alexnet.config import StoreSettings
from alexnet.data import processing, shapes
from alexnet.data.image import NoMemory, centre_square, decode, decoding_bytes, encode
from alexnet.data.prepare import prepare, settled
from alexnet.data.sources import InHand, Item, Source, SourceSplit, find
from alexnet.data.sources.folders import class_folders
from alexnet.data.sources.parquet import parquet_files
from alexnet.data.sources.source import Options
from alexnet.data.store import Store
from alexnet.errors import AlexNetError, DataError
from benchmarks.image_work import work_on
from tests.commands import refused
from tests.small_stores import SMALL, class_folder, digest


def test_the_store_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    made = []
    for workers in (1, 2, 5):
        prepare(shapes.source(40, 10), tmp_path / str(workers), SMALL, workers)
        made.append(digest(tmp_path / str(workers)))
    assert made[0] == made[1] == made[2]


def test_files_have_the_modes_of_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        prepare(shapes.source(20, 10), tmp_path / "store", SMALL)
    finally:
        os.umask(before)
    for path in (tmp_path / "store").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o750 if path.is_dir() else 0o640), path


def memory_source(read: dict[str, Callable[[], bytes]]) -> Source:
    """A source of images, by name."""
    items = [Item(name, number % 2, call) for number, (name, call) in enumerate(read.items())]
    split = SourceSplit("train", len(items), lambda start: iter(items[start:]))
    return Source("memory", ("a", "b"), (split,))


def raising(error: BaseException) -> Callable[[], bytes]:
    def read() -> bytes:
        raise error

    return read


def test_whatever_reading_an_image_raises_skips_this_image(tmp_path: Path) -> None:
    errors: dict[str, Exception] = {
        "gone": FileNotFoundError(2, "No such file or directory"),
        "key": KeyError(7),
        "long": RuntimeError("a\nb " + "x" * 500),
        "deep": RecursionError("maximum recursion depth exceeded"),
    }
    good = {f"good{n}": InHand(encode(shapes.image(n, 1), "png")) for n in range(3)}
    # An unreadable first image must not end the preparation either: it would tell the size.
    reading = {name: raising(error) for name, error in errors.items()} | good
    made = StoreSettings(size_px=0, most_skipped=1, shard_images=2)
    manifest = prepare(memory_source(reading), tmp_path / "store", made)
    train = manifest["splits"]["train"]
    assert train["images"] == 3
    skipped = dict(train["skipped"])
    assert list(skipped) == list(errors)
    assert skipped["key"] == "KeyError: 7"
    assert skipped["long"].startswith("RuntimeError: a b xxx")
    assert len(skipped["long"]) < 250


def test_image_is_not_left_out_for_lack_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The content of a store must not depend on the machine; a damaged file may want anything."""
    png = encode(shapes.image(1, 1), "png")
    made = replace(SMALL, most_skipped=1.0)
    says = "too little memory for the image b; end other programs, or let `alexnet prepare`"
    reading = {"a": InHand(png), "b": raising(MemoryError())}
    with pytest.raises(AlexNetError, match=says):
        prepare(memory_source(reading), tmp_path / "read", made)
    calls = 0

    def failing(data: bytes, upright: bool = False, enough_px: int = 0) -> Any:
        nonlocal calls
        calls += data == b"wants too much"
        if data == b"wants too much" and calls != 3:
            raise NoMemory("there is not enough memory for it")
        return decode(png if data == b"wants too much" else data)

    reading = {"a": InHand(png), "b": InHand(b"wants too much")}
    monkeypatch.setattr(processing, "decode", failing)
    skipped = prepare(memory_source(reading), tmp_path / "damaged", made)["splits"]["train"]
    assert skipped["skipped"] == [["b", "there is not enough memory for it"]]
    # Decoded alone it fits.
    calls = 1
    again = prepare(memory_source(reading), tmp_path / "alone", made)["splits"]["train"]
    assert again["images"] == 2
    calls = 3
    monkeypatch.setattr(processing, "SPARE_BYTES", 1 << 62)
    with pytest.raises(AlexNetError, match=says):
        prepare(memory_source(reading), tmp_path / "full", made)


@pytest.mark.parametrize(
    "error",
    [MemoryError("Unable to allocate 71.5 MiB"), ValueError("Insufficient memory (case 4)")],
    ids=["for the pixels", "for the coefficients"],
)
@pytest.mark.parametrize("side", [24, 40])
def test_jpeg_is_not_left_out_or_encoded_again_for_lack_of_memory(
    side: int, error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The errors are those of NumPy and of libjpeg. One of the stored size is kept as it is."""
    jpeg = encode(centre_square(shapes.image(1, 1), side), "jpeg")
    monkeypatch.setattr(simplejpeg, "decode_jpeg", Mock(side_effect=error))
    monkeypatch.setattr(processing, "SPARE_BYTES", 1 << 62)
    with pytest.raises(AlexNetError, match="too little memory for the image b"):
        prepare(memory_source({"b": InHand(jpeg)}), tmp_path / "kept", SMALL)


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ([(1, 1), *[(28, 28)] * 5], 28),
        ([(48, 48), *[(200, 300)] * 5], 256),
        ([(64, 64)] * 3, 64),
        ([(65, 65)] * 3, 256),
        ([(8, 8)] * 3, 8),
        ([(2, 2)] * 3, 256),
        ([(32, 32)] * 2 + [(30, 32)] * 2, 256),
        ([(32, 32)] * 5 + [(100, 100)] * 3 + [(375, 500)] * 7, 256),
        ([(side, side) for side in range(16, 31)], 256),
        ([], 256),
    ],
)
def test_size_is_that_of_most_images(sides: list[tuple[int, int]], expected: int) -> None:
    """One icon among photographs must not make all of them as small."""
    images = [encode(np.zeros((*size, 3), np.uint8), "png") for size in sides]
    source = memory_source({str(n): InHand(data) for n, data in enumerate(images)})
    assert settled(StoreSettings(), source).size_px == expected


def test_damaged_archive_ends_the_preparation_with_its_sentence(tmp_path: Path) -> None:
    reading = {"a": raising(DataError("a.tar is damaged"))}
    for size_px in (0, 24):
        with pytest.raises(DataError, match=r"a\.tar is damaged"):
            prepare(memory_source(reading), tmp_path / "store", replace(SMALL, size_px=size_px))


def test_name_that_is_not_utf_8_is_stored_and_reported_in_letters(tmp_path: Path) -> None:
    png = encode(shapes.image(1, 1), "png")
    reading = {"caf\udce9.png": InHand(png), "\udce9.png": InHand(b"no image")}
    manifest = prepare(memory_source(reading), tmp_path / "store", replace(SMALL, most_skipped=1.0))
    assert Store(tmp_path / "store").split("train").name(0) == r"caf\udce9.png"
    assert manifest["splits"]["train"]["skipped"][0][0] == r"\udce9.png"


def test_large_images_of_archives_do_not_wait_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read before a worker takes them: a task for each, and no more than fit the bound."""
    monkeypatch.setattr(processing, "TASK_BYTES", 100)
    monkeypatch.setattr(processing, "HELD_BYTES", 250)
    taken = 0

    def items() -> Iterator[Item]:
        nonlocal taken
        for number in range(40):
            taken += 1
            yield Item(str(number), 0, InHand(bytes(100)))

    memory = processing.Memory(1 << 20)
    with ThreadPoolExecutor(8) as pool:
        results = processing.process_in_order(items(), 0, False, SMALL, pool, 8, memory, True)
        for finished, result in enumerate(results, 1):
            assert result.items == 1
            assert taken <= finished + 2
    assert taken == 40


def test_memory_bounds_the_images_decoded_at_one_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two fit at once, and a larger one than the bound is decoded alone; the store is the same."""
    small, large = encode(shapes.image(1, 1), "png"), encode(np.zeros((900, 900, 3), "u1"), "png")
    reading = {
        str(n): InHand(large if n % 20 == 3 else small)
        for n in range(8 * processing.ITEMS_PER_TASK)
    }
    made = StoreSettings(size_px=24, encoding="png")
    need = decoding_bytes(small)
    assert 0 < need < decoding_bytes(large) == 900 * 900 * 20
    most, now, lock = 0, 0, threading.Lock()

    def counted(data: bytes, upright: bool = False, enough_px: int = 0) -> Any:
        nonlocal most, now
        with lock:
            now += decoding_bytes(data)
            most = max(most, now if now <= 2 * need else 0)
            assert now <= 2 * need or now == decoding_bytes(large)
        time.sleep(0.001)
        with lock:
            now -= decoding_bytes(data)
        return decode(data, upright, enough_px)

    prepare(memory_source(reading), tmp_path / "plain", made, workers=1)
    monkeypatch.setattr(processing, "decode", counted)
    bound_gib = 2 * need / 2**30
    prepare(memory_source(reading), tmp_path / "bounded", made, workers=4, memory_gib=bound_gib)
    assert most == 2 * need
    assert digest(tmp_path / "bounded") == digest(tmp_path / "plain")
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match="--memory-gib is"):
            prepare(memory_source(reading), tmp_path / "none", made, memory_gib=wrong)


def test_only_stored_training_images_are_decoded_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the statistics, which are those of the training images as stored."""
    decoded = list[bool]()

    def counted(data: bytes, upright: bool = False, enough_px: int = 0) -> Any:
        decoded.append(data.startswith(b"\xff\xd8"))
        return decode(data, upright, enough_px)

    monkeypatch.setattr(processing, "decode", counted)
    prepare(shapes.source(7, 5), tmp_path / "store", SMALL)
    assert decoded.count(False) == 12 and decoded.count(True) == 7


def test_a_finished_store_is_replaced_only_when_forced(tmp_path: Path) -> None:
    prepare(shapes.source(20, 10), tmp_path / "store", SMALL)
    before = digest(tmp_path / "store")
    with pytest.raises(ValueError, match="exists; choose another name, or --force"):
        prepare(shapes.source(20, 10, seed=1), tmp_path / "store", SMALL)
    assert digest(tmp_path / "store") == before
    prepare(shapes.source(20, 10, seed=1), tmp_path / "store", SMALL, force=True)
    assert digest(tmp_path / "store") != before


def test_store_that_may_not_be_written_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another user's, or one that was made read-only; its `..` cannot be changed."""
    replace, unlink = os.replace, os.unlink

    def unless_moved(old: Path, new: Path) -> None:
        if old.name == ".store.old" and old.parent != new.parent:
            raise PermissionError(errno.EACCES, "Permission denied", str(old))
        replace(old, new)

    def refuse_inside(path: str, *, dir_fd: int | None = None) -> None:
        if dir_fd is not None:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        unlink(path)

    prepare(shapes.source(20, 10), tmp_path / "store", SMALL)
    with monkeypatch.context() as other:
        other.setattr(os, "replace", unless_moved)
        other.setattr(os, "unlink", refuse_inside)
        for seed in (1, 2):
            prepare(shapes.source(20, 10, seed=seed), tmp_path / "store", SMALL, force=True)
            warning = capsys.readouterr().err
            assert f"warning: {tmp_path}/.store.removing-" in warning
            assert ", 0.1 MB, cannot be removed" in warning
    with pytest.raises(DataError, match="exists; choose another name, or --force"):
        prepare(shapes.source(20, 10), tmp_path / "store", SMALL)
    assert os.listdir(tmp_path) == ["store"]
    assert capsys.readouterr().err == ""


def test_store_whose_files_are_open_on_nfs_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a file that is held open has another name when it is removed, and its folder stays."""

    def refuse(*args: object, **options: object) -> None:
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    prepare(shapes.source(20, 10), tmp_path / "store", SMALL)
    with monkeypatch.context() as nfs:
        nfs.setattr(os, "rmdir", refuse)
        for seed in (1, 2):
            prepare(shapes.source(20, 10, seed=seed), tmp_path / "store", SMALL, force=True)
    with pytest.raises(DataError, match="exists; choose another name, or --force"):
        prepare(shapes.source(20, 10), tmp_path / "store", SMALL)
    assert os.listdir(tmp_path) == ["store"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "files",
    [
        {},
        {"letter.txt": "dear"},
        {"manifest.json": '{"name": "my app"}', "mean.npy": ""},
        {"manifest.json": '{"format": 2, "splits": {}}'},
        {"manifest.json": '[{"file": "a.jpg"}]', "mean.npy": "", "dataset_dict.json": ""},
        {"manifest.json": '{"audio": "a"}\n{"audio": "b"}', "mean.npy": ""},
    ],
)
def test_folder_of_something_else_is_never_replaced(
    files: dict[str, str], force: bool, tmp_path: Path
) -> None:
    (tmp_path / "app").mkdir()
    for name, text in files.items():
        (tmp_path / "app" / name).write_text(text)
    with pytest.raises(DataError, match=r"app exists and is not a store; choose another name$"):
        prepare(shapes.source(20, 10), tmp_path / "app", SMALL, force=force)
    assert {path.name for path in (tmp_path / "app").iterdir()} == set(files)


def test_store_with_a_damaged_manifest_can_be_replaced(tmp_path: Path) -> None:
    prepare(shapes.source(20, 10), tmp_path / "store", SMALL)
    before = digest(tmp_path / "store")
    (tmp_path / "store" / "manifest.json").write_text("{")
    prepare(shapes.source(20, 10), tmp_path / "store", SMALL, force=True)
    assert digest(tmp_path / "store") == before


def test_source_inside_the_store_that_it_would_replace_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(shapes.source(20, 10), tmp_path / "store", SMALL)
    images = class_folder(tmp_path / "store" / "images")
    before = digest(tmp_path / "store")
    sentence = refused(capsys, "prepare", images, tmp_path / "store", "--force")
    assert f"--force would remove {images} with the store {tmp_path / 'store'}" in sentence
    assert digest(tmp_path / "store") == before


def test_one_folder_is_split_by_the_fraction(tmp_path: Path) -> None:
    source = class_folders(class_folder(tmp_path / "pictures", each=10), Options(val_fraction=0.25))
    names = [[item.name for item in split.items(0)] for split in source.splits]
    assert [len(n) for n in names] == [16, 4]
    assert not set(names[0]) & set(names[1])
    assert source.classes == ("class0", "class1")


def test_train_and_val_folders(tmp_path: Path) -> None:
    class_folder(tmp_path / "train")
    class_folder(tmp_path / "val", each=2)
    source = class_folders(tmp_path)
    assert [(split.name, split.count) for split in source.splits] == [("train", 10), ("val", 4)]
    shutil.rmtree(tmp_path / "val" / "class1")
    # A held-out split may lack a class, which is reported at the end.
    for lacking in (False, True):
        if lacking:
            (tmp_path / "val" / "class1").mkdir()
        (_, val) = class_folders(tmp_path).splits
        assert [item.label for item in val.items(0)] == [0, 0]
    class_folder(tmp_path / "val2")
    (tmp_path / "val2" / "class1").rename(tmp_path / "val" / "classX")
    with pytest.raises(ValueError, match=r"val has class folders that .*train lacks: classX; rena"):
        class_folders(tmp_path)
    shutil.rmtree(tmp_path / "val" / "classX")
    shutil.rmtree(tmp_path / "val" / "class0")
    with pytest.raises(ValueError, match=r"val has no images; add some or take it out of"):
        class_folders(tmp_path)


def test_empty_class_and_single_class_are_refused(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "pictures")
    (folder / "hollow").mkdir()
    with pytest.raises(ValueError, match=r"hollow has no images; remove it or fill it$"):
        class_folders(folder)
    (folder / "void").mkdir()
    with pytest.raises(ValueError, match=r"hollow has no images; .*void has no images"):
        class_folders(folder)
    with pytest.raises(ValueError, match="has 1 class folders; at least 2"):
        class_folders(class_folder(tmp_path / "one", classes=1))
    with pytest.raises(ValueError, match="val-fraction is 1"):
        find(str(folder), val_fraction=1.0)


def test_unreadable_images_are_skipped_and_named_up_to_a_limit(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "pictures", each=50)
    (folder / "class0" / "broken.jpg").write_bytes(b"no image")
    source = class_folders(folder, Options(val_fraction=0))
    manifest = prepare(source, tmp_path / "store", SMALL)
    assert manifest["splits"]["train"]["skipped"] == [
        ["class0/broken.jpg", "not an image of a known format"]
    ]
    assert manifest["splits"]["train"]["images"] == 100
    with pytest.raises(
        ValueError,
        match=r"1 of 101 images of 'train' cannot be read, .*broken\.jpg \(not an image.*"
        r".*remove .*strict\.partial$",
    ):
        prepare(source, tmp_path / "strict", replace(SMALL, most_skipped=0.005))
    assert not (tmp_path / "strict").exists()
    # The limit does not affect what is written, so the preparation resumes with another limit.
    again = prepare(source, tmp_path / "strict", SMALL)
    assert again["splits"] == manifest["splits"]


def test_advised_command_works_as_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, store = class_folder(tmp_path / "my pictures", each=10), tmp_path / "store"
    prepare(shapes.source(20, 10), store, SMALL)
    for item in list(find(str(folder), val_fraction=0.3).splits[0].items(0))[:3]:
        (folder / item.name).write_bytes(b"no image")
    options = ["--val-fraction", "0.3", "--size-px", "16", "--most-skipped", "0.01", "--force"]
    sentence = refused(capsys, "prepare", folder, store, *options)
    advised = shlex.split(sentence.rpartition("allow more with ")[2])
    assert advised[:2] == ["alexnet", "prepare"] and advised.count("--most-skipped") == 1
    main(advised[1:])
    splits = Store(store).manifest["splits"]
    assert sum(split["images"] for split in splits.values()) == 17
    assert splits["val"]["images"] + len(splits["val"]["skipped"]) == 6


def test_tolerated_share_is_exact(tmp_path: Path) -> None:
    """In floating point 0.29 * 100 is below 29, and 0.29 was advised for 29 of 100."""
    image = InHand(encode(shapes.image(0, 1), "png"))
    bad = raising(ValueError("bad"))
    source = memory_source({f"{i}": bad if i < 29 else image for i in range(100)})
    manifest = prepare(source, tmp_path / "store", replace(SMALL, most_skipped=0.29))
    assert manifest["splits"]["train"]["images"] == 71


def test_split_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    split = SourceSplit("train", 1, lambda start: iter([Item("a", 0, InHand(b"x"))][start:]))
    with pytest.raises(ValueError, match="no readable image"):
        prepare(
            Source("test", ("a", "b"), (split,)),
            tmp_path / "store",
            replace(SMALL, most_skipped=1.0),
        )


def test_split_without_an_image_is_refused_for_what_it_is(tmp_path: Path) -> None:
    splits = (shapes.source(5, 1).splits[0], SourceSplit("val", 0, lambda start: iter(())))
    with pytest.raises(ValueError, match="the split 'val' of shapes has no images"):
        prepare(Source("shapes", shapes.CLASSES, splits), tmp_path / "store", SMALL)


def test_full_disk_is_noticed_before_the_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = type("usage", (), {"free": 1000, "total": 2000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    images = class_folder(tmp_path / "images", each=10)
    sentence = refused(capsys, "prepare", images, tmp_path / "store", "--size-px", 24)
    with pytest.raises(ValueError, match=r"has 1000 bytes free; make room or choose another disk$"):
        prepare(shapes.source(20, 10), tmp_path / "store", SMALL)
    assert list(tmp_path.iterdir()) == [images]
    main(shlex.split(sentence.rpartition("begin anyway with ")[2])[1:])
    shutil.rmtree(tmp_path / "store")
    prepare(shapes.source(20, 10), tmp_path / "store", SMALL, ignore_disk=True)
    assert Store(tmp_path / "store").split("train").labels.size == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size_px": 2}, "--size-px is 2"),
        ({"size_px": 16_385}, "--size-px is 16385; give from 8 to 16,384 pixels per side"),
        ({"quality": 0}, "--quality is 0"),
        ({"shard_images": 0}, "--shard-images is 0"),
    ],
)
def test_invalid_settings_are_refused(
    changes: dict[str, int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        invalid = replace(SMALL, **changes)  # type: ignore[arg-type]
        prepare(shapes.source(20, 10), tmp_path / "store", invalid)


def parquet(folder: Path) -> Path:
    """Two training files and one validation file, as `datasets` writes them."""
    folder.mkdir()
    for name, count in (
        ("train-00000-of-00002", 7),
        ("train-00001-of-00002", 5),
        ("validation-00000-of-00001", 4),
    ):
        rows = {
            "image": [Image.fromarray(np.full((9, 9, 3), 10 * i, np.uint8)) for i in range(count)],
            "label": [i % 2 for i in range(count)],
        }
        types = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
        )
        datasets.Dataset.from_dict(rows, features=types).to_parquet(folder / f"{name}.parquet")
    return folder


def test_parquet_files_in_the_hubs_layout(tmp_path: Path) -> None:
    source = parquet_files(parquet(tmp_path / "set"))
    assert source.classes == ("cat", "dog")
    assert [(split.name, split.count) for split in source.splits] == [("train", 12), ("val", 4)]
    items = list(source.splits[0].items(0))
    rest = list(source.splits[0].items(9))
    assert [item.name for item in rest] == [item.name for item in items[9:]]
    # The second image of the second file, which holds the gray levels 0, 10, 20 ...
    assert (decode(items[8].read()) == 10).all()
    (tmp_path / "set" / "train-00000-of-00002.parquet").unlink()
    (tmp_path / "set" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(ValueError, match="no training files"):
        parquet_files(tmp_path / "set")


def test_limit_of_the_benchmark_stores_the_same_bytes(tmp_path: Path) -> None:
    """It keeps JPEGs of the stored size, reduces large ones as it decodes, and skips the same."""
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (1200, 1000, 3), np.uint8)
    reading = {
        "png": InHand(encode(shapes.image(1, 1), "png")),
        "large": InHand(encode(large, "jpeg")),
        "kept": InHand(encode(np.ascontiguousarray(shapes.image(2, 1)[::2, ::2]), "jpeg", 60)),
        "damaged": InHand(b"no image"),
        "gone": raising(FileNotFoundError(2, "No such file or directory")),
    }
    source, made = memory_source(reading), StoreSettings(size_px=128, most_skipped=0.5)
    prepare(source, tmp_path / "store", made)
    split = Store(tmp_path / "store").split("train")
    stored = [split.encoded(index) for index in range(len(split))]
    assert len(stored) == 3
    items = list(source.splits[0].items(0))
    assert work_on(items, source.upright, settled(made, source), 2) == stored


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE])
def test_image_that_the_disk_does_not_give_is_not_left_out(tmp_path: Path, number: int) -> None:
    def away() -> bytes:
        raise OSError(number, os.strerror(number))

    png = encode(shapes.image(0, 1), "png")
    for _ in range(2):
        with pytest.raises(OSError, match=os.strerror(number)) as error:
            prepare(memory_source({"a": InHand(png), "b": away}), tmp_path / "store", SMALL)
        assert (error.value.errno, error.value.filename) == (number, "b")
    assert not (tmp_path / "store").exists()
    # The same command goes on.
    again = prepare(memory_source({"a": InHand(png), "b": InHand(png)}), tmp_path / "store", SMALL)
    assert (again["splits"]["train"]["images"], again["splits"]["train"]["skipped"]) == (2, [])
