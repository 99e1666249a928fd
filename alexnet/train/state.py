"""The position of a training, which a checkpoint keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alexnet.errors import RunError
from alexnet.saved_config import from_dict
from alexnet.train.sgd import PlateauState


@dataclass
class TrainState:
    """The exact position of training: the next batch, and the sums of the epoch so far."""

    epoch: int = 0
    batch: int = 0
    """Number of completed batches in this epoch."""
    step: int = 0
    plateau: PlateauState = field(default_factory=PlateauState)
    loss_sum: float = 0.0
    errors: int = 0
    images: int = 0
    elapsed_s: float = 0.0
    least_error: float = float("inf")
    """Validation error of best.safetensors, a fraction."""

    def next_epoch(self) -> None:
        """Move to the first batch of the next epoch, with empty sums."""
        self.epoch += 1
        self.batch = self.errors = self.images = 0
        self.loss_sum = 0.0

    @classmethod
    def from_dict(cls, saved: Any, file: Path) -> TrainState:
        """Read the state from the header of a checkpoint (`dataclasses.asdict`).

        Raises:
            ConfigError, RunError: It has other fields, or impossible values; the message names the
                file.
        """
        state = from_dict(cls, saved, f"{file}: position")
        counts = state.epoch, state.batch, state.step, state.errors, state.images
        if min(*counts, state.plateau.drops, state.plateau.stale_epochs) < 0:
            raise RunError(f"{file} is damaged: its position in training is negative")
        return state
