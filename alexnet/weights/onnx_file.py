"""The weights and operations of an ONNX file, by the field numbers of its onnx.proto.

The package onnx is optional, and reads a whole file before anyone can ask how large it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from alexnet.weights.operations import Array, Arrays, Operation, WeightFile
from alexnet.weights.protobuf import Budget, Malformed, Message, Unsupported, shaped

KIND_OF_NODE = {
    "Conv": "linear",
    "Gemm": "linear",
    "MatMul": "linear",
    "Relu": "activation",
    "LRN": "lrn",
    "MaxPool": "max_pool",
    "AveragePool": "avg_pool",
    "Softmax": "softmax",
    "Add": "add",
    "Sub": "sub",
    "Mul": "mul",
    "Div": "div",
}
# They change no number of a map and no order of numbers: dropout only acts in training, and maps
# are numbered row by row in ONNX as they are here.
HARMLESS = "Flatten", "Reshape", "Identity", "Dropout"
SPATIAL_NORM = "Mul", "AveragePool", "Mul", "Add", "Pow", "Div"
"""Normalization inside a map, which ONNX has no operation for."""
PARTS = " "
"""Stands for the outputs of a Split; no value has this name."""
# Numbers of TensorProto.DataType, each with NumPy's name for it and the field of its values.
FLOATS = {1: ("<f4", 4), 11: ("<f8", 10)}
HALF, INT64 = 10, 7
MOST_INTEGERS = 16


def read(path: Path) -> WeightFile:
    """Read a ModelProto. Raises Malformed."""
    model = Message(memoryview(path.read_bytes()), Budget())
    if not model.has(7):
        raise Malformed("it has no graph")
    graph = model.message(7)
    named = [(tensor.text(8), tensor) for tensor in graph.messages(5)]
    nodes = graph.messages(1)
    for node in nodes:
        # A constant can be a node as well.
        if node.text(4) == "Constant":
            named += [
                (node.text(2), attribute.message(5))
                for attribute in node.messages(5)
                if attribute.has(5)
            ]
    arrays = {name: array for name, tensor in named if (array := _array(tensor)) is not None}
    integers = {name: numbers for name, tensor in named if (numbers := _integers(tensor))}
    constants = {name for name, _ in named}
    metadata = {entry.text(1): entry.text(2) for entry in model.messages(14)}
    read_nodes = [_Node(node) for node in nodes]
    operations = _with_biases(_operations(read_nodes, constants, arrays, integers), arrays)
    file = WeightFile(path, "ONNX", arrays, tuple(operations), metadata, _input_px(graph, arrays))
    # Our own files that take stored images crop them inside.
    return file if file.input_px else replace(file, input_px=file.stated("inside", "crop_px"))


class _Node:
    """One node of a graph: its kind, its values by name, and its attributes."""

    def __init__(self, node: Message) -> None:
        self.kind, self.name = node.text(4), node.text(3)
        self.inputs, self.outputs = (
            [bytes(part).decode(errors="replace") for part in node.parts(number)]
            for number in (1, 2)
        )
        self.attributes = {attribute.text(1): attribute for attribute in node.messages(5)}

    def integer(self, name: str, default: int) -> int:
        """A whole number."""
        attribute = self.attributes.get(name)
        return attribute.integer(3, default) if attribute else default

    def real(self, name: str, default: float) -> float:
        """A number of 32 bits."""
        attribute = self.attributes.get(name)
        return attribute.real(2, default) if attribute else default

    def integers(self, name: str, default: list[int]) -> list[int]:
        """Whole numbers, such as one for each side of a window."""
        attribute = self.attributes.get(name)
        return (attribute.integers(8) if attribute else []) or default


def _operations(
    nodes: list[_Node],
    constants: set[str],
    arrays: Arrays,
    integers: dict[str, list[int]],
) -> Iterator[Operation]:
    """Describe the nodes that compute the output, each of which takes the value before it.

    What is not understood keeps ONNX's name for it, for `identify.not_understood` to refuse. Nodes
    that compute a shape or another constant are left out.
    """
    known, value, seen_layer = set(constants), "", False
    # The parts of a value that was split, by name, each with its LRN. None marks a part that no LRN
    # has taken yet; below, `node` is returned for a value that is not a part.
    columns: dict[str, Operation | None] = {}
    steps = iter(enumerate(nodes))
    for number, node in steps:
        if norm := _spatial_norm(nodes[number : number + len(SPATIAL_NORM)], value, arrays):
            yield norm
            *_, (_, last) = islice(steps, len(SPATIAL_NORM) - 1)
            value = last.outputs[0]
            continue
        of_graph = [name for name in node.inputs if name and name not in known]
        # The sides of a value do not belong to it.
        if node.kind in ("Constant", "Shape") or (node.inputs and not of_graph):
            known.update(node.outputs)
            continue
        output = node.outputs[0] if node.outputs else ""
        if node.kind == "LRN" and of_graph and columns.pop(of_graph[0], node) is None:
            columns[output] = _described(node, arrays)
            continue
        first = next(iter(columns.values()), None)
        joined = node.kind == "Concat" and node.integer("axis", 0) == 1
        if joined and first and of_graph == [*columns] and _all_equal([*columns.values()]):
            # ONNX's LRN has no groups: a net that has them has a node for each column.
            yield replace(first, settings=first.settings | {"columns": len(columns)})
            columns = {}
        elif len(of_graph) != 1 or of_graph[0] != (value or of_graph[0]):
            yield Operation(f"{node.kind} of several values", node.name)
        elif node.kind == "Split" and _is_even(node):
            columns, output = dict.fromkeys(node.outputs), PARTS
        elif node.kind not in HARMLESS and (seen_layer or not _is_of_images(node, integers)):
            yield _described(node, arrays)
        value = output
        seen_layer = seen_layer or KIND_OF_NODE.get(node.kind) == "linear"


def _with_biases(operations: Iterable[Operation], arrays: Arrays) -> list[Operation]:
    """Take what is added behind a layer without biases, such as a MatMul, for its biases."""
    result: list[Operation] = []
    for operation in operations:
        before = result[-1] if result else operation
        if operation.kind == "add" and before.weight and not before.bias:
            sides = arrays[before.weight].shape
            outputs = sides[-1:] if before.transposed else sides[:1]
            # Of each map, where the layer gives maps.
            outputs += (1, 1) if before.is_convolution else ()
            if arrays[operation.constant].shape in (outputs, (1, *outputs)):
                result[-1] = replace(before, bias=operation.constant)
                continue
        result.append(operation)
    return result


def _spatial_norm(nodes: list[_Node], value: str, arrays: Arrays) -> Operation | None:
    """Describe the nodes that our export writes for normalization inside a map; None for others.

    They are x / (k + alpha * size^2 * mean(x^2))^beta with the mean over a square.
    """
    if tuple(node.kind for node in nodes) != SPATIAL_NORM or nodes[0].inputs != [value, value]:
        return None
    square, mean, *middle, quotient = nodes
    before = [*square.outputs, *mean.outputs, *(name for node in middle for name in node.outputs)]
    numbers = [arrays.get(node.inputs[-1]) for node in middle]
    chained = [mean.inputs, *(node.inputs[:1] for node in middle), quotient.inputs[1:]]
    size = mean.integers("kernel_shape", [0])
    around = mean.integers("pads", [0]) == [size[0] // 2] * 4 and not _not_square(mean)
    if (
        [[name] for name in before] != chained
        or quotient.inputs[:1] != [value]
        or any(number is None or number.size != 1 for number in numbers)
        or not (around and mean.integer("count_include_pad", 0))
        or mean.integers("strides", [1])[0] != 1
        or size[0] < 1
        or not quotient.outputs
    ):
        return None
    factor, k, beta = (float(number.item()) for number in numbers if number is not None)
    alpha = factor / size[0] ** 2
    return Operation(
        "spatial_norm", square.name, {"size": size[0], "k": k, "alpha": alpha, "beta": beta}
    )


def _is_of_images(node: _Node, integers: dict[str, list[int]]) -> bool:
    """Whether a node before the first layer turns a stored image into the input.

    It changes the type, puts channels first, or crops; the order of channels stays.
    """
    match node.kind:
        case "Cast":
            return True
        case "Transpose":
            return node.integers("perm", []) == [0, 3, 1, 2]
        case "Slice":
            # Before opset 10 a slice had one input, and its axes were an attribute: not understood.
            axes, steps = ([*node.inputs, *[""] * 5][i] for i in (3, 4))
            in_plane = {*integers.get(axes, [1])} <= {2, 3}
            return in_plane and (not steps or {*integers.get(steps, [])} == {1})
    return False


def _is_even(node: _Node) -> bool:
    """Whether a node splits the maps into equal parts; parts of other sizes are written out."""
    has_sizes = len(node.inputs) > 1 or "split" in node.attributes
    return node.integer("axis", 0) == 1 and len(node.outputs) > 1 and not has_sizes


def _all_equal(operations: list[Operation | None]) -> bool:
    settings = [operation.settings if operation else None for operation in operations]
    return all(values == settings[0] is not None for values in settings)


def _described(node: _Node, arrays: Arrays) -> Operation:
    """Describe a node that takes one value and constants."""
    kind = KIND_OF_NODE.get(node.kind, node.kind)
    if why := _not_square(node):
        return Operation(f"{node.kind} with {why}", node.name)
    names = [name for name in node.inputs if name in arrays]
    settings: dict[str, float] = {}
    match node.kind:
        case "Conv":
            pads = node.integers("pads", [0, 0])
            settings = {
                "group": node.integer("group", 1),
                "stride": node.integers("strides", [1])[0],
                "pad": pads[0],
                "pad_after": pads[-1],
            }
        case "LRN":
            settings = {
                "n": node.integer("size", 5),
                "alpha": node.real("alpha", 1e-4),
                "beta": node.real("beta", 0.75),
                "k": node.real("bias", 1.0),
            }
        case "MaxPool" | "AveragePool":
            pads = node.integers("pads", [0, 0])
            settings = {
                "size": node.integers("kernel_shape", [0])[0],
                "stride": node.integers("strides", [1])[0],
                "pad": pads[0],
                "pad_after": pads[-1],
                "ceil_mode": node.integer("ceil_mode", 0),
            }
        case "Gemm" if (node.real("alpha", 1), node.real("beta", 1)) != (1, 1) or node.integer(
            "transA", 0
        ):
            return Operation("Gemm with a factor or transposed values", node.name)
        case "Sub" | "Add" | "Mul" | "Div" if not names or (
            node.kind in ("Sub", "Div") and names[0] == node.inputs[0]
        ):
            return Operation(f"{node.kind} of values that are not weights", node.name)
    if kind != "linear":
        constant = names[0] if kind in ("add", "sub", "mul", "div") else ""
        return Operation(kind, node.name, settings, constant=constant)
    names = [name for name in node.inputs[1:3] if name in arrays]
    # A product of two computed values is none of a layer.
    if len(names) < len(node.inputs[1:3]) or not names:
        return Operation(f"{node.kind} of values that are not weights", node.name)
    return Operation(
        kind,
        node.name,
        settings,
        names[0],
        names[1] if len(names) > 1 else "",
        node.kind == "Conv",
        transposed=node.kind == "MatMul" or (node.kind == "Gemm" and not node.integer("transB", 0)),
    )


def _not_square(node: _Node) -> str:
    """What a window has that no AlexNet has, in words; empty if it is the same on all sides."""
    pads = node.integers("pads", [0, 0])
    half = len(pads) // 2
    if any(len({*node.integers(name, [1])}) > 1 for name in ("strides", "kernel_shape")):
        return "a window or steps that are not square"
    if len({*pads[:half]}) > 1 or len({*pads[half:]}) > 1:
        return "padding that differs from side to side"
    if {*node.integers("dilations", [1])} != {1}:
        return "dilation"
    if "auto_pad" in node.attributes and node.attributes["auto_pad"].text(4) not in (
        *("", "NOTSET", "VALID"),
    ):
        return "auto_pad"
    return ""


def _array(tensor: Message) -> Array | None:
    """Read a tensor of floating point numbers; None for others, such as shapes."""
    if tensor.has(13) or tensor.integer(14, 0):
        raise Unsupported("its weights are in another file; save the model as one file")
    shape, kind = tuple(tensor.integers(1)), tensor.integer(2, 0)
    if kind == HALF and tensor.has(9):
        values = tensor.floats(9, "<f2")
    elif kind in FLOATS:
        dtype, number = FLOATS[kind]
        values = tensor.floats(9 if tensor.has(9) else number, dtype)
    else:
        return None
    return shaped(values, shape)


def _integers(tensor: Message) -> list[int]:
    """Read a tensor of a few whole numbers of 64 bits, such as axes; empty for others."""
    if tensor.integer(2, 0) != INT64:
        return []
    raw = b"".join(tensor.parts(9))
    if len(raw) % 8 or len(raw) > 8 * MOST_INTEGERS:
        return []
    return np.frombuffer(raw, "<i8").tolist() or tensor.integers(7)


def _input_px(graph: Message, arrays: Arrays) -> int | None:
    """The side of the images that the graph takes, if they are square and three channels first."""
    for value in graph.messages(11):
        if value.text(1) in arrays:
            continue
        dimensions = value.message(2).message(1).message(2).messages(1)
        sides = [dimension.integer(1, 0) for dimension in dimensions]
        if len(sides) == 4 and sides[1] == 3 and sides[2] == sides[3] > 0:
            return sides[2]
    return None
