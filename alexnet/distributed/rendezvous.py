"""How the ranks of a launch find each other, also after torchrun has started them again.

They write to one key-value store, which torchrun serves and keeps when it starts the ranks again,
so that it holds what earlier ranks have written. TORCHELASTIC_RESTART_COUNT cannot tell the starts
apart on several machines: each torchrun counts for itself, and does not count a restart for a
machine that came or left.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from alexnet.errors import BusyError

LOOK_EVERY_S = 0.05
"""Time between two looks at what the other ranks have written."""


def agent_serves() -> bool:
    """Whether torchrun serves the store, as it usually does; otherwise the first rank does."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def launch_store(timeout_s: float, serves: bool = False) -> Any:
    """A new connection to the store that all starts of the ranks of this launch share.

    Args:
        timeout_s: Longest wait for an answer, in seconds.
        serves: Whether this process is the server.
    """
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    timeout = timedelta(seconds=timeout_s)
    store = TCPStore(*address, is_master=serves, wait_for_workers=False, timeout=timeout)
    return PrefixStore("alexnet", store)


def start_store(start: str, timeout_s: float) -> Any:
    """A new connection to what the ranks of one start have written, by its name (`meet`)."""
    return PrefixStore(start, launch_store(timeout_s))


def meet(store: Any, rank: int, world: int, timeout_s: float) -> str:
    """Wait for the other ranks of this start, and return its name, which no other start has.

    Every rank writes a random number. The first rank writes the list of all numbers, anew whenever
    one has changed, and every rank that finds its own in the list confirms it. The list that all
    have confirmed has no number of an earlier start, since a rank that ended confirms nothing.

    Args:
        store: The store of the launch.

    Raises:
        BusyError: The ranks did not meet in time. They may at the next start.
    """
    own, numbers = secrets.token_hex(8), [f"number/{i}" for i in range(world)]
    store.set(numbers[rank], own)
    ends_s = time.monotonic() + timeout_s
    while time.monotonic() < ends_s:
        if rank == 0 and store.check(numbers):
            store.set("numbers", b".".join(store.multi_get(numbers)))
        if store.check(["numbers"]):
            listed = store.get("numbers")
            # Shorter than the list, which has seventeen bytes for each rank.
            start = hashlib.sha256(listed).hexdigest()[:16]
            if own in listed.decode().split("."):
                store.set(f"{start}/confirmed/{rank}", "")
                if store.check([f"{start}/confirmed/{i}" for i in range(world)]):
                    return start
        time.sleep(LOOK_EVERY_S)
    raise BusyError(
        f"the {world} ranks did not meet within {timeout_s:g} s; start all of them, or set a "
        "larger --parallel.timeout-s"
    )
