"""A store that changes while a run trains on it, or between two parts of a run."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from alexnet import checkpoint, figures
from alexnet.checkpoint import read_config
from alexnet.config import StepSchedule, StoreSettings
from alexnet.data import shapes, verification
from alexnet.data.manifest import sealed
from alexnet.data.prepare import prepare
from alexnet.data.storage import LocalStorage, StoreLost
from alexnet.errors import DataError, RunError
from alexnet.evaluation import own_test
from alexnet.files import file_sha256
from alexnet.train.start import fit, resume
from tests.conftest import tiny
from tests.runs import after_step


def test_shard_cut_or_overwritten_while_training_ends_with_its_name_after_saving(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("alexnet.data.verification.verify_in_background", lambda *arguments: None)
    for name, content in (("cut", b""), ("overwritten", b"\xff" * 10**6)):
        copy, run = tmp_path / f"store-{name}", tmp_path / f"run-{name}"
        shutil.copytree(store, copy)

        def change(copy: Path = copy, content: bytes = content) -> None:
            for shard in (copy / "train").glob("*.arrow"):
                shard.write_bytes(content[: shard.stat().st_size])

        with monkeypatch.context() as patch:
            after_step(patch, 1, change)
            with pytest.raises((StoreLost, DataError), match=r"train/data-0000\d\.arrow"):
                fit(tiny(copy, workers=0), run)
        assert checkpoint.read(run).about["position"]["step"] == 1


def test_shard_with_another_checksum_ends_the_training(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    shard = copy / "train" / "data-00001.arrow"
    data = bytearray(shard.read_bytes())
    data[-9] ^= 1  # in the labels, which training takes from the index
    shard.write_bytes(data)
    with pytest.raises(DataError, match=r"data-00001\.arrow is missing or damaged"):
        fit(tiny(copy, schedule=StepSchedule(50)), tmp_path / "run")
    # On a busy machine the thread that compares the files may end before the run begins.
    if (tmp_path / "run").exists():
        assert read_config(tmp_path / "run").data == str(copy)


def test_store_that_was_replaced_is_not_called_damaged(store: Path, tmp_path: Path) -> None:
    """Its checksums are not those of the files that now have the names."""
    shutil.copytree(store, tmp_path / "store")
    files = {f"train/{path.name}": "0" * 64 for path in (store / "train").glob("*.arrow")}
    for replaced in (True, False):
        storage = LocalStorage(tmp_path / "store")
        before = storage.read_file("manifest.json")
        if replaced:
            (tmp_path / "store").rename(tmp_path / "old")
            shutil.copytree(store, tmp_path / "store")
        threads = set(threading.enumerate())
        storage.expect_repeated_reads(files, {}, "store")
        for thread in set(threading.enumerate()) - threads:
            thread.join()
        if replaced:
            assert storage.read_ranges([("manifest.json", 0, len(before))]) == [before]
        else:
            with pytest.raises(DataError, match=r"\.arrow is missing or damaged"):
                storage.read_ranges([("manifest.json", 0, 1)])


def test_intact_files_of_a_large_store_are_remembered_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(verification, "REMEMBERED_BYTES", 1)
    shard, found = tmp_path / "a", list[Path]()
    shard.write_bytes(b"content")
    right = {shard: file_sha256(shard)}
    verification._verify(right, "store", found.append)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verification, "file_sha256", lambda path: 1 / 0)
        verification._verify(right, "store", found.append)  # not read again
    assert found == []
    shard.write_bytes(b"c0ntent")
    verification._verify(right, "store", found.append)
    assert found == [shard]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread has no priority")
def test_files_are_verified_by_a_thread_of_low_priority(tmp_path: Path) -> None:
    own, found = os.getpriority(os.PRIO_PROCESS, 0), list[int]()
    (tmp_path / "a").write_bytes(b"damaged")
    threads = set(threading.enumerate())
    verification.verify_in_background(
        {tmp_path / "a": "0" * 64},
        "store",
        lambda _: found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())),
    )
    for thread in set(threading.enumerate()) - threads:
        thread.join()
    assert found == [min(19, own + verification.NICER)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == own


def test_changed_store_is_refused_on_resume(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "store")
    fit(tiny(tmp_path / "store", schedule=StepSchedule(1)), tmp_path / "run")
    manifest = tmp_path / "store" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(ValueError, match="is not the store this run began with"):
        resume(tmp_path / "run")


@pytest.mark.parametrize("verb", [own_test, figures.answers, figures.neighbours])
def test_run_whose_store_was_prepared_anew_is_refused(
    verb: Callable[[Path], object], store: Path, tmp_path: Path
) -> None:
    shutil.copytree(store, tmp_path / "store")
    fit(tiny(tmp_path / "store", schedule=StepSchedule(1)), tmp_path / "run")
    shutil.rmtree(tmp_path / "store")
    prepare(shapes.source(20, 10), tmp_path / "store", StoreSettings(size_px=32))
    with pytest.raises(RunError, match=r"needs images of 40 pixels, and .*store has 32; prepare"):
        verb(tmp_path / "run")
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["classes"].reverse()
    shutil.rmtree(tmp_path / "store")
    shutil.copytree(store, tmp_path / "store")
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(sealed(manifest)))
    with pytest.raises(RunError, match="the run was trained on other classes than"):
        verb(tmp_path / "run")
