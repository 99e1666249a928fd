"""The mesh of ranks: which rank holds which columns, and which part of each batch.

rank = (index of the part of the batch) * columns + column. A single process is a mesh of one rank
and communicates nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore  # type: ignore[attr-defined]

from alexnet.config import Config, Parallel
from alexnet.cores import local_ranks
from alexnet.data.loader import Share
from alexnet.device import device_type
from alexnet.distributed.rendezvous import agent_serves, launch_store, meet
from alexnet.distributed.restart import world_size
from alexnet.errors import MeshError


@dataclass(frozen=True)
class Group:
    """Ranks that take part in the same collective operations; this rank is one of them."""

    ranks: tuple[int, ...] = (0,)
    index: int = 0
    """Position of this rank in `ranks`."""
    handle: Any = field(default=None, repr=False)
    """PyTorch's process group; None for all ranks together, and for a group of one."""

    @property
    def size(self) -> int:
        """Number of ranks in the group."""
        return len(self.ranks)


# Not PyTorch's DeviceMesh: it does not exist without process groups, which a single process has no
# use for, and its groups do not inherit the timeout (docs/design.md).
@dataclass(frozen=True)
class Mesh:
    """The groups of a rank. The default is the mesh of a single process."""

    world: Group = Group()
    """All ranks."""
    data: Group = Group()
    """Ranks that hold the same columns and compute on different parts of the batch."""
    columns: Group = Group()
    """Ranks that hold different columns and compute on the same part of the batch."""
    hybrid: bool = False
    """Each rank holds a shard of the fully connected layers and computes it for the full batch."""
    start: str = ""
    """Name of this start of the ranks, under which they write to the store of the launch."""

    @property
    def units(self) -> Group:
        """The ranks that share the units of the fully connected layers."""
        return self.world if self.hybrid else self.columns

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes the files and prints."""
        return self.world.index == 0

    @property
    def share(self) -> Share:
        """This rank's part of every batch."""
        return Share(self.data.index, self.data.size)


ALONE = Mesh()


def is_distributed() -> bool:
    """Whether torchrun, or a program that sets the same variables, started several processes."""
    return world_size() > 1


