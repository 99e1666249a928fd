"""Ranks find each other, and nothing of the ranks before them, without torchrun."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from torch.distributed import HashStore  # type: ignore[attr-defined]

from alexnet.distributed.rendezvous import meet
from alexnet.errors import BusyError


@pytest.fixture
def store() -> Any:
    store = HashStore()
    store.set_timeout(timedelta(seconds=5))
    return store


def together(store: Any, ranks: range, world: int, timeout_s: float = 10) -> list[str]:
    """What `meet` returns on each of some ranks, which come at the same time."""
    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(lambda rank: meet(store, rank, world, timeout_s), ranks))


def test_all_ranks_of_a_start_get_its_name(store: Any) -> None:
    names = together(store, range(3), 3)
    assert len(set(names)) == 1


def test_no_start_has_the_name_of_another(store: Any) -> None:
    """Also with another number of ranks, as after a machine has left."""
    names = [set(together(store, range(world), world)) for world in (3, 3, 2, 4)]
    assert all(len(each) == 1 for each in names)
    assert len(set.union(*names)) == 4


@pytest.mark.parametrize("first", [range(1), range(1, 3)])
def test_ranks_wait_for_the_late_ones_and_not_for_the_dead(store: Any, first: range) -> None:
    """What an earlier start has written does not count as the arrival of a rank."""
    (before,) = set(together(store, range(3), 3))
    names: list[str] = []
    early = threading.Thread(target=lambda: names.extend(together(store, first, 3)))
    early.start()
    early.join(0.5)
    assert early.is_alive() and not names
    names += together(store, range(1, 3) if first == range(1) else range(1), 3)
    early.join()
    assert len(names) == 3 and len(set(names)) == 1 and names[0] != before


def test_rank_that_died_while_it_waited_is_not_met(store: Any) -> None:
    with pytest.raises(BusyError, match=r"the 2 ranks did not meet within 0\.2 s"):
        meet(store, 1, 2, 0.2)
    with pytest.raises(BusyError):
        meet(store, 0, 2, 0.3)
    assert len(set(together(store, range(2), 2))) == 1
