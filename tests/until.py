"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST_S = 120.0
"""So long that a machine that is busy with other work does not make a test fail."""


def until(condition: Callable[[], object], what: str, within_s: float = LONGEST_S) -> None:
    """Wait until a condition holds, and fail with `what` was waited for if it never does."""
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s, f"{what}: not within {within_s:g} s"
        time.sleep(0.01)
