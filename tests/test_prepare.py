"""A store has equal bytes however it is made, is never half-finished, and names what it skipped."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet.config import StoreSettings
from alexnet.data import pixel_sums, processing, shapes
from alexnet.data import prepare as preparation
from alexnet.data.arrow import (
    ArrowFile,
    Index,
    build_index,
    parse_names,
    write_arrow_file,
)
from alexnet.data.image import centre_square, decode, encode
from alexnet.data.loader import batches
from alexnet.data.prepare import prepare
from alexnet.data.sources import Item, Source, SourceSplit, find, in_hand
from alexnet.data.sources.folders import class_folders
from alexnet.data.sources.parquet import parquet_files
from alexnet.data.sources.source import Options
from alexnet.data.storage import LocalStorage
from alexnet.data.store import Store
from alexnet.errors import DataError

SMALL = StoreSettings(size_px=24, encoding="jpeg", shard_images=8)


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def test_the_store_is_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    made = []
    for workers in (1, 2, 5):
        prepare(shapes.source(40, 10), tmp_path / str(workers), SMALL, workers)
        made.append(digest(tmp_path / str(workers)))
    assert made[0] == made[1] == made[2]


class Stop(Exception):
    pass


def stopping(source: Source, after: int) -> Source:
    """The source, cut off by an error at item `after` of the training split."""

    def items(start: int) -> Iterator[Item]:
        for number, item in enumerate(source.splits[0].items(start), start):
            if number == after:
                raise Stop
            yield item

    first = replace(source.splits[0], items=items)
    return replace(source, splits=(first, *source.splits[1:]))


def test_interrupted_preparation_resumes_without_repeating(tmp_path: Path) -> None:
    source = shapes.source(80, 10)
    prepare(source, tmp_path / "undisturbed", SMALL)
    with pytest.raises(Stop):
        prepare(stopping(source, 61), tmp_path / "store", SMALL, workers=2)
    assert not (tmp_path / "store").exists()
    starts = []

    def watched(start: int) -> Iterator[Item]:
        starts.append(start)
        return source.splits[0].items(start)

    prepare(
        replace(source, splits=(replace(source.splits[0], items=watched), source.splits[1])),
        tmp_path / "store",
        SMALL,
    )
    # Three files of eight images were finished; the tasks in flight are repeated.
    assert starts == [24]
    assert digest(tmp_path / "store") == digest(tmp_path / "undisturbed")


class Killed(BaseException):
    """Stands for a kill: nothing in the program catches it."""


def test_preparation_stopped_at_any_file_operation_leaves_the_same_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before and after each rename and removal, then run again: no file too many."""
    png = encode(np.full((8, 8, 3), 7, np.uint8), "png")
    items = [Item(f"{number}.png", number % 2, in_hand(png)) for number in range(5)]
    few = StoreSettings(size_px=8, shard_images=3)
    splits = [SourceSplit(name, 5, lambda start: iter(items[start:])) for name in ("train", "val")]
    source = Source("memory", ("a", "b"), tuple(splits))
    prepare(source, tmp_path / "undisturbed", few, workers=1)
    operations = [(os, "replace"), (Path, "unlink"), (Path, "rename")]
    calls, stop_at, stop_after = 0, 0, False

    def stopping_at(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            nonlocal calls
            calls += 1
            if calls == stop_at and not stop_after:
                raise Killed
            result = real(*arguments, **named)
            if calls == stop_at:
                raise Killed
            return result

        return call

    for owner, name in operations:
        monkeypatch.setattr(owner, name, stopping_at(getattr(owner, name)))
    for stop_after in (False, True):
        stop_at, killed = 0, True
        while killed:
            calls, stop_at, killed = 0, stop_at + 1, False
            folder = tmp_path / f"store-{stop_at}-{stop_after}"
            try:
                prepare(source, folder, few, workers=1)
            except Killed:
                killed = True
            if not folder.exists():
                calls = 1000
                prepare(source, folder, few, workers=1)
            assert digest(folder) == digest(tmp_path / "undisturbed")
            assert not folder.with_name(folder.name + ".partial").exists()
        assert stop_at > 20


def without_index(store: Path, copy: Path) -> Path:
    """A copy of a store as version 0.1 wrote it."""
    shutil.copytree(store, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    for name, split in manifest["splits"].items():
        (copy / name / split.pop("index")["file"]).unlink()
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def test_store_of_version_0_1_without_an_index_opens(store: Path, tmp_path: Path) -> None:
    old = Store(without_index(store, tmp_path / "old"))
    old.verify()
    for name in ("train", "val"):
        ours, theirs = Store(store).split(name), old.split(name)
        images = range(len(ours))
        assert np.array_equal(ours.labels, theirs.labels)
        assert ours.read(images) == theirs.read(images)
        assert [ours.name(i) for i in images] == [theirs.name(i) for i in images]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=20), st.text(max_size=5)), min_size=1, max_size=9))
