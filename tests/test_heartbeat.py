"""A lost rank is named where no collective operation raises an error, as with NCCL."""

from __future__ import annotations

import errno
import re
import time

import pytest

from alexnet.data.storage import StoreLost
from alexnet.distributed import heartbeat
from alexnet.distributed.heartbeat import RankLost, watch_ranks
from alexnet.distributed.mesh import Group, Mesh
from alexnet.errors import DataError


class Store:
    """A rendezvous store in this process; with each heartbeat of this rank the living ones beat."""

    def __init__(self, rank: int, living: tuple[int, ...]) -> None:
        self.values, self.own, self.living = {f"beat/{i}": "0" for i in range(3)}, rank, living

    def set(self, key: str, value: str) -> None:
        self.values[key] = value
        for rank in self.living:
            self.values[f"beat/{rank}"] = f"{rank}: {value}"

    def get(self, key: str) -> bytes:
        return self.values[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self.values for key in keys)

    def add(self, key: str, count: int) -> int:
        self.values[key] = str(int(self.values.get(key, 0)) + count)
        return int(self.values[key])


def errors_of(
    patch: pytest.MonkeyPatch, store: Store, raises: bool = False, lasts_s: float = 0.4
) -> list[RankLost]:
    """The errors with which the thread of a rank of three would end the process."""
    errors: list[RankLost] = []
    patch.setattr(heartbeat, "BEAT_S", 0.01)
    patch.setattr(heartbeat, "SILENT_S", 0.1)
    patch.setattr(heartbeat, "start_store", lambda start, timeout_s: store)
    patch.setattr(heartbeat, "_end", errors.append)
    with watch_ranks(Mesh(Group((0, 1, 2), store.own)), "continue with: it", raises):
        ends_s = time.monotonic() + lasts_s
        while not errors and time.monotonic() < ends_s:
            time.sleep(0.01)
    return errors


def test_a_silent_rank_is_named_though_nothing_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(0, living=(0, 2))
    error = errors_of(monkeypatch, store, lasts_s=5)[0]
    assert str(error) == "rank 1 has died or got stuck; continue with: it"
    assert error.reports
    # The other living rank ends too, without a message.
    store.own = 2
    assert not errors_of(monkeypatch, store, lasts_s=5)[0].reports


def test_ranks_that_beat_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors_of(monkeypatch, Store(0, living=(0, 1, 2))) == []
    # With gloo the error of the operation is waited for.
    assert errors_of(monkeypatch, Store(0, living=(0, 2)), raises=True) == []


def test_a_rank_that_has_not_begun_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(0, living=(0, 2))
    del store.values["beat/1"]
    assert errors_of(monkeypatch, store) == []


class SuspendedStore(Store):
    """All ranks are suspended at the fifth heartbeat; the others go on three heartbeats later."""

    def set(self, key: str, value: str) -> None:
        living, count = self.living, int(value)
        if count == 5:
            time.sleep(0.3)
        if 5 <= count < 8:
            self.living = ()
        super().set(key, value)
        self.living = living


def test_ranks_that_were_suspended_together_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors_of(monkeypatch, SuspendedStore(0, living=(0, 1, 2)), lasts_s=1) == []


@pytest.mark.parametrize("rank", [0, 1])
def test_full_disk_of_the_first_rank_gets_no_second_sentence(
    monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """A rank other than the first prints none of its own, so that another one has to name it."""
    store = Store(rank, living=(0, 1, 2))
    monkeypatch.setattr(heartbeat, "start_store", lambda start, timeout_s: store)
    with (
        pytest.raises(OSError, match="No space left"),
        watch_ranks(Mesh(Group((0, 1, 2), rank)), "continue with: it"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert ("reported" in store.values) == (rank == 0)


def test_only_a_users_mistake_takes_the_place_of_a_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = Store(0, living=(0, 1, 2))
    monkeypatch.setattr(heartbeat, "start_store", lambda start, timeout_s: store)
    for error, raised, message in (
        (StoreLost("the store is gone"), RankLost, "rank 0: the store is gone; continue with: it"),
        (DataError("a.jpg is damaged; mend it"), RankLost, "rank 0: a.jpg is damaged; mend it"),
        (ValueError("a bug"), ValueError, "a bug"),
    ):
        with (
            pytest.raises(raised, match=f"^{re.escape(message)}$"),
            watch_ranks(Mesh(Group((0, 1, 2), 0)), "continue with: it"),
        ):
            raise error
