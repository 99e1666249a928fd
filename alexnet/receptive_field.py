"""Receptive fields, from the plan: which pixels of the input a unit of a layer can see.

Local response normalization looks at other maps in the same place and so changes no field. The
original code's normalization over a square does, by half of its side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from alexnet.architecture import Op, op_of, plan
from alexnet.config import Architecture, Conv, FullyConnected
from alexnet.errors import ConfigError


@dataclass(frozen=True)
class Field:
    """The receptive fields of a layer's units, before the borders of the image cut them.

    A field is a square, and both axes are alike: unit (row, column) sees `size_px` pixels from
    `first_px + row * stride_px` down, and from `first_px + column * stride_px` to the right.

    Attributes:
        size_px: Side of a field. It may be larger than the image.
        stride_px: Distance between the fields of neighboring units; 0 where all see everything.
        first_px: Where the field of unit (0, 0) begins; negative where padding lies before it.
    """

    size_px: int
    stride_px: int
    first_px: int

    def centre_px(self, index: float) -> float:
        """Return the middle of a field in pixels, for a row or column of the layer's map."""
        return self.first_px + index * self.stride_px + (self.size_px - 1) / 2


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: rows from `top` to before `bottom`, columns likewise."""

    top: int
    left: int
    bottom: int
    right: int


def field(architecture: Architecture, name: str) -> Field:
    """Return the receptive fields of the units of an operation.

    Args:
        name: Name of the operation, as `op_of` takes it. A fully connected layer sees the whole
            image.

    Raises:
        ConfigError: There is no such operation, or the architecture is invalid.
    """
    size_px, stride_px, first_px = 1, 1, 0
    for op in operations_until(architecture, name):
        window = _window(op, architecture)
        if window is None:
            size_px, stride_px, first_px = architecture.input_px, 0, 0
            continue
        side, stride, before = window
        size_px += (side - 1) * stride_px
        first_px -= before * stride_px
        stride_px *= stride
    return Field(size_px, stride_px, first_px)


def seen(architecture: Architecture, name: str, row: int, column: int) -> Box:
    """Return the pixels of the input that one unit sees, cut at the borders.

    Args:
        name: Name of the operation, as `op_of` takes it.
        row, column: Position of the unit in its map; 0, 0 in a fully connected layer.

    Raises:
        ConfigError: There is no such operation or unit, or the architecture is invalid.
    """
    ops = operations_until(architecture, name)
    _, height, width = ops[-1].shape
    if not (0 <= row < height and 0 <= column < width):
        raise ConfigError(
            f"{name} has maps of {height}x{width}; there is no unit at row {row}, column {column}"
        )
    rows, columns = (row, row), (column, column)
    # Backwards through the plan, and cut at the border of each map and not only of the image: a
    # stride may leave the last pixels of a map unseen, and padding does not make up for them.
    for op in reversed(ops):
        window, last = _window(op, architecture), op.in_shape[1] - 1
        rows = (0, last) if window is None else _inputs(rows, window, last)
        columns = (0, last) if window is None else _inputs(columns, window, last)
    return Box(rows[0], columns[0], rows[1] + 1, columns[1] + 1)


def operations_until(architecture: Architecture, name: str) -> tuple[Op, ...]:
    """Return the operations of the plan up to the one called `name`.

    Args:
        name: Any name that `op_of` takes.

    Raises:
        ConfigError: There is no such operation, or the architecture is invalid.
    """
    ops = plan(architecture)
    return ops[: ops.index(op_of(ops, name)) + 1]


def _inputs(outputs: tuple[int, int], window: tuple[int, int, int], last: int) -> tuple[int, int]:
    """Return the first and last input that a range of outputs sees along one axis."""
    side, stride, before = window
    first_input = outputs[0] * stride - before
    last_input = outputs[1] * stride - before + side - 1
    return max(0, first_input), min(last, last_input)


def _window(op: Op, architecture: Architecture) -> tuple[int, int, int] | None:
    """Return the side, the stride and the padding before an operation's window; None: it sees all.

    An operation that looks only at the same place has a window of one pixel.
    """
    match op.op:
        case "linear":
            layer = op.layer
            if isinstance(layer, FullyConnected):
                return None
            stride = layer.stride if isinstance(layer, Conv) else 1
            return layer.size_px, stride, layer.pad[0]
        case "max_pool" | "avg_pool":
            return architecture.pool.size_px, architecture.pool.stride, 0
        case "spatial_norm":
            side = architecture.spatial_norm.size_px
            return side, 1, side // 2
        case "activation" | "lrn" | "batch_norm" | "dropout":
            return 1, 1, 0
        case _:
            assert_never(op.op)
