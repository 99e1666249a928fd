"""The weights of a run in the names and shapes of torchvision or Caffe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save

from alexnet.architecture import Op, plan
from alexnet.checkpoint import Checkpoint
from alexnet.config import Architecture, Conv, FullyConnected
from alexnet.errors import RunError
from alexnet.files import replacing, write_whole
from alexnet.recipes import torchvision
from alexnet.weights import caffemodel
from alexnet.weights.compare import answers
from alexnet.weights.layouts import MEAN, to_caffe, to_torchvision
from alexnet.weights.nets import NETS, Net
from alexnet.weights.operations import Arrays, Operation

Layout = Literal["torchvision", "caffe"]
Groups = Literal["keep", "split", "dense"]

SUFFIXES: dict[str, tuple[str, ...]] = {
    "torchvision": (".pth", ".safetensors", ".npz"),
    "caffe": (".caffemodel", ".npz"),
}


def write_layout(saved: Checkpoint, path: Path, layout: Layout, groups: Groups = "keep") -> None:
    """Write the weights of a run for another program.

    Args:
        path: The file; its suffix selects the format.
        groups: What becomes of grouped filters; see `layouts.to_caffe`.

    Raises:
        RunError: The program has no such network or preprocessing, or the suffix is none of the
            layout's.
    """
    if path.suffix not in SUFFIXES[layout]:
        raise RunError(f"{path} ends in none of {', '.join(SUFFIXES[layout])}")
    architecture = saved.config.architecture
    if layout == "torchvision":
        if groups != "keep":
            raise RunError("torchvision's network has no groups; leave out --groups")
        _check_is(saved, "torchvision")
        state = to_torchvision(saved.weights)
        if path.suffix == ".npz":
            _write_npz(path, {name: t.numpy() for name, t in state.items()})
        elif path.suffix == ".safetensors":
            write_whole(path, save({name: t.contiguous() for name, t in state.items()}))
        else:
            with replacing(path) as file:
                torch.save({name: t.contiguous() for name, t in state.items()}, file)
        return
    has_constants = path.suffix == ".caffemodel"
    net = _check_is(saved, "caffe_alexnet", "caffenet", has_constants=has_constants)
    # Caffe subtracts a mean and multiplies by one number; the mean image is not what such a run
    # subtracts.
    if saved.config.augment.mean == "channel":
        raise RunError(
            f"{saved.file} divides each channel by a deviation of its own (augment.mean is "
            "channel), which Caffe does not; export it as ONNX"
        )
    weights = {name: tensor.float().numpy() for name, tensor in saved.weights.items()}
    if path.suffix == ".npz":
        arrays = to_caffe(weights, groups, architecture.columns)
        # Caffe has channels first, in the order B, G, R.
        mean = np.ascontiguousarray(saved.mean.float().numpy().transpose(2, 0, 1)[::-1])
        _write_npz(path, arrays | {MEAN: mean})
        return
    if groups != "keep":
        raise RunError("a .caffemodel has grouped layers; --groups is for .npz files")
    arrays = to_caffe(weights)
    write_whole(
        path, caffemodel.write(net.title, arrays, operations(architecture), architecture.input_px)
    )


def _write_npz(path: Path, arrays: Arrays) -> None:
    with replacing(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def has_torchvisions_shapes(saved: Checkpoint) -> bool:
    """Whether torchvision's own network, which has one width, can load the weights of a run."""
    architecture = saved.config.architecture
    classes = plan(architecture)[-1].shape[0]
    known = replace(torchvision().architecture, classes=classes)
    ours, theirs = (
        [op.weight_shape for op in plan(each) if op.op == "linear"]
        for each in (architecture, known)
    )
    return ours == theirs


def lacks_mean(saved: Checkpoint, path: Path, layout: Layout) -> bool:
    """Whether a file that `write_layout` wrote leaves out the mean that the run subtracts."""
    if layout == "torchvision":
        return saved.config.augment.mean != "channel"
    return path.suffix != ".npz"


def _check_is(saved: Checkpoint, *names: str, has_constants: bool = False) -> Net:
    """The network of these that a run has.

    Args:
        has_constants: The file has the constants of the LRN, which can then be any.

    Raises:
        RunError: The run has another network.
    """
    architecture = saved.config.architecture
    nets = [net for net in NETS if net.name in names]
    for net in nets:
        known = _of_size(net, architecture)
        if has_constants:
            known = replace(known, lrn=architecture.lrn)
        if answers(architecture) == answers(known):
            return net
    raise RunError(
        f"{saved.file} is another network ({saved.config.recipe}) than "
        f"{' and '.join(net.title for net in nets)}: with its weights they would give other "
        "answers; export it as ONNX"
    )


def _of_size(net: Net, architecture: Architecture) -> Architecture:
    """A known network with the width, the classes, the columns and the input of another."""
    classes = plan(architecture)[-1].shape[0]
    return replace(
        net.config().architecture,
        width=architecture.width,
        classes=classes,
        input_px=architecture.input_px,
        columns=architecture.columns,
    )


def operations(architecture: Architecture) -> list[Operation]:
    """The operations of an architecture as Caffe's layers, without dropout."""
    return [_operation(op, architecture) for op in plan(architecture) if op.op != "dropout"]


def _operation(op: Op, architecture: Architecture) -> Operation:
    lrn, pool, layer = architecture.lrn, architecture.pool, op.layer
    match op.op:
        case "linear":
            names = f"{op.module}/0", f"{op.module}/1"
            if isinstance(layer, FullyConnected):
                return Operation("linear", op.module, {}, *names)
            assert isinstance(layer, Conv)
            settings: dict[str, float] = {
                "group": op.columns,
                "stride": layer.stride,
                "pad": layer.pad[0],
                "size": layer.size_px,
            }
            return Operation("linear", op.module, settings, *names, is_convolution=True)
        case "lrn":
            # Caffe applies alpha to the mean of the squares.
            n = lrn.num_maps
            constants = {"n": n, "k": lrn.k, "alpha": lrn.alpha * n, "beta": lrn.beta}
            return Operation("lrn", op.module, constants)
        case "max_pool":
            window = {"size": pool.size_px, "stride": pool.stride, "ceil_mode": int(pool.partial)}
            return Operation("max_pool", op.module, {**window})
        case _:
            return Operation(op.op, op.module)
