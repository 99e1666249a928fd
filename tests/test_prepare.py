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
import threading
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
from alexnet.data.arrow import (
    ArrowFile,
    Index,
    build_index,
    parse_names,
    write_arrow_file,
)
from alexnet.data.image import centre_square, decode, decoding_bytes, encode
from alexnet.data.loader import batches
from alexnet.data.prepare import prepare
from alexnet.data.sources import InHand, Item, Source, SourceSplit, find
from alexnet.data.sources.folders import class_folders
from alexnet.data.sources.parquet import parquet_files
from alexnet.data.sources.source import Options
from alexnet.data.storage import LocalStorage
from alexnet.data.store import Store
from alexnet.data.store_folder import StoreFolder
from alexnet.errors import BusyError, DataError
from tests import layouts

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


KILL_POINTS = """
import hashlib, os, shutil, sys, traceback
from pathlib import Path
import pandas  # pyarrow imports it when it is first used, which would be in each process
from alexnet.config import StoreSettings
from alexnet.data.prepare import prepare
from alexnet.data.sources import find
from alexnet.errors import DataError

FILES = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"}
folder, every = Path(sys.argv[1]), int(sys.argv[2])
settings = StoreSettings(size_px=8, shard_images=2)
# It only matters where the machine itself stops, and takes nearly all the time.
os.fsync = lambda descriptor: None


def digest(path):
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in path.rglob("*")
        if file.is_file()
    }


def run(store, source="source", force=False, kill_at=0, torn=False):
    # Prepare in a process of its own, killed before its file operation number `kill_at`. With
    # `torn`, a file that this operation would have begun to write is there in part. Returns the
    # exit code: 0, 2 for a DataError, 9 for a kill.
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    operations = 0

    def hook(event, arguments):
        nonlocal operations
        # Paths are relative where a folder is removed. Others are of the modules of Python.
        path = str(arguments[0]) if event in FILES else "/"
        if path.startswith("/") and not path.startswith(str(store.parent)):
            return
        operations += 1
        if operations != kill_at:
            return
        if torn and event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            os.write(os.open(path, os.O_WRONLY | os.O_CREAT), b"{torn")
        os._exit(9)

    sys.addaudithook(hook)
    try:
        prepare(find(str(folder / source)), store, settings, workers=1, force=force)
    except DataError:
        os._exit(2)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


assert run(folder / "old" / "store", "other") == run(folder / "new" / "store") == 0
old, new = digest(folder / "old" / "store"), digest(folder / "new" / "store")
assert old != new
points = 0
for force in (False, True):
    for torn in (False, True):
        kill_at = code = 0
        while code != 0 or kill_at == 0:
            kill_at += every if kill_at else 1
            if force:
                shutil.copytree(folder / "old", folder / "trial")
            else:
                (folder / "trial").mkdir()
            store = folder / "trial" / "store"
            code = run(store, force=force, kill_at=kill_at, torn=torn)
            about = (force, torn, kill_at, code)
            assert code in (0, 9), about
            points += 1
            if force:
                assert run(store) == 2, about
                assert digest(store) in (old, new), about
            if force or not store.exists():
                assert run(store, force=force) == 0, about
            else:
                assert run(store) == 2, about
            assert os.listdir(store.parent) == ["store"], (about, os.listdir(store.parent))
            assert digest(store) == new, about
            shutil.rmtree(store.parent)
print(points)
"""


@pytest.mark.parametrize(
    ("every", "least"),
    [pytest.param(every, least, marks=pytest.mark.slow) for every, least in ((29, 12), (1, 400))],
)
def test_preparation_killed_at_any_file_operation_needs_no_repair(
    every: int, least: int, tmp_path: Path
) -> None:
    """The same command then gives the same store, with no file too many in it or beside it.

    With --force the old store can be used until the new one takes its place, and after a kill
    between the two renames the next command brings it back.
    """
    class_folder(tmp_path / "source", each=4)
    class_folder(tmp_path / "other", each=3)
    completed = subprocess.run(
        [sys.executable, "-c", KILL_POINTS, str(tmp_path), str(every)],
        capture_output=True,
        text=True,
        check=False,
        # One thread, since a process with several cannot be forked safely.
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "ALEXNET_NATIVE": "0"},
    )
    assert completed.returncode == 0, completed.stderr
    assert int(completed.stdout) > least


