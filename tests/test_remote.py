"""Stores at URLs: equality with a folder, the bounded cache, and stores that fail during a run."""

from __future__ import annotations

import errno
import fcntl
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from alexnet.checkpoint import write_config
from alexnet.data import remote
from alexnet.data.cache import Cache, Stamp, record_check, stamp_of
from alexnet.data.loader import batches, epoch_order
from alexnet.data.remote import RemoteStorage
from alexnet.data.storage import StoreLost
from alexnet.data.store import Split, Store
from alexnet.errors import DataError
from alexnet.files import file_sha256
from alexnet.train.start import fit
from tests import servers
from tests.conftest import tiny
from tests.processes import until
from tests.runs import same_bits
from tests.s3 import BUCKET, Server
from tests.small_stores import without_index

URL = "memory://bucket/shapes"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ALEXNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    return tmp_path / "cache"


@pytest.fixture
def url(store: Path) -> Iterator[str]:
    """The store at a URL that only fsspec reads."""
    memory = fsspec.filesystem("memory")
    memory.put(str(store), "/bucket/shapes", recursive=True)
    yield URL
    memory.rm("/bucket", recursive=True)


def test_cache_that_cannot_be_written_costs_time_alone(
    url: str, store: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.write_bytes(b"a file in the place of the folder")
    assert same(Store(url).split("val", keep=True), Store(store).split("val"))
    warning = f"warning: no more files of {url} are copied to a cache: "
    assert warning in capsys.readouterr().err


def test_end_of_the_copying_is_reported(
    url: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(self: Cache, path: Path, size: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Cache, "new_file", refuse)
    Store(url).split("train", keep=True)
    warning = f"warning: no more files of {url} are copied to a cache: [Errno 13]"
    until(lambda: warning in capsys.readouterr().err, "a warning was printed")


def copies(cache: Path) -> list[Path]:
    return sorted(cache.glob("*/*.arrow"))


def same(one: Split, other: Split) -> bool:
    images = range(len(one))
    return (
        np.array_equal(one.labels, other.labels)
        and one.read(images) == other.read(images)
        and [one.name(i) for i in images] == [other.name(i) for i in images]
    )


def test_store_at_a_url_equals_the_folder(store: Path, url: str) -> None:
    here, there = Store(store), Store(url)
    there.verify()
    assert there.checksum == here.checksum
    assert np.array_equal(there.statistics.mean, here.statistics.mean)
    for name in ("train", "val"):
        assert same(there.split(name), here.split(name))
    order = epoch_order(60, 0, 0)
    for a, b in zip(
        batches(there.split("train"), order, 16),
        batches(here.split("train"), order, 16),
        strict=True,
    ):
        assert a.images.equal(b.images)


def test_schema_of_a_file_may_be_long(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The schema contains the names of all classes, perhaps ten thousand."""
    split = Store(store).split("train")
    monkeypatch.setattr("alexnet.data.arrow.HEAD_BYTES", 100)
    assert same(Store(without_index(store, tmp_path / "old")).split("train"), split)


def test_training_from_a_url_is_training_from_the_folder(
    store: Path, url: str, tmp_path: Path
) -> None:
    for name, data in (("here", str(store)), ("there", url)):
        fit(tiny(store, data=data), tmp_path / name)
    assert same_bits(tmp_path / "here", tmp_path / "there")


def test_files_read_repeatedly_are_copied_and_then_read_locally(
    url: str, store: Path, cache: Path
) -> None:
    split = Store(url).split("train", keep=True)
    until(lambda: len(copies(cache)) == 3, "three files were copied")
    fsspec.filesystem("memory").rm("/bucket/shapes/train", recursive=True)
    until(lambda: all_copied(split), "three copies were compared")
    assert same(split, Store(store).split("train"))
    fsspec.filesystem("memory").put(str(store / "train"), "/bucket/shapes/train", recursive=True)
    again = Store(url).split("train", keep=True)
    assert len(again.storage._local_copies) == 3  # type: ignore[attr-defined]
    assert same(again, split)


def cut_in_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def change_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)


def all_copied(split: Split) -> bool:
    return len(split.storage._local_copies) == 3  # type: ignore[attr-defined]


def test_split_at_a_url_reaches_another_process(store: Path, url: str) -> None:
    split = Store(url).split("val", keep=True)
    sent = pickle.loads(pickle.dumps(split))
    assert sent.read([0, 3]) == Store(store).split("val").read([0, 3])


@pytest.mark.parametrize("damage", [cut_in_half, change_a_byte])
@pytest.mark.parametrize("restarted", [False, True])
def test_damaged_copy_is_fetched_again_and_never_read(
    damage: Callable[[Path], None],
    restarted: bool,
    url: str,
    store: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected, opened = Store(store).split("train"), Store(url)
    split = opened.split("train", keep=True)
    until(lambda: all_copied(split), "all files were copied")
    assert same(split, expected)  # the files are open now
    damage(copies(cache)[1])
    if restarted:
        opened = Store(url)
    else:
        assert same(split, expected)
    split = opened.split("train", keep=True)
    assert same(split, expected)
    until(lambda: all_copied(split), "all files were copied")
    assert same(split, expected)
    assert [file_sha256(path) for path in copies(cache)] == [
        shard["sha256"] for shard in Store(store).manifest["splits"]["train"]["shards"]
    ]
    lines = capsys.readouterr().err.splitlines()
    message = (
        f"alexnet: the copy of {url}/train/data-00001.arrow in the cache is damaged or was "
        "changed; it is not used, and the file is read from the URL"
    )
    assert len(lines) == (1 if restarted else 2)  # of the run, and of the next start
    assert all(line.startswith(message) for line in lines)


def test_whole_copies_are_compared_once(
    url: str, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cache of 150 GB is not read at each start."""
    compared: list[Path] = []
    real = remote.compare_checksum

    def counted(path: Path, size: int, sha256: str) -> Stamp | None:
        compared.append(path)
        return real(path, size, sha256)

    def start() -> None:
        split = Store(url).split("train", keep=True)
        until(lambda: all_copied(split), "all files were copied")

    start()
    # Copies that version 0.2 made have no record, and a backup changes the time of a file.
    for record in list(cache.glob("*/.*.checked"))[:2]:
        record.unlink()
    monkeypatch.setattr(remote, "compare_checksum", counted)
    start()
    assert len(compared) == 2
    os.utime(copies(cache)[0], (1, 1))
    start()
    assert compared[2:] == copies(cache)[:1]
    start()
    assert len(compared) == 3
    assert capsys.readouterr().err == ""


def test_files_read_once_are_not_copied(url: str, cache: Path) -> None:
    Store(url).split("val").read(range(30))
    assert copies(cache) == []


def test_copies_never_exceed_the_bound(
    url: str, store: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    most = max(path.stat().st_size for path in (store / "train").glob("*.arrow"))
    monkeypatch.setenv("ALEXNET_CACHE_GB", str(most / 1e9))
    split = Store(url).split("train", keep=True)
    until(lambda: len(copies(cache)) == 1, "a file was copied")
    # The other files are read from the URL.
    assert same(split, Store(store).split("train"))
    files = [*cache.glob("*/*.arrow"), *cache.glob("*/.*.partial")]
    assert sum(path.stat().st_size for path in files) <= most


def test_cache_of_size_0_copies_nothing(
    url: str, store: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALEXNET_CACHE_GB", "0")
    assert same(Store(url).split("train", keep=True), Store(store).split("train"))
    assert not cache.exists()


def filled(cache: Cache, path: Path, size: int) -> bool:
    with cache.new_file(path, size) as file:
        if file is not None:
            file.write(b"x" * size)
    return path.exists()


def test_only_unused_stores_are_evicted_least_recently_used_first(tmp_path: Path) -> None:
    for number, name in enumerate(("old", "newer")):
        left = Cache(tmp_path, 300)
        folder = left.lock_store(name)
        assert filled(left, folder / "a.arrow", 100)
        record_check(folder / "a.arrow", stamp_of(folder / "a.arrow"), "sha256")
        # Closing the descriptor releases the lock, as the end of the process does.
        os.close(left._used[name])
        os.utime(folder / ".used", (number, number))
    running = Cache(tmp_path, 300)
    assert filled(running, running.lock_store("running") / "a.arrow", 100)
    new = Cache(tmp_path, 300)
    folder = new.lock_store("new")
    assert filled(new, folder / "a.arrow", 100)
    assert [path.parent.name for path in copies(tmp_path)] == ["new", "newer", "running"]
    # "newer" is evicted, and there is still no room, because "running" is in use.
    assert not filled(new, folder / "b.arrow", 150)
    assert [path.parent.name for path in copies(tmp_path)] == ["new", "running"]
    assert not list(tmp_path.glob("*/.*.checked"))
    assert filled(new, folder / "b.arrow", 100)
    assert sorted(path.name for path in folder.iterdir()) == [".used", "a.arrow", "b.arrow"]


def test_file_is_copied_by_one_process_and_again_if_that_was_killed(tmp_path: Path) -> None:
    one, other = Cache(tmp_path, 1000), Cache(tmp_path, 1000)
    path = one.lock_store("store") / "a.arrow"
    other.lock_store("store")
    with one.new_file(path, 600) as file:
        assert file is not None
        with pytest.raises(BlockingIOError), other.new_file(path, 600):
            pass
        # The room of a file counts from the beginning of its copy.
        assert not filled(other, path.with_name("b.arrow"), 600)
    path.unlink()
    # What a killed process leaves: a partial file without a lock.
    (path.parent / ".a.arrow.partial").write_bytes(b"x" * 900)
    assert filled(other, path.with_name("b.arrow"), 600)
    assert not (path.parent / ".a.arrow.partial").exists()
    with pytest.raises(OSError, match="gone"), one.new_file(path, 100):
        raise OSError("gone")
    assert sorted(p.name for p in path.parent.iterdir()) == [".used", "b.arrow"]


def test_finished_copy_leaves_alone_what_another_process_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path, 1000)
    path = cache.lock_store("store") / "a.arrow"
    partial = path.with_name(".a.arrow.partial")
    replace_file = os.replace

    def replaced(source: Path, target: Path) -> None:
        replace_file(source, target)
        partial.write_bytes(b"of another process")

    monkeypatch.setattr(os, "replace", replaced)
    assert filled(cache, path, 100)
    assert partial.read_bytes() == b"of another process"


def test_files_of_any_name_count_and_are_evicted(tmp_path: Path) -> None:
    """The manifest of a store names its files."""
    left = Cache(tmp_path, 300)
    odd = left.lock_store("odd") / "train-data.bin"
    assert filled(left, odd, 200)
    assert not filled(left, odd.with_name("train-more.bin"), 200)
    os.close(left._used["odd"])
    assert filled(Cache(tmp_path, 300), left.lock_store("new") / "a.arrow", 200)
    assert not odd.exists()


def test_two_users_share_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = Cache(tmp_path, 300)
    folder = left.lock_store("theirs")
    assert filled(left, folder / "a.arrow", 100)
    os.close(left._used["theirs"])
    (folder / ".b.arrow.partial").write_bytes(b"x" * 50)
    assert not any(path.stat().st_mode & 0o111 for path in tmp_path.rglob("*") if path.is_file())
    theirs = {*map(str, tmp_path.rglob("*"))}

    def unless_theirs(call: Callable[..., Any], path: Any, *rest: Any, **options: Any) -> Any:
        if str(path) in theirs and not (call is opening and rest[0] == os.O_RDONLY):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return call(path, *rest, **options)

    opening = os.open
    for name in ("open", "utime", "unlink"):
        monkeypatch.setattr(os, name, partial(unless_theirs, getattr(os, name)))
    mine = Cache(tmp_path, 300)
    assert filled(mine, mine.lock_store("mine") / "a.arrow", 100)
    # What cannot be evicted counts.
    assert not filled(mine, mine.lock_store("mine") / "b.arrow", 100)
    assert mine.lock_store("theirs") == folder
    # A file that may not be made is not called a missing one.
    os.remove(folder / ".used")
    with pytest.raises(PermissionError):
        Cache(tmp_path, 300).lock_store("theirs")


def test_store_whose_lock_was_refused_is_locked_at_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    cache = Cache(tmp_path, 300)
    with monkeypatch.context() as full, pytest.raises(OSError, match="No locks"):
        full.setattr(fcntl, "flock", refused)
        cache.lock_store("store")
    used = cache.lock_store("store") / ".used"
    with used.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_damaged_file_ends_the_run(url: str, cache: Path) -> None:
    memory = fsspec.filesystem("memory")
    path = "/bucket/shapes/train/data-00001.arrow"
    data = bytearray(memory.cat_file(path))
    data[-100] ^= 1
    memory.pipe_file(path, bytes(data))
    with pytest.raises(
        StoreLost, match=rf"^{url}/train/data-00001\.arrow is damaged; copy the store there again$"
    ):
        split = Store(url).split("train", keep=True)
        # The copying thread finds the damage, and the next read reports it.
        until(lambda: split.read([0]) == [], "the damage was found")
    assert "data-00001" not in {path.stem for path in copies(cache)}


def test_error_names_a_store_that_vanishes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_CACHE_GB", "0")
    split = Store(url).split("train")
    fsspec.filesystem("memory").rm("/bucket/shapes/train", recursive=True)
    with pytest.raises(StoreLost, match=f"{URL} cannot be read any more"):
        list(batches(split, epoch_order(60, 0, 0), 16))
    # The fixture removes the folder and expects it to exist.
    fsspec.filesystem("memory").mkdir("/bucket/shapes/train")


def test_failure_of_a_single_request_is_not_an_error(
    url: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split, memory = Store(url).split("val"), type(fsspec.filesystem("memory"))
    real, failures = memory.cat_ranges, iter([True])

    def sometimes(*given: object, **named: object) -> object:
        if next(failures, False):
            raise OSError("try again")
        return real(*given, **named)

    # Of the class, because fsspec makes an object for each thread.
    monkeypatch.setattr(memory, "cat_ranges", sometimes)
    assert same(split, Store(store).split("val"))


def test_store_that_hangs_times_out(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split, answer = Store(store).split("val", answer_s=1), threading.Event()
    monkeypatch.setattr(split, "read", lambda numbers: answer.wait() and [])
    with pytest.raises(StoreLost, match="has not delivered an image for 1 s"):
        list(batches(split, np.arange(30), 10))
    answer.set()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("memory://nowhere/none", "is not a prepared store"),
        ("nosuch://bucket/store", "nosuch://bucket/store cannot be read (Protocol not known"),
        ("abfs://bucket/store", "abfs://bucket/store cannot be read (Install adlfs"),
        ("http://127.0.0.1:9/store", "http://127.0.0.1:9/store cannot be read (Cannot connect"),
    ],
)
def test_urls_that_cannot_be_read_are_refused(name: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        Store(name)
    assert message in str(caught.value)


ANSWER_S = 0.4
PATIENT_S = 20
"""For servers that do answer, wrongly, on a machine that has other work too."""
HANGING = servers.hangs, servers.hangs_in_the_body, servers.trickles
"""They would answer after a minute, or never."""
OPENING = [
    (servers.hangs, "it does not answer within 0.4 s"),
    (servers.hangs_in_the_body, "it does not answer within 0.4 s"),
    (servers.trickles, "it does not answer within 0.4 s"),
    (servers.endless, "it sends more than the 1000001 bytes it was asked for"),
    (servers.fails, "it answers 500 Internal Server Error"),
    (servers.redirects_in_a_circle, "it redirects in a circle"),
    (servers.redirects_to_the_files_of_this_machine, "it redirects to file:///"),
    (servers.promises_more, "it stops before the end of its answer"),
    (servers.no_http, "its answer is not HTTP"),
]


@pytest.mark.parametrize(
    ("way", "message"), OPENING, ids=lambda item: getattr(item, "__name__", "")
)
def test_broken_server_ends_the_opening_of_a_store(
    way: servers.Way, message: str, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MOST_BYTES", 10**6)
    answer_s = ANSWER_S if way in HANGING else PATIENT_S
    began_s = time.monotonic()
    with servers.served(store, way) as server, pytest.raises(DataError) as caught:
        Store(server.url, answer_s=answer_s)
    assert time.monotonic() - began_s < PATIENT_S
    assert str(caught.value).startswith(f"{server.url} cannot be read ({message}")


@pytest.mark.parametrize("way", [servers.hangs, servers.fails, servers.redirects_in_a_circle])
def test_broken_server_ends_the_opening_of_a_split(way: servers.Way, store: Path) -> None:
    """fsspec calls each of these a missing file, which would be misleading."""
    with servers.served(store, servers.honest) as server:
        opened = Store(server.url, answer_s=PATIENT_S)
        server.way = way
        if way in HANGING:
            opened.storage._answer_s = ANSWER_S  # type: ignore[attr-defined]
        began_s = time.monotonic()
        with pytest.raises(DataError, match=r"cannot be read \(it "):
            opened.split("val")
        assert time.monotonic() - began_s < PATIENT_S


def test_server_that_lies_about_sizes_is_refused(store: Path) -> None:
    with (
        servers.served(store, servers.lies_about_sizes) as server,
        pytest.raises(DataError, match="is missing or damaged"),
    ):
        Store(server.url, answer_s=PATIENT_S).split("val")


RANGES = [
    (servers.hangs, "it does not answer within 0.2 s"),
    (servers.endless, "it does not serve ranges of bytes"),
    (servers.without_ranges, "it does not serve ranges of bytes"),
    (servers.short, r"\d+ bytes of \S+ arrived, not \d+"),
    (servers.long, r"it sends more than the \d+ bytes it was asked for"),
    (servers.another_range, "it sends another part of the file than it was asked for"),
    (servers.fails, "it answers 500 Internal Server Error"),
    (servers.fails_with_a_page, "it answers 503 Service Unavailable"),
]


@pytest.mark.parametrize(("way", "message"), RANGES, ids=lambda item: getattr(item, "__name__", ""))
def test_broken_server_ends_the_reading_of_images(
    way: servers.Way, message: str, store: Path
) -> None:
    with servers.served(store, servers.for_ranges(way)) as server:
        split = Store(server.url, answer_s=PATIENT_S).split("val")
        if way in HANGING:
            split.storage._answer_s = ANSWER_S  # type: ignore[attr-defined]
        began_s = time.monotonic()
        with pytest.raises(StoreLost, match=rf"cannot be read any more \({message}"):
            split.read(range(5))
        assert time.monotonic() - began_s < PATIENT_S


def test_honest_server_serves_the_store(store: Path) -> None:
    with servers.served(store, servers.honest) as server:
        assert same(Store(server.url).split("val"), Store(store).split("val"))


def test_endless_file_of_any_other_storage_is_cut(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "MOST_BYTES", 100)
    with pytest.raises(DataError, match=r"manifest\.json has more than 100 bytes"):
        Store(url)


def test_library_that_hangs_times_out(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the library: this one knows no timeouts."""
    memory = type(fsspec.filesystem("memory"))
    monkeypatch.setattr(memory, "cat_file", lambda *given, **named: time.sleep(1))
    with pytest.raises(DataError, match=r"cannot be read \(it does not answer within 0.1 s\)"):
        Store(url, answer_s=0.1)


def test_hanging_server_ends_a_command(store: Path) -> None:
    """No thread that waits for the server delays the end of the program."""
    program = "import sys; from alexnet.data.store import Store; Store(sys.argv[1], answer_s=0.4)"
    with servers.served(store, servers.hangs) as server:
        command = [sys.executable, "-c", program, server.url]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert result.stderr.splitlines()[-1].endswith("(it does not answer within 0.4 s)")


def test_error_names_a_file_missing_at_a_url(url: str) -> None:
    fsspec.filesystem("memory").rm("/bucket/shapes/val/data-00000.arrow")
    with pytest.raises(ValueError, match=r"val/data-00000\.arrow.* is missing or damaged"):
        Store(url).split("val")


@pytest.mark.parametrize("value", ["much", "-1", "nan", "inf"])
def test_invalid_cache_size_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALEXNET_CACHE_GB", value)
    with pytest.raises(ValueError, match="ALEXNET_CACHE_GB is"):
        RemoteStorage(URL, 1)


def alexnet(server: Server, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "alexnet", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | server.environment, timeout=120
    )


@pytest.mark.slow
def test_runs_are_trained_and_tested_from_s3(store: Path, server: Server, tmp_path: Path) -> None:
    config = tiny(store)
    for name, data in (("here", str(store)), ("there", BUCKET)):
        (tmp_path / name).mkdir()
        write_config(tmp_path / name, replace(config, data=data))
        result = alexnet(server, "train", "--resume", tmp_path / name)
        assert result.returncode == 0, result.stderr
    assert same_bits(tmp_path / "here", tmp_path / "there")
    tests = [
        alexnet(server, "evaluate", tmp_path / "here", "--data", data)
        for data in (str(store), BUCKET)
    ]
    assert tests[0].stdout == tests[1].stdout != ""
    refused = alexnet(server, "evaluate", tmp_path / "here", "--data", "s3://nowhere/store")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.startswith("alexnet: s3://nowhere/store ")
    assert refused.stderr.count("\n") == 1


SLOWLY = """
import sys, time
from alexnet.data import remote
from alexnet.data.store import Store

real = remote.RemoteStorage._fetch

def slowly(self, wanted):
    time.sleep(0.01)
    return real(self, wanted)

remote.PIECE_BYTES, remote.PIECES, remote.RemoteStorage._fetch = 1000, 1, slowly
split = Store(sys.argv[1]).split("train", keep=True)
while len(split.storage._local_copies) < 3:
    time.sleep(0.01)
"""


def test_killed_process_leaves_complete_copies_only(store: Path, cache: Path) -> None:
    command = [sys.executable, "-c", SLOWLY, f"file://{store}"]
    wanted = {
        f"train-{shard['file']}": shard["sha256"]
        for shard in Store(store).manifest["splits"]["train"]["shards"]
    }

    def parts() -> set[Path]:
        return set(cache.glob("*/.*.partial"))

    for kills, after_s in enumerate((0.0, 0.1, 0.3), 1):
        before = parts()
        process = subprocess.Popen(command)
        # Not while Python still imports its modules.
        until(lambda before=before: bool(parts() - before), "a copy began", process)  # type: ignore[misc]
        time.sleep(after_s)
        process.kill()
        process.wait()
        # A process copies one file at a time, in an order of its own, so each kill leaves at most
        # one more.
        assert len(list(cache.glob("*/.*.partial"))) <= kills
        assert all(file_sha256(path) == wanted[path.name] for path in copies(cache))
    assert subprocess.run(command, timeout=60).returncode == 0
    assert [path.name for path in copies(cache)] == sorted(wanted)
    assert all(file_sha256(path) == wanted[path.name] for path in copies(cache))
    assert not list(cache.glob("*/.*.partial"))
