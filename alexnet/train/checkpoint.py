"""Where a run stands, on disk: `config.json`, `last.safetensors` to go on from, `best.safetensors` to use."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet.config import Config
from alexnet.configfile import from_dict, to_dict
from alexnet.files import write_whole
from alexnet.train.sgd import PlateauState


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

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> Position:
        return cls(**{**saved, "plateau": PlateauState(**saved["plateau"])})


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
