"""The beginning and the end of a run on several ranks.

What one rank rejects all reject, with one message, and all have the same settings and store.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from alexnet.data.storage import StoreLost
from alexnet.distributed.collectives import gather_stack
from alexnet.distributed.mesh import Mesh
from alexnet.distributed.rendezvous import agent_serves, launch_store
from alexnet.distributed.restart import restarted
from alexnet.errors import AlexNetError, BusyError, MeshError
from alexnet.files import AWAY, exists

T = TypeVar("T")

TRANSIENT = (BusyError, StoreLost)
"""Errors that may be gone when the ranks are started again."""
STORE_S = 10.0
"""Longest wait for an answer of the store of the launch, in seconds."""
Report = tuple[str | None, type[Exception], dict[str, str]]
"""The problem of a rank, if any, the class of its error, and digests of what it made, by name."""


def check_same_on_all_ranks(
    mesh: Mesh, make: Callable[[], T], fingerprint: Callable[[T], dict[str, str]]
) -> T:
    """Call `make` on every rank, and return what it made on this one.

    Args:
        fingerprint: Texts that must be the same on all ranks, by what the message calls them.
            Of several that differ the message names the first one.

    Raises:
        MeshError: `make` raised an error on some rank, or the fingerprints differ. All ranks raise
            the same error, because a rank that went on would wait for the others until the timeout.
        BusyError, StoreLost: `make` raised this error on some rank, or its disk did not answer,
            for which it is a BusyError; that may be gone when torchrun starts the ranks again.
    """
    if mesh.world.size == 1:
        return make()
    made: T | None = None
    problem: str | None = None
    kind: type[Exception] = MeshError
    digests: dict[str, str] = {}
    try:
        made = make()
        digests = {
            name: hashlib.sha256(text.encode()).hexdigest()
            for name, text in fingerprint(made).items()
        }
    except (AlexNetError, StoreLost) as error:
        problem, kind = str(error), next((k for k in TRANSIENT if isinstance(error, k)), MeshError)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        problem = f"{name}{error.strerror or error}"
        if error.errno in AWAY:
            problem, kind = f"{problem}; make sure that this disk works and try again", BusyError
    # Every rank takes part, also one with a problem: the others wait for its report.
    reports: list[Report] = [(None, MeshError, {})] * mesh.world.size
    dist.all_gather_object(reports, (problem, kind, digests))
    error_of_all = _error_of_all(reports)
    if error_of_all is not None or made is None:
        raise error_of_all or MeshError(problem)
    return made


def _error_of_all(reports: list[Report]) -> Exception | None:
    """Choose the error that all ranks raise; None if no rank has a problem."""
    problems = [(rank, text) for rank, (text, _, _) in enumerate(reports) if text is not None]
    # A problem that all ranks have needs no rank in its message.
    if problems:
        rank, text = problems[0]
        kind = reports[rank][1]
        return kind(text if len(problems) == len(reports) else f"rank {rank}: {text}")
    for name, digest in reports[0][2].items():
        for rank, (_, _, digests) in enumerate(reports):
            # Another version of this program may have other names.
            if digests.get(name) != digest:
                return MeshError(
                    f"rank {rank} has another {name} than rank 0; start all ranks with the same"
                )
    return None


def begun_before(mesh: Mesh, run: Path) -> bool:
    """Whether an earlier start of these ranks, which torchrun has started again, began a run.

    The first rank decides: the counts of restarts differ between machines, and a shared disk may
    not yet show the run to all of them.
    """
    if not mesh.first:
        answers = [False]
    # A single rank of torchrun, too: others may have left it.
    elif agent_serves():
        answers = [launch_store(STORE_S).check([_begun(run)])]
    else:
        # The store of an earlier start has ended with its first rank.
        answers = [restarted()]
    answers = [answers[0] and exists(run / "config.json")]
    if mesh.world.size > 1:
        dist.broadcast_object_list(answers, 0)
    return answers[0]


def note_begun(mesh: Mesh, run: Path) -> None:
    """Let `begun_before` know after a restart that these ranks began a run."""
    if mesh.first and (mesh.world.size > 1 or agent_serves()):
        launch_store(STORE_S).set(_begun(run), "")


def _begun(run: Path) -> str:
    return f"begun/{run.resolve()}"


def barrier(mesh: Mesh) -> None:
    """Wait until all ranks are here, so that a rank that hangs is found before the others end."""
    if mesh.world.size > 1:
        dist.barrier()


def scatter(order: NDArray[np.int64], mesh: Mesh) -> NDArray[np.int64]:
    """This rank's part of `order`, the positions of images, to be measured.

    All parts have the same length, as collective operations need it: if the images cannot be
    divided equally, the last one is repeated.
    """
    part_size = -(-len(order) // mesh.data.size)
    padded = np.concatenate([order, np.repeat(order[-1:], part_size * mesh.data.size - len(order))])
    return padded[mesh.data.index * part_size :][:part_size]


def all_gather(
    values: NDArray[np.float32], count: int, mesh: Mesh, device: torch.device
) -> NDArray[np.float32]:
    """Concatenate the rows of the parts that `scatter` made, on all ranks.

    Args:
        values: One row for each image of this rank's part.
        count: Number of images in all; rows of repeated images are removed.
    """
    if mesh.data.size == 1:
        return values
    rows = gather_stack(torch.from_numpy(values).to(device), mesh.data).flatten(0, 1)
    full: NDArray[np.float32] = rows[:count].cpu().numpy()
    return full