def test_index_has_the_positions_that_arrow_reads(rows: list[tuple[bytes, str]]) -> None:
    """For images and names of any length: the columns of a file are padded."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.arrow"
        given = [(data, name, label) for label, (data, name) in enumerate(rows)]
        about = write_arrow_file(path, given, ("one", "two"))
        file = ArrowFile("a.arrow", about["bytes"], about["images"])
        index, content = build_index(LocalStorage(Path(folder)), [file]), path.read_bytes()
        again = Index.from_bytes(index.to_bytes())
    batch = pa.ipc.open_stream(content).read_next_batch()
    assert [content[a:b] for a, b in pairwise(again.begins.tolist())] == [
        image["bytes"] for image in batch.column("image").to_pylist()
    ]
    assert again.labels.tolist() == batch.column("label").to_pylist()
    names = slice(*again.names[0].tolist())
    assert parse_names(content[names], len(rows)) == [name for _, name in rows]


def test_missing_or_damaged_index_is_refused(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    index = copy / "train" / "index.npz"
    data = bytearray(index.read_bytes())
    data[len(data) // 2] ^= 1
    index.write_bytes(data)
    for _ in range(2):
        with pytest.raises(DataError, match=r"train/index\.npz is missing or damaged; prepare"):
            Store(copy).split("train")
        with pytest.raises(DataError, match=r"train/index\.npz is missing or damaged; prepare"):
            Store(copy).verify()
        index.unlink(missing_ok=True)
    assert len(Store(copy).split("val")) == 30


def test_damaged_file_of_a_store_without_index_is_refused(store: Path, tmp_path: Path) -> None:
    copy = without_index(store, tmp_path / "copy")
    shard = copy / "train" / "data-00001.arrow"
    data = shard.read_bytes()
    schema = int.from_bytes(data[4:8], "little")
    batch = 8 + schema
    body = batch + 8 + int.from_bytes(data[batch + 4 : batch + 8], "little")
    # A marker, a length beyond the file, and offsets that decrease.
    for position, value in ((0, 0), (7, 0x7F), (batch, 0), (batch + 7, 0x7F), (body + 6, 0x7F)):
        damaged = bytearray(data)
        damaged[position] = value
        shard.write_bytes(damaged)
        with pytest.raises(DataError, match=r"data-00001\.arrow is missing or damaged"):
            Store(copy).split("train")


def test_preparation_with_other_settings_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        prepare(stopping(shapes.source(80, 10), 61), tmp_path / "store", SMALL, workers=2)
    with pytest.raises(ValueError, match="begun from another source or with other settings"):
        prepare(shapes.source(80, 10), tmp_path / "store", replace(SMALL, quality=50))


def small_jpeg(size: tuple[int, int] = (48, 48), **options: object) -> bytes:
    """A JPEG of a shape, as Pillow writes it with these options; `mode` is Pillow's color mode."""
    mode = str(options.pop("mode", "RGB"))
    buffer = io.BytesIO()
    made = Image.fromarray(shapes.image(3, 1)).resize(size).convert(mode)
    made.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def orientation_tag(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def one_image(folder: Path, data: bytes, settings: StoreSettings) -> tuple[dict[str, int], bytes]:
    """Prepare a store of one image; return its split in the manifest, and the stored bytes."""
    split = SourceSplit("train", 1, lambda start: iter([Item("a", 0, in_hand(data))][start:]))
    manifest = prepare(Source("one", ("a", "b"), (split,)), folder, settings)
    return manifest["splits"]["train"], Store(folder).split("train").encoded(0)


KEPT = {
    "grey": small_jpeg(mode="L"),
    "progressive": small_jpeg(progressive=True, quality=60),
    "4:2:0": small_jpeg(subsampling="4:2:0"),
    "4:4:4": small_jpeg(subsampling="4:4:4"),
    "RGB": small_jpeg(keep_rgb=True),
    "restarts": small_jpeg(restart_marker_blocks=1),
    "upright": small_jpeg(exif=orientation_tag(1)),
}
ENCODED = {
    "another size": small_jpeg((48, 50)),
    "CMYK": small_jpeg(mode="CMYK"),
    "rotated": small_jpeg(exif=orientation_tag(6)),
    "PNG": encode(shapes.image(3, 1)[:48, :48], "png"),
}


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("encoding", ["auto", "jpeg"])
def test_jpegs_of_the_stored_size_are_kept_and_feed_their_own_pixels(
    encoding: str, kind: str, tmp_path: Path
) -> None:
    """Images of 48 pixels would be stored as PNG if they were encoded anew."""
    made = StoreSettings(size_px=48, encoding=encoding)  # type: ignore[arg-type]
    record, stored = one_image(tmp_path / "store", KEPT[kind], made)
    assert stored == KEPT[kind]
    assert record["kept"] == 1
    store = Store(tmp_path / "store")
    (batch,) = batches(store.split("train"), np.arange(1), 1)
    assert np.array_equal(batch.images[0].numpy(), decode(KEPT[kind]))
    assert np.array_equal(store.statistics.mean, batch.images[0].numpy())


@pytest.mark.parametrize("kind", ENCODED)
def test_other_files_are_not_kept(kind: str, tmp_path: Path) -> None:
    made = StoreSettings(size_px=48, encoding="jpeg")
    record, stored = one_image(tmp_path / "store", ENCODED[kind], made)
    assert record["kept"] == 0
    assert stored != ENCODED[kind]
    assert decode(stored).shape == (48, 48, 3)


@pytest.mark.parametrize("encoding", ["png", "ppm"])
def test_lossless_store_keeps_the_pixels_of_a_jpeg_and_not_the_file(
    encoding: str, tmp_path: Path
) -> None:
    made = StoreSettings(size_px=48, encoding=encoding)  # type: ignore[arg-type]
    record, _ = one_image(tmp_path / "store", KEPT["4:2:0"], made)
    assert record["kept"] == 0
    (batch,) = batches(Store(tmp_path / "store").split("train"), np.arange(1), 1)
    assert np.array_equal(batch.images[0].numpy(), decode(KEPT["4:2:0"]))


def test_file_with_much_data_beside_its_image_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the store could otherwise exceed 2 GiB, which Arrow's offsets do not reach."""
    monkeypatch.setattr(processing, "MAX_BYTES", 8 * (len(KEPT["grey"]) - 1))
    made = StoreSettings(size_px=48, encoding="jpeg", shard_images=8)
    assert one_image(tmp_path / "a", KEPT["grey"], made)[0]["kept"] == 0
    monkeypatch.setattr(processing, "MAX_BYTES", 8 * len(KEPT["grey"]))
    assert one_image(tmp_path / "b", KEPT["grey"], made)[0]["kept"] == 1


@pytest.mark.parametrize("chosen", ["jpeg", "png"])
def test_statistics_are_those_of_the_images_as_stored(chosen: str, tmp_path: Path) -> None:
    """They are computed from what training reads, which lossy compression has changed."""
    encoding: Any = chosen
    rough = StoreSettings(size_px=48, encoding=encoding, quality=10, shard_images=8)
    prepare(shapes.source(20, 10), tmp_path / "store", rough)
    store = Store(tmp_path / "store")
    split = store.split("train")
    (batch,) = batches(split, np.arange(20), 20)
    pixels = batch.images.numpy().astype(np.float64)
    np.testing.assert_allclose(store.statistics.mean, pixels.mean(0), rtol=1e-14)
    covariance = np.cov(pixels.reshape(-1, 3), rowvar=False, bias=True)
    np.testing.assert_allclose(store.statistics.covariance, covariance, rtol=1e-9)
    given = np.stack(
        [centre_square(decode(i.read()), 48) for i in shapes.source(20, 10).splits[0].items(0)]
    )
    assert (np.abs(pixels - given).mean() > 1) == (chosen == "jpeg")


def test_hugging_face_reads_the_store(store: Path) -> None:
    loaded = datasets.load_from_disk(str(store))
    ours = Store(store).split("val")
    assert loaded["train"].num_rows == 60
    assert loaded["val"].features["label"].names == list(shapes.CLASSES)
    assert loaded["val"]["label"] == ours.labels.tolist()
    image = np.asarray(loaded["val"][7]["image"])
    # Pillow and simplejpeg may contain different versions of libjpeg-turbo.
    assert np.abs(image.astype(int) - decode(ours.encoded(7))).max() <= 3


def test_the_manifest_counts_classes_and_holds_checksums(store: Path) -> None:
    manifest = Store(store).manifest
    assert manifest["splits"]["train"]["per_class"] == [6] * 10
    assert [shard["images"] for shard in manifest["splits"]["train"]["shards"]] == [25, 25, 10]
    Store(store).verify()


def test_a_damaged_store_is_refused(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(store, copy)
    shard = copy / "train" / "data-00001.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"data-00001\.arrow is missing or damaged"):
        Store(copy).verify()
    shard.write_bytes(data[:-5])
    with pytest.raises(ValueError, match=r"data-00001\.arrow is missing or damaged"):
        Store(copy).split("train")
    (copy / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        Store(copy)
    (copy / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="store format 99, and this program reads format 1"):
        Store(copy)
    for none in (tmp_path / "none", tmp_path, store / "manifest.json"):
        with pytest.raises(ValueError, match="not a prepared store"):
            Store(none)
    with pytest.raises(ValueError, match="has no split 'test'; it has train, val"):
        Store(store).split("test")


def test_a_finished_store_is_replaced_only_when_forced(tmp_path: Path) -> None:
    prepare(shapes.source(20, 10), tmp_path / "store", SMALL)
    before = digest(tmp_path / "store")
    with pytest.raises(ValueError, match="exists; choose another name, or --force"):
        prepare(shapes.source(20, 10, seed=1), tmp_path / "store", SMALL)
    assert digest(tmp_path / "store") == before
    prepare(shapes.source(20, 10, seed=1), tmp_path / "store", SMALL, force=True)
    assert digest(tmp_path / "store") != before
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="is not a store and is not removed"):
        prepare(shapes.source(20, 10), tmp_path / "letters", SMALL, force=True)
    assert (tmp_path / "letters" / "letter.txt").exists()


def class_folder(folder: Path, classes: int = 2, each: int = 5) -> Path:
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for number in range(each):
            level = np.full((30, 40, 3), 40 * label + number, np.uint8)
            Image.fromarray(level).save(folder / f"class{label}" / f"{number}.png")
    return folder


def test_one_folder_is_split_by_the_fraction(tmp_path: Path) -> None:
    source = class_folders(class_folder(tmp_path / "pictures", each=10), Options(val_fraction=0.25))
    names = [[item.name for item in split.items(0)] for split in source.splits]
    assert [len(n) for n in names] == [15, 5]
    assert not set(names[0]) & set(names[1])
    assert source.classes == ("class0", "class1")


def test_train_and_val_folders(tmp_path: Path) -> None:
    class_folder(tmp_path / "train")
    class_folder(tmp_path / "val", each=2)
    source = class_folders(tmp_path)
    assert [(split.name, split.count) for split in source.splits] == [("train", 10), ("val", 4)]
    shutil.rmtree(tmp_path / "val" / "class1")
    class_folder(tmp_path / "val2")
    (tmp_path / "val2" / "class1").rename(tmp_path / "val" / "classX")
    with pytest.raises(ValueError, match="different classes: class1, classX"):
        class_folders(tmp_path)


def test_empty_class_and_single_class_are_refused(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "pictures")
    (folder / "hollow").mkdir()
    with pytest.raises(ValueError, match="hollow has no images"):
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
        match=r"1 of 101 images of 'train' cannot be read, .*broken\.jpg \(not an image",
    ):
        prepare(source, tmp_path / "strict", replace(SMALL, most_skipped=0.005))
    assert not (tmp_path / "strict").exists()
    # The limit does not affect what is written, so the preparation resumes with another limit.
    again = prepare(source, tmp_path / "strict", SMALL)
    assert again["splits"] == manifest["splits"]


def test_split_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    split = SourceSplit("train", 1, lambda start: iter([Item("a", 0, in_hand(b"x"))][start:]))
    with pytest.raises(ValueError, match="no readable image"):
        prepare(
            Source("test", ("a", "b"), (split,)),
            tmp_path / "store",
            replace(SMALL, most_skipped=1.0),
        )


def test_full_disk_is_noticed_before_the_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(preparation.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match="--ignore-disk"):
        prepare(shapes.source(20, 10), tmp_path / "store", SMALL)
    assert not list(tmp_path.iterdir())
    prepare(shapes.source(20, 10), tmp_path / "store", SMALL, ignore_disk=True)
    assert Store(tmp_path / "store").split("train").labels.size == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size_px": 2}, "--size-px is 2"),
        ({"quality": 0}, "--quality is 0"),
        ({"shard_images": 0}, "--shard-images is 0"),
        ({"encoding": "ppm", "size_px": 600, "shard_images": 2048}, "1924 is the maximum"),
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


def test_cifar_10_is_stored_without_loss(pictures: Path, tmp_path: Path) -> None:
    source = parquet_files(pictures / "cifar10")
    first = next(source.splits[0].items(0))
    few = replace(source, splits=(replace(source.splits[1], name="train", count=10_000),))
    manifest = prepare(few, tmp_path / "store", StoreSettings())
    assert manifest["settings"]["size_px"] == 32
    assert manifest["settings"]["encoding"] == "png"
    assert manifest["splits"]["train"]["per_class"] == [1000] * 10
    assert decode(first.read()).shape == (32, 32, 3)
    stored = Store(tmp_path / "store").split("train")
    for number, item in zip(range(5), source.splits[1].items(0), strict=False):
        assert np.array_equal(decode(stored.encoded(number)), decode(item.read()))


def test_lossless_encodings_feed_the_same_pixels(tmp_path: Path) -> None:
    fed = []
    for encoding in ("png", "ppm"):
        prepare(
            shapes.source(20, 10), tmp_path / encoding, StoreSettings(size_px=24, encoding=encoding)
        )
        split = Store(tmp_path / encoding).split("train")
        (batch,) = batches(split, np.arange(20), 20)
        fed.append(batch.images)
        loaded = datasets.load_from_disk(str(tmp_path / encoding))["train"]
        assert np.array_equal(np.asarray(loaded[3]["image"]), batch.images[3].numpy())
    assert torch.equal(*fed)


def test_the_manifest_is_json_anyone_can_read(store: Path) -> None:
    manifest = json.loads((store / "manifest.json").read_text())
    assert manifest["format"] == 1
    assert manifest["settings"]["size_px"] == 40


KILLED = """
import sys
from alexnet.config import StoreSettings
from alexnet.data import shapes
from alexnet.data.prepare import prepare
settings = StoreSettings(size_px=24, encoding="jpeg", shard_images=20)
prepare(shapes.source(400, 60), sys.argv[1], settings, workers=2)
"""


@pytest.mark.slow
def test_preparation_killed_at_any_moment_resumes(tmp_path: Path) -> None:
    """After SIGKILL at many moments, the store equals an undisturbed one byte for byte."""
    prepare(
        shapes.source(400, 60),
        tmp_path / "undisturbed",
        StoreSettings(size_px=24, encoding="jpeg", shard_images=20),
        workers=2,
    )
    kills = 0
    while not (tmp_path / "store").exists() and kills < 40:
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / "store")], stderr=subprocess.DEVNULL
        )
        try:
            process.wait(timeout=1.5 + 0.07 * kills)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            kills += 1
    assert kills > 0
    assert digest(tmp_path / "store") == digest(tmp_path / "undisturbed")


