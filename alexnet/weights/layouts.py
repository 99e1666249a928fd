"""Names and shapes of an AlexNet's parameters in several programs, and conversions between them.

Ours are `conv1.weight` (outputs, inputs / columns, height, width) and `fc6.weight` (outputs,
inputs), for images in the order R, G, B. The inputs of fc6 are numbered map by map and row by row,
as in Caffe and PyTorch.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from alexnet.errors import RunError
from alexnet.weights.operations import Array, Arrays, WeightFile

T = TypeVar("T")

# The layers of torchvision's AlexNet. Its names are positions in `nn.Sequential`, whose other
# positions are activations, pooling and dropout.
TORCHVISION_NAMES = {
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3",
    "features.8": "conv4",
    "features.10": "conv5",
    "classifier.1": "fc6",
    "classifier.4": "fc7",
    "classifier.6": "fc8",
}
LAYER = r"(conv\d|fc\d{1,2})"
NAMES = {
    "ours": rf"{LAYER}\.(weight|bias)",
    # Blobs by number, as HDF5 files of Caffe have them; Caffe2's; and those of scripts.
    "caffe": rf"{LAYER}(/0|/1|_w_0|_b_0|_w|_b|_weight|_bias)",
    "slim": rf"(?:.*/)?{LAYER}/(weights|biases)(?::0)?",
}
"""How other programs than torchvision call the parameters of a layer."""
BIASES = "bias", "/1", "_b_0", "_b", "_bias", "biases"
MEAN = "data_mean"
"""The mean image, (3, H, W), in an .npz file that `to_caffe` has made."""
MOST_WRAPPERS = 4
"""Most names that are taken off before those of the parameters; a file can have any number."""


@dataclass(frozen=True)
class Named:
    """The parameters of a file by our names.

    Attributes:
        layout: Whose names or operations the file has.
        arrays: By our names, in our axes; the channels of conv1 are in the order of the file.
        rest: Names in the file that are not parameters of an AlexNet.
    """

    layout: Literal["ours", "torchvision", "caffe", "slim", "graph"]
    arrays: Arrays
    rest: tuple[str, ...] = ()


def to_torchvision(weights: Mapping[str, T]) -> dict[str, T]:
    """Give our weights the names of torchvision's `alexnet`, in its order."""
    return {
        f"{theirs}.{parameter}": weights[f"{ours}.{parameter}"]
        for theirs, ours in TORCHVISION_NAMES.items()
        for parameter in ("weight", "bias")
    }


def to_caffe(weights: Mapping[str, Array], groups: str = "keep", columns: int = 1) -> Arrays:
    """Give our weights the names and the channel order of Caffe: `conv1/0`, `conv1/1`.

    Args:
        groups: What becomes of a layer that sees its own column only. keep: one array, as Caffe
            has it. split: one layer for each column, `conv2a`, `conv2b`. dense: one array with
            zeros where columns do not see each other.
        columns: Number of columns of the layers whose weights are grouped; see `grouped_layers`.

    Raises:
        RunError: To split, there are more columns than letters.
    """
    result: Arrays = {}
    grouped = grouped_layers(weights) if columns > 1 else ()
    for name in dict.fromkeys(key.rpartition(".")[0] for key in weights):
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        if name == "conv1":
            weight = with_channels_reversed(weight)
        parts = {name: (weight, bias)}
        if name in grouped and groups == "dense":
            parts = {name: (dense_filters(weight, columns), bias)}
        elif name in grouped and groups == "split":
            pairs = split(weight, bias, columns)
            letters = string.ascii_lowercase
            if len(pairs) > len(letters):
                raise RunError(
                    f"{name} has {len(pairs)} columns, and there are letters for {len(letters)}; "
                    "choose --groups keep or dense"
                )
            # Not strict: there are more letters than columns.
            parts = {f"{name}{a}": pair for a, pair in zip(letters, pairs, strict=False)}
        for part, arrays in parts.items():
            result |= {f"{part}/{i}": array for i, array in enumerate(arrays)}
    return result


def grouped_layers(weights: Mapping[str, Array]) -> tuple[str, ...]:
    """The convolutions that see fewer maps than the layer before them makes."""
    names = [key.rpartition(".")[0] for key, w in weights.items() if w.ndim == 4]
    return tuple(
        name
        for before, name in pairwise(names)
        if weights[f"{name}.weight"].shape[1] < weights[f"{before}.weight"].shape[0]
    )


def with_channels_reversed(weight: Array) -> Array:
    """The filters of conv1 with their channels reversed, for images in the other order.

    A convolution adds over channels, so filters and images reversed alike give the same output.
    """
    return np.ascontiguousarray(weight[:, ::-1])


def split(weight: Array, bias: Array, columns: int) -> list[tuple[Array, Array]]:
    """Split a grouped layer into one layer for each column, which sees the maps of that column."""
    return list(zip(np.split(weight, columns), np.split(bias, columns), strict=True))


