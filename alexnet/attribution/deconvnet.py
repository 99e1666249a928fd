"""The deconvolutional network of Zeiler and Fergus (2014): what a unit answered to, as pixels.

The value of a unit is led back to the pixels through the network: through a convolution or a fully
connected layer by its transposed weights, through a pool to the recorded places of the maxima, and
through a ReLU by a ReLU of its own, which keeps what is positive in the *reconstruction*. That last
rule alone tells it from the gradient, which keeps what was positive in the image.

Windows of our pools overlap, so that two may have their maximum in one place. There the two values
are added, as the transposed operation does; `max_unpool2d` of PyTorch would keep one of them.

Local response normalization and the normalization over a square are passed unchanged. Zeiler and
Fergus normalize too and do not name it among the steps back; the division depends on the neighbors
and has no transposed operation. Batch normalization at test time goes through its transpose, which
multiplies each map by gain / sqrt(variance + epsilon).

Source: arXiv:1311.2901, section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from alexnet.architecture import op_of
from alexnet.errors import RunError
from alexnet.model import Network, evaluation_mode
from alexnet.receptive_field import Box, seen


@dataclass(frozen=True)
class Projection:
    """The value of one unit, led back to the pixels.

    Attributes:
        layer: Name of the unit's operation (`Op.name`).
        unit: Number of its map, or of the unit in a fully connected layer.
        box: The pixels of the input that the unit sees. All others are 0.
        pixels: (3, input_px, input_px) float32.
    """

    layer: str
    unit: int
    box: Box
    pixels: NDArray[np.float32]


def deconvnet(
    net: Network, x: torch.Tensor, layer: str, unit: int, row: int = 0, column: int = 0
) -> Projection:
    """Lead the value of one unit back to the pixels.

    Args:
        x: (3, input_px, input_px), preprocessed.
        layer: Name of an operation, as `architecture.op_of` takes it.
        unit: Number of the map, or of the unit in a fully connected layer.
        row, column: Position in the map.

    Raises:
        ConfigError: There is no such layer or position.
        RunError: The network has no such unit, or its activation is not the ReLU.
    """
    return _project(net, _values(net, x), layer, unit, row, column)


def strongest_projections(net: Network, x: torch.Tensor, label: int) -> tuple[Projection, ...]:
    """Lead back the strongest unit of each layer with maps, and the unit of a class.

    Args:
        x: (3, input_px, input_px), preprocessed.

    Raises:
        RunError: The activation of the network is not the ReLU.
    """
    values = _values(net, x)
    # The value of a layer in the paper's sense has the layer's bare name.
    maps = [op for op in net.plan if op.name == op.layer.name and op.shape[1] > 1]
    result = []
    for op in maps:
        value = values[net.plan.index(op) + 1][0]
        unit, row, column = np.unravel_index(int(value.argmax()), value.shape)
        result.append(_project(net, values, op.name, int(unit), int(row), int(column)))
    return (*result, _project(net, values, net.plan[-1].name, label, 0, 0))


@torch.no_grad()
def _values(net: Network, x: torch.Tensor) -> list[torch.Tensor]:
    """Return the input of each operation, in the order of the plan, and the logits at the end."""
    if net.architecture.activation != "relu":
        raise RunError(
            "a deconvnet needs ReLUs, and this network has the activation "
            f"{net.architecture.activation}; the other methods work on it"
        )
    images = x[None].contiguous(memory_format=torch.channels_last)
    with evaluation_mode(net):
        return [images, *net.activations(images).values()]


def _project(
    net: Network, values: list[torch.Tensor], layer: str, unit: int, row: int, column: int
) -> Projection:
    """Do what `deconvnet` does with values that are known."""
    box = seen(net.architecture, layer, row, column)
    op = op_of(net.plan, layer)
    last = net.plan.index(op)
    units = op.shape[0]
    if not 0 <= unit < units:
        raise RunError(f"{layer} has units 0 to {units - 1}; there is no unit {unit}")
    value = values[last + 1].reshape(1, *op.shape)
    # All other units of the layer are set to 0. A logit may be negative; its sign is dropped, or it
    # would lead back what speaks against its class.
    y = torch.zeros_like(value)
    y[0, unit, row, column] = value[0, unit, row, column].abs()
    with evaluation_mode(net):
        for back, x in zip(
            reversed(net.plan[: last + 1]), reversed(values[: last + 1]), strict=True
        ):
            match back.op:
                case "activation":
                    y = y.relu()
                case "lrn" | "spatial_norm":
                    pass
                case _:
                    y = _transposed(net.get_submodule(back.module), x, y)
    pixels: NDArray[np.float32] = y[0].float().cpu().numpy()
    return Projection(op.name, unit, box, pixels)


def _transposed(module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Apply the transpose of a linear module to y; of a pool, with its maxima where x has them.

    This is what the gradient with respect to the input is. It also adds where windows overlap.
    """
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        out = module(x)
        (back,) = torch.autograd.grad(out, x, y.reshape(out.shape))
    return back
