"""Convolutions alone: in groups, column by column, with zeros for the other column; in blocks.

Forward, and forward with the gradients that a training step needs, each as a CUDA graph. FLOPs are
the useful ones: without those of zeros.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from alexnet.architecture import Op, plan
from alexnet.config import Conv
from alexnet.ops import blocks, cuda_trial, linear
from benchmarks.gpu.lab import Lab, Value, as_trained, graphed, seconds_of, training_config

BATCHES, TINY_BATCHES = (128, 512, 1024), (2,)


def run(lab: Lab) -> None:
    as_trained("bfloat16")
    config = training_config(lab, 1)
    ops = [op for op in plan(config.architecture) if isinstance(op.layer, Conv)]
    for batch in TINY_BATCHES if lab.tiny else BATCHES:
        for op in ops:
            if op.op == "linear":
                _layer(lab, op, batch, first=op is ops[0])


def _layer(lab: Lab, op: Op, batch: int, first: bool) -> None:
    """Measure every way to compute a layer."""
    assert isinstance(op.layer, Conv)
    x = _random(lab, (batch, *op.in_shape)).requires_grad_(not first)
    weight = _random(lab, op.weight_shape).mul_(0.05).requires_grad_()
    settings = op.layer.stride, op.layer.pad, op.columns
    flops = 2 * batch * op.shape[1] * op.shape[2] * weight.numel()
    ways = linear.cuda_ways(x, op.layer.stride, op.columns)
    for name, way in ways.items():
        lab.attempt(
            f"{op.layer.name} {name}, batch {batch}",
            lambda way=way: _measured(way, x, weight, settings, flops),
        )
    if "in blocks" in ways:
        # Without the cutting, as where the crops are written in blocks.
        conv = op.layer
        shape = blocks.shape(op.in_shape[0], op.in_shape[1], conv.size_px, conv.stride, conv.pad)
        in_blocks = _random(lab, (batch, *shape))
        lab.attempt(
            f"{conv.name} on crops in blocks, batch {batch}",
            lambda: _measured(ways["in blocks"], in_blocks, weight, settings, flops),
        )
    if op.columns > 1:
        # Twice the products, but all of them in one dense convolution.
        dense = _random(lab, (op.shape[0], *x.shape[1:2], *op.weight_shape[2:]))
        dense = dense.mul_(0.05).requires_grad_()
        lab.attempt(
            f"{op.layer.name} with zeros, batch {batch}",
            lambda: _measured(_dense, x, dense, settings, flops),
        )


def _dense(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: int,
    pad: tuple[int, int],
    columns: int,
) -> torch.Tensor:
    """The convolution with weights that would be zero where the columns do not meet."""
    return F.conv2d(x, weight, bias, stride, pad[0])


def _measured(
    way: cuda_trial.CudaWay,
    x: torch.Tensor,
    weight: torch.Tensor,
    settings: tuple[int, tuple[int, int], int],
    flops: int,
) -> dict[str, Value]:
    arguments = (None, *settings)
    with torch.no_grad():
        forward_s = seconds_of(graphed(lambda: way(x, weight, *arguments)), 0.02, 5)
    both = cuda_trial.with_gradients(way, x, weight, arguments)
    both_s = seconds_of(graphed(both), 0.02, 5)
    return {
        "forward_ms": 1e3 * forward_s,
        "tflops": flops / forward_s / 1e12,
        "with_gradients_ms": 1e3 * both_s,
        "of_all_tflops": (3 if x.requires_grad else 2) * flops / both_s / 1e12,
    }


def _random(lab: Lab, shape: tuple[int, ...]) -> torch.Tensor:
    x = torch.randn(shape, device=lab.device, dtype=torch.bfloat16)
    return x.contiguous(memory_format=torch.channels_last)
