"""Caffe's .caffemodel and .binaryproto, by the field numbers of its caffe.proto.

Layers are read in the present form (`layer`) and in the one before (`layers`); the published nets
exist in both. Blobs are (outputs, inputs / groups, height, width), with the channels of an image in
the order B, G, R.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet.weights.operations import Array, Arrays, Operation, WeightFile
from alexnet.weights.protobuf import Budget, Malformed, Message, Unsupported, field, shaped

KIND_OF_TYPE = {
    "Convolution": "linear",
    "InnerProduct": "linear",
    "ReLU": "activation",
    "LRN": "lrn",
    "Pooling": "max_pool",
    "Dropout": "dropout",
    "Softmax": "softmax",
}
# The numbers of the enum that the older form has in place of the type's name.
OLD_TYPES = {
    4: "Convolution",
    14: "InnerProduct",
    18: "ReLU",
    15: "LRN",
    17: "Pooling",
    6: "Dropout",
    1: "Accuracy",
    5: "Data",
    8: "Flatten",
    12: "Data",
    20: "Softmax",
    21: "SoftmaxWithLoss",
    22: "Split",
}
# No operations on an image: where it comes from, and what training and testing ask of the output.
NO_OPERATIONS = frozenset(
    [
        *("Data", "DummyData", "HDF5Data", "ImageData", "Input", "MemoryData", "WindowData"),
        *("Accuracy", "Flatten", "Silence", "SoftmaxWithLoss", "Split"),
    ]
)
MOST_LAYERS = 1000


@dataclass(frozen=True)
class _Numbers:
    """The field numbers of one form of a layer."""

    name: int
    type: int
    blobs: int
    convolution: int
    inner_product: int
    lrn: int
    pooling: int
    transform: int
    relu: int


NEW = _Numbers(1, 2, 7, 106, 117, 118, 121, 100, 123)
OLD = _Numbers(4, 5, 6, 10, 17, 18, 19, 36, 30)
INPUT = 143
"""The shapes of a layer `Input`, which only the present form has."""


def read(path: Path) -> WeightFile:
    """Read a NetParameter, whose arrays are called `conv1/0`, `conv1/1`. Raises Malformed."""
    net = Message(memoryview(path.read_bytes()), Budget())
    layers = [(layer, NEW) for layer in net.messages(100)]
    layers += [(layer, OLD) for layer in net.messages(2)]
    if not layers:
        raise Malformed("it has no layers")
    if len(layers) > MOST_LAYERS:
        raise Malformed(f"it has more than {MOST_LAYERS} layers")
    arrays: Arrays = {}
    operations: list[Operation] = []
    input_px, mean, scale = None, tuple[float, ...](), 1.0
    transforms = names_file = False
    for layer, numbers in layers:
        transform = layer.message(numbers.transform)
        input_px = transform.integer(3, 0) or input_px
        mean = tuple(transform.floats(5).tolist()) or mean
        transforms = transforms or layer.has(numbers.transform)
        names_file = names_file or transform.has(4)
        scale = transform.real(1, scale)
        operation = _operation(layer, numbers)
        # A net that was saved from a file for use has the shape of its input instead of a crop.
        if operation.kind == "Input":
            # It may have several outputs, such as images and labels, each of its own shape.
            shapes = layer.message(INPUT).messages(1)
            input_px = _input_px(shape.integers(1) for shape in shapes) or input_px
        blobs = [_blob(blob) for blob in layer.messages(numbers.blobs)]
        arrays |= {f"{operation.name}/{i}": blob for i, blob in enumerate(blobs)}
        if operation.kind not in NO_OPERATIONS:
            operations.append(operation)
    # Caffe subtracts nothing where its transforms have neither a mean nor a file of it.
    if transforms and not mean and not names_file:
        mean = (0.0,)
    if input_px is None:
        # Before there was a layer for it, the shape stood beside the layers.
        input_px = _input_px([net.integers(4), *(shape.integers(1) for shape in net.messages(8))])
    metadata = {"name": net.text(1)}
    return WeightFile(path, "Caffe", arrays, tuple(operations), metadata, input_px, mean, scale)


def _input_px(shapes: Iterable[list[int]]) -> int | None:
    """The last side of the first input that is a batch of images; None if there is none."""
    return next((sides[-1] for sides in shapes if len(sides) >= 4), None)


def parse_blob(data: bytes) -> Array:
    """Read a BlobProto, such as a mean image. Raises Malformed."""
    return _blob(Message(memoryview(data), Budget()))


def _operation(layer: Message, numbers: _Numbers) -> Operation:
    """Describe one layer."""
    name = layer.text(numbers.name)
    if numbers is OLD:
        if layer.has(1):
            raise Unsupported(
                "it has the oldest form of layers; Caffe's upgrade_net_proto_binary converts it"
            )
        number = layer.integer(numbers.type, 0)
        kind = OLD_TYPES.get(number, f"a layer of type {number}")
    else:
        kind = layer.text(numbers.type)
    convolution = kind == "Convolution"
    settings: dict[str, float] = {}
    ours, unlike, transposed = KIND_OF_TYPE.get(kind, kind), False, False
    match kind:
        case "Convolution":
            m = layer.message(numbers.convolution)
            settings = {"group": m.integer(5, 1)}
            for key, sides, default in (
                ("stride", (6, 13, 14), 1),
                ("pad", (3, 9, 10), 0),
                ("size", (4, 11, 12), 0),
                ("dilation", (18,), 1),
            ):
                settings[key] = _side(m, sides, default)
            # The blob has the size as well.
            unlike = min(settings.values()) < 0 or settings.pop("dilation") != 1
            settings["pad_after"] = settings["pad"]
        case "LRN":
            m = layer.message(numbers.lrn)
            # Inside a map in place of across maps.
            unlike = m.integer(4, 0) != 0
            settings = {
                "n": m.integer(1, 5),
                "alpha": m.real(2, 1.0),
                "beta": m.real(3, 0.75),
                "k": m.real(5, 1.0),
            }
        case "Pooling":
            m = layer.message(numbers.pooling)
            settings = {
                "size": _side(m, (2, 5, 6), 0),
                "stride": _side(m, (3, 7, 8), 1),
                "pad": _side(m, (4, 9, 10), 0),
                "ceil_mode": int(m.integer(13, 0) == 0),
            }
            settings["pad_after"] = settings["pad"]
            # Over all of a map, or of random values, unlike the maximum and the mean.
            unlike = min(settings.values()) < 0 or m.integer(12, 0) != 0 or m.integer(1, 0) > 1
            ours = "avg_pool" if m.integer(1, 0) else "max_pool"
        case "ReLU":
            # A slope below 0, as in a leaky ReLU.
            unlike = layer.message(numbers.relu).real(1, 0.0) != 0
        case "InnerProduct":
            transposed = layer.message(numbers.inner_product).integer(6, 0) != 0
    if unlike:
        return Operation(f"{kind} whose settings no AlexNet has", name)
    count = len(layer.parts(numbers.blobs))
    weight = f"{name}/0" if ours == "linear" and count else ""
    bias = f"{name}/1" if ours == "linear" and count > 1 else ""
    return Operation(ours, name, settings, weight, bias, convolution, transposed)


def _side(m: Message, numbers: tuple[int, ...], default: int) -> int:
    """A number for both sides, which fields can give together or by side; -1 if they differ."""
    values = {value for number in numbers for value in m.integers(number)}
    return values.pop() if len(values) == 1 else (-1 if values else default)


def _blob(blob: Message) -> Array:
    """Read an array: its numbers, and its shape in one of the two forms."""
    values = blob.floats(8, "<f8") if blob.has(8) else blob.floats(5)
    if blob.has(7):
        shape = tuple(blob.message(7).integers(1))
    else:
        # Before shapes of any length all arrays had four sides; those of a bias are 1, 1, 1, n.
        shape = tuple(blob.integer(number, 1) for number in (1, 2, 3, 4))
        while len(shape) > 1 and shape[0] == 1:
            shape = shape[1:]
    return shaped(values, shape)


def write(
    name: str,
    arrays: Arrays,
    operations: list[Operation],
    input_px: int | None = None,
) -> bytes:
    """Write a NetParameter with the shape of the input, the operations and their blobs."""
    types = {kind: name for name, kind in KIND_OF_TYPE.items() if kind != "linear"}
    content = [field(1, name)]
    if input_px is not None:
        sides = b"".join(field(1, side) for side in (1, 3, input_px, input_px))
        content += [field(3, "data"), field(8, sides)]
    for operation in operations:
        kind = types.get(operation.kind, "InnerProduct")
        kind = "Convolution" if operation.is_convolution else kind
        layer = field(NEW.name, operation.name) + field(NEW.type, kind)
        for key in (operation.weight, operation.bias):
            if key:
                layer += field(NEW.blobs, _written_blob(arrays[key]))
        content.append(field(100, layer + _written_settings(operation)))
    return b"".join(content)


def _written_blob(array: Array) -> bytes:
    dimensions = b"".join(field(1, side) for side in array.shape)
    return field(7, dimensions) + field(5, np.ascontiguousarray(array, "<f4").tobytes())


def _written_settings(operation: Operation) -> bytes:
    """Write the parameters of a layer, as the reader above takes them."""
    s = operation.settings
    if operation.is_convolution:
        numbers = {5: s["group"], 6: s["stride"], 3: s["pad"], 4: s["size"]}
        return field(NEW.convolution, _integers(numbers))
    if operation.kind == "max_pool":
        # Caffe rounds the side of a pooled map up unless it is told otherwise.
        rounding = {} if s["ceil_mode"] else {13: 1}
        return field(NEW.pooling, _integers({2: s["size"], 3: s["stride"]} | rounding))
    if operation.kind == "lrn":
        reals = field(2, float(s["alpha"])) + field(3, float(s["beta"])) + field(5, float(s["k"]))
        return field(NEW.lrn, _integers({1: s["n"]}) + reals)
    return b""


def _integers(numbers: dict[int, float]) -> bytes:
    return b"".join(field(number, int(value)) for number, value in numbers.items())
