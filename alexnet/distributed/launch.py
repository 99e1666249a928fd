"""Ranks that begin together: what one refuses all refuse, one speaks, all have the same settings and pictures."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from alexnet.data.storage import StoreLost
from alexnet.distributed.collectives import gathered
from alexnet.distributed.mesh import Mesh
from alexnet.errors import AlexNetError, MeshError

Made = TypeVar("Made")


def restarted() -> bool:
    """Whether torchrun started the ranks again after one of them failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def only_rank_zero_prints() -> None:
    """Ranks other than the first print nothing but what nobody caught."""
    if int(os.environ.get("RANK", "0")) == 0:
        return
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (until the process ends)
    sys.excepthook = _to_the_terminal


def _to_the_terminal(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    sys.stderr = sys.__stderr__
    sys.__excepthook__(kind, error, trace)


def check_same_on_all_ranks(
    mesh: Mesh, make: Callable[[], Made], says: Callable[[Made], str]
) -> Made:
    """make() on every rank. says: what must be the same on all.

    Raises MeshError on every rank, with the first one's sentence, where it did on any, and where they differ.
    """
    made, problem, digest = None, None, ""
    try:
        made = make()
        digest = hashlib.sha256(says(made).encode()).hexdigest()
    except (AlexNetError, StoreLost) as error:
        problem = str(error)
    if mesh.world.size > 1:
        everyone: list[tuple[str | None, str]] = [(None, "")] * mesh.world.size
        dist.all_gather_object(everyone, (problem, digest))
        problems = [
            (rank, theirs) for rank, (theirs, _) in enumerate(everyone) if theirs is not None
        ]
        if problems:
            rank, problem = problems[0]
            problem = problem if len(problems) == mesh.world.size else f"rank {rank}: {problem}"
        else:
            others = [rank for rank, (_, theirs) in enumerate(everyone) if theirs != everyone[0][1]]
            if others:
                problem = f"rank {others[0]} has another config or store than rank 0; start all with the same"
    if problem is not None or made is None:
        raise MeshError(problem)
    return made


def barrier(mesh: Mesh) -> None:
    """No rank goes on before all are here: one that hangs is found, not waited for."""
    if mesh.world.size > 1:
        dist.barrier()


def scatter(order: NDArray[np.int64], mesh: Mesh) -> NDArray[np.int64]:
    """This shard's pictures of `order`, as many on every shard: where they do not divide, the last are repeated."""
    each = -(-len(order) // mesh.data.size)
    filled = np.concatenate([order, np.repeat(order[-1:], each * mesh.data.size - len(order))])
    return filled[mesh.data.place * each :][:each]


def all_gather(
    values: NDArray[np.float32], count: int, mesh: Mesh, device: torch.device
) -> NDArray[np.float32]:
    """Every shard's rows of `scatter` pictures, one after the other, `count` of them: on all ranks."""
    if mesh.data.size == 1:
        return values
    rows = gathered(torch.from_numpy(values).to(device), mesh, mesh.data, "test").flatten(0, 1)
    whole: NDArray[np.float32] = rows[:count].cpu().numpy()
    return whole
