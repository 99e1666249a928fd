"""Atomic writes and locks."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from alexnet.errors import BusyError
from alexnet.files import locked

HOLD = """
import sys, time
from pathlib import Path
from alexnet.files import locked
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


def test_a_lock_is_released_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with pytest.raises(RuntimeError), locked(path, "", ""):
        raise RuntimeError
    with locked(path, "", ""):
        pass
    assert list(tmp_path.iterdir()) == []