def without_index(store: Path, copy: Path) -> Path:
    """A copy of a store as version 0.1 wrote it."""
    shutil.copytree(store, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    for name, split in manifest["splits"].items():
        (copy / name / split.pop("index")["file"]).unlink()
    del manifest["sha256"]
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
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
    with pytest.raises(DataError, match=r"it was begun with other settings \(--quality 95\)"):
        prepare(shapes.source(80, 10), tmp_path / "store", replace(SMALL, quality=50))


def stop_in(folder: Path, source: Source) -> None:
    """Begin a preparation of a source, and stop it after the first files of the store."""
    with pytest.raises(Stop):
        prepare(stopping(source, 13), folder, replace(SMALL, shard_images=2), workers=1)


def test_preparation_of_a_changed_folder_is_refused(tmp_path: Path) -> None:
    """One image more would move others from the training to the validation split."""
    pictures, store = class_folder(tmp_path / "pictures", each=10), tmp_path / "store"
    stop_in(store, find(str(pictures)))
    first = pictures / "class0" / "0.png"
    shutil.copy(first, pictures / "class0" / "new.png")
    with pytest.raises(DataError, match=r"'train' of the source had 18 images and has 19 now"):
        prepare(find(str(pictures)), store, replace(SMALL, shard_images=2))
    (pictures / "class0" / "new.png").unlink()
    first.rename(pictures / "class0" / "zero.png")
    with pytest.raises(DataError, match=r"names or labels .* have changed; restore .* or remove"):
        prepare(find(str(pictures)), store, replace(SMALL, shard_images=2))
    (pictures / "class0" / "zero.png").rename(first)
    prepare(find(str(pictures)), store, replace(SMALL, shard_images=2))
    assert os.listdir(tmp_path / "store") != []


def test_preparation_of_a_replaced_archive_is_refused(tmp_path: Path) -> None:
    tars = tmp_path / "tars"
    for label, wnid in enumerate(layouts.WNIDS[:2]):
        files = {f"{wnid}_{n}.JPEG": layouts.image(label, n) for n in range(9)}
        layouts.tar(tars / f"{wnid}.tar", files)
    stop_in(tmp_path / "store", find(str(tars)))
    files[f"{wnid}_9.JPEG"] = layouts.image(1, 9)
    layouts.tar(tars / f"{wnid}.tar", files)
    with pytest.raises(DataError, match="the archives of the source have changed"):
        prepare(find(str(tars)), tmp_path / "store", replace(SMALL, shard_images=2))


def test_preparation_with_other_splits_is_not_resumed(tmp_path: Path) -> None:
    source = shapes.source(40, 10)
    stop_in(tmp_path / "store", source)
    with pytest.raises(DataError, match="begun with the splits train, val"):
        prepare(
            replace(source, splits=source.splits[:1]),
            tmp_path / "store",
            replace(SMALL, shard_images=2),
        )


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"3",
        b"[]",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"content": ' * 50_000,
        b'{"sha256": "", "content": {"state": 3}}',
        b'{"sha256": "", "content": {"state": 1' + b"0" * 400 + b"}}",
        b'{"state": 2, "settings": {}, "source": "s", "classes": []}',
    ],
    ids=lambda damaged: repr(damaged[:20]),
)
def test_damaged_state_is_refused(damaged: bytes, tmp_path: Path) -> None:
    stop_in(tmp_path / "store", shapes.source(40, 10))
    state = tmp_path / "store.partial" / "state.json"
    state.write_bytes(damaged)
    with pytest.raises(
        DataError, match=r"state\.json is damaged or was written by another version"
    ):
        prepare(shapes.source(40, 10), tmp_path / "store", replace(SMALL, shard_images=2))


def test_state_with_a_changed_value_or_without_its_sums_is_refused(tmp_path: Path) -> None:
    made, store = replace(SMALL, shard_images=2), tmp_path / "store"
    stop_in(store, shapes.source(40, 10))
    state = store.with_name("store.partial") / "state.json"
    before = state.read_bytes()
    state.write_bytes(before.replace(b'"consumed": ', b'"consumed": 1'))
    assert state.read_bytes() != before
    with pytest.raises(DataError, match=r"state\.json is damaged"):
        prepare(shapes.source(40, 10), store, made)
    state.write_bytes(before)
    (sums,) = state.parent.glob("sums-*.npz")
    sums.write_bytes(sums.read_bytes()[:-9])
    with pytest.raises(DataError, match=r"sums-\d+\.npz is missing or damaged; remove"):
        prepare(shapes.source(40, 10), store, made)


