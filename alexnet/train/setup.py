"""What a training run needs at its start: settings that fit the store, the network, its splits."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from alexnet import checkpoint, layers
from alexnet.config import Config
from alexnet.data.gpu_decoding import decoder, decodes_on_gpu
from alexnet.data.preprocess import check_sizes
from alexnet.data.store import Split, Store
from alexnet.device import device_type, dtype_of
from alexnet.distributed.mesh import Mesh, check_layout
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.errors import RunError
from alexnet.model import evaluation_mode
from alexnet.ops import trial
from alexnet.ops.arena import kept_memory
from alexnet.program import command
from alexnet.provenance import code_sha256
from alexnet.saved_config import differences, to_dict
from alexnet.train.state import TrainState


@dataclass(frozen=True)
class Setup:
    """What training needs at its start. Nothing is written until all of it fits together."""

    config: Config
    store: Store
    train: Split
    val: Split
    net: ShardedNetwork
    average: ShardedNetwork | None
    """The network with the moving average of the weights; None without `sgd.ema_decay`."""
    init: dict[str, Any] = field(default_factory=dict)
    """The weights that the run began with, for the headers of its checkpoints: filled by
    `start_from`, or by `restore` from a header. Empty without `Config.init`."""
    saved_on: dict[str, Any] = field(default_factory=dict)
    """The hardware of the checkpoint that the run goes on from (`checkpoints.hardware`) and the
    type of its `device`, filled by `restore`."""

    @property
    def tested(self) -> ShardedNetwork:
        """The network that is validated and saved."""
        return self.net if self.average is None else self.average

    def fingerprint(self) -> dict[str, str]:
        """What must be the same on all ranks. The path of the store may differ between them."""
        # Causes first: other code has other settings, and another store other classes. Other code
        # could round otherwise, or wait for an exchange that the others do not make.
        return {
            "version of PyTorch": torch.__version__,
            "version of this program (or an edited file of it)": code_sha256(),
            "store": self.store.checksum,
            "config": json.dumps(to_dict(replace(self.config, data=""))),
        }


def set_up(config: Config, store: Store, mesh: Mesh) -> Setup:
    """Open the splits and build the network of this rank; raise an error if they do not fit."""
    check_layout(config, mesh.world.size)
    for option, name in (("--train-split", config.train_split), ("--val-split", config.val_split)):
        if name not in store.manifest["splits"]:
            raise RunError(
                f"{config.data} has no split {name!r}; name one that it has with {option}: "
                + ", ".join(store.manifest["splits"])
            )
    # As `start._open_store` opens the store itself.
    answer_s = config.parallel.timeout_s / 2
    train, val = (
        store.split(name, keep=True, answer_s=answer_s)
        for name in (config.train_split, config.val_split)
    )
    check_sizes(store.size_px, config.architecture.input_px, config.augment.test_px)
    if decodes_on_gpu(config):
        encoding = store.manifest["settings"].get("encoding", "jpeg")
        if encoding != "jpeg":
            raise RunError(
                f"gpu_decoding: the images of {config.data} are {encoding}; a GPU decodes only "
                "JPEGs, so train without --gpu-decoding"
            )
        decoder(torch.device(config.device))
    # Another run of this process may have had others.
    trial.install({})
    net = _network(config, mesh)
    average = _network(config, mesh).requires_grad_(False) if config.sgd.ema_decay else None
    return Setup(config, store, train, val, net, average)


def _network(config: Config, mesh: Mesh) -> ShardedNetwork:
    net = ShardedNetwork(config.architecture, config.seed, mesh).to(config.device)
    if config.precision == "float64":
        # Converted after the weights were drawn: they have the same values in every precision.
        net = net.double()
    return net


def start_from(setup: Setup) -> list[str]:
    """Copy the weights of the run `config.init` into the network, and describe what was copied.

    The last layer has one unit per class, so the weights of a run on other classes would be wrong
    for it. It is copied only if the lists of classes are equal.

    Returns:
        Lines for the user; the second one, if any, says in what the two networks differ.
    """
    config, net = setup.config, setup.net
    saved = checkpoint.read(config.init)
    wanted = set(config.init_layers) or {layer.name for layer in config.architecture.layers}
    same_classes = saved.about["classes"] == setup.store.classes
    if not same_classes:
        last = config.architecture.layers[-1].name
        wanted.discard(last)
        if not wanted:
            raise RunError(
                f"{config.init} was trained on other classes, so {last} cannot be taken from it; "
                "name other layers with --init-layers, or leave --init out"
            )
    taken, anew = checkpoint.copy_matching(net, net.local(saved.weights), wanted)
    if not taken:
        named = " or ".join(config.init_layers)
        raise RunError(
            f"no layer of {config.init} {f'among {named} ' if named else ''}has the shape of the "
            "one of the same name here, so nothing can be taken from it; choose the recipe of that "
            f"run, {'name other layers with --init-layers, ' if named else ''}or leave --init out"
        )
    if setup.average is not None:
        setup.average.load_state_dict(net.state_dict())
    setup.init.update(run=config.init, sha256=saved.about["sha256"], layers=taken)
    # Where those weights came from in their turn.
    setup.init.update({key: saved.about[key] for key in ("imported", "init") if key in saved.about})
    why = "" if same_classes else " (the classes differ, so the last layer is not taken)"
    lines = [
        f"from {config.init}: {', '.join(taken) or 'nothing'}; "
        f"started anew: {', '.join(anew) or 'nothing'}{why}"
    ]
    # Layers of equal names and shapes do not give equal values if, for example, they are pooled
    # before they are normalized: the weights then begin in a network that they were not made for.
    before, now = _settings(saved.config, taken), _settings(config, taken)
    if changed := ", ".join(differences(before, now)):
        file = Path(config.init) / "config.json"
        # Of a single file, the settings are in its header alone.
        advice = f"; to keep those of that run: {command('train', file)}" if file.is_file() else ""
        lines.append(f"settings that differ from those of {config.init}: {changed}{advice}")
    return lines


def _settings(config: Config, names: Collection[str]) -> dict[str, Any]:
    """The settings that decide the values of these layers, without those of initial weights."""
    architecture = config.architecture
    # The last layer has no setting but its number of units, which is that of the classes.
    kept = tuple(
        replace(layer, std=None, bias=0.0)
        for layer in architecture.layers[:-1]
        if layer.name in names
    )
    bare = replace(architecture, layers=kept, classes=None, bias=None, scale_std=False)
    return {**to_dict(bare), "augment.mean": config.augment.mean}


def with_classes(config: Config, store: Store) -> Config:
    """Set the number of classes to that of the store.

    Raises:
        RunError: The config gives another number.
    """
    classes, count = config.architecture.classes, len(store.classes)
    if classes not in (None, count):
        raise RunError(
            f"architecture.classes is {classes} and {config.data} has {count} classes; "
            "leave the field out"
        )
    return replace(config, architecture=replace(config.architecture, classes=count))


def restore(setup: Setup, run: Path, velocity: dict[str, torch.Tensor]) -> TrainState:
    """Copy the last checkpoint of a run into the network and `velocity`; return its position.

    Raises:
        RunError: The checkpoint is damaged, or belongs to another store or network.
    """
    saved, net = checkpoint.read(run), setup.net
    if saved.about["store"] != setup.store.checksum:
        raise RunError(
            f"{setup.config.data} is not the store this run began with; "
            "prepare it again with the same settings"
        )
    # A checkpoint of an earlier version has none; they are then made anew.
    trial.install(saved.about.get("products"))
    # A run without an average trains the weights that it saves.
    checkpoint.copy_into(net, net.local(saved.training or saved.weights), str(saved.file))
    if setup.average is not None:
        checkpoint.copy_into(setup.average, net.local(saved.weights), str(saved.file))
    # A checkpoint such as `best`, without velocities, or with those of another network.
    shapes = {name: tensor.shape for name, tensor in net.local(saved.velocity).items()}
    if shapes != {name: tensor.shape for name, tensor in velocity.items()}:
        new = command("train", run / "config.json", "--init", saved.file, "--out", "NEW_RUN")
        raise RunError(
            f"{saved.file} cannot be resumed: its velocities do not fit its weights; begin a new "
            f"run from its weights with: {new}"
        )
    for name, tensor in net.local(saved.velocity).items():
        velocity[name].copy_(tensor)
    setup.init.update(saved.about.get("init", {}))
    keys = "machine", "threads"
    setup.saved_on.update({key: saved.about[key] for key in keys if key in saved.about})
    setup.saved_on["device"] = device_type(saved.about["config"]["device"])
    return TrainState.from_dict(saved.about.get("position"), saved.file)


def choose_products(setup: Setup) -> list[str]:
    """Decide how a run on a CPU multiplies, before its first step (`ops.trial`).

    What a checkpoint says stays. All ranks take the choices of rank 0: ranks that add their parts
    of a sum must have them in the same dtype, and one checkpoint holds for all.

    Returns:
        Lines for the user; none for a run in float32, whose ways differ by rounding alone.
    """
    config, mesh = setup.config, setup.net.mesh
    dtype = dtype_of(config.precision)
    if dtype == torch.float64 or config.device != "cpu":
        return []
    if mesh.first:
        # Timed as the steps will run.
        with kept_memory(torch.device(config.device)):
            _try_products(setup.net, dtype)
    choices = [trial.chosen()]
    if mesh.world.size > 1:
        dist.broadcast_object_list(choices)
    trial.install(choices[0])
    if dtype == torch.float32:
        return []
    return [f"products of bfloat16 values on this CPU: {trial.in_words(choices[0])}"]


def _try_products(net: ShardedNetwork, dtype: torch.dtype) -> None:
    """Compute every layer once with one image, in training and in evaluation mode."""
    first = net.plan[0].layer

    def ones(*shape: int) -> torch.Tensor:
        return torch.ones(1, *shape, dtype=dtype, device="cpu")

    # It restores the modes at the end.
    with evaluation_mode(net):
        for op in net.plan:
            if op.op != "linear":
                continue
            module = net.get_submodule(op.module)
            for training in (True, False):
                module.train(training)
                # The classes of a single process: those of a rank would exchange their inputs.
                if isinstance(module, layers.Linear):
                    x = ones(module.weight.shape[1] * module.columns)
                    layers.Linear.forward(module, x.requires_grad_(op.layer is not first))
                elif isinstance(module, layers.Conv2d):
                    x = ones(module.weight.shape[1] * module.groups, *op.in_shape[1:])
                    x.requires_grad_(op.layer is not first)
                    layers.Conv2d.convolve(module, x, module.bias)
                elif isinstance(module, layers.Local2d):
                    module(ones(*op.in_shape).requires_grad_(op.layer is not first))
