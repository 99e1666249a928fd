"""Golden vectors: every value that a network computes for one image, as files.

Hardware and other programs compare their own layers with them, one by one. A value is written as
.npy, as raw float32 and as raw int8 with its scale; `golden.json` says of every operation which
values it reads and writes, with its settings, and of every file its shape, layout and checksum.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.architecture import Op, op_of
from alexnet.checkpoint import state_of
from alexnet.config import Architecture
from alexnet.errors import RunError
from alexnet.files import check_space, new_folder, parse_json, write_whole
from alexnet.inference import read_image
from alexnet.layer_tables import record, settings
from alexnet.model import evaluation_mode
from alexnet.provenance import code_version, describe
from alexnet.trained import Trained

MANIFEST = "golden.json"
FORMS = "npy", "float32", "int8"
INPUT = "input"
"""The name of the network's input among the values; the others are names of operations."""
LAYOUTS = {1: "C", 2: "OI", 3: "CHW", 4: "OIHW", 6: "OIHWYX"}
"""The dimensions of a value, the first varying slowest. O and I: outputs and inputs of a layer;
Y and X: the position of a filter of a locally connected layer."""
BYTES = 9  # of a number: float32 twice, and int8
LARGEST_INT8 = 127

Float32 = NDArray[np.float32]


