"""The mesh: which rank holds which column and which part of the batch.

rank = (index of the part of the batch) * columns + column. A single process is a mesh of one rank
and communicates nothing.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from alexnet.config import Config, Parallel
from alexnet.data.loader import Share
from alexnet.errors import MeshError


@dataclass(frozen=True)
class Group:
    """Ranks that exchange something, this one among them, in order; `handle` is PyTorch's."""

    ranks: tuple[int, ...] = (0,)
    place: int = 0
    """Of this rank in it."""
    handle: Any = field(default=None, repr=False)

    @property
    def size(self) -> int:
        return len(self.ranks)


@dataclass(frozen=True)
class Mesh:
    """data: ranks that hold the same columns and other parts of the batch. columns: those that share a part of it."""

    world: Group = Group()
    data: Group = Group()
    columns: Group = Group()
    hybrid: bool = False
    """Fully connected layers are cut into as many parts as there are ranks, each for the whole batch."""
    sent_bytes: Counter[str] = field(default_factory=Counter, repr=False)
    """What this rank has handed to collectives, by purpose."""

    @property
    def units(self) -> Group:
        """The ranks that share the units of the fully connected layers."""
        return self.world if self.hybrid else self.columns

    @property
    def first(self) -> bool:
        """Whether this rank writes the files and prints."""
        return self.world.place == 0

    @property
    def share(self) -> Share:
        """Of every batch."""
        return Share(self.data.place, self.data.size)


ALONE = Mesh()


def is_distributed() -> bool:
    """Whether torchrun, or what sets the same variables, started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def layout(world: int, columns: int) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """The groups of shards and of columns of so many ranks. Raises MeshError where columns do not divide them."""
    if columns < 1 or world % columns:
        raise MeshError(
            f"{world} ranks cannot hold nets of {columns} columns each; "
            f"start a multiple of {columns}: torchrun --nproc-per-node {max(1, world // max(1, columns)) * columns}"
        )
    return (
        [tuple(range(column, world, columns)) for column in range(columns)],
        [tuple(range(first, first + columns)) for first in range(0, world, columns)],
    )


def check_layout(config: Config, world: int) -> None:
    """Raises MeshError where so many ranks cannot train this config."""
    parallel, own = config.parallel, config.architecture.columns
    if parallel.columns not in (1, own):
        raise MeshError(
            f"parallel.columns is {parallel.columns} and the network has {own}; give 1 or {own}"
        )
    layout(world, parallel.columns)
    shards = world // parallel.columns
    if config.sgd.batch % shards:
        raise MeshError(
            f"a batch of {config.sgd.batch} does not divide among {shards} shards; set --sgd.batch"
        )


def init_mesh(parallel: Parallel) -> Mesh:
    """The mesh of the ranks that torchrun started, this process one of them; a mesh of one where it did not.

    Raises MeshError where the columns do not divide the ranks.
    """
    if not is_distributed():
        if parallel.columns > 1:
            raise MeshError(
                f"parallel.columns is {parallel.columns} in one process; start several with: "
                f"torchrun --nproc-per-node {parallel.columns} -m alexnet train ..."
            )
        return Mesh(hybrid=parallel.hybrid)
    shards, columns = layout(int(os.environ["WORLD_SIZE"]), parallel.columns)
    timeout = timedelta(seconds=parallel.timeout_s)
    if not dist.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        hosts = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        store = rendezvous_store(parallel.timeout_s, hosts)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=timeout)
    rank = dist.get_rank()
    every = Group(tuple(range(dist.get_world_size())), rank)
    return Mesh(every, _own(shards, rank, timeout), _own(columns, rank, timeout), parallel.hybrid)


def rendezvous_store(timeout_s: float, hosts: bool = False) -> Any:
    """The store through which the ranks of this start know each other; those of an earlier start wrote elsewhere."""
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    timeout = timedelta(seconds=timeout_s)
    store = TCPStore(*address, is_master=hosts, wait_for_workers=False, timeout=timeout)
    return PrefixStore(f"alexnet/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def destroy_mesh() -> None:
    """Leave the mesh that `init_mesh` joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _own(groups: list[tuple[int, ...]], rank: int, timeout: timedelta) -> Group:
    """The group that holds the rank. Every rank makes every group, as PyTorch wants it."""
    found = Group()
    for ranks in groups:
        handle = dist.new_group(list(ranks), timeout) if len(ranks) > 1 else None
        if rank in ranks:
            found = Group(ranks, ranks.index(rank), handle)
    return found