def test_a_folder_that_is_not_an_unfinished_store_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "store.partial").mkdir()
    (tmp_path / "store.partial" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match=r"store\.partial is not an unfinished store; move it away"):
        prepare(shapes.source(20, 10), tmp_path / "store", SMALL)
    assert (tmp_path / "store.partial" / "letter.txt").exists()


def test_second_preparation_of_a_store_is_refused_at_once(tmp_path: Path) -> None:
    source = shapes.source(20, 10)

    def items(start: int) -> Iterator[Item]:
        message = rf"store is already being prepared by process {os.getpid()} on .*; wait for it"
        with pytest.raises(BusyError, match=message):
            prepare(source, tmp_path / "store", SMALL)
        # The command line does not even read the source.
        with pytest.raises(BusyError, match=message):
            StoreFolder(tmp_path / "store").check_early(force=True)
        return source.splits[0].items(start)

    busy = replace(source, splits=(replace(source.splits[0], items=items), source.splits[1]))
    prepare(busy, tmp_path / "store", SMALL)
    assert os.listdir(tmp_path) == ["store"]


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
        "memory": MemoryError(),
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
    assert skipped["memory"] == "there is not enough memory for it"


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
        results = processing.process_in_order(items(), False, SMALL, pool, 8, memory)
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
    split = SourceSplit("train", 1, lambda start: iter([Item("a", 0, InHand(data))][start:]))
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
    with pytest.raises(ValueError, match="store format 99, and this program reads formats 1 and 2"):
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
    assert [len(n) for n in names] == [16, 4]
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
        match=r"1 of 101 images of 'train' cannot be read, .*broken\.jpg \(not an image",
    ):
        prepare(source, tmp_path / "strict", replace(SMALL, most_skipped=0.005))
    assert not (tmp_path / "strict").exists()
    # The limit does not affect what is written, so the preparation resumes with another limit.
    again = prepare(source, tmp_path / "strict", SMALL)
    assert again["splits"] == manifest["splits"]


def test_file_of_more_bytes_than_arrow_can_number_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.data.arrow.MAX_BYTES", 5000)
    with pytest.raises(ValueError, match="put fewer into a file with --shard-images"):
        prepare(shapes.source(20, 10), tmp_path / "store", SMALL)
    with pytest.raises(ValueError, match="--workers is -1; it must be at least 0"):
        prepare(shapes.source(20, 10), tmp_path / "other", SMALL, workers=-1)
    assert not (tmp_path / "other.partial").exists()


def test_split_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    split = SourceSplit("train", 1, lambda start: iter([Item("a", 0, InHand(b"x"))][start:]))
    with pytest.raises(ValueError, match="no readable image"):
        prepare(
            Source("test", ("a", "b"), (split,)),
            tmp_path / "store",
            replace(SMALL, most_skipped=1.0),
        )


def test_full_disk_is_noticed_before_the_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("usage", (), {"free": 1000, "total": 2000})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match="--ignore-disk"):
        prepare(shapes.source(20, 10), tmp_path / "store", SMALL)
    assert not list(tmp_path.iterdir())
    prepare(shapes.source(20, 10), tmp_path / "store", SMALL, ignore_disk=True)
    assert Store(tmp_path / "store").split("train").labels.size == 20


def test_interrupted_preparation_needs_room_for_the_rest_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shapes.source(80, 10)
    with pytest.raises(Stop):
        prepare(stopping(source, 61), tmp_path / "store", SMALL, workers=2)
    # Of 90 images 24 are written, and the store may need 346 bytes for each.
    usage = type("usage", (), {"free": 70 * 346, "total": 10**6})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DataError, match="make room"):
        prepare(source, tmp_path / "other", SMALL)
    prepare(source, tmp_path / "store", SMALL)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size_px": 2}, "--size-px is 2"),
        ({"size_px": 16_385}, "--size-px is 16385; give from 8 to 16,384 pixels per side"),
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


@pytest.mark.slow
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
    assert manifest["format"] == 2
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
    while not (tmp_path / "store").exists():
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / "store")], stderr=subprocess.DEVNULL
        )
        try:
            # Longer each time, so that it ends on a machine of any speed.
            process.wait(timeout=1.5 * 1.04**kills)
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


@pytest.mark.parametrize("compiled", [True, False])
def test_sums_of_products_are_exact_beyond_two_to_the_53(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr("alexnet.native.kernels", lambda: None)
    sums = pixel_sums.Sums.zero(8)
    sums.products[:] = 2**53
    image = np.zeros((8, 8, 3), np.uint8)
    image[0, 0] = 1
    sums.add([image])
    assert sums.products.tolist() == [[2**53 + 1] * 3] * 3
