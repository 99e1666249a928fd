"""Each convolution of `paper` alone: in two groups or as two dense ones, conv1 in blocks or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

from alexnet import recipes
from alexnet.architecture import Op, plan
from alexnet.config import Conv
from alexnet.ops.triton_crop import blocks_of
from benchmarks.gpu.card import (
    DEVICE,
    Row,
    Table,
    captured,
    channels_last,
    run_as_program,
    seconds,
)


def convs(table: Table, out: Path, tiny: bool) -> None:
    architecture = replace(recipes.paper().architecture, width=1 / 16 if tiny else 1.0)
    layers = [op for op in plan(architecture) if op.op == "linear" and isinstance(op.layer, Conv)]
    for batch in (2,) if tiny else (128, 512, 1024):
        for op in layers:
            name = f"{op.layer.name}, batch {batch}"
            table.add(name, partial(_as_it_is, op, batch))
            if op.columns > 1:
                table.add(f"{name}, dense columns", partial(_dense_columns, op, batch))
            if isinstance(op.layer, Conv) and op.layer.stride > 1:
                table.add(f"{name}, in blocks", partial(_in_blocks, op, batch))


def _as_it_is(op: Op, batch: int) -> Row:
    channels, side = op.in_shape[:2]
    return _measure(op, batch, 1, channels, side, op.weight_shape, op.layer.stride, op.columns)


def _dense_columns(op: Op, batch: int) -> Row:
    """One convolution for each column, on tensors of its own."""
    outputs, channels, *size = op.weight_shape
    shape = outputs // op.columns, channels, *size
    return _measure(op, batch, op.columns, channels, op.in_shape[1], shape, op.layer.stride, 1)


def _in_blocks(op: Op, batch: int) -> Row:
    """Stride 1 over blocks of pixels, as the crops can be written (`ops/blocks.py`)."""
    layer = op.layer
    side, covered, _ = blocks_of(op.in_shape[1], layer.size_px, layer.stride, layer.pad)
    channels, size = op.in_shape[0] * side**2, -(-layer.size_px // side)
    shape = op.weight_shape[0], channels, size, size
    return _measure(op, batch, 1, channels, covered // side, shape, 1, 1, padded=True)


def _measure(
    op: Op,
    batch: int,
    count: int,
    channels: int,
    side: int,
    weight_shape: tuple[int, ...],
    stride: int,
    groups: int,
    padded: bool = False,
) -> Row:
    """Time `count` convolutions of one shape, forward and for both gradients.

    TFLOP/s count the products of the layer itself, not those with zeros that a form adds.
    """
    before, after = (0, 0) if padded else op.layer.pad
    # Where the sides differ, the layer pads first; that is not timed.
    pad = before if before == after else 0
    side += 0 if before == after else before + after
    tensors = []
    for _ in range(count):
        x, weight = channels_last(batch, channels, side, side), channels_last(*weight_shape)
        y = F.conv2d(x, weight, None, stride, pad, 1, groups)
        tensors.append((x, weight, torch.randn_like(y)))

    def forward() -> object:
        return [F.conv2d(x, weight, None, stride, pad, 1, groups) for x, weight, _ in tensors]

    def gradients(of_input: bool) -> object:
        return [
            torch.ops.aten.convolution_backward(
                dy, x, weight, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], groups,
                [of_input, not of_input, False],
            )
            for x, weight, dy in tensors
        ]  # fmt: skip

    runs: dict[str, Callable[[], object]] = {"forward": forward}
    # The first layer's input is the images.
    if op.in_shape[0] > 3:
        runs["gradient of input"] = partial(gradients, True)
    runs["gradient of weights"] = partial(gradients, False)
    row = {}
    for name, run in runs.items():
        taken_s = seconds(captured(run), 0.02)
        row[f"{name} ms"] = 1e3 * taken_s
        row[f"{name} TFLOP/s"] = 2 * batch * op.multiply_adds / taken_s / 1e12
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
    return row


if __name__ == "__main__":
    run_as_program("convs", convs)
