"""Estimate the speed of one card in training steps of `paper` in bfloat16, kernel by kernel.

Nothing of it was measured on a card. A kernel takes the longest of three times: its bytes at a
share of the speed of copies, its operations at a share of the speed of one large matrix product,
and its instructions at a share of what the multiprocessors can issue; and a launch. Every share is
an assumption, careful and hopeful. The bytes and operations follow from the shapes. The
instructions were counted on 24 November 2026 in machine code for an H100, of prototypes of the
kernels, which are not kept here.

The step is that of `train/graph_step.py` as planned then: one CUDA graph, crops by one kernel,
conv1 over blocks of 4x4 pixels, two columns as two dense convolutions, one kernel each way for all
that lies between two convolutions, one update. The images are on the card already.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from alexnet import recipes
from alexnet.architecture import Op, plan
from alexnet.config import Conv

Span = tuple[float, float]
"""Careful and hopeful."""

COPY_BYTES_PER_S = {"H100": 3.0e12, "H200": 4.3e12}
"""Bytes that a copy reads and writes: 90 % of the 3.35 and 4.8 TB/s that NVIDIA states."""
PRODUCT_FLOPS = 790e12
"""80 % of the 989e12 a second that NVIDIA states; 794.5e12 were measured by others on an H100
(stas00/ml-engineering, compute/accelerator, "Maximum Achievable Matmul FLOPS")."""
WARP_INSTRUCTIONS_PER_S = 132 * 4 * 1.7e9
"""Of 132 multiprocessors with four schedulers each; the 1.7 GHz are assumed."""
LAUNCH_S = 1.5e-6
"""Assumed for each kernel of a graph."""
BATCHES = 128, 256, 512, 1024

CONV_SHARES: dict[str, tuple[Span, Span | None, Span]] = {
    "conv1": ((0.22, 0.42), None, (0.15, 0.35)),
    "conv2": ((0.35, 0.50), (0.32, 0.48), (0.25, 0.42)),
    "conv3": ((0.42, 0.60), (0.40, 0.58), (0.32, 0.50)),
    "conv4": ((0.36, 0.52), (0.34, 0.50), (0.27, 0.42)),
    "conv5": ((0.33, 0.48), (0.31, 0.46), (0.25, 0.40)),
}
"""Guessed shares of `PRODUCT_FLOPS`: forward, gradient of the input, gradient of the weights. The
products of the convolutions are more than half of the time of a step."""
BLOCK_WORK = 432 / 363
"""conv1 over blocks multiplies 3x3 of 48 values for each result, in place of 11x11 of 3."""
BETWEEN_INSTRUCTIONS: dict[str, dict[str, Span]] = {
    # A value of conv1 or conv2 is normalized again in each window that sees it (9/4), and the 48
    # maps of a column of conv1 are computed as 64 (1.33).
    "Triton": {
        "conv1": (28 * 9 / 4 * 1.33, 95 * 1.33),
        "conv2": (39 * 9 / 4, 140),
        "conv3": (10, 16),
        "conv4": (10, 16),
        "conv5": (18, 35),
    },
    "CUDA C++": {
        "conv1": (42, 72),
        "conv2": (45, 80),
        "conv3": (12, 16),
        "conv4": (12, 16),
        "conv5": (24, 45),
    },
}
"""Instructions for each value of a convolution, forward and backward, by the language of the pass
between two convolutions."""


@dataclass(frozen=True)
class Kernel:
    """One kernel of a step, or several that are alike."""

    moved_bytes: float
    flops: float = 0
    instructions: float = 0
    """Of warps."""
    launches: int = 1
    of_copy: Span = (0.75, 0.9)
    of_product: Span = (0.45, 0.7)
    of_issue: Span = (0.4, 0.65)

    def seconds(self, copy_bytes_per_s: float) -> Span:
        """Careful and hopeful time on a card whose copies have this speed."""
        careful, hopeful = (
            max(
                self.moved_bytes / (copy_bytes_per_s * of_copy),
                self.flops / (PRODUCT_FLOPS * of_product),
                self.instructions / (WARP_INSTRUCTIONS_PER_S * of_issue),
            )
            + LAUNCH_S * self.launches
            for of_copy, of_product, of_issue in zip(
                self.of_copy, self.of_product, self.of_issue, strict=True
            )
        )
        return careful, hopeful


def kernels(batch: int, between: str) -> Iterator[Kernel]:
    """The kernels of a step.

    Args:
        between: Language of the pass between two convolutions, a key of `BETWEEN_INSTRUCTIONS`.
    """
    ops = plan(recipes.paper().architecture)
    # Crops: a byte is read and a bfloat16 written for each value.
    yield Kernel(batch * prod(ops[0].in_shape) * 3, of_copy=(0.3, 0.6))
    for op in ops:
        if op.op != "linear":
            continue
        if isinstance(op.layer, Conv):
            yield from _convolution(op, batch)
            pooled = next(
                (one.shape for one in ops if one.layer is op.layer and one.op == "max_pool"), None
            )
            yield from _between(op, pooled, batch, BETWEEN_INSTRUCTIONS[between][op.module])
        else:
            yield from _fully_connected(op, batch)
    # The update: weights and velocities in float32, which are read and written, and in bfloat16
    # the gradients and a copy of the weights, 20 bytes for each (ops/triton_update.py).
    yield Kernel(sum(op.parameters for op in ops) * 20, launches=2)
    # The loss and its gradient, 40 bytes for each class.
    yield Kernel(batch * ops[-1].shape[0] * 40, launches=3)


def _convolution(op: Op, batch: int) -> Iterator[Kernel]:
    weights = prod(op.weight_shape)
    moved_bytes = 2 * (batch * (prod(op.in_shape) + prod(op.shape)) + weights)
    flops = 2.0 * batch * op.multiply_adds * (BLOCK_WORK if op.module == "conv1" else 1)
    # In the first layer one convolution makes the filters of both columns.
    calls = op.columns
    forward, of_input, of_weights = CONV_SHARES[op.module]
    yield Kernel(moved_bytes, flops, launches=calls, of_product=forward)
    if of_input is not None:
        yield Kernel(moved_bytes, flops, launches=calls, of_product=of_input)
    yield Kernel(moved_bytes, flops, launches=calls + 1, of_product=of_weights)


def _between(
    op: Op, pooled: tuple[int, ...] | None, batch: int, instructions: Span
) -> Iterator[Kernel]:
    values = batch * prod(op.shape)
    # With a maximum, its results and a byte for each position are written; else all values.
    written_bytes = 3 * batch * prod(pooled) if pooled else 2 * values
    forward, backward = (values / 32 * each for each in instructions)
    yield Kernel(2 * values + written_bytes, instructions=forward)
    yield Kernel(4 * values + written_bytes, instructions=backward, launches=2)


def _fully_connected(op: Op, batch: int) -> Iterator[Kernel]:
    outputs, inputs = op.weight_shape
    moved_bytes = 2 * (outputs * inputs + batch * (outputs + inputs))
    # Forward, gradient of the input, gradient of the weights.
    for _ in range(3):
        yield Kernel(
            moved_bytes,
            2.0 * batch * op.multiply_adds,
            of_copy=(0.7, 0.85),
            of_product=(0.4, 0.65),
        )
    # Bias, activation and dropout, forward and backward, 14 bytes for each unit.
    yield Kernel(batch * outputs * 14, launches=3)


def images_per_s(card: str, between: str, batch: int) -> Span:
    """Estimated images/s of training steps on one card, careful and hopeful."""
    times = [kernel.seconds(COPY_BYTES_PER_S[card]) for kernel in kernels(batch, between)]
    careful_s, hopeful_s = (sum(each) for each in zip(*times, strict=True))
    return batch / careful_s, batch / hopeful_s
