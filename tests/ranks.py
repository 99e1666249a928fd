"""Runs a function on several ranks: gloo, a process each, one thread each."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing.queues import Queue
from typing import Any

import torch
import torch.multiprocessing as mp

LIMIT_S = 240


def on_ranks(count: int, work: Callable[..., Any], *given: Any) -> list[Any]:
    """What work(*given) returns on each rank. Fails with the first rank's traceback that raised."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    results: Queue[Any] = context.Queue()
    processes = [
        context.Process(target=_rank, args=(i, count, port, results, work, given))
        for i in range(count)
    ]
    for process in processes:
        process.start()
    try:
        found: dict[int, Any] = {}
        for _ in processes:
            rank, error, value = results.get(timeout=LIMIT_S)
            assert error is None, f"rank {rank}: {error}"
            found[rank] = value
    finally:
        for process in processes:
            process.kill() if len(found) < count else process.join()
    return [found[rank] for rank in range(count)]


def _rank(
    rank: int, count: int, port: int, results: Any, work: Callable[..., Any], given: Any
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    try:
        results.put((rank, None, work(*given)))
    except BaseException:
        results.put((rank, traceback.format_exc(), None))
