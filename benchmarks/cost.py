"""The cost of a training step on many devices: bytes exactly, seconds by a model.

The bytes are those that each rank passes to collective operations. In the model a device computes
its share of the multiply-adds at its measured speed and then communicates. Collective operations
use a ring: each of p ranks sends p - 1 messages, (p - 1) x bytes to gather x bytes, and
2 (p - 1) / p x bytes to sum x bytes. The model assumes no overlap, although in a real step some
gradients are summed while others are still computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod

from alexnet.architecture import Op, plan
from alexnet.config import Architecture, FullyConnected
from alexnet.data.loader import Share

# Numbers that the ranks sum in every step: loss, errors, whether to stop, whether to save.
READINGS = 4
LABEL_BYTES, READING_BYTES = 8, 4


@dataclass(frozen=True)
class Layout:
    """A layout of `shards` x `columns` ranks, like `mesh.Mesh`."""

    shards: int = 1
    columns: int = 1
    hybrid: bool = False

    @property
    def world(self) -> int:
        return self.shards * self.columns

    @property
    def units(self) -> int:
        """Number of parts that the fully connected layers are divided into."""
        return self.world if self.hybrid else self.columns


@dataclass(frozen=True)
class Collective:
    """One collective operation of a step, from the view of one rank."""

    purpose: str
    kind: str
    """gather, scatter (with addition) or sum."""
    ranks: int
    payload_bytes: int
    """Bytes that the rank passes in."""

    @property
    def wire_bytes(self) -> float:
        """Bytes that the rank sends through the ring."""
        p = self.ranks
        share = {"gather": p - 1, "scatter": (p - 1) / p, "sum": 2 * (p - 1) / p}[self.kind]
        return share * self.payload_bytes

    @property
    def messages(self) -> int:
        """Number of messages that the rank sends one after the other."""
        return (2 if self.kind == "sum" else 1) * (self.ranks - 1)


def collectives(
    architecture: Architecture,
    layout: Layout,
    batch: int,
    data_index: int = 0,
    value_bytes: int = 4,
) -> list[Collective]:
    """The collective operations of one rank in a training step.

    Args:
        batch: Images of all ranks together.
        data_index: Which part of the batch the rank has.
        value_bytes: Bytes of an activation: 2 in bfloat16, 4 in float32, 8 in float64. Parameters,
            their gradients and what the loss needs have at least 4.
    """
    wide_bytes = max(4, value_bytes)
    linear = [step for step in plan(architecture) if step.op == "linear"]
    sizes = Share(count=layout.shards).sizes(batch)
    local, largest = sizes[data_index], max(sizes)
    # With hybrid, each part of the fully connected layers sees the whole batch.
    fc_images = batch if layout.hybrid else local
    last = linear[-1]
    by_classes = architecture.links and last.shape[0] > last.in_shape[0]
    operations: list[Collective] = []

    def add_gather(purpose: str, ranks: int, values: int) -> None:
        """Add a gather and, for the backward pass, the scatter of its gradients."""
        operations.append(Collective(purpose, "gather", ranks, values * value_bytes))
        operations.append(
            Collective(f"{purpose}, gradient", "scatter", ranks, ranks * values * value_bytes)
        )

    for before, step in pairwise(linear):
        name, inputs, meets = step.layer.name, prod(step.in_shape), step.columns == 1
        after_maps = not isinstance(before.layer, FullyConnected)
        if step is last and not by_classes:
            operations.append(
                Collective(name, "sum", layout.units, fc_images * step.shape[0] * value_bytes)
            )
        elif not isinstance(step.layer, FullyConnected) or after_maps:
            if meets:
                add_gather(name, layout.columns, local * inputs // layout.columns)
            if meets and layout.hybrid and isinstance(step.layer, FullyConnected):
                add_gather(f"{name}, pictures", layout.shards, largest * inputs)
        elif meets:
            add_gather(name, layout.units, fc_images * inputs // layout.units)
    if layout.hybrid:
        operations.append(Collective("labels", "gather", layout.shards, largest * LABEL_BYTES))
    if by_classes:
        operations.append(Collective("loss", "sum", layout.units, 3 * fc_images * wide_bytes))
    held = sum(
        parameters(step, layout, step is last and not by_classes)
        for step in linear
        if summed(step, layout)
    )
    operations.append(Collective("gradients", "sum", layout.shards, held * wide_bytes))
    operations.append(Collective("readings", "sum", layout.world, READINGS * READING_BYTES))
    # A group of one rank communicates nothing.
    return [operation for operation in operations if operation.ranks > 1]


def summed(step: Op, layout: Layout) -> bool:
    """Whether the ranks sum the gradients of a layer."""
    return not (layout.hybrid and isinstance(step.layer, FullyConnected))


def parameters(step: Op, layout: Layout, by_inputs: bool) -> int:
    """The number of parameters of a layer that a rank holds."""
    parts = layout.units if isinstance(step.layer, FullyConnected) else layout.columns
    weight, bias = prod(step.weight_shape), prod(step.bias_shape)
    return weight // parts + (bias if by_inputs else bias // parts)


def payload_bytes(
    architecture: Architecture,
    layout: Layout,
    batch: int,
    data_index: int = 0,
    value_bytes: int = 4,
) -> dict[str, int]:
    """Bytes that a rank passes to collective operations in a training step, by purpose.

    A test compares them with what the ranks pass in.
    """
    sums: dict[str, int] = {}
    for operation in collectives(architecture, layout, batch, data_index, value_bytes):
        sums[operation.purpose] = sums.get(operation.purpose, 0) + operation.payload_bytes
    return sums


@dataclass(frozen=True)
class Machine:
    """The measured speed of a device and of its link."""

    macs_per_s: float
    """Multiply-adds per second of whole training steps."""
    bytes_per_s: float
    message_s: float
    """Seconds for the smallest message."""


@dataclass(frozen=True)
class Prediction:
    """The predicted cost of a training step."""

    layout: Layout
    batch: int
    compute_s: float
    exchange_s: float
    payload_bytes: int

    @property
    def images_per_s(self) -> float:
        return self.batch / (self.compute_s + self.exchange_s)

    @property
    def efficiency(self) -> float:
        """Share of the time that is spent on computation."""
        return self.compute_s / (self.compute_s + self.exchange_s)


def step_macs(architecture: Architecture, layout: Layout, batch: int) -> float:
    """Multiply-adds of a rank's training step.

    The backward pass costs twice the forward pass, except for the first layer, whose input needs no
    gradient.
    """
    linear = [step for step in plan(architecture) if step.op == "linear"]
    total = 0.0
    for index, step in enumerate(linear):
        fully_connected = isinstance(step.layer, FullyConnected)
        images = (
            batch / layout.units
            if fully_connected and layout.hybrid
            else batch / layout.shards / layout.columns
        )
        total += (2 if index == 0 else 3) * step.multiply_adds * images
    return total


def predict(
    architecture: Architecture, layout: Layout, batch: int, machine: Machine, value_bytes: int = 4
) -> Prediction:
    """Predict the cost of a training step.

    Args:
        batch: Images of all ranks together.
    """
    operations = collectives(architecture, layout, batch, value_bytes=value_bytes)
    exchange_s = sum(
        operation.wire_bytes / machine.bytes_per_s + operation.messages * machine.message_s
        for operation in operations
    )
    compute_s = step_macs(architecture, layout, batch) / machine.macs_per_s
    return Prediction(
        layout,
        batch,
        compute_s,
        exchange_s,
        sum(operation.payload_bytes for operation in operations),
    )
