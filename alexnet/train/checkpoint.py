"""A run on disk: `config.json`, `metrics.jsonl`, `last.safetensors` and `best.safetensors`, each whole or not there.

A checkpoint is one safetensors file, so that weights and velocity can never be of different steps and nothing
executes on load: parameters by name, velocities as `velocity.<name>` (last only), and a JSON header that says what
the weights are (recipe, config, classes, store, statistics, evaluation) and where training stood.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from alexnet.config import Config, from_dict, to_dict
from alexnet.files import move_into_place, write_whole
from alexnet.train.sgd import PlateauState

VELOCITY = "velocity."


@dataclass
class Position:
    """Where training stands, exactly: the next batch, and the sums of the epoch so far."""

    epoch: int = 0
    batch: int = 0
    """Batches of this epoch already done."""
    step: int = 0
    plateau: PlateauState = field(default_factory=PlateauState)
    loss_sum: float = 0.0
    errors: int = 0
    images: int = 0
    elapsed_s: float = 0.0
    least_error: float = float("inf")
    """Validation error of best.safetensors."""


@dataclass(frozen=True)
class Checkpoint:
    """weights and velocity by parameter name; about: the header."""

    weights: dict[str, torch.Tensor]
    velocity: dict[str, torch.Tensor]
    about: dict[str, Any]

    @property
    def config(self) -> Config:
        return from_dict(Config, self.about["config"])

    @property
    def position(self) -> Position:
        saved = dict(self.about["position"])
        return Position(**{**saved, "plateau": PlateauState(**saved["plateau"])})


def save(
    run: Path,
    which: Literal["last", "best"],
    weights: dict[str, torch.Tensor],
    velocity: dict[str, torch.Tensor],
    about: dict[str, Any],
    position: Position,
) -> None:
    """Write run/last.safetensors or best.safetensors; a kill at any moment leaves the one before."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    if which == "last":
        tensors |= {VELOCITY + name: tensor.cpu().contiguous() for name, tensor in velocity.items()}
    path = run / f"{which}.safetensors"
    beside = run / f".{which}.writing"
    save_file(tensors, beside, {"about": json.dumps(about | {"position": asdict(position)})})
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    move_into_place(beside, path)


def load(path: str | Path, which: Literal["last", "best"] = "last") -> Checkpoint:
    """The checkpoint of a run folder, or of a .safetensors file.

    Raises ValueError with the mend when there is none, or when the file is damaged or of something else.
    """
    path = Path(path)
    file = path / f"{which}.safetensors" if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{file} does not exist; {path} is no run that has reached a checkpoint")
    try:
        with safe_open(file, "pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{file} is damaged ({error}); use another checkpoint of the run") from None
    if "about" not in metadata:
        raise ValueError(f"{file} was not written by this program: it lacks the header that says what it is")
    velocity = {n.removeprefix(VELOCITY): t for n, t in tensors.items() if n.startswith(VELOCITY)}
    weights = {n: t for n, t in tensors.items() if not n.startswith(VELOCITY)}
    return Checkpoint(weights, velocity, json.loads(metadata["about"]))


def write_config(run: Path, config: Config) -> None:
    write_whole(run / "config.json", (json.dumps(to_dict(config), indent=1) + "\n").encode())


def read_config(run: Path) -> Config:
    """Raises ValueError when the run has none, or one that this program cannot read."""
    path = run / "config.json"
    if not path.is_file():
        raise ValueError(f"{run} is no run: it has no config.json")
    try:
        data = json.loads(path.read_text())
    except ValueError:
        raise ValueError(f"{path} is damaged: it is no JSON") from None
    return from_dict(Config, data, str(path))


def copy_into(net: torch.nn.Module, weights: dict[str, torch.Tensor], whose: str) -> None:
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


def copy_matching(net: torch.nn.Module, weights: dict[str, torch.Tensor]) -> tuple[list[str], list[str]]:
    """Parameters whose name and shape agree, copied: (taken, left as they were). For `init`."""
    taken, left = [], []
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if name in weights and weights[name].shape == weight.shape:
                weight.copy_(weights[name])
                taken.append(name)
            else:
                left.append(name)
    return taken, left