def layout(world: int, columns: int) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The groups of ranks with the same columns, and those with the same part of the batch.

    Args:
        world: Number of ranks.
        columns: Number of ranks that share the columns of one network.

    Raises:
        MeshError: `world` is not a multiple of `columns`.
    """
    if columns < 1:
        raise MeshError(f"parallel.columns is {columns}; it must be at least 1")
    if world % columns:
        suggested = max(1, world // columns) * columns
        raise MeshError(
            f"{world} ranks cannot hold nets of {columns} columns each; "
            f"start a multiple of {columns}: torchrun --nproc-per-node {suggested}"
        )
    return (
        [tuple(range(column, world, columns)) for column in range(columns)],
        [tuple(range(first, first + columns)) for first in range(0, world, columns)],
    )


def check_layout(config: Config, world: int) -> None:
    """Check that `world` ranks can train a config.

    Raises:
        MeshError: They cannot, because of the columns, the batch size, the augmentation, or the
            GPUs of this machine.
    """
    if world > 1 and (config.augment.mixup or config.augment.cutmix):
        raise MeshError(
            "augment.mixup and augment.cutmix mix images of the whole batch, of which each of "
            f"{world} ranks has a part; train with them in a single process"
        )
    columns, columns_of_net = config.parallel.columns, config.architecture.columns
    if columns not in (1, columns_of_net):
        give = "1" if columns_of_net == 1 else f"1 or {columns_of_net}"
        raise MeshError(
            f"parallel.columns is {columns} and the network has {columns_of_net}; give {give}"
        )
    layout(world, columns)
    parts = world // columns
    if config.sgd.batch % parts:
        raise MeshError(
            f"a batch of {config.sgd.batch} images cannot be divided equally among {parts} ranks; "
            "set --sgd.batch"
        )
    if config.device.startswith("cuda"):
        ranks, gpus = local_ranks(), torch.cuda.device_count()
        if ranks > gpus:
            raise MeshError(
                f"each rank needs a GPU of its own, and a machine with {gpus} has {ranks} ranks; "
                f"start {gpus} on it: torchrun --nproc-per-node {gpus}, or set --device cpu"
            )


def init_mesh(parallel: Parallel, device: str = "cpu") -> Mesh:
    """Join the other ranks that torchrun started, take a GPU, and return the mesh.

    Args:
        device: `Config.device`. With CUDA, the rank with number k on its machine takes GPU k, which
            "cuda" means in this process from here on.

    Returns:
        A mesh of one rank if torchrun did not start this process.

    Raises:
        MeshError: The number of ranks is not a multiple of the number of columns.
        BusyError: Not all ranks came in time.
    """
    # Before any collective operation: NCCL refuses two ranks on one GPU.
    _take_gpu(device)
    if not is_distributed():
        if parallel.columns > 1:
            raise MeshError(
                f"parallel.columns is {parallel.columns} in one process; start several with: "
                f"torchrun --nproc-per-node {parallel.columns} -m alexnet train ..."
            )
        return Mesh(hybrid=parallel.hybrid)
    rank, world = int(os.environ["RANK"]), world_size()
    data, columns = layout(world, parallel.columns)
    timeout = timedelta(seconds=parallel.timeout_s)
    begins = not dist.is_initialized()
    serves = begins and rank == 0 and not agent_serves()
    store = launch_store(parallel.timeout_s, serves)
    start = meet(store, rank, world, parallel.timeout_s)
    if begins:
        # The process group keeps the server, if this process has it, alive.
        store = PrefixStore(start, store)
        dist.init_process_group(
            _backend(device), store=store, rank=rank, world_size=world, timeout=timeout
        )
    return Mesh(
        Group(tuple(range(world)), rank),
        _group_of(rank, data, timeout),
        _group_of(rank, columns, timeout),
        parallel.hybrid,
        start,
    )


def _take_gpu(device: str) -> None:
    """Make "cuda" mean the GPU of this process.

    It is the one with the number of the rank on its machine, or, in a single process, the one that
    `Config.device` names.
    """
    if device_type(device) != "cuda":
        return
    index = os.environ.get("LOCAL_RANK", "0") if is_distributed() else device.partition(":")[2]
    # A GPU that does not exist is refused later, by `check_layout` or `resolve`, on all ranks.
    if index.isdigit() and int(index) < torch.cuda.device_count():
        torch.cuda.set_device(int(index))


def _backend(device: str) -> str:
    """Choose the backend of the process groups for `Config.device`."""
    if device_type(device) != "cuda" or not torch.cuda.is_available():
        return "gloo"
    # What the ranks say to each other on the CPU goes over gloo: that a rank refuses the run, and
    # that all have arrived. It needs no GPU and fails at once where a rank has died. No `device_id`
    # is given, because it would send the barrier over NCCL.
    return "cpu:gloo,cuda:nccl"


def destroy_mesh() -> None:
    """Leave the process group that `init_mesh` joined.

    Only after a training that ended well, which all ranks do together: NCCL waits for all of them,
    and warns of a process that ends without leaving.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


def _group_of(rank: int, groups: list[tuple[int, ...]], timeout: timedelta) -> Group:
    """Create all the groups, and return the one that contains the rank."""
    ranks = next(ranks for ranks in groups if rank in ranks)
    handle = None
    if len(ranks) > 1:
        # Every rank must create every group, in the same order, and a group does not inherit the
        # timeout of the default group.
        enumerated = [list(ranks) for ranks in groups]
        handle, _ = dist.new_subgroups_by_enumeration(  # type: ignore[no-untyped-call]
            enumerated, timeout
        )
    return Group(ranks, ranks.index(rank), handle)
