"""Checkpoints: the weights of a run on disk.

(`weights/` reads files of other programs, and `export.py` writes ONNX.) A checkpoint is one
safetensors file, so that loading executes no code, and weights, velocity and preprocessing always
belong to the same moment. It contains:

- the parameters and running statistics, by name: those that predict, which are the average where
  a run has one;
- the parameters that training goes on with, as `training.<name>`, where they are others (only in
  `last`);
- the mean image, as `preprocess.mean`;
- the velocities, as `velocity.<name>` (only in `last`);
- a JSON header that identifies the weights: recipe, config, classes, checksum of the store,
  evaluation, and the SHA-256 of the weights;
- a SHA-256 of everything above, which is compared whenever the file is read.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import safe_open

from alexnet.architecture import layer_of, plan
from alexnet.config import Config
from alexnet.config_checks import check
from alexnet.data.classes import composed
from alexnet.data.manifest import is_covariance, is_names
from alexnet.data.store import Statistics
from alexnet.errors import ConfigError, RunError, nearest_name
from alexnet.files import check_utf8, file_sha256, naming, parse_json, replacing, write_whole
from alexnet.saved_config import from_dict, to_dict

# These names keep the rest apart from the parameters, which are called LAYER.weight or LAYER.bias.
VELOCITY, TRAINING, MEAN = "velocity.", "training.", "preprocess.mean"
# The entries of the metadata of a safetensors file that this program writes.
ABOUT, CHECKSUM = "about", "checksum"
# What the header of an imported run says of its file, among other things.
IMPORTED = "file", "sha256", "format", "network", "mean", "channels"
# The dtypes of parameters, velocities and the mean image, and their names in the file format.
DTYPES = {torch.float32: "F32", torch.float64: "F64"}

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint file.

    Attributes:
        weights: Parameters by name; of a run with `sgd.ema_decay`, their average.
        velocity: Velocities by parameter name; empty in `best`.
        mean: Mean image, (H, W, 3) float32, in gray levels.
        about: The JSON header.
        covered: Whether the file has a checksum of all its content; before version 0.3 it was one
            of the weights alone.
        file: The file, for messages.
        training: The parameters that training goes on with, where `weights` are their average;
            empty in `best`, and in runs without an average.
    """

    weights: Tensors
    velocity: Tensors
    mean: torch.Tensor
    about: dict[str, Any]
    covered: bool
    file: Path
    training: Tensors = field(default_factory=dict)

    @cached_property
    def config(self) -> Config:
        """The config of the run. Raises ConfigError, naming the file, if it cannot work."""
        return _config(self.about["config"], self.file)

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
    training: Tensors | None = None,
) -> None:
    """Write a checkpoint atomically; the header gains the key `sha256`.

    The arguments are as in `Checkpoint`. A process killed at any moment leaves the previous file or
    the new one, and so does a full disk.

    Raises:
        OSError: The file cannot be written.
    """
    # The file has the tensors in row-major order, also those that are channels-last in memory.
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    # This one covers the weights alone: it is the same with and without velocities.
    text = json.dumps(about | {"sha256": tensors_sha256(tensors)})
    for prefix, others in ((VELOCITY, velocity), (TRAINING, training or {})):
        tensors |= {prefix + name: tensor.cpu().contiguous() for name, tensor in others.items()}
    tensors[MEAN] = mean.cpu().contiguous()
    # Not `save_file` of safetensors: it gives the file mode 0600 whatever the umask, leaves a file
    # of another name behind when it is killed, and does not sync.
    layout: dict[str, Any] = {"__metadata__": {ABOUT: text, CHECKSUM: _checksum(tensors, text)}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        shape = list(tensor.shape)
        layout[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": shape,
            "data_offsets": [begin, end],
        }
    header = json.dumps(layout).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    with replacing(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for tensor in tensors.values():
            file.write(_bytes(tensor))


def tensors_sha256(tensors: Tensors) -> str:
    """Return the SHA-256 of tensors, over their names in order and their bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(_bytes(tensors[name].contiguous()))
    return digest.hexdigest()


def _bytes(tensor: torch.Tensor) -> memoryview:
    """Return a view of a contiguous tensor's memory: a copy of fc6 alone would take 144 MiB."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def _checksum(tensors: Tensors, text: str) -> str:
    """Return the SHA-256 of all that a checkpoint contains.

    It covers the name, dtype and shape of each tensor, the header `text`, and the bytes of the mean
    image, the velocities and the weights of training. Those of the weights are covered by the
    `sha256` in the header, so that no byte is hashed twice.
    """
    names = sorted(tensors)
    shapes = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names]
    digest = hashlib.sha256(json.dumps([shapes, text]).encode())
    for name in names:
        if _is_no_weight(name):
            digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def _no_run(path: Path) -> str:
    """The sentence for a run that does not exist, with the nearest name in its folder."""
    run_names = [config.parent.name for config in path.parent.glob("*/config.json")]
    meant = nearest_name(path.name, run_names)
    there_is = (
        f"the nearest run is {path.with_name(meant)}" if meant else "give the folder of a run"
    )
    return f"{path} does not exist; {there_is}"


def _is_no_weight(name: str) -> bool:
    return name == MEAN or name.startswith((VELOCITY, TRAINING))


def read(path: str | Path, which: Literal["last", "best"] = "last") -> Checkpoint:
    """Read the checkpoint of a run folder, or a .safetensors file that this program wrote.

    A file of an earlier version, whose mean image and header have no checksum, is read with a line
    on stderr.

    Args:
        which: The checkpoint of a folder; with a file it must be "last".

    Raises:
        RunError: If there is no such file, or it is damaged, or another program wrote it, or
            `which` is "best" and `path` a file. The message says what to do.
        OSError: If the disk does not answer, or the file may not be read.
    """
    path = Path(path)
    file = path / f"{which}.safetensors" if path.is_dir() else path
    if not path.exists():
        raise RunError(_no_run(path))
    if file == path and which != "last":
        raise RunError(f"{path} is one checkpoint already; leave out --which {which}")
    if not file.is_file():
        raise RunError(f"{file} does not exist: {path} is not a run that has reached a checkpoint")
    # In a run's folder such a file would be damage, and not what the user meant.
    if file == path and (kind := _foreign(path)) is not None:
        raise RunError(f"{path} is not a run of this program: it is {kind}")
    check_utf8(file)
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            # `opened` is not a mapping, so `keys()` is needed.
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    # Every error of the parser is damage, such as a dtype that PyTorch has no name for.
    except Exception as error:
        # A disk that does not answer is not: nobody should delete the file for it. The errors of
        # safetensors and PyTorch have no number, and many say of a file that cannot be read that
        # it does not exist. Python's own, of reading the file once more, say what it is.
        with naming(file):
            file_sha256(file)
        raise _damaged(file, str(error)) from None
    # A file of another program may contain weights, but no mean image or class names.
    if ABOUT not in metadata or MEAN not in tensors:
        raise RunError(
            f"{file} is not a run of this program: it was not written by it, and lacks the classes "
            "and the mean image that predictions need; give the folder of a run, or make one of it "
            "with `alexnet import`"
        )
    about = _header(file, metadata, tensors)
    if CHECKSUM not in metadata:
        _say_not_covered(file)
    # What remains after these three are the weights.
    mean = tensors.pop(MEAN)
    velocity, training = (
        {n.removeprefix(prefix): tensors.pop(n) for n in list(tensors) if n.startswith(prefix)}
        for prefix in (VELOCITY, TRAINING)
    )
    # safetensors checks the sizes of the tensors but not their contents.
    if tensors_sha256(tensors) != about["sha256"]:
        raise _damaged(file, "its weights do not have the sha256 that it states")
    return Checkpoint(tensors, velocity, mean, about, CHECKSUM in metadata, file, training)


def _foreign(file: Path) -> str | None:
    """Say what a file is whose beginning or name is that of another format, and what is possible.

    Returns:
        Words that continue "it is"; None for a safetensors file.
    """
    with file.open("rb") as opened:
        start = opened.read(8)
    suffix = file.suffix.lower()
    # PyTorch writes a zip archive of pickles, and before version 1.6 a plain pickle.
    if suffix in (".pt", ".pth", ".ckpt") or start.startswith((b"PK", b"\x80\x02")):
        return (
            "a file of PyTorch, which may execute code when it is loaded; `alexnet import` makes a "
            "run of its weights without executing anything"
        )
    if suffix == ".onnx":
        return (
            "an ONNX file, which other programs such as ONNX Runtime run; give the folder of the "
            "run that it was exported from, or make a run of it with `alexnet import`"
        )
    if suffix in (".npy", ".npz") or start.startswith(b"\x93NUMPY"):
        return "a file of NumPy; give the folder of a run, or make one of it with `alexnet import`"
    if suffix == ".caffemodel":
        return "a file of Caffe; give the folder of a run, or make one of it with `alexnet import`"
    if suffix != ".safetensors":
        return "not a .safetensors file; give the folder of a run, or a file that was exported"
    return None


def _header(file: Path, metadata: dict[str, str], tensors: Tensors) -> dict[str, Any]:
    """Return the JSON header of a checkpoint, compared with the tensors and the checksum.

    Files of earlier versions have no checksum, so the types of what is used are checked too.

    Raises:
        RunError: The file is damaged.
    """
    # A damaged name of the checksum must not make the file one that has none.
    if unknown := metadata.keys() - {ABOUT, CHECKSUM}:
        raise _damaged(file, f"its header has an unknown entry {min(unknown)!r}")
    odd = [name for name, tensor in tensors.items() if tensor.dtype not in DTYPES]
    if odd:
        raise _damaged(file, f"{min(odd)!r} is of type {tensors[min(odd)].dtype}")
    if CHECKSUM in metadata and _checksum(tensors, metadata[ABOUT]) != metadata[CHECKSUM]:
        raise _damaged(file, "its content does not have the checksum that it states")
    try:
        about = parse_json(metadata[ABOUT].encode())
    except ValueError as error:
        raise _damaged(file, f"its header is not JSON: {error}") from None
    mean, known = tensors[MEAN], isinstance(about, dict)
    fits: dict[str, bool] = {
        "the header": known,
        "classes": known and is_names(about.get("classes")),
        "words": known and is_names(about.get("words", [])),
        "covariance": known and is_covariance(about.get("covariance")),
        "config": known and isinstance(about.get("config"), dict),
        "the origin of the weights": known and _is_origin(about),
        **{key: known and isinstance(about.get(key), str) for key in ("sha256", "store", "recipe")},
        "the mean image": mean.ndim == 3
        and mean.shape[0] == mean.shape[1] > 0
        and mean.shape[2] == 3
        and bool(mean.isfinite().all()),
    }
    for what, right in fits.items():
        if not right:
            raise _damaged(file, f"{what} is missing or not of the right form")
    # Runs of earlier versions have the names as the file system wrote them.
    return {**about, "classes": list(map(composed, about["classes"]))}


def _is_origin(about: dict[str, Any]) -> bool:
    """Tell whether a header says in the right form, or not at all, where its weights came from."""
    while True:
        if "imported" in about and not _are_texts(about["imported"], IMPORTED):
            return False
        if "init" not in about:
            return True
        # A run may begin with weights of a run that itself began with those of another.
        about = about["init"]
        if not (_are_texts(about, ("run", "sha256")) and is_names(about.get("layers"))):
            return False


def _are_texts(value: Any, keys: Collection[str]) -> bool:
    """Tell whether a value of JSON is an object with texts under these keys."""
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in keys)


