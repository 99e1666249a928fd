"""The cores and the memory that this process may use."""

from __future__ import annotations

import math
import os
import resource
from contextlib import suppress
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
CPU_THREADS = 2
"""Decoding threads beside a CPU that trains."""
MOST_THREADS = 40
"""Decoding threads at most: with 1,500 to 2,000 JPEGs of 256 pixels a second for each, these make
60,000 to 80,000, which is more than the fastest GPU is estimated to train on."""
JOBS = "ALEXNET_JOBS"
"""Environment variable by which `alexnet reproduce` tells a run how many run at the same time."""


def available_cores() -> int:
    """The number of cores that this process may use, at least 1.

    The system may give it fewer than the machine has: by affinity (`taskset`, batch systems), or by
    a limit on CPU time (containers), which is rounded up to whole cores.
    """
    affinity = getattr(os, "sched_getaffinity", None)  # only on Linux
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cpu_limit())))


def launched_ranks(variable: str) -> int:
    """Number of processes in a variable of torchrun: 1 unless it, or the like, started several.

    Other programs, such as those that schedule jobs, may give the variable another meaning. A job's
    script that sets it for all of its programs leaves RANK to what starts each process.
    """
    count = os.environ.get(variable, "") if "RANK" in os.environ else ""
    return int(count) if count.isdecimal() and int(count) > 1 else 1


def local_ranks() -> int:
    """Number of ranks on this machine, this process among them."""
    return min(launched_ranks("WORLD_SIZE"), launched_ranks("LOCAL_WORLD_SIZE"))


def decoding_threads(workers: int | None, device: str) -> int:
    """Return the number of threads that decode images, `Config.workers` with None resolved.

    It is not resolved in the saved config, because a run may be resumed on another machine; its
    result does not depend on the number.

    Args:
        device: Type of the device that computes, such as "cuda".
    """
    if workers is not None:
        return workers
    # A training step on a CPU takes all cores for a hundred times as long as decoding its images.
    if device != "cuda":
        return CPU_THREADS
    # The processes that share this machine's cores, as torchrun or `alexnet reproduce` says; each
    # needs one for itself.
    processes = local_ranks() * int(os.environ.get(JOBS, "1"))
    return min(MOST_THREADS, max(1, available_cores() // processes - 1))


def cpu_limit(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float:
    """The CPU time that the control groups of this process allow, in cores; infinite without limit.

    Python's `os.cpu_count` and PyTorch do not know these limits. More threads than the limit use it
    up in a part of each period, and all of them wait for the rest of it.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max) and scheduler/sched-bwc.rst.
    """
    return min(map(_limit, _groups("cpu", cgroups, membership)), default=math.inf)


def _groups(controller: str, cgroups: Path, membership: Path) -> list[Path]:
    """The control groups that may limit this process, from its own to the root."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:  # another system than Linux
        return []
    groups: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2: one hierarchy for all controllers
            root = cgroups
        elif controller in controllers.split(","):
            root = cgroups / controllers
        else:
            continue
        # A limit may stand at any level above. Inside a container the path may be that of the host,
        # of which only the root is visible.
        group = PurePosixPath(path).relative_to("/")
        groups += [root / folder for folder in (group, *group.parents)]
    return groups


def _limit(group: Path) -> float:
    """The limit that one control group sets, in cores."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            text = " ".join((group / name).read_text() for name in names)
            quota, period = (float(word) for word in text.split())
        # There is no such file, or it says "max", which means no limit.
        except (OSError, ValueError):
            continue
        # Version 1 says -1 for no limit.
        if quota > 0 and period > 0:
            return quota / period
    return math.inf


def physical_memory() -> int:
    """The memory of the machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def memory_limit(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """The memory in bytes that this process may use: the lowest limit, or that of the machine.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (memory.max) and cgroup-v1/memory.rst.
    """
    total = physical_memory()
    limits = [resource.getrlimit(resource.RLIMIT_AS)[0]]
    for group in _groups("memory", cgroups, membership):
        for file in ("memory.max", "memory.limit_in_bytes"):
            # There is no such file, or it says "max", which means no limit.
            with suppress(OSError, ValueError):
                limits.append(int((group / file).read_text()))
    return min((limit for limit in limits if 0 < limit < total), default=total)