def write(
    trained: Trained,
    image: Path,
    out: Path,
    layers: str = "all",
    weights: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Write the input and output of every operation for the center crop of an image.

    Args:
        trained: A network on the CPU.
        image: An image file.
        out: New folder. It is written whole or not at all.
        layers: Names of operations, as `architecture.op_of` takes them, separated by commas, or
            all.
        weights: Write the weights and biases of these layers, too, and the gain, bias and running
            statistics of batch normalization.
        force: Replace a folder that this function has written.

    Returns:
        The content of `golden.json`.

    Raises:
        ConfigError: The network has no such layer.
        DataError: The file is not an image.
        RunError: There is no such file, or `out` exists.
        AlexNetError: The disk has less room than the files need.
    """
    ops = _chosen(trained, layers)
    check_out(out, force)
    # The folder itself is replaced, and not a link to it.
    out = out.resolve()
    plan = trained.net.plan
    # The name of the value that each operation reads.
    inputs = dict(zip(plan, [INPUT, *(op.name for op in plan[:-1])], strict=True))
    values = _values(trained, image)
    answer = trained.classes[int(values[plan[-1].name].argmax())]
    # In the order of the network: a value that is the output of one operation is the input of the
    # next and is written once.
    names = dict.fromkeys(name for op in ops for name in (inputs[op], op.name))
    chosen = {name: values[name] for name in names}
    if weights:
        chosen |= _weights(trained, ops)
    needed = BYTES * sum(value.size for value in chosen.values())
    check_space(out, needed, "the vectors need")
    with new_folder(out, replace=force) as folder:
        manifest = {
            "about": "alexnet golden: the values of a network for one image, layer by layer",
            "code": describe(code_version()),
            "run": {key: trained.about[key] for key in ("recipe", "sha256", "store")},
            "image": {"file": image.name, "sha256": _sha256(image.read_bytes()), "crop": "center"},
            "answer": answer,
            "int8": "value = scale * q; q = value / scale rounded to the nearest, ties to even; "
            "a machine that computes with these integers differs from them by a few units",
            "values": {name: _write_value(folder, name, value) for name, value in chosen.items()},
            "layers": [_layer(op, inputs[op], trained.net.architecture, weights) for op in ops],
        }
        # The last file, so that a folder that has it is complete.
        write_whole(folder / MANIFEST, _text(manifest).encode())
    return manifest


def check_out(out: Path, force: bool) -> None:
    """Raise RunError if a folder is in the way."""
    if not out.exists():
        return
    if not force:
        raise RunError(f"{out} exists; choose another name, or --force to replace it")
    # A mistyped name must not delete a folder of something else, nor files that were put here.
    if not (out / MANIFEST).is_file():
        raise RunError(f"{out} has no {MANIFEST} and is not replaced; choose another name")
    try:
        values = parse_json((out / MANIFEST).read_bytes())["values"].values()
        ours = {MANIFEST, *(value[form]["file"] for value in values for form in FORMS)}
    except (ValueError, TypeError, LookupError, AttributeError):
        raise RunError(f"{out / MANIFEST} is not of this program; choose another name") from None
    there = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if not p.is_dir())
    if other := [name for name in there if name not in ours]:
        raise RunError(f"{out} has a file of another kind, {other[0]}; choose another name")


def quantise(value: Float32) -> tuple[NDArray[np.int8], float]:
    """Round a value to int8, symmetrically around 0, with one scale for all of it.

    Returns:
        The integers from -127 to 127, and the scale: value is about scale * integer.
    """
    largest = float(np.abs(value).max())
    # A value of zeros has no scale; any will do.
    scale = largest / LARGEST_INT8 if largest else 1.0
    return np.rint(value.astype(np.float64) / scale).astype(np.int8), scale


def _chosen(trained: Trained, layers: str) -> list[Op]:
    """The operations of these names, in the order of the network."""
    ops = trained.net.plan
    chosen = ops if layers == "all" else {op_of(ops, name) for name in layers.split(",")}
    return [op for op in ops if op in chosen]


@torch.no_grad()
def _values(trained: Trained, image: Path) -> dict[str, Float32]:
    """Every value by name, without the dimension of the batch."""
    if not image.is_file():
        raise RunError(f"{image} is not a file; name one image")
    stored = read_image(image, trained.preprocess.stored_px)
    # In float64, rounded once: a reference should not have the rounding errors of one machine.
    net = copy.deepcopy(trained.net).double()
    x = trained.preprocess.centre(torch.from_numpy(stored)[None]).double()
    with evaluation_mode(net):
        values = {INPUT: x} | net.activations(x)
    return {name: _array(value[0]) for name, value in values.items()}


def _weights(trained: Trained, ops: Sequence[Op]) -> dict[str, Float32]:
    """The parameters and running statistics of these operations, by name."""
    tensors = state_of(trained.net)
    names = [name for op in ops for name in _weight_names(op).values()]
    return {name: _array(tensors[name].detach()) for name in names}


def _weight_names(op: Op) -> dict[str, str]:
    """The name of each parameter and running statistic of an operation, by its part in it."""
    match op.op:
        case "linear":
            parts = {"weight": "weight", "bias": "bias"}
        case "batch_norm":
            parts = {"gain": "weight", "bias": "bias"}
            parts |= {"mean": "running_mean", "variance": "running_var"}
        case _:
            parts = {}
    return {part: f"{op.module}.{name}" for part, name in parts.items()}


def _array(value: torch.Tensor) -> Float32:
    # The fully connected layers give 1x1 maps, which are a vector.
    value = value.flatten() if value.dim() == 3 and value.shape[1:] == (1, 1) else value
    return np.ascontiguousarray(value.cpu().numpy(), dtype="<f4")


def _write_value(folder: Path, name: str, value: Float32) -> dict[str, Any]:
    """Write the three files of a value, and return what the manifest says of it."""
    npy = io.BytesIO()
    np.save(npy, value)
    integers, scale = quantise(value)
    files = {
        "npy": (f"npy/{name}.npy", npy.getvalue()),
        "float32": (f"float32/{name}.bin", value.tobytes()),
        "int8": (f"int8/{name}.bin", integers.tobytes()),
    }
    result: dict[str, Any] = {"shape": list(value.shape), "layout": LAYOUTS[value.ndim]}
    for form, (path, content) in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_whole(folder / path, content)
        dtype = "int8" if form == "int8" else "float32, little-endian"
        result[form] = {"file": path, "dtype": dtype, "sha256": _sha256(content)}
    result["int8"]["scale"] = scale
    return result


def _layer(op: Op, value: str, architecture: Architecture, weights: bool) -> dict[str, Any]:
    """What an operation is: the values that it reads and writes, shapes, counts and settings."""
    reads: dict[str, Any] = {"reads": value, "writes": op.name}
    if weights:
        reads |= _weight_names(op)
    return record(op) | reads | settings(op, architecture)


def _text(manifest: dict[str, Any]) -> str:
    """The manifest as JSON with one line for each value and each operation."""
    values = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in manifest["values"].items()]
    layers = [f"  {json.dumps(layer)}" for layer in manifest["layers"]]
    rest = {key: manifest[key] for key in manifest if key not in ("values", "layers")}
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in rest.items()]
    lines += [' "values": {', ",\n".join(values), " },", ' "layers": [', ",\n".join(layers), " ]"]
    return "\n".join(["{", *lines, "}", ""])


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def count(manifest: dict[str, Any]) -> tuple[int, int]:
    """The number of values, and of numbers in them, of a manifest."""
    shapes = [value["shape"] for value in manifest["values"].values()]
    return len(shapes), sum(math.prod(shape) for shape in shapes)