@pytest.mark.slow
def test_preparing_takes_little_longer_than_its_parts(pictures: Path, tmp_path: Path) -> None:
    """At most 20 % longer than decoding, resizing, encoding and decoding again the same images on
    the same threads, in turns. (The statistics are those of the encoded images.)"""
    source = parquet_files(pictures / "imagenette").splits[1]
    items = list(source.items(0))
    train = SourceSplit("train", len(items), lambda start: iter(items[start:]))
    in_memory = Source("memory", tuple(map(str, range(10))), (train,))

    def one(item: Item) -> None:
        data = encode(centre_square(decode(item.read()), 256), "jpeg")
        decode(data)

    def parts() -> float:
        began_s = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(one, items))
        return time.perf_counter() - began_s

    def store(number: int) -> float:
        began_s = time.perf_counter()
        prepare(in_memory, tmp_path / str(number), StoreSettings(), workers=2)
        return time.perf_counter() - began_s

    pairs = [(parts(), store(number)) for number in range(9)]
    ratio = median([whole_s / parts_s for parts_s, whole_s in pairs])
    print(
        f"prepare / (decode + resize + encode + decode) = {ratio:.3f} over {len(items)} images; "
        f"pairs, s: {pairs}"
    )
    assert ratio <= 1.20


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([0, 255, None]))
def test_compiled_products_equal_the_plain_ones(height: int, width: int, value: int | None) -> None:
    rgb = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    if value is not None:
        rgb[:] = value
    assert np.array_equal(pixel_sums.products(rgb), pixel_sums.plain_products(rgb))
    assert np.array_equal(pixel_sums.products(rgb[:, ::-1]), pixel_sums.plain_products(rgb))
