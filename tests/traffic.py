"""What a rank passes to PyTorch's collective operations, to be compared with the cost model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from alexnet.distributed import collectives
from benchmarks.cost import Collective

Traffic = dict[str, list[int]]
"""By kind (gather, scatter, sum): the bytes that the rank passes to each operation."""


@contextmanager
def recorded() -> Iterator[Traffic]:
    """Record the collective operations of the block; their arguments and results stay the same."""
    traffic: Traffic = {"gather": [], "scatter": [], "sum": []}

    def recording(kind: str, position: int, function: Callable[..., Any]) -> Callable[..., Any]:
        def record(*arguments: Any, **options: Any) -> Any:
            x: torch.Tensor = arguments[position]
            traffic[kind].append(x.numel() * x.element_size())
            return function(*arguments, **options)

        return record

    with (
        patch.object(dist, "all_reduce", recording("sum", 0, dist.all_reduce)),
        patch.object(collectives, "_gather_into", recording("gather", 1, collectives._gather_into)),
        patch.object(
            collectives, "_scatter_into", recording("scatter", 1, collectives._scatter_into)
        ),
    ):
        yield traffic


def summary(traffic: Traffic) -> tuple[list[int], list[int], int]:
    """The sizes of all gathers and of all scatters, and the bytes of all sums together.

    The cost model joins the gradients to one sum, and a step adds them one parameter at a time.
    """
    return sorted(traffic["gather"]), sorted(traffic["scatter"]), sum(traffic["sum"])


def predicted(operations: Iterable[Collective]) -> Traffic:
    """The same by the cost model."""
    traffic: Traffic = {"gather": [], "scatter": [], "sum": []}
    for operation in operations:
        traffic[operation.kind].append(operation.payload_bytes)
    return traffic
