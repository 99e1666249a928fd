"""What a step costs on many devices: bytes that each hands to collectives, exactly; seconds, by a model.

The model: a device computes its share of the multiply-adds at the rate it was measured at, then exchanges. Collectives
go round a ring: of p ranks each sends p - 1 messages, in a gather of x bytes (p - 1) x in all, in a sum of x bytes
twice (p - 1) / p x. As if nothing overlapped, though gradients are summed while others are computed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod

from alexnet.config import Architecture, Full
from alexnet.data.loader import Share
from alexnet.model import Step, plan

READINGS = (
    4  # numbers that ranks add up at every step: loss, errors, whether to stop, whether to save
)
LABEL_BYTES, READING_BYTES = 8, 4


@dataclass(frozen=True)
class Layout:
    """shards x columns ranks, as `mesh.Mesh`."""

    shards: int = 1
    columns: int = 1
    hybrid: bool = False

    @property
    def world(self) -> int:
        return self.shards * self.columns

    @property
    def units(self) -> int:
        """Parts that the fully connected layers are in."""
        return self.world if self.hybrid else self.columns


@dataclass(frozen=True)
class Collective:
    """One exchange of a step, as one rank takes part in it."""

    purpose: str
    kind: str
    """gather, scatter (and add), sum."""
    ranks: int
    payload_bytes: int
    """What the rank hands over."""

    @property
    def wire_bytes(self) -> float:
        """What the rank sends round the ring."""
        p = self.ranks
        share = {"gather": p - 1, "scatter": (p - 1) / p, "sum": 2 * (p - 1) / p}[self.kind]
        return share * self.payload_bytes

    @property
    def messages(self) -> int:
        """One after the other round the ring."""
        return (2 if self.kind == "sum" else 1) * (self.ranks - 1)


def collectives(
    architecture: Architecture, layout: Layout, batch: int, place: int = 0, value_bytes: int = 4
) -> list[Collective]:
    """Of a training step of one rank, of shard `place`. batch: of all ranks together; value_bytes: of a number."""
    linear = [step for step in plan(architecture) if step.op == "linear"]
    sizes = Share(of=layout.shards).sizes(batch)
    own, most = sizes[place], max(sizes)
    seen = batch if layout.hybrid else own  # pictures that the fully connected layers see here
    last = linear[-1]
    by_classes = architecture.links and last.shape[0] > last.in_shape[0]
    found: list[Collective] = []

    def gather(purpose: str, ranks: int, values: int) -> None:
        """And the sum of its gradients on the way back."""
        found.append(Collective(purpose, "gather", ranks, values * value_bytes))
        found.append(
            Collective(f"{purpose}, gradient", "scatter", ranks, ranks * values * value_bytes)
        )

    for before, step in pairwise(linear):
        name, inputs, meets = step.layer.name, prod(step.in_shape), step.columns == 1
        after_maps = not isinstance(before.layer, Full)
        if step is last and not by_classes:
            found.append(Collective(name, "sum", layout.units, seen * step.shape[0] * value_bytes))
        elif not isinstance(step.layer, Full) or after_maps:
            if meets:
                gather(name, layout.columns, own * inputs // layout.columns)
            if meets and layout.hybrid and isinstance(step.layer, Full):
                gather(f"{name}, pictures", layout.shards, most * inputs)
        elif meets:
            gather(name, layout.units, seen * inputs // layout.units)
    if layout.hybrid:
        found.append(Collective("labels", "gather", layout.shards, most * LABEL_BYTES))
    if by_classes:
        found.append(Collective("loss", "sum", layout.units, 3 * seen * value_bytes))
    held = sum(
        parameters(step, layout, step is last and not by_classes)
        for step in linear
        if summed(step, layout)
    )
    found.append(Collective("gradients", "sum", layout.shards, held * value_bytes))
    found.append(Collective("readings", "sum", layout.world, READINGS * READING_BYTES))
    return [one for one in found if one.ranks > 1]


def summed(step: Step, layout: Layout) -> bool:
    """Whether shards add up the layer's gradients."""
    return not (layout.hybrid and isinstance(step.layer, Full))


def parameters(step: Step, layout: Layout, by_inputs: bool) -> int:
    """That a rank holds of a layer."""
    parts = layout.units if isinstance(step.layer, Full) else layout.columns
    weight, bias = prod(step.weight_shape), prod(step.bias_shape)
    return weight // parts + (bias if by_inputs else bias // parts)


def payload_bytes(
    architecture: Architecture, layout: Layout, batch: int, place: int = 0, value_bytes: int = 4
) -> dict[str, int]:
    """What a rank hands to collectives in a training step, by purpose: what `Mesh.sent_bytes` counts."""
    sums: dict[str, int] = {}
    for one in collectives(architecture, layout, batch, place, value_bytes):
        sums[one.purpose] = sums.get(one.purpose, 0) + one.payload_bytes
    return sums


@dataclass(frozen=True)
class Machine:
    """One device and its link, as measured."""

    macs_per_s: float
    """Multiply-adds of whole training steps."""
    bytes_per_s: float
    message_s: float
    """Of the smallest message."""


@dataclass(frozen=True)
class Prediction:
    """Of a training step."""

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
        """Share of the time that is spent computing."""
        return self.compute_s / (self.compute_s + self.exchange_s)


def step_macs(architecture: Architecture, layout: Layout, batch: int) -> float:
    """Multiply-adds of a rank's training step: forward, and twice that backward but for the first layer's once."""
    linear = [step for step in plan(architecture) if step.op == "linear"]
    total = 0.0
    for place, step in enumerate(linear):
        full = isinstance(step.layer, Full)
        pictures = (
            batch / layout.units
            if full and layout.hybrid
            else batch / layout.shards / layout.columns
        )
        total += (2 if place == 0 else 3) * step.multiply_adds * pictures
    return total


def predict(
    architecture: Architecture, layout: Layout, batch: int, machine: Machine, value_bytes: int = 4
) -> Prediction:
    """batch: of all ranks together."""
    every = collectives(architecture, layout, batch, value_bytes=value_bytes)
    exchange_s = sum(
        one.wire_bytes / machine.bytes_per_s + one.messages * machine.message_s for one in every
    )
    compute_s = step_macs(architecture, layout, batch) / machine.macs_per_s
    return Prediction(layout, batch, compute_s, exchange_s, sum(one.payload_bytes for one in every))
