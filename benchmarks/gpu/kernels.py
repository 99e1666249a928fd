"""Each kernel alone, beside the time of a copy that moves as many bytes.

Bytes are those that must be moved: every tensor read or written once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from alexnet import recipes
from alexnet.architecture import Op, plan
from alexnet.config import Architecture, Conv, Lrn, Pool, SpatialNorm
from alexnet.model import passes
from alexnet.ops import Mask, cuda_between, triton_between, triton_dropout, triton_spatial
from alexnet.ops.plain import Pass
from alexnet.ops.triton_update import Update
from benchmarks.gpu.lab import (
    Lab,
    Value,
    copy_seconds,
    graphed,
    images_for,
    seconds_of,
    training_config,
)

BATCHES, TINY_BATCHES = (128, 512), (2,)


@dataclass(frozen=True)
class Case:
    """A launch of a kernel, or of several, and the bytes that they must move."""

    name: str
    run: Callable[[], object]
    bytes: int


def run(lab: Lab) -> None:
    for batch in TINY_BATCHES if lab.tiny else BATCHES:
        for case in cases(lab, batch):
            lab.attempt(f"{case.name}, batch {batch}", lambda case=case: _measured(lab, case))


def _measured(lab: Lab, case: Case) -> dict[str, Value]:
    seconds = seconds_of(graphed(case.run))
    copy_s = copy_seconds(case.bytes, lab.device)
    return {
        "us": 1e6 * seconds,
        "copy_us": 1e6 * copy_s,
        "copies": seconds / copy_s,
        "tb_per_s": case.bytes / seconds / 1e12,
    }


def cases(lab: Lab, batch: int) -> Iterator[Case]:
    """Every kernel at the sizes of the network, in bfloat16."""
    config = training_config(lab, batch)
    yield from _crop(lab, batch)
    for ops in passes(plan(config.architecture), with_bias=True):
        if ops[0].op == "linear" and isinstance(ops[0].layer, Conv):
            yield from _between(lab, ops, config.architecture, batch)
    yield from _spatial(lab, batch)
    yield _dropout(lab, batch)
    yield _update(lab, batch)


def _crop(lab: Lab, batch: int) -> Iterator[Case]:
    config = training_config(lab, batch)
    images = images_for(lab, config)
    packed = images.preprocess.packed(images.augmentation).to(lab.device)
    pixels = batch * 3 * config.architecture.input_px**2
    # A byte of a stored pixel is read, and two of the input are written; the mean stays in a cache.
    conv1 = config.architecture.layers[0]
    assert isinstance(conv1, Conv)
    for name, in_blocks_of in (("crop", None), ("crop in blocks", conv1)):
        yield Case(
            name,
            lambda conv=in_blocks_of: images.preprocess.on_device(  # type: ignore[misc]
                images.batch.images, packed, False, conv
            ),
            pixels * (1 + 2),
        )


def _between(
    lab: Lab, ops: tuple[Op, ...], architecture: Architecture, batch: int
) -> Iterator[Case]:
    """The pass after a convolution, forward and with its gradient."""
    kinds, convolution = [op.op for op in ops], ops[0]
    norm: Lrn | None = architecture.lrn if "lrn" in kinds else None
    window: Pool | None = architecture.pool if "max_pool" in kinds else None
    x = _random(lab, (batch, *convolution.shape)).requires_grad_()
    bias = torch.zeros(convolution.shape[0], device=lab.device, requires_grad=True)
    relu_after = window is not None and kinds[-1] == "activation"

    # As the network asks for it: the columns are those of the normalization.
    columns = next((op.columns for op in ops if op.op == "lrn"), 1)
    between = Pass(kinds[1] == "activation", norm, window, relu_after, columns)

    def by_triton() -> torch.Tensor:
        return triton_between.norm_pool(x, bias, between)

    # By its shape in the plan: a launch here, outside of an attempt, would take all cases with it.
    dy = torch.ones((batch, *ops[-1].shape), device=lab.device, dtype=torch.bfloat16)
    dy = dy.contiguous(memory_format=torch.channels_last)
    once = x.numel() * 2 + dy.numel() * (2 + (1 if window else 0))
    name = f"after {convolution.layer.name}"
    ways = {f"{name}, Triton": by_triton}
    if x.is_cuda and cuda_between.takes(x, bias, between):
        ways[f"{name}, CUDA C++"] = lambda: cuda_between.norm_pool(x, bias, between)
    for way, forward in ways.items():
        yield Case(f"{way}, forward", forward, once)
        # x again, dx, dy, and the places of the maxima.
        yield Case(
            f"{way}, and gradient",
            lambda forward=forward: torch.autograd.grad(forward(), (x, bias), dy),  # type: ignore[misc]
            2 * once + x.numel() * 2,
        )


def _spatial(lab: Lab, batch: int) -> Iterator[Case]:
    """The normalization of `original` at its first place."""
    first = next(op for op in plan(recipes.original().architecture) if op.op == "spatial_norm")
    channels, height, width = first.in_shape
    shape = (batch, 16, 6, 7) if lab.tiny else (batch, channels, height, width)
    x = _random(lab, shape).requires_grad_()
    dy = torch.ones_like(x)
    each = x.numel() * 2
    forward = lambda: triton_spatial.spatial_norm(x, SpatialNorm())  # noqa: E731
    yield Case("spatial normalization, forward", forward, 2 * each)
    # Two kernels: x, dy and what lies between them, then these again and dx.
    yield Case(
        "spatial normalization, and gradient",
        lambda: torch.autograd.grad(forward(), x, dy),
        2 * each + 3 * each + 4 * each,
    )


def _dropout(lab: Lab, batch: int) -> Case:
    x = torch.randn(batch, 64 if lab.tiny else 4096, device=lab.device, dtype=torch.bfloat16)
    key = torch.ones(1, dtype=torch.int64, device=lab.device)
    return Case("dropout", lambda: triton_dropout.masked(x, Mask(key, 0.5)), 2 * x.numel() * 2)


def _update(lab: Lab, batch: int) -> Case:
    """The update of all parameters, of a size that does not depend on the batch."""
    linear = [op for op in plan(training_config(lab, 1).architecture) if op.op == "linear"]
    make = lambda shape: torch.zeros(shape, device=lab.device)  # noqa: E731
    weights, velocities = ([make(op.weight_shape) for op in linear] for _ in range(2))
    copies, gradients = ([w.bfloat16() for w in weights] for _ in range(2))
    update = Update(weights, velocities, copies)
    update.set_hyper([1e-6] * len(weights), [5e-4] * len(weights))
    update.read_from(gradients)
    count = int(np.sum([weight.numel() for weight in weights]))
    # Weight and velocity read and written, gradient read, copy written.
    return Case("update", lambda: update.launch(0.9), count * (4 * 4 + 2 + 2))


def _random(lab: Lab, shape: tuple[int, ...]) -> torch.Tensor:
    x = torch.randn(shape, device=lab.device).mul_(30).bfloat16()
    return x.contiguous(memory_format=torch.channels_last)
