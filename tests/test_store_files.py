"""The files of a store: index, manifest and checksums, and what damage to them is refused with."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.config import StoreSettings
from alexnet.data import arrow, processing, shapes
from alexnet.data import prepare as preparation
from alexnet.data.arrow import (
    ArrowFile,
    Index,
    build_index,
    parse_names,
    write_arrow_file,
)
from alexnet.data.image import decode
from alexnet.data.manifest import sealed
from alexnet.data.prepare import prepare
from alexnet.data.storage import LocalStorage, StoreLost
from alexnet.data.store import Store
from alexnet.errors import DataError
from alexnet.files import file_sha256
from tests.small_stores import SMALL, Stop, digest, stopping, without_index


def test_store_of_version_0_1_without_an_index_opens(store: Path, tmp_path: Path) -> None:
    old = Store(without_index(store, tmp_path / "old"))
    old.verify()
    for name in ("train", "val"):
        ours, theirs = Store(store).split(name), old.split(name)
        images = range(len(ours))
        assert np.array_equal(ours.labels, theirs.labels)
        assert ours.read(images) == theirs.read(images)
        assert [ours.name(i) for i in images] == [theirs.name(i) for i in images]


@settings(max_examples=30)
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
    (copy / "manifest.json").write_text('{"format": 99, "splits": {}}')
    with pytest.raises(ValueError, match="store format 99, and this program reads formats 1 and 2"):
        Store(copy)
    for none in (tmp_path / "none", tmp_path, store / "manifest.json"):
        with pytest.raises(ValueError, match="not a prepared store"):
            Store(none)
    with pytest.raises(ValueError, match="has no split 'test'; it has train, val"):
        Store(store).split("test")


def test_store_and_split_reach_another_process(store: Path) -> None:
    """As PyTorch's `DataLoader` sends a data set to the workers that it does not fork."""
    opened = Store(store)
    split = opened.split("val")
    # What has been read is open.
    images = split.read([0, 3])
    sent, sent_split = pickle.loads(pickle.dumps((opened, split)))
    assert sent_split.read([0, 3]) == sent.split("val").read([0, 3]) == images
    assert sent.checksum == opened.checksum
    assert sent_split.name(3) == split.name(3)


