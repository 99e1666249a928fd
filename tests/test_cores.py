"""Limits on cores, and threads that yield them to other programs."""

import itertools
import math
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from alexnet import cores, waiting
from alexnet.cores import available_cores, cpu_limit, decoding_threads, memory_limit
from alexnet.waiting import yielding
from tests.processes import launched, until

CPU = torch.device("cpu")


def group(folder: Path, **files: str) -> None:
    """Write the files of a control group; the keyword `cpu_max` stands for the file cpu.max."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_", ".", 1)).write_text(text)


def member(tmp_path: Path, *lines: str) -> Path:
    """Write the file that names the control groups of a process."""
    path = tmp_path / "membership"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_the_smallest_limit_of_all_levels_holds_in_version_2(tmp_path: Path) -> None:
    group(tmp_path / "a", cpu_max="150000 100000\n")
    group(tmp_path / "a/b", cpu_max="max 100000\n")
    assert cpu_limit(tmp_path, member(tmp_path, "0::/a/b")) == 1.5
    group(tmp_path / "a/b", cpu_max="50000 100000\n")
    assert cpu_limit(tmp_path, member(tmp_path, "0::/a/b")) == 0.5


def test_version_1_says_minus_one_for_no_limit(tmp_path: Path) -> None:
    cpu = tmp_path / "cpu,cpuacct"
    group(cpu, cpu_cfs_quota_us="-1\n", cpu_cfs_period_us="100000\n")
    lines = "7:memory:/x", "4:cpu,cpuacct:/docker/1", "0::/"
    assert cpu_limit(tmp_path, member(tmp_path, *lines)) == math.inf
    # In a container the path is that of the host, and the limit stands at the visible root.
    group(cpu, cpu_cfs_quota_us="200000\n", cpu_cfs_period_us="100000\n")
    assert cpu_limit(tmp_path, member(tmp_path, *lines)) == 2


def test_memory_is_limited_by_the_smallest_limit_of_all_levels(tmp_path: Path) -> None:
    group(tmp_path / "a", memory_max="3000000\n")
    group(tmp_path / "a/b", memory_max="max\n")
    assert memory_limit(tmp_path, member(tmp_path, "0::/a/b")) == 3_000_000
    group(tmp_path / "memory/x", memory_limit_in_bytes="2000000\n")
    lines = "7:memory:/x", "0::/a"
    assert memory_limit(tmp_path, member(tmp_path, *lines)) == 2_000_000
    # Version 1 states a number larger than any memory for no limit.
    group(tmp_path / "memory/x", memory_limit_in_bytes=f"{2**63 - 4096}\n")
    assert memory_limit(tmp_path, member(tmp_path, "7:memory:/x")) > 3_000_000


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cpu_limit(tmp_path, tmp_path / "missing") == math.inf
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_a_part_of_a_core_is_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alexnet.cores.cpu_limit", lambda: 0.2)
    assert available_cores() == 1


def test_a_limit_lowers_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from alexnet import device

    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        monkeypatch.setattr(device, "available_cores", lambda: 1)
        monkeypatch.setenv("OMP_NUM_THREADS", "2")
        device.resolve_device("cpu")
        assert torch.get_num_threads() == 2, "the number that the user has set holds"
        monkeypatch.delenv("OMP_NUM_THREADS")
        device.resolve_device("cpu")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the watcher has done, with short periods."""
    monkeypatch.setattr(waiting, "PERIOD_S", 0.02)
    done: list[str] = []
    monkeypatch.setattr(waiting._SleepingThreads, "start", lambda self: done.append("yield"))
    monkeypatch.setattr(waiting._SleepingThreads, "end", lambda self: done.append("spin"))
    return done


def test_threads_yield_while_a_core_is_missing_and_spin_again_later(
    tmp_path: Path, groups: list[str]
) -> None:
    statistics, stop = tmp_path / "schedstat", threading.Event()
    statistics.write_text("0 0 0")
    # Seconds in a period of 20 ms: a period may be longer than that.
    seconds = itertools.count(step=1000)

    def others_use_the_cores() -> float:
        """Called once in each period, after the file was read."""
        used_s = next(seconds)
        if not groups:
            statistics.write_text(f"0 {used_s * 10**9} 0")
        return used_s

    watcher = threading.Thread(target=waiting._watch, args=(statistics, others_use_the_cores, stop))
    watcher.start()
    try:
        until(lambda: "spin" in groups, "the threads spun again")
    finally:
        stop.set()
        watcher.join()
    assert groups[0] == "yield"


