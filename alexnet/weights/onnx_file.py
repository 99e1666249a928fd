"""The weights and operations of an ONNX file, by the field numbers of its onnx.proto.

The package onnx is optional, and reads a whole file before anyone can ask how large it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet.weights.operations import Operation
from alexnet.weights.protobuf import Budget, Malformed, Message

KINDS = {
    "Conv": "linear",
    "Gemm": "linear",
    "MatMul": "linear",
    "Relu": "activation",
    "LRN": "lrn",
    "MaxPool": "max_pool",
    "AveragePool": "avg_pool",
}
# Numbers of TensorProto.DataType, each with NumPy's name for it and the field of its values.
FLOATS = {1: ("<f4", 4), 11: ("<f8", 10)}
HALF = 10


@dataclass(frozen=True)
class Graph:
    """What an ONNX file contains; see `WeightFile`."""

    arrays: dict[str, NDArray[np.float32]]
    operations: tuple[Operation, ...]
    metadata: dict[str, str]
    input_px: int | None


def parse(data: bytes) -> Graph:
    """Read a ModelProto. Raises Malformed."""
    model = Message(memoryview(data), Budget())
    if not model.has(7):
        raise Malformed("it has no graph")
    graph = model.message(7)
    named = [(tensor.text(8), tensor) for tensor in graph.messages(5)]
    nodes = graph.messages(1)
    for node in nodes:
        # A constant can be a node as well.
        if node.text(4) == "Constant":
            named += [(node.text(2), one.message(5)) for one in node.messages(5) if one.has(5)]
    arrays = {name: array for name, tensor in named if (array := _array(tensor)) is not None}
    operations = [_operation(node, arrays) for node in nodes]
    metadata = {entry.text(1): entry.text(2) for entry in model.messages(14)}
    return Graph(
        arrays,
        tuple(one for one in operations if one is not None),
        metadata,
        _input_px(graph, arrays),
    )


def _operation(node: Message, arrays: dict[str, NDArray[np.float32]]) -> Operation | None:
    """Describe one node; None for those that only move or scale numbers."""
    kind = KINDS.get(node.text(4))
    if kind is None:
        return None
    attributes = {attribute.text(1): attribute for attribute in node.messages(5)}

    def integer(name: str, default: int) -> int:
        return attributes[name].integer(3, default) if name in attributes else default

    def real(name: str, default: float) -> float:
        return attributes[name].real(2, default) if name in attributes else default

    def first(name: str, default: int) -> int:
        values = attributes[name].integers(8) if name in attributes else []
        return values[0] if values else default

    def last(name: str, default: int) -> int:
        values = attributes[name].integers(8) if name in attributes else []
        return values[-1] if values else default

    inputs = [bytes(part).decode(errors="replace") for part in node.parts(1)]
    settings: dict[str, float] = {}
    match node.text(4):
        case "Conv":
            settings = {
                "group": integer("group", 1),
                "stride": first("strides", 1),
                "pad": first("pads", 0),
                "pad_after": last("pads", 0),
            }
        case "LRN":
            settings = {
                "n": integer("size", 5),
                "alpha": real("alpha", 1e-4),
                "beta": real("beta", 0.75),
                "k": real("bias", 1.0),
            }
        case "MaxPool" | "AveragePool":
            settings = {"size": first("kernel_shape", 0), "stride": first("strides", 1)}
    if kind != "linear":
        return Operation(kind, node.text(3), settings)
    names = [name for name in inputs[1:3] if name in arrays]
    # A product of two computed values is none of a layer.
    if not names:
        return None
    return Operation(
        kind,
        node.text(3),
        settings,
        names[0],
        names[1] if len(names) > 1 else "",
        node.text(4) == "Conv",
        transposed=node.text(4) == "MatMul"
        or (node.text(4) == "Gemm" and not integer("transB", 0)),
    )


def _array(tensor: Message) -> NDArray[np.float32] | None:
    """Read a tensor of floating point numbers; None for others, such as shapes."""
    if tensor.has(13) or tensor.integer(14, 0):
        raise Malformed("its weights are in another file; save the model as one file")
    shape, kind = tuple(tensor.integers(1)), tensor.integer(2, 0)
    if kind == HALF and tensor.has(9):
        values = tensor.floats(9, "<f2")
    elif kind in FLOATS:
        dtype, number = FLOATS[kind]
        values = tensor.floats(9 if tensor.has(9) else number, dtype)
    else:
        return None
    if len(shape) > 8 or math.prod(shape) != len(values):
        raise Malformed(f"an array of {len(values)} numbers has another shape")
    return values.reshape(shape)


def _input_px(graph: Message, arrays: dict[str, NDArray[np.float32]]) -> int | None:
    """The side of the images that the graph takes, if they are square and three channels first."""
    for value in graph.messages(11):
        if value.text(1) in arrays:
            continue
        dimensions = value.message(2).message(1).message(2).messages(1)
        sides = [one.integer(1, 0) for one in dimensions]
        if len(sides) == 4 and sides[1] == 3 and sides[2] == sides[3] > 0:
            return sides[2]
    return None
