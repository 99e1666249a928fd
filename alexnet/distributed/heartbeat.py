"""Which rank is at fault when a collective operation fails.

torchrun reports the rank that died first, and nothing reports one that hangs: all others wait for
it until the timeout. Therefore every rank counts a heartbeat in the rendezvous store, once a
second, from a thread. A stopped process stops its threads too, so its count stands still.

On CPUs a failed operation raises an error in every living rank, which then looks for the silent
ones. On CUDA nothing is raised: an operation is only queued, the host waits for the device, and
after the timeout NCCL's own watchdog ends the process. There the thread itself looks at the counts
of the others, names a silent rank, and ends the process.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from alexnet.data.storage import StoreLost
from alexnet.distributed.mesh import Mesh
from alexnet.distributed.rendezvous import start_store
from alexnet.errors import AlexNetError

BEAT_S = 1.0
"""Time between two heartbeats of a rank, in seconds."""
OBSERVE_S = 3.0
"""A rank is silent if its count does not change for this long: three heartbeats."""
SILENT_S = 10.0
"""Where nothing is raised, a rank is lost if its count does not change for this long. It is longer
than OBSERVE_S, because no error has given a reason to suspect the rank, and shorter than the 30 s
after which torchrun kills the ranks that a dead one has left waiting."""
ANSWER_S = 10.0
"""Timeout of the rendezvous store, in seconds."""


class RankLost(Exception):
    """A rank died or got stuck, this one or another.

    Attributes:
        reports: Whether this rank is the one that prints the message.
    """

    def __init__(self, message: str, reports: bool) -> None:
        super().__init__(message)
        self.reports = reports


@contextmanager
def watch_ranks(mesh: Mesh, advice: str, raises: bool = True) -> Iterator[None]:
    """Send heartbeats while the block runs, and name the rank that makes it fail.

    Args:
        advice: What the user can do, as the end of the message.
        raises: Whether a collective operation raises an error if a rank is lost, as on CPUs. If
            not, the message is printed and the process ends with exit code 1.

    Raises:
        RankLost: A collective operation failed because a rank died or hangs; or this rank cannot go
            on, and leaves the others.
        StoreLost: The store is lost, in a single process.
    """
    if mesh.world.size == 1:
        try:
            yield
        except StoreLost as error:
            raise StoreLost(f"{error}; {advice}") from error
        return
    heartbeat = _Heartbeat(mesh, None if raises else advice)
    try:
        yield
    except (StoreLost, AlexNetError) as error:
        # This rank's own error. The others will only see that it is gone, and not why.
        message = f"rank {mesh.world.index}: {error}"
        # The message of an AlexNetError says itself how to go on.
        if isinstance(error, StoreLost):
            message += f"; {advice}"
        raise RankLost(message, heartbeat.reports_first()) from error
    except OSError:
        # Such as a full disk, of which the first rank prints a sentence of its own.
        if mesh.first:
            heartbeat.reports_first()
        raise
    except RuntimeError as error:
        # PyTorch raises it for a closed connection and after a timeout, but also for bugs: those
        # keep their traceback, because no rank is silent then.
        _ignore_sigterm()
        silent = heartbeat.silent_ranks()
        if not silent:
            raise
        raise heartbeat.lost(silent, advice) from error
    finally:
        heartbeat.stop()


def _ignore_sigterm() -> None:
    """Let this rank say what it saw: torchrun sends SIGTERM to the ranks that are left."""
    # Only the main thread may set handlers; a program that trains in another has its own.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class _Heartbeat:
    """The thread that counts this rank's heartbeats, and the counts of the others.

    Args:
        advice: The end of the message with which the thread ends the process if a rank is silent;
            None: it does not look.
    """

    def __init__(self, mesh: Mesh, advice: str | None) -> None:
        self._world, self._start = mesh.world, mesh.start
        self._stopped, self._advice = threading.Event(), advice
        # A connection of its own: a collective operation may hold the other one while it waits.
        self._store = start_store(self._start, ANSWER_S)
        self._store.set(_key(self._world.index), "0")
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join()

    def silent_ranks(self) -> list[int]:
        """The ranks whose count does not change for `OBSERVE_S`; none if the store is gone."""
        try:
            store = start_store(self._start, ANSWER_S)
            before = self._counts(store)
            time.sleep(OBSERVE_S)
            after = self._counts(store)
        except RuntimeError:
            return []
        return [rank for rank in self._world.ranks if before[rank] == after[rank]]

    def lost(self, silent: list[int], advice: str) -> RankLost:
        """The error for ranks that are silent."""
        # All living ranks come here at the same time; the lowest reports, unless a rank has
        # reported an error of its own before.
        living = [rank for rank in self._world.ranks if rank not in silent]
        lowest = not living or living[0] == self._world.index
        names = (
            f"rank {silent[0]} has"
            if len(silent) == 1
            else f"ranks {', '.join(map(str, silent))} have"
        )
        message = f"{names} died or got stuck; {advice}"
        return RankLost(message, lowest and self.reports_first())

    def reports_first(self) -> bool:
        """Whether no other rank has asked this before: one message is enough."""
        try:
            return bool(start_store(self._start, ANSWER_S).add("reported", 1) == 1)
        except RuntimeError:
            # Without a store two messages are better than none.
            return True

    def _counts(self, store: Any) -> list[str]:
        keys = [_key(rank) for rank in self._world.ranks]
        # `get` waits for a key that does not exist, so a rank that never began is asked for first.
        return [store.get(key).decode() if store.check([key]) else "never" for key in keys]

    def _beat(self) -> None:
        count = 0
        # Counted in heartbeats of this rank and not in seconds: where all ranks were suspended, the
        # first to wake would take the others for lost.
        unchanged = dict.fromkeys(self._world.ranks, 0)
        counts: list[str] = []
        while not self._stopped.wait(BEAT_S):
            count += 1
            try:
                self._store.set(_key(self._world.index), str(count))
                if self._advice is None:
                    continue
                before, counts = counts, self._counts(self._store)
            except RuntimeError:
                return  # The store is gone, and the next collective operation will fail.
            for rank in self._world.ranks:
                unchanged[rank] += 1
                # A rank that never began has not begun to be silent: the start has its own timeout.
                if not before or counts[rank] != before[rank] or counts[rank] == "never":
                    unchanged[rank] = 0
            silent = [rank for rank, beats in unchanged.items() if beats * BEAT_S > SILENT_S]
            if silent and not self._stopped.is_set():
                _end(self.lost(silent, self._advice))


def _end(error: RankLost) -> None:
    """End the process from a thread, while the main thread waits for the device."""
    if error.reports:
        # `sys.stderr` is silenced on all ranks but 0 (`restart.only_rank_zero_prints`).
        print(f"alexnet: {error}", file=sys.__stderr__, flush=True)
    # `sys.exit` would end this thread alone.
    os._exit(1)


def _key(rank: int) -> str:
    return f"beat/{rank}"