def dense_filters(weight: Array, columns: int) -> Array:
    """Fill grouped filters with zeros, for a layer that sees the maps of all columns.

    Args:
        weight: (outputs, inputs / columns, ...).

    Returns:
        (outputs, inputs, ...).
    """
    outputs, inputs = weight.shape[:2]
    result = np.zeros((outputs, inputs * columns, *weight.shape[2:]), weight.dtype)
    for column, part in enumerate(np.split(weight, columns)):
        rows = slice(column * len(part), (column + 1) * len(part))
        result[rows, column * inputs : (column + 1) * inputs] = part
    return result


def grouped(weight: Array, columns: int) -> Array | None:
    """Take the zeros out of dense filters; the inverse of `dense_filters`.

    Returns:
        (outputs, inputs / columns, ...); None if columns see each other in it.
    """
    if weight.shape[0] % columns or weight.shape[1] % columns:
        return None
    blocks = [np.split(part, columns, axis=1) for part in np.split(weight, columns)]
    for row, parts in enumerate(blocks):
        if any(part.any() for column, part in enumerate(parts) if column != row):
            return None
    return np.concatenate([parts[row] for row, parts in enumerate(blocks)])


def name_parameters(file: WeightFile) -> Named | None:
    """Find the parameters of an AlexNet in a file.

    Returns:
        None if the names are those of no program that is known.

    Raises:
        RunError: Two arrays have the names of one parameter.
    """
    if any(operation.weight for operation in file.operations):
        return _by_operations(file)
    arrays = file.arrays
    for _ in range(MOST_WRAPPERS + 1):
        if (named := _by_names(arrays, file.path)) is not None:
            return named
        # A network that is an attribute of another, as Lightning's modules have it (`model.`),
        # gives the name of the attribute to all of its parameters.
        if len({key.partition(".")[0] for key in arrays}) > 1:
            return None
        arrays = {key.partition(".")[2]: array for key, array in arrays.items()}
    return None


def _by_names(from_file: Arrays, path: Path) -> Named | None:
    """Find the parameters of an AlexNet by their names; None if no known program has such names."""
    layers = {key.rpartition(".")[0] for key in from_file}
    # Other networks of torchvision have `features.0` as well, but most of their names are others.
    if len(layers & TORCHVISION_NAMES.keys()) > len(layers) // 2:
        known = {k: v for k, v in from_file.items() if k.rpartition(".")[0] in TORCHVISION_NAMES}
        rest = tuple(key for key in from_file if key not in known)
        parts = ((key.rpartition("."), array) for key, array in known.items())
        ours = {f"{TORCHVISION_NAMES[layer]}.{name}": array for (layer, _, name), array in parts}
        return Named("torchvision", _in_order(ours), rest)
    for layout, pattern in NAMES.items():
        arrays: Arrays = {}
        others: list[str] = []
        for key, array in from_file.items():
            match = re.fullmatch(pattern, key)
            parameter = "bias" if match and match[2] in BIASES else "weight"
            if match:
                # Several spellings are one name.
                if (name := f"{match[1]}.{parameter}") in arrays:
                    raise RunError(
                        f"{path} has two arrays for {name}, one of them as {key}; remove one of "
                        "the two"
                    )
                arrays[name] = _our_axes(array, layout)
            elif key != MEAN:
                others.append(key)
        if arrays:
            return Named(layout, _in_order(arrays), tuple(others))  # type: ignore[arg-type]
    return None


def _our_axes(array: Array, layout: str) -> Array:
    """Turn (height, width, inputs, outputs), as TensorFlow has it, into our axes.

    Fully connected layers of TF-slim are convolutions.
    """
    if layout != "slim" or array.ndim != 4:
        return array
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1))


def _in_order(arrays: Arrays) -> Arrays:
    """Sort parameters by layer: convolutions first, then by number."""
    return dict(
        sorted(arrays.items(), key=lambda item: (item[0][:2], int(re.findall(r"\d+", item[0])[0])))
    )


def _by_operations(file: WeightFile) -> Named:
    """Number the layers of a network by their order, whatever their names are.

    The first fully connected layer is fc6, also after six convolutions.
    """
    arrays: Arrays = {}
    num_connected = 0
    for number, operation in enumerate((o for o in file.operations if o.weight), 1):
        # A convolution has the number of its place among all layers: one after a fully connected
        # layer, which no AlexNet has, leaves a gap, and the file is refused.
        name = f"conv{number}" if operation.is_convolution else f"fc{6 + num_connected}"
        num_connected += not operation.is_convolution
        weight = file.arrays[operation.weight]
        arrays[f"{name}.weight"] = weight.T if operation.transposed else weight
        if operation.bias:
            arrays[f"{name}.bias"] = file.arrays[operation.bias].reshape(-1)
    used = {key for o in file.operations for key in (o.weight, o.bias)}
    is_caffe = file.form == "Caffe"
    rest = tuple(key for key in file.arrays if key not in used) if is_caffe else ()
    return Named("caffe" if is_caffe else "graph", arrays, rest)