def test_threads_do_not_yield_to_those_that_decode_for_them(
    tmp_path: Path, groups: list[str]
) -> None:
    statistics, stop = tmp_path / "schedstat", threading.Event()
    statistics.write_text("0 0 0")
    asked: list[float] = []

    def nothing_else_runs() -> float:
        # Always waiting, for three periods out of four: the last one may be written in the middle.
        temporary = tmp_path / "next"
        temporary.write_text(f"0 {int(len(asked) * 15e6)} 0")
        temporary.replace(statistics)
        asked.append(0.0)
        return 0.0

    watcher = threading.Thread(target=waiting._watch, args=(statistics, nothing_else_runs, stop))
    watcher.start()
    try:
        until(lambda: len(asked) >= 10, "the end of ten periods")
    finally:
        stop.set()
        watcher.join()
    assert "yield" not in groups


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/stat")
def test_time_of_other_programs_is_that_of_the_cores_without_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "STAT", tmp_path / "stat")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2})
    monkeypatch.setattr(time, "process_time", lambda: 1.5)
    tick_s = 1 / os.sysconf("SC_CLK_TCK")
    row = "100 20 3 5000 600 7 8 9 0 0"
    (tmp_path / "stat").write_text(
        f"cpu  {row}\ncpu0 {row}\ncpu1 9 9 9 9 9 9 9 9\ncpu2 {row}\nintr 5\n"
    )
    assert waiting._others_s() == pytest.approx(2 * 138 * tick_s - 1.5)
    # Cores that the system does not list.
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 64})
    monkeypatch.setattr(time, "monotonic", lambda: 77.0)
    assert waiting._others_s() == 77.0


SPIN = """
import sys, time, torch
from alexnet.waiting import _SleepingThreads
x = torch.zeros(1 << 20)
surplus = _SleepingThreads()
def used():
    before = time.process_time()
    for _ in range(30):
        x.add_(1)
        time.sleep(0.002)
    return time.process_time() - before
used()
spinning = used()
surplus.start()
time.sleep(0.1)
yielded = used()
surplus.end()
print(spinning, yielded, used())
"""


@pytest.mark.skipif(
    sys.platform != "linux" or available_cores() < 2, reason="needs GNU's OpenMP and two cores"
)
@pytest.mark.slow
def test_a_second_group_of_threads_ends_the_spinning() -> None:
    """CPU time of thirty waits of 2 ms: spinning takes all of it, for each waiting thread."""
    environment = os.environ | {"OMP_NUM_THREADS": str(available_cores())}
    for name in waiting.USER_SETTINGS:
        environment.pop(name, None)
    command = [sys.executable, "-c", SPIN]
    for _ in range(5):
        output = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True
        )
        spinning, yielded, spinning_again = map(float, output.stdout.split())
        # Half: the additions themselves take a part of the time, the same in all three.
        if yielded < 0.5 * min(spinning, spinning_again):
            return
    # Once is enough: a core that others use shortens what the threads that spin get.
    pytest.fail(f"spinning took {spinning} s, then {spinning_again} s, and yielding {yielded} s")


@pytest.mark.skipif(
    not Path(f"/proc/self/task/{threading.get_native_id()}/schedstat").exists()
    or not waiting.STAT.exists(),
    reason="this system does not say how long a thread waits for a core",
)
def test_the_users_own_setting_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[Path] = []
    monkeypatch.setattr(waiting, "_watch", lambda statistics, *_: watched.append(statistics))
    monkeypatch.setattr(waiting, "_groups", lambda: 1)
    for name in waiting.USER_SETTINGS:
        monkeypatch.delenv(name, raising=False)
    with yielding(CPU):
        pass
    assert len(watched) == 1
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    with yielding(CPU):
        pass
    monkeypatch.delenv("OMP_WAIT_POLICY")
    with yielding(torch.device("meta")):
        pass
    monkeypatch.setattr(waiting, "_groups", lambda: waiting.MOST_GROUPS + 1)
    with yielding(CPU):
        pass
    assert len(watched) == 1


def test_decoding_threads_follow_the_cores_of_a_gpu_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LOCAL_WORLD_SIZE", cores.JOBS):
        monkeypatch.delenv(name, raising=False)
    for here, expected in ((1, 1), (2, 1), (16, 15), (41, 40), (128, 40)):
        monkeypatch.setattr(cores, "available_cores", lambda here=here: here)
        assert decoding_threads(None, "cuda") == expected
        assert decoding_threads(None, "cpu") == 2
        assert decoding_threads(0, "cuda") == 0
        assert decoding_threads(40, "cpu") == 40
    # Eight processes share 64 cores.
    monkeypatch.setattr(cores, "available_cores", lambda: 64)
    launched(monkeypatch, 8)
    assert decoding_threads(None, "cuda") == 7
    # So do four runs of `alexnet reproduce`.
    monkeypatch.delenv("RANK")
    monkeypatch.setenv(cores.JOBS, "4")
    assert decoding_threads(None, "cuda") == 15


@pytest.mark.parametrize(
    ("rank", "world", "here", "expected"),
    [
        # A job's script may set the variable for all of its programs.
        (None, "8", "8", 1),
        ("0", "1", "8", 1),
        ("0", "4", "8", 4),
        ("0", "4", "4", 4),
        ("0", "4", "2", 2),
        ("0", "4", "", 1),
        ("0", "4", "all", 1),
    ],
)
def test_ranks_of_a_machine_count_only_where_torchrun_started_them(
    rank: str | None, world: str, here: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", here)
    assert cores.local_ranks() == expected
