"""Other processes of this machine: a port for them, and waiting for what they do."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest


def launched(monkeypatch: pytest.MonkeyPatch, ranks: int) -> None:
    """Let this process be the first of so many ranks on this machine, as torchrun says it."""
    for name, value in (("RANK", 0), ("WORLD_SIZE", ranks), ("LOCAL_WORLD_SIZE", ranks)):
        monkeypatch.setenv(name, str(value))


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(
    condition: Callable[[], bool],
    what: str,
    process: subprocess.Popen[Any] | None = None,
    within_s: float = 120,
) -> None:
    """Wait until a condition holds, which a busy machine may take a long time for.

    Args:
        what: What is waited for, for the message of a failure.
        process: The process that is to bring it about; its end is a failure.
    """
    ends_s = time.monotonic() + within_s
    while True:
        # Asked before the condition, which may hold only since the process has ended.
        ended = process.poll() if process else None
        if condition():
            return
        assert ended is None, f"the process ended with exit code {ended} before {what}"
        assert time.monotonic() < ends_s, f"{within_s:g} s have passed before {what}"
        time.sleep(0.01)