def _damaged(file: Path, why: str) -> RunError:
    return RunError(f"{file} is damaged ({why}); use another checkpoint of the run")


@cache
def _say_not_covered(file: Path) -> None:
    """Say once for each file that a part of it has no checksum."""
    print(
        f"{file} was written before version 0.3, and its mean image and header are not protected "
        "by a checksum",
        file=sys.stderr,
    )


def state_of(net: torch.nn.Module) -> Tensors:
    """The tensors of a network that a checkpoint has: parameters and running statistics."""
    return {name: weight.detach() for name, weight in net.named_parameters()} | dict(
        net.named_buffers()
    )


def copy_into(net: torch.nn.Module, weights: Tensors, whose: str) -> None:
    """Copy all parameters and running statistics of a network from `weights`.

    Args:
        whose: Name of the weights' source, for messages.

    Raises:
        RunError: If a parameter is missing or has another shape; the message names the first one.
    """
    parameters = state_of(net)
    for name in sorted(parameters.keys() | weights.keys()):
        if name not in parameters or name not in weights:
            where = "the network" if name not in parameters else whose
            raise RunError(f"{whose} has another architecture: {where} has no {name}")
        if parameters[name].shape != weights[name].shape:
            shapes = f"{tuple(weights[name].shape)} there, {tuple(parameters[name].shape)} here"
            raise RunError(f"{whose} has another architecture: {name} has shape {shapes}")
    # Nothing is copied before everything fits: an error leaves the network unchanged.
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
    by_layer: dict[str, Tensors] = {}
    for name, weight in state_of(net).items():
        by_layer.setdefault(layer_of(name), {})[name] = weight
    taken = [
        layer
        for layer, parameters in by_layer.items()
        if layer in layers
        and all(
            name in weights and weights[name].shape == parameters[name].shape for name in parameters
        )
    ]
    for layer in taken:
        for name, weight in by_layer[layer].items():
            weight.copy_(weights[name])
    return taken, [layer for layer in by_layer if layer not in taken]


def write_config(run: Path, config: Config) -> None:
    """Write the config of a run to its config.json."""
    write_whole(run / "config.json", (json.dumps(to_dict(config), indent=1) + "\n").encode())


def read_config(run: Path) -> Config:
    """Read the config of a run.

    Raises:
        RunError: If the run has no config.json, or one that is damaged.
        ConfigError: If it has a setting that this program does not know, or that cannot work.
    """
    path = run / "config.json"
    if not path.is_file():
        raise RunError(f"{run} is not a run: it has no config.json")
    try:
        data = parse_json(path.read_bytes())
    except ValueError as error:
        raise RunError(
            f"{path} is damaged: it is not JSON ({error}); a checkpoint of the run contains the "
            "same settings, under `config`"
        ) from None
    return _config(data, path)


def _config(data: Any, file: Path) -> Config:
    """Return the config that a file contains. Raises ConfigError, naming the file."""
    config = from_dict(Config, data, str(file))
    try:
        check(config)
        plan(config.architecture)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    return config
