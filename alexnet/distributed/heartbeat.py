"""Which rank is at fault when an exchange fails: every rank says once a second that it lives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist

from alexnet.data.storage import StoreLost
from alexnet.distributed.mesh import Mesh, rendezvous_store

EVERY_S, LOOK_S, ANSWER_S = (
    1.0,
    3.0,
    10.0,
)  # a beat; between two looks; the meeting place's answer at most


class RankLost(Exception):
    """Another rank died or got stuck. `speaks`: whether this rank is the one to say so."""

    def __init__(self, sentence: str, speaks: bool) -> None:
        super().__init__(sentence)
        self.speaks = speaks


@contextmanager
def watched(mesh: Mesh, advice: str) -> Iterator[None]:
    """Raises RankLost where an exchange inside fails because a rank no longer lives, and on a rank that cannot go on
    because of its store; StoreLost in one process. advice: what to do then."""
    if mesh.world.size == 1:
        try:
            yield
        except StoreLost as error:
            raise StoreLost(f"{error}; {advice}") from error
        return
    pulse = _Pulse(mesh)
    try:
        yield
    except (
        StoreLost,
        ValueError,
    ) as error:  # this rank's own: the others will only see that it is gone
        raise RankLost(f"rank {mesh.world.place}: {error}; {advice}", pulse.speaks()) from error
    except (
        RuntimeError
    ) as error:  # what PyTorch raises for a closed connection and for one that is silent too long
        silent = pulse.silent()
        if not silent:
            raise
        lowest = (
            next((rank for rank in mesh.world.ranks if rank not in silent), mesh.world.place)
            == mesh.world.place
        )
        names = (
            f"rank {silent[0]} has"
            if len(silent) == 1
            else f"ranks {', '.join(map(str, silent))} have"
        )
        raise RankLost(f"{names} died or got stuck; {advice}", lowest and pulse.speaks()) from error
    finally:
        pulse.stop()


class _Pulse:
    """Beats of this rank, kept where the ranks met."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh, self._stopped = mesh, threading.Event()
        self._store = rendezvous_store(
            ANSWER_S
        )  # a connection of its own: the exchange's may be waiting
        self._store.set(_name(mesh.world.place), "0")
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def silent(self) -> list[int]:
        """Ranks that have not beaten between two looks; none where the ranks' meeting place is gone."""
        try:
            store = rendezvous_store(ANSWER_S)
            before = self._beats(store)
            time.sleep(LOOK_S)
            after = self._beats(store)
        except (dist.DistError, RuntimeError):
            return []
        return [rank for rank in self._mesh.world.ranks if before[rank] == after[rank]]

    def speaks(self) -> bool:
        """Whether this rank is the first of all to say what is wrong."""
        try:
            return bool(rendezvous_store(ANSWER_S).add("spoken", 1) == 1)
        except (dist.DistError, RuntimeError):
            return True

    def _beats(self, store: Any) -> list[str]:
        keys = [_name(rank) for rank in self._mesh.world.ranks]
        return [store.get(key).decode() if store.check([key]) else "never" for key in keys]

    def _beat(self) -> None:
        count = 0
        while not self._stopped.wait(EVERY_S):
            count += 1
            try:
                self._store.set(_name(self._mesh.world.place), str(count))
            except (dist.DistError, RuntimeError):
                return  # the meeting place is gone; the next exchange will tell


def _name(rank: int) -> str:
    return f"beat/{rank}"
