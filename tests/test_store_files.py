"""The files of a store: index, manifest and checksums, and what damage to them is refused with."""

from __future__ import annotations

import json
import shutil
import tempfile
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet.data import shapes
from alexnet.data.arrow import (
    ArrowFile,
    Index,
    build_index,
    parse_names,
    write_arrow_file,
)
from alexnet.data.image import decode
from alexnet.data.prepare import prepare
from alexnet.data.storage import LocalStorage
from alexnet.data.store import Store
from alexnet.errors import DataError
from tests.small_stores import SMALL, without_index


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
    (copy / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="store format 99, and this program reads formats 1 and 2"):
        Store(copy)
    for none in (tmp_path / "none", tmp_path, store / "manifest.json"):
        with pytest.raises(ValueError, match="not a prepared store"):
            Store(none)
    with pytest.raises(ValueError, match="has no split 'test'; it has train, val"):
        Store(store).split("test")


def test_file_of_more_bytes_than_arrow_can_number_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.data.arrow.MAX_BYTES", 5000)
    with pytest.raises(ValueError, match="put fewer into a file with --shard-images"):
        prepare(shapes.source(20, 10), tmp_path / "store", SMALL)
    with pytest.raises(ValueError, match="--workers is -1; it must be at least 0"):
        prepare(shapes.source(20, 10), tmp_path / "other", SMALL, workers=-1)
    assert not (tmp_path / "other.partial").exists()


def test_the_manifest_is_json_anyone_can_read(store: Path) -> None:
    manifest = json.loads((store / "manifest.json").read_text())
    assert manifest["format"] == 2
    assert manifest["settings"]["size_px"] == 40
