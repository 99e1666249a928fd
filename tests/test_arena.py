"""Tensors in kept memory never overlap, and all memory is returned at the end."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet import native
from alexnet.ops.arena import kept_memory

CPU = torch.device("cpu")
MIB = 2**20

pytestmark = pytest.mark.usefixtures("compiled_code")


def filled(mib: float, value: int) -> torch.Tensor:
    return torch.full((int(mib * MIB),), value, dtype=torch.uint8)


def resident_mib() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) // 1024


@pytest.fixture
def kept() -> Iterator[None]:
    with kept_memory(CPU):
        yield


# Sizes below and above the smallest size that is kept, and which tensor is then freed.
@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0.5, 4), st.integers(0, 5), st.booleans()), max_size=25))
def test_live_tensors_never_overlap(steps: list[tuple[float, int, bool]]) -> None:
    with kept_memory(CPU):
        live: list[tuple[int, torch.Tensor]] = []
        for value, (mib, which, freed) in enumerate(steps):
            live.append((value, filled(mib, value)))
            if freed:
                live.pop(which % len(live))
    # Tensors that outlive the arena keep their values as well.
    assert all((tensor == value).all() for value, tensor in live)


def test_freed_memory_is_reused_for_any_size(kept: None) -> None:
    blocker, three, end = filled(2, 0), filled(3, 1), filled(2, 2)
    address = three.data_ptr()
    del three
    parts = [filled(1, value) for value in (3, 4, 5)]
    assert [part.data_ptr() - address for part in parts] == [0, MIB, 2 * MIB]
    del parts
    assert filled(3, 6).data_ptr() == address  # the three free blocks have been merged
    assert not blocker.any()
    assert (end == 2).all()


def test_memory_is_returned_at_the_end() -> None:
    with kept_memory(CPU):
        survivor, large = filled(64, 7), filled(256, 1)
        with kept_memory(CPU):
            pass
        during = resident_mib()
        del large
        assert resident_mib() > during - 64, "the end of a nested block returned the memory"
    after = resident_mib()
    assert after < during - 192
    assert all(bool((part == 7).all()) for part in survivor.split(MIB))
    del survivor
    assert resident_mib() < after - 48


def test_arena_is_thread_safe(kept: None) -> None:
    def work(value: int) -> bool:
        tensors = [filled(1 + (value + i) % 3, value) for i in range(20)]
        return all(bool((tensor == value).all()) for tensor in tensors[::2])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(16)))


def test_resizing_and_numpy_views_keep_the_values(kept: None) -> None:
    tensor = filled(2, 9)
    tensor.resize_(6 * MIB)
    assert (tensor[: 2 * MIB] == 9).all()
    array = tensor.numpy()
    del tensor
    filled(8, 1)
    assert (array[: 2 * MIB] == 9).all()


def test_allocator_is_not_used_on_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "arena", lambda: pytest.fail("asked for"))
    with kept_memory(torch.device("meta")):
        assert not filled(2, 0).any()
