"""Interrupted preparations are resumed without a repeated image, and never mistaken for a store."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet.data import shapes
from alexnet.data.prepare import prepare
from alexnet.data.sources import Item, find
from alexnet.data.store import Store
from alexnet.data.store_folder import StoreFolder
from alexnet.errors import BusyError, DataError
from tests import layouts
from tests.small_stores import SMALL, Stop, class_folder, digest, stop_in, stopping

ROOT = Path(__file__).parents[1]


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
import os, shutil, sys, traceback
from pathlib import Path
import pandas  # pyarrow imports it when it is first used, which would be in each process
from alexnet.config import StoreSettings
from alexnet.data.prepare import prepare
from alexnet.data.sources import find
from alexnet.errors import DataError
from tests.fuzz.operations import kill_before
from tests.small_stores import digest

folder = Path(sys.argv[1])
settings = StoreSettings(size_px=8, shard_images=2)
# It only matters where the machine itself stops, and takes nearly all the time.
os.fsync = lambda descriptor: None


def run(store, source="source", force=False, kill_at=0, torn=False):
    # Prepare in a process of its own, killed before its file operation number `kill_at`. With
    # `torn`, a file that this operation would have begun to write is there in part. Returns the
    # exit code: 0, 2 for a DataError, 9 for a kill.
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    kill_before(kill_at, store.parent, torn)
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
        kill_at, code = 0, 9
        while code != 0:
            kill_at += 1
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


@pytest.mark.slow
def test_preparation_killed_at_any_file_operation_needs_no_repair(tmp_path: Path) -> None:
    """The same command then gives the same store, with no file too many in it or beside it.

    With --force the old store can be used until the new one takes its place, and after a kill
    between the two renames the next command brings it back.
    """
    class_folder(tmp_path / "source", each=4)
    class_folder(tmp_path / "other", each=3)
    completed = subprocess.run(
        [sys.executable, "-c", KILL_POINTS, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        # One thread, since a process with several cannot be forked safely.
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "ALEXNET_NATIVE": "0"},
    )
    assert completed.returncode == 0, completed.stderr
    assert int(completed.stdout) > 400


def test_preparation_with_other_settings_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        prepare(stopping(shapes.source(80, 10), 61), tmp_path / "store", SMALL, workers=2)
    with pytest.raises(DataError, match=r"it was begun with other settings \(--quality 95\)"):
        prepare(shapes.source(80, 10), tmp_path / "store", replace(SMALL, quality=50))


def test_preparation_of_a_changed_folder_is_refused(tmp_path: Path) -> None:
    """One image more would move others from the training to the validation split."""
    pictures, store = class_folder(tmp_path / "pictures", each=10), tmp_path / "store"
    prepare(find(str(pictures)), tmp_path / "undisturbed", replace(SMALL, shard_images=2))
    stop_in(store, find(str(pictures)))
    first = pictures / "class0" / "0.png"
    shutil.copy(first, pictures / "class0" / "new.png")
    with pytest.raises(DataError, match=r"'train' of the source had 18 images and has 19 now"):
        prepare(find(str(pictures)), store, replace(SMALL, shard_images=2))
    (pictures / "class0" / "new.png").unlink()
    first.rename(pictures / "class0" / "zero.png")
    with pytest.raises(
        DataError, match=r"names or labels .* have changed, .*; restore .* or remove"
    ):
        prepare(find(str(pictures)), store, replace(SMALL, shard_images=2))
    (pictures / "class0" / "zero.png").rename(first)
    prepare(find(str(pictures)), store, replace(SMALL, shard_images=2))
    assert digest(store) == digest(tmp_path / "undisturbed")


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


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"short")])
def test_unfinished_store_without_a_file_that_it_had_is_refused(
    damage: Callable[[Path], object], tmp_path: Path
) -> None:
    made, store = replace(SMALL, shard_images=2), tmp_path / "store"
    stop_in(store, shapes.source(40, 10))
    damage(store.with_name("store.partial") / "store" / "train" / "data-00000.arrow")
    with pytest.raises(DataError, match=r"train/data-00000\.arrow is missing or damaged; remove"):
        prepare(shapes.source(40, 10), store, made)


def test_unfinished_store_that_is_opened_says_how_it_is_finished(tmp_path: Path) -> None:
    stop_in(tmp_path / "store", shapes.source(40, 10))
    with pytest.raises(DataError, match=r"store is not finished; repeat the .*/store\.partial$"):
        Store(tmp_path / "store")


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
