"""Run a function on several ranks: one process and one thread for each, with gloo."""

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


def on_ranks(count: int, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """The results of work(*arguments) on each rank, in the order of ranks.

    Fails with the traceback of the first rank that raised an exception.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = mp.get_context("spawn")
    queue: Queue[Any] = context.Queue()
    processes = [
        context.Process(target=_rank, args=(i, count, port, queue, work, arguments))
        for i in range(count)
    ]
    for process in processes:
        process.start()
    try:
        results: dict[int, Any] = {}
        for _ in processes:
            rank, error, value = queue.get(timeout=LIMIT_S)
            assert error is None, f"rank {rank}: {error}"
            results[rank] = value
    finally:
        for process in processes:
            process.kill() if len(results) < count else process.join()
    return [results[rank] for rank in range(count)]


def _rank(
    rank: int, count: int, port: int, queue: Any, work: Callable[..., Any], arguments: Any
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    try:
        queue.put((rank, None, work(*arguments)))
    except BaseException:
        queue.put((rank, traceback.format_exc(), None))