def test_no_file_has_more_bytes_than_arrow_can_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the images take; the store is the same after an interruption."""
    source, made = shapes.source(40, 10), replace(SMALL, encoding="ppm", shard_images=9)
    for module in (arrow, preparation, processing):
        monkeypatch.setattr(module, "MAX_BYTES", 5 * 4 * 24**2)
    train = prepare(source, tmp_path / "store", made)["splits"]["train"]
    # Uncompressed, six fit; a task may have five, and ends with every ninth image.
    assert [shard["images"] for shard in train["shards"]] == [5, 4] * 4 + [4]
    names = [Store(tmp_path / "store").split("train").name(n) for n in range(40)]
    assert names == [item.name for item in source.splits[0].items(0)]
    for after in (6, 13, 26):
        with pytest.raises(Stop):
            prepare(stopping(source, after), tmp_path / "again", made, workers=1)
    prepare(source, tmp_path / "again", made)
    assert digest(tmp_path / "again") == digest(tmp_path / "store")


def test_number_of_workers_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--workers is -1; it must be at least 0"):
        prepare(shapes.source(20, 10), tmp_path / "other", SMALL, workers=-1)
    assert not (tmp_path / "other.partial").exists()


def test_the_manifest_is_json_anyone_can_read(store: Path) -> None:
    manifest = json.loads((store / "manifest.json").read_text())
    assert manifest["format"] == 2
    assert manifest["settings"]["size_px"] == 40


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    """A copy of the store, to be damaged."""
    shutil.copytree(store, tmp_path / "copy")
    return tmp_path / "copy"


def change_manifest(copy: Path, path: str, value: object) -> None:
    """Replace the entry of the manifest at a path such as `splits/train/images`."""
    manifest = json.loads((copy / "manifest.json").read_text())
    *parents, last = path.split("/")
    node = manifest
    for parent in parents:
        node = node[int(parent) if isinstance(node, list) else parent]
    node[int(last) if isinstance(node, list) else last] = value
    (copy / "manifest.json").write_text(json.dumps(sealed(manifest)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("classes", None),
        ("classes", ["a", 3]),
        ("classes", ["\ud800"]),
        ("words", ["one"]),
        ("settings", []),
        ("settings/size_px", 10**400),
        ("settings/size_px", True),
        ("covariance", [[1, 0], [0, 1]]),
        ("covariance/1/2", float("nan")),
        ("mean_sha256", 3),
        ("splits", []),
        ("splits", {}),
        ("splits", {"../train": {"shards": [], "images": 0}}),
        ("splits/train", 3),
        ("splits/train/shards", {}),
        ("splits/train/shards/0/file", "../../secret"),
        ("splits/train/shards/0/file", ".."),
        ("splits/train/shards/0/file", ".hidden"),
        ("splits/train/shards/0/bytes", -1),
        ("splits/train/shards/0/images", -1),
        ("splits/train/shards/0/images", 10**9),
        ("splits/train/shards/0/sha256", "0"),
        ("splits/train/images", 61),
        ("splits/train/index", {"file": "/etc/passwd", "bytes": 1, "sha256": "0" * 64}),
    ],
)
def test_manifest_that_cannot_be_used_is_refused(copy: Path, path: str, value: object) -> None:
    change_manifest(copy, path, value)
    with pytest.raises(
        DataError, match=r"copy/manifest\.json is damaged.*; prepare the store again"
    ):
        Store(copy)


@pytest.mark.parametrize("value", [["ten", *"abcdefghi"], []])
def test_manifest_without_its_checksum_is_refused(copy: Path, value: object) -> None:
    """Other names of classes fit the store as well; only the checksum shows that they are wrong."""
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"classes": value}))
    with pytest.raises(DataError, match=r"copy/manifest\.json is damaged: it does not have the"):
        Store(copy)
    del manifest["sha256"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"copy/manifest\.json is damaged: it does not have the"):
        Store(copy)
    changed_format = manifest | {"format": 1, "sha256": "0" * 64}
    (copy / "manifest.json").write_text(json.dumps(changed_format))
    with pytest.raises(DataError, match=r"copy/manifest\.json is damaged: it does not have the"):
        Store(copy)
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    assert Store(copy).classes == manifest["classes"], "stores of version 0.2 are still read"


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\ud800"])
def test_manifest_that_is_not_json_is_refused(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(DataError, match=r"copy/manifest\.json is damaged; prepare the store again"):
        Store(copy)


@pytest.mark.parametrize("text", ["3", "[]", "{}", '{"name": "my app"}', '{"format": 2}'])
def test_manifest_of_something_else_is_not_called_damaged(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json is not the manifest of a store; give the"):
        Store(copy)


def test_damaged_mean_image_is_refused(copy: Path) -> None:
    """Its checksum protects it, and also what the checksum of a forged manifest confirms."""
    file = copy / "mean.npy"
    data, mean = bytearray(file.read_bytes()), np.load(file)
    data[len(data) // 2] ^= 1
    with pytest.raises(DataError, match=r"copy/mean\.npy is missing or damaged"):
        file.write_bytes(data)
        _ = Store(copy).statistics
    for wrong in (mean[:3], mean.astype(np.int64), mean * np.inf, np.array(["a"]), None):
        if wrong is None:
            file.write_bytes(b"\x93NUMPY")
        else:
            np.save(file, wrong)
        change_manifest(copy, "mean_sha256", file_sha256(file))
        with pytest.raises(DataError, match=r"copy/mean\.npy is missing or damaged"):
            _ = Store(copy).statistics


@pytest.mark.parametrize(
    "change",
    [
        lambda index: replace(index, labels=index.labels + 10),
        lambda index: replace(index, labels=index.labels.astype(np.int32)),
        lambda index: replace(index, labels=index.labels[1:]),
        lambda index: replace(index, begins=index.begins[::-1].copy()),
        lambda index: replace(index, begins=index.begins + 10**9),
        lambda index: replace(index, begins=index.begins - 10**9),
        lambda index: replace(index, names=index.names[:, ::-1].copy()),
        lambda index: replace(index, names=index.names + 10**9),
        lambda index: None,
    ],
)
def test_index_that_leads_out_of_its_files_is_refused(
    copy: Path, change: Callable[[Index], Index | None]
) -> None:
    file = copy / "train" / "index.npz"
    index = change(Index.from_bytes(file.read_bytes()))
    file.write_bytes(b"PK\x03\x04" if index is None else index.to_bytes())
    change_manifest(copy, "splits/train/index/sha256", file_sha256(file))
    with pytest.raises(DataError, match=r"copy/train/index\.npz is missing or damaged"):
        Store(copy).split("train")


def test_missing_permission_is_not_called_damage(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the whole path: a store is opened by names that begin at its folder."""
    for call in ("open", "stat"):
        real = getattr(os, call)

        def refuse(path: Any, *given: Any, real: Any = real, **options: Any) -> Any:
            if options.get("dir_fd") is None:
                return real(path, *given, **options)
            raise PermissionError(errno.EACCES, "Permission denied", path)

        with monkeypatch.context() as patch, pytest.raises(PermissionError) as error:
            patch.setattr(os, call, refuse)
            Store(copy).split("train")
        assert str(copy / ("manifest.json" if call == "open" else "train/data-00000.arrow")) == str(
            error.value.filename
        )


def test_file_of_a_store_that_was_cut_after_opening_is_lost(copy: Path) -> None:
    split = Store(copy).split("train")
    for file in (copy / "train").glob("*.arrow"):
        os.truncate(file, 100)
    for read in (lambda: split.encoded(0), lambda: split.name(0)):
        with pytest.raises(StoreLost, match=r"data-00000\.arrow cannot .* shorter than it was"):
            read()


def test_store_that_is_replaced_while_it_is_read_is_lost(tmp_path: Path) -> None:
    """It must not be read as a mixture: the files that are open, and others of the new store."""
    settings = StoreSettings(size_px=24, encoding="ppm", shard_images=5)
    prepare(shapes.source(10, 10), tmp_path / "store", settings)
    split = Store(tmp_path / "store").split("train")
    before = split.read([0])
    prepare(shapes.source(10, 10, seed=1), tmp_path / "store", settings, force=True)
    assert split.read([0]) == before
    with pytest.raises(StoreLost, match=r"store/train/data-00001\.arrow cannot be read any more"):
        split.read([5])
    assert Store(tmp_path / "store").split("train").read([0]) != before


def test_damaged_names_are_refused_by_the_name_of_their_file(copy: Path) -> None:
    split = Store(copy).split("train")
    file = copy / "train" / "data-00000.arrow"
    data = bytearray(file.read_bytes())
    begin, end = split._index.names[0].tolist()
    for place in (begin, begin + 3, end - 12):
        damaged = data.copy()
        damaged[place] = 0xFF
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"data-00000\.arrow is missing or damaged"):
            Store(copy).split("train").name(0)
