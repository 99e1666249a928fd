"""Atomic writes, locks, and JSON of damaged files."""

import fcntl
import json
import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet import files
from alexnet.errors import BusyError
from alexnet.files import locked, new_folder, parse_json, user_cache, write_whole

HOLD = """
import sys, time
from pathlib import Path
from alexnet.files import locked, parse_json, write_whole
with locked(Path(sys.argv[1]), "it is in use", "wait"):
    print("locked", flush=True)
    time.sleep(60)
"""


def hold(path: Path) -> subprocess.Popen[str]:
    """Start a process that holds a lock until it is killed."""
    command = [sys.executable, "-c", HOLD, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "locked\n"
    return process


def test_a_lock_names_the_process_that_holds_it_and_a_killed_holder_is_replaced(
    tmp_path: Path,
) -> None:
    path = tmp_path / ".lock"
    holder = hold(path)
    try:
        message = rf"it is in use by process {holder.pid} on .*; wait"
        with pytest.raises(BusyError, match=message), locked(path, "it is in use", "wait"):
            pass
        assert path.exists(), "a refused process must not remove the lock of the other"
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()  # type: ignore[union-attr]
    assert path.exists()
    with locked(path, "it is in use", "wait"):
        assert str(os.getpid()) in path.read_text()
    assert not path.exists()


@pytest.mark.parametrize("released", [True, False])
def test_a_lock_of_another_machine_is_tried_for_a_while(
    released: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It may have died: NFSv4 keeps its locks for about 90 seconds."""
    path, tries = tmp_path / ".lock", list[float]()
    holder = os.open(path, os.O_RDWR | os.O_CREAT)
    os.write(holder, b"process 4711 on node17")
    fcntl.flock(holder, fcntl.LOCK_EX)

    def sleep(seconds: float) -> None:
        tries.append(seconds)
        if released and len(tries) == 3:
            os.close(holder)

    monkeypatch.setattr(files.time, "sleep", sleep)
    monkeypatch.setattr(files.time, "monotonic", lambda: float(len(tries)))
    if released:
        with locked(path, "it is in use", "wait", 5):
            assert f"process {os.getpid()} " in path.read_text()
    else:
        message = "^it is in use by process 4711 on node17; wait$"
        with pytest.raises(BusyError, match=message), locked(path, "it is in use", "wait", 5):
            pass
        os.close(holder)
    assert len(tries) == (3 if released else 5)
    said = (
        "it is in use by process 4711 on node17; trying for 5 s, since that machine may have died"
    )
    assert capsys.readouterr().err == said + "\n"


def test_a_lock_is_released_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with pytest.raises(RuntimeError), locked(path, "", ""):
        raise RuntimeError
    with locked(path, "", ""):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    write_whole(path, b"old")

    def fails(descriptor: int) -> None:
        raise error

    monkeypatch.setattr("alexnet.files.os.fsync", fails)
    with pytest.raises(type(error)):
        write_whole(path, b"new")
    assert [found.read_bytes() for found in tmp_path.iterdir()] == [b"old"]
    if isinstance(error, OSError):
        assert error.filename == str(path)


@pytest.mark.parametrize(
    "data", [b"\xff", b"{", b"[" * 100_000, b'"\\udc00"', b"9" * 5000, "\ufeff1".encode("utf-16")]
)
def test_json_that_cannot_be_read_or_printed_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_json(data)


def without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take away what tells the home folder: the variables, and the entry of the user."""
    for name in ("XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_user_without_a_home_folder_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    without_home(monkeypatch)
    with pytest.raises(FileNotFoundError, match="set HOME or XDG_CACHE_HOME to a folder"):
        user_cache()
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert user_cache() == Path("/cache/alexnet")


def test_json_of_any_text_is_read() -> None:
    value = {"a": ["\U0001f40e", 1, None, 0.5]}
    assert parse_json(json.dumps(value).encode()) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


def test_interrupted_replacement_of_a_folder_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name.endswith(".writing"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), new_folder(path, replace=True):
        pass
    assert list(tmp_path.rglob("*")) == [path, path / "old"]
