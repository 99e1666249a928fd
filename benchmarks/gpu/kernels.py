"""Each Triton kernel alone, beside the time of a copy that moves the bytes it must move."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from alexnet import recipes
from alexnet.architecture import Op, plan
from alexnet.config import Conv, SpatialNorm
from alexnet.model import passes
from alexnet.ops.dropout import Mask
from benchmarks.gpu.card import (
    DEVICE,
    Row,
    Table,
    captured,
    channels_last,
    copy_seconds,
    run_as_program,
    seconds,
)
from benchmarks.gpu.steps import given

BYTES = 2  # of a bfloat16 value


def kernels(table: Table, out: Path, tiny: bool) -> None:
    # Triton's interpreter takes a second for some hundred pixels.
    width, largest_px = (1 / 16, 5) if tiny else (1.0, 55)
    nets = {
        name: plan(replace(getattr(recipes, name)().architecture, width=width))
        for name in ("paper", "original")
    }
    for batch in (2,) if tiny else (128, 512):
        for group in passes(nets["paper"], with_bias=True):
            if group[0].op == "linear" and isinstance(group[0].layer, Conv):
                title = f"after {group[0].layer.name}, batch {batch}"
                table.add(title, partial(_between, group, batch, largest_px))
        for op in nets["original"]:
            if op.op == "spatial_norm":
                table.add(f"{op.name}, batch {batch}", partial(_spatial, op, batch, largest_px))
        table.add(f"crops, batch {batch}", partial(_crop, batch, tiny))
        table.add(f"dropout of fc6, batch {batch}", partial(_dropout, batch, 64 if tiny else 4096))
    table.add("update", partial(_update, [op for op in nets["paper"] if op.op == "linear"]))


def _between(group: tuple[Op, ...], batch: int, largest_px: int) -> Row:
    """Bias, ReLU, LRN, maximum: all that follows a convolution, up to the next one."""
    from alexnet.ops.triton_between import norm_pool

    linear, *rest = group
    architecture = recipes.paper().architecture
    names = [op.op for op in rest]
    norm = architecture.lrn if "lrn" in names else None
    window = architecture.pool if "max_pool" in names else None
    columns = next((op.columns for op in rest if op.op == "lrn"), 1)
    x = _maps(linear.shape, batch, largest_px).requires_grad_()
    bias = torch.zeros(linear.shape[0], device=DEVICE, requires_grad=True)

    def forward() -> torch.Tensor:
        relu_after = window is not None and names[-1] == "activation"
        return norm_pool(x, "activation" in names[:1], norm, window, relu_after, columns, bias)

    dy = torch.randn_like(forward())
    positions = dy.numel() if window else 0
    read_and_written = BYTES * (x.numel() + dy.numel()) + positions
    gradient = BYTES * (2 * x.numel() + dy.numel()) + positions
    return _beside_copies(forward, (x, bias), dy, read_and_written, gradient)


def _maps(shape: tuple[int, ...], batch: int, largest_px: int) -> torch.Tensor:
    """Random values of this shape, (C, H, W), with sides of at most `largest_px` pixels."""
    maps, *sides = shape
    return channels_last(batch, maps, *(min(side, largest_px) for side in sides))


def _spatial(op: Op, batch: int, largest_px: int) -> Row:
    from alexnet.ops.triton_spatial import spatial_norm

    x = _maps(op.in_shape, batch, largest_px).requires_grad_()
    norm: SpatialNorm = recipes.original().architecture.spatial_norm
    size = BYTES * x.numel()
    return _beside_copies(
        lambda: spatial_norm(x, norm), (x,), torch.randn_like(x), 2 * size, 3 * size
    )


def _dropout(batch: int, units: int) -> Row:
    from alexnet.ops.triton_dropout import masked

    x = torch.randn(batch, units, device=DEVICE, dtype=torch.bfloat16, requires_grad=True)
    mask = Mask(torch.zeros(1, dtype=torch.int64, device=DEVICE), 0.5)
    size = 2 * BYTES * x.numel()
    return _beside_copies(lambda: masked(x, mask), (x,), torch.randn_like(x), size, size)


def _beside_copies(
    forward: Callable[[], torch.Tensor],
    inputs: tuple[torch.Tensor, ...],
    dy: torch.Tensor,
    forward_bytes: int,
    gradient_bytes: int,
) -> Row:
    both_s = seconds(captured(lambda: torch.autograd.grad(forward(), inputs, dy)))
    with torch.no_grad():
        forward_s = seconds(captured(forward))
    return {
        **_times("forward", forward_s, forward_bytes),
        **_times("both ways", both_s, forward_bytes + gradient_bytes),
    }


def _times(name: str, taken_s: float, moved: int) -> Row:
    copies = taken_s / copy_seconds(moved)
    return {f"{name} us": 1e6 * taken_s, f"{name} copies": copies}


def _crop(batch: int, tiny: bool) -> Row:
    images, augmentation, preprocess = given(batch, tiny)
    packed = preprocess.packed(augmentation).to(DEVICE)
    taken_s = seconds(captured(lambda: preprocess.on_device(images.images, packed, False)))
    input_bytes = BYTES * 3 * preprocess.input_px**2
    # Of a stored image only the crop must be read.
    return _times("forward", taken_s, batch * (3 * preprocess.input_px**2 + input_bytes))


def _update(layers: list[Op]) -> Row:
    from alexnet.ops.triton_update import Update

    # Weights have bfloat16 copies; biases are a ten-thousandth of them.
    weights = [torch.zeros(op.weight_shape, device=DEVICE) for op in layers]
    update = Update(
        weights,
        [torch.zeros_like(weight) for weight in weights],
        [weight.bfloat16() for weight in weights],
    )
    gradients = [weight.bfloat16() for weight in weights]
    update.set_hyper([1e-5] * len(weights), [5e-4] * len(weights))
    update.read_from(gradients)
    # Weight and velocity are read and written; the gradient is read, the copy written.
    moved = (2 * (4 + 4) + 2 * BYTES) * sum(weight.numel() for weight in weights)
    return _times("update", seconds(captured(lambda: update.launch(0.9))), moved)


if __name__ == "__main__":
    run_as_program("kernels", kernels)
