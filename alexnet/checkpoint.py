"""Weights on disk: a run's own checkpoints, torchvision's weights, plain safetensors.

(`export.py` writes ONNX.) A checkpoint is one safetensors file, so that loading executes no code,
and weights, velocity and preprocessing always belong to the same moment. It contains:

- the parameters, by name;
- the mean image, as `preprocess.mean`;
- the velocities, as `velocity.<name>` (only in `last`);
- a JSON header that identifies the weights: recipe, config, classes, checksum of the store,
  evaluation, and the SHA-256 of the tensors.
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
from alexnet.data.store import Statistics
from alexnet.errors import RunError
from alexnet.files import move_into_place, write_whole
from alexnet.saved_config import from_dict, to_dict

# These names keep the rest apart from the parameters, which are called LAYER.weight or LAYER.bias.
VELOCITY, MEAN = "velocity.", "preprocess.mean"

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint file.

    Attributes:
        weights: Parameters by name.
        velocity: Velocities by parameter name; empty in `best`.
        mean: Mean image, (H, W, 3) float32, in gray levels.
        about: The JSON header.
    """

    weights: Tensors
    velocity: Tensors
    mean: torch.Tensor
    about: dict[str, Any]

    @property
    def config(self) -> Config:
        """The config of the run."""
        return from_dict(Config, self.about["config"])

    @property
    def statistics(self) -> Statistics:
        """Mean and covariance of the images that the network was trained on."""
        # The mean image is a tensor of the file; the covariance, of 3x3, is in the header.
        return Statistics(self.mean.numpy().astype(np.float64), np.array(self.about["covariance"]))


def write(
    path: Path,
    weights: Mapping[str, torch.Tensor],
    velocity: Tensors,
    mean: torch.Tensor,
    about: dict[str, Any],
) -> None:
    """Write a checkpoint atomically; the header gains the key `sha256`.

    A process killed at any moment leaves the previous file or the new one.
    """
    # safetensors refuses tensors that are not contiguous, such as channels-last weights.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # The checksum covers the weights alone: it is the same with and without velocities.
    about = about | {"sha256": tensors_sha256(tensors)}
    tensors |= {VELOCITY + name: tensor.cpu().contiguous() for name, tensor in velocity.items()}
    tensors[MEAN] = mean.cpu().contiguous()
    # In the same folder: a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.writing")
    save_file(tensors, temporary, {"about": json.dumps(about)})
    # `save_file` does not sync: a power cut after the rename could leave an empty file.
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    move_into_place(temporary, path)


def tensors_sha256(tensors: Tensors) -> str:
    """Return the SHA-256 of tensors, over their names in order and their bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        # `numpy().data` is a view: a copy of fc6 alone would take 144 MiB.
        digest.update(tensors[name].contiguous().numpy().data)
    return digest.hexdigest()


def read(path: str | Path, which: Literal["last", "best"] = "last") -> Checkpoint:
    """Read the checkpoint of a run folder, or a .safetensors file that this program wrote.

    Raises:
        RunError: If there is no such file, or it is damaged, or another program wrote it. The
            message says what to do.
    """
    path = Path(path)
    file = path / f"{which}.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise RunError(f"{file} does not exist: {path} is not a run that has reached a checkpoint")
    try:
        with safe_open(file, "pt") as opened:
            header = opened.metadata() or {}
            # `opened` is not a mapping, so `keys()` is needed.
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RunError(f"{file} is damaged ({error}); use another checkpoint of the run") from None
    # A file of another program may contain weights, but no mean image or class names.
    if "about" not in header or MEAN not in tensors:
        raise RunError(
            f"{file} was not written by this program: it lacks the header that identifies it"
        )
    about = json.loads(header["about"])
    # What remains after these two are the weights.
    mean = tensors.pop(MEAN)
    velocity = {
        n.removeprefix(VELOCITY): tensors.pop(n) for n in list(tensors) if n.startswith(VELOCITY)
    }
    # safetensors checks the sizes of the tensors but not their contents.
    if tensors_sha256(tensors) != about["sha256"]:
        raise RunError(f"{file} is damaged: its weights do not have the sha256 that it states")
    return Checkpoint(tensors, velocity, mean, about)


def copy_into(net: torch.nn.Module, weights: Tensors, whose: str) -> None:
    """Copy all parameters of a network from `weights`.

    Args:
        whose: Name of the weights' source, for messages.

    Raises:
        RunError: If a parameter is missing or has another shape; the message names the first one.
    """
    parameters = dict(net.named_parameters())
    for name in sorted(parameters.keys() | weights.keys()):
        if name not in parameters or name not in weights:
            where = "the network" if name not in parameters else whose
            raise RunError(f"{whose} has another architecture: {where} has no {name}")
        if parameters[name].shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)} there, {tuple(parameters[name].shape)} here"
            raise RunError(f"{whose} has another architecture: {name} has shape {shapes}")
    # Nothing is copied before everything fits: an error leaves the network unchanged.
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def copy_matching(
    net: torch.nn.Module, weights: Tensors, layers: Collection[str]
) -> tuple[list[str], list[str]]:
    """Copy those of `layers` whose parameters agree in name and shape, for `Config.init`.

    A layer is copied whole or not at all: new biases would not suit old filters.

    Returns:
        The names of the layers that were copied, and of those that keep their initial values.
    """
    # `conv1.weight` and `conv1.bias` belong to the layer `conv1`.
    by_layer: dict[str, dict[str, torch.nn.Parameter]] = {}
    for name, weight in net.named_parameters():
        by_layer.setdefault(name.rpartition(".")[0], {})[name] = weight
    taken = [
        layer
        for layer, parameters in by_layer.items()
        if layer in layers
        and all(
            name in weights and weights[name].shape == parameters[name].shape for name in parameters
        )
    ]
    with torch.no_grad():
        for layer in taken:
            for name, weight in by_layer[layer].items():
                weight.copy_(weights[name])
    return taken, [layer for layer in by_layer if layer not in taken]


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


def from_torchvision(state: Tensors) -> Tensors:
    """Rename the weights of torchvision's `alexnet`, for the network of `recipes.torchvision`.

    Raises:
        RunError: If a name does not occur in torchvision's state dict.
    """
    result = {}
    for key, tensor in state.items():
        layer, _, parameter = key.rpartition(".")
        if layer not in TORCHVISION_NAMES:
            raise RunError(f"{key!r} is not a parameter of torchvision's alexnet")
        result[f"{TORCHVISION_NAMES[layer]}.{parameter}"] = tensor
    return result


def write_config(run: Path, config: Config) -> None:
    """Write the config of a run to its config.json."""
    write_whole(run / "config.json", (json.dumps(to_dict(config), indent=1) + "\n").encode())


def read_config(run: Path) -> Config:
    """Read the config of a run.

    Raises:
        RunError: If the run has no config.json, or one that is damaged.
        ConfigError: If it has a setting that this program does not know.
    """
    path = run / "config.json"
    if not path.is_file():
        raise RunError(f"{run} is not a run: it has no config.json")
    try:
        data = json.loads(path.read_text())
    except ValueError:
        raise RunError(f"{path} is damaged: it is not JSON") from None
    return from_dict(Config, data, str(path))
