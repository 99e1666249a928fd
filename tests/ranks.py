"""Run a function on several ranks: one process and one thread for each, with gloo."""

from __future__ import annotations

import os
import queue
import time
import traceback
from collections.abc import Callable
from multiprocessing.queues import Queue
from typing import Any

import torch
import torch.multiprocessing as mp

from tests.processes import free_port

LIMIT_S = 240
"""Most seconds from one result to the next."""
END_S = 60
"""Most seconds from the last result to the end of a rank."""


def on_ranks(
    count: int, work: Callable[..., Any], *arguments: Any, limit_s: float = LIMIT_S
) -> list[Any]:
    """The results of work(*arguments) on each rank, in the order of ranks.

    Fails with the traceback of the first rank that raised an exception, or with the number of one
    that died or got stuck.
    """
    port = free_port()
    context = mp.get_context("spawn")
    answers: Queue[Any] = context.Queue()
    processes = [
        context.Process(target=_rank, args=(i, count, port, answers, work, arguments))
        for i in range(count)
    ]
    for process in processes:
        process.start()
    results: dict[int, Any] = {}
    last_s = time.monotonic()
    try:
        while len(results) < count:
            silent = [rank for rank in range(count) if rank not in results]
            # Asked before the queue, into which a rank puts its result before it ends.
            ended = {rank: processes[rank].exitcode for rank in silent}
            try:
                rank, error, value = answers.get(timeout=0.5)
            except queue.Empty:
                dead = {rank: code for rank, code in ended.items() if code is not None}
                assert not dead, f"no result of ranks, whose exit codes are {dead}"
                assert time.monotonic() < last_s + limit_s, f"ranks {silent} are stuck"
                continue
            assert error is None, f"rank {rank}: {error}"
            results[rank], last_s = value, time.monotonic()
        for rank, process in enumerate(processes):
            process.join(END_S)
            assert process.exitcode is not None, f"rank {rank} gave its result and does not end"
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [results[rank] for rank in range(count)]


def _rank(
    rank: int, count: int, port: int, answers: Any, work: Callable[..., Any], arguments: Any
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    try:
        answers.put((rank, None, work(*arguments)))
    except BaseException:
        answers.put((rank, traceback.format_exc(), None))
