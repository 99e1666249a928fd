"""Weights in and out of files: a run's own, torchvision's, plain safetensors. (`onnx_export.py` writes ONNX.)

A checkpoint is one safetensors file, so nothing executes on load and weights, velocity and preprocessing can never be
of different moments: parameters by name, the mean image as `preprocess.mean`, velocities as `velocity.<name>` (only in
`last`), and a JSON header that says what the weights are: recipe, config, classes, store checksum, evaluation, and
the sha256 of the tensors.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from alexnet.config import Config
from alexnet.configfile import from_dict
from alexnet.data.augment import Preprocess
from alexnet.data.classes import short_names
from alexnet.data.store import Statistics
from alexnet.device import resolve_device
from alexnet.files import move_into_place
from alexnet.model import Network, build

VELOCITY, MEAN = "velocity.", "preprocess.mean"

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """weights and velocity by parameter name, the mean image (H, W, 3) float32; about: the header."""

    weights: Tensors
    velocity: Tensors
    mean: torch.Tensor
    about: dict[str, Any]

    @property
    def config(self) -> Config:
        return from_dict(Config, self.about["config"])

    @property
    def statistics(self) -> Statistics:
        return Statistics(self.mean.numpy().astype(np.float64), np.array(self.about["covariance"]))


def write(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    velocity: Tensors,
    mean: torch.Tensor,
    about: dict[str, Any],
) -> None:
    """Write a checkpoint whole: a kill at any moment leaves the file before. The header gains `sha256`."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    about = about | {"sha256": tensors_sha256(tensors)}
    tensors |= {VELOCITY + name: tensor.cpu().contiguous() for name, tensor in velocity.items()}
    tensors[MEAN] = mean.cpu().contiguous()
    beside = path.with_name(f".{path.name}.writing")
    save_file(tensors, beside, {"about": json.dumps(about)})
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    move_into_place(beside, path)


def tensors_sha256(tensors: Tensors) -> str:
    """Of the weights alone: names in order, and their bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().numpy().data)  # in place: a copy of fc6 is 144 MiB
    return digest.hexdigest()


def read(path: str | Path, which: Literal["last", "best"] = "last") -> Checkpoint:
    """The checkpoint of a run folder, or a .safetensors file of this program.

    Raises ValueError with the mend when there is none, or when the file is damaged or of something else.
    """
    path = Path(path)
    file = path / f"{which}.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{file} does not exist: {path} is no run that has reached a checkpoint")
    try:
        with safe_open(file, "pt") as opened:
            header = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{file} is damaged ({error}); use another checkpoint of the run"
        ) from None
    if "about" not in header or MEAN not in tensors:
        raise ValueError(
            f"{file} was not written by this program: it lacks the header that says what it is"
        )
    about = json.loads(header["about"])
    mean = tensors.pop(MEAN)
    velocity = {
        n.removeprefix(VELOCITY): tensors.pop(n) for n in list(tensors) if n.startswith(VELOCITY)
    }
    if tensors_sha256(tensors) != about["sha256"]:
        raise ValueError(f"{file} is damaged: its weights are not those whose sha256 it names")
    return Checkpoint(tensors, velocity, mean, about)


def copy_into(net: torch.nn.Module, weights: Tensors, whose: str) -> None:
    """All parameters of the network from `weights`. Raises ValueError naming the first that does not fit."""
    own = dict(net.named_parameters())
    for name in sorted(own.keys() | weights.keys()):
        if name not in own or name not in weights:
            where = "the network" if name not in own else whose
            raise ValueError(f"{whose} is of another architecture: {where} has no {name}")
        if own[name].shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)} there, {tuple(own[name].shape)} here"
            raise ValueError(f"{whose} is of another architecture: {name} has shape {shapes}")
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(weights[name])


def copy_matching(
    net: torch.nn.Module, weights: Tensors, layers: Collection[str]
) -> tuple[list[str], list[str]]:
    """Copy those of `layers` whose parameters agree in name and shape, for `Config.init`.

    Returns the names of the layers that were taken, and of those that start anew.
    """
    by_layer: dict[str, dict[str, torch.nn.Parameter]] = {}
    for name, weight in net.named_parameters():
        by_layer.setdefault(name.rpartition(".")[0], {})[name] = weight
    taken = [
        layer
        for layer, own in by_layer.items()
        if layer in layers
        and all(name in weights and weights[name].shape == own[name].shape for name in own)
    ]
    with torch.no_grad():
        for layer in taken:
            for name, weight in by_layer[layer].items():
                weight.copy_(weights[name])
    return taken, [layer for layer in by_layer if layer not in taken]


@dataclass(frozen=True)
class Trained:
    """A trained network with what it takes to use it: classes, and how pictures are made its input."""

    net: Network
    preprocess: Preprocess
    classes: tuple[str, ...]
    about: dict[str, Any]

    @property
    def words(self) -> tuple[str, ...]:
        """What each class is called, where `classes` are wnids; empty where its store did not say."""
        return tuple(self.about.get("words", ()))

    @property
    def names(self) -> tuple[str, ...]:
        """What to show of each class."""
        return short_names(self.classes, self.words)


def load(run: str | Path, which: Literal["last", "best"] = "last", device: str = "auto") -> Trained:
    """The network of a run folder or .safetensors file, ready for use, in float32.

    Raises ValueError as `read`, and for a device that is not there.
    """
    place = resolve_device(device)
    saved = read(run, which)
    config = saved.config
    net = build(config.architecture).to(place)
    copy_into(net, saved.weights, str(run))
    preprocess = Preprocess(config.augment, saved.statistics, config.architecture.input_px, place)
    return Trained(net, preprocess, tuple(saved.about["classes"]), saved.about)


# torchvision's names for the layers of its AlexNet.
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


def from_torchvision(state: Tensors) -> Tensors:
    """The weights of torchvision's `alexnet` under our names, for the network of `recipes.torchvision`.

    Raises ValueError for a name its state dict does not have.
    """
    result = {}
    for key, tensor in state.items():
        layer, _, kind = key.rpartition(".")
        if layer not in TORCHVISION_NAMES:
            raise ValueError(f"{key!r} is no parameter of torchvision's alexnet")
        result[f"{TORCHVISION_NAMES[layer]}.{kind}"] = tensor
    return result
