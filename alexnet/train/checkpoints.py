"""The checkpoints of a run, written while it trains."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from alexnet import checkpoint, snapshots
from alexnet.config import Config
from alexnet.data.preprocess import Preprocess
from alexnet.data.storage import StoreLost
from alexnet.data.store import Store
from alexnet.errors import DataError
from alexnet.ops import trial
from alexnet.provenance import code_version, machine
from alexnet.saved_config import to_dict
from alexnet.train.endings import NotFinite
from alexnet.train.metrics import StepMetrics, weight_fault
from alexnet.train.setup import Setup
from alexnet.train.state import TrainState


class Checkpoints:
    """Writes the checkpoints of a run: `last`, which can be resumed, and `best`.

    Saving is collective: every rank calls it at the same step, and rank 0 writes. As a context
    manager it saves the run if its store becomes unreachable or damaged.
    """

    def __init__(
        self,
        setup: Setup,
        run: Path,
        velocity: dict[str, torch.Tensor],
        preprocess: Preprocess,
        state: TrainState,
        step_metrics: StepMetrics,
    ) -> None:
        self._net, self._tested = setup.net, setup.tested
        self._config, self._run, self._state = setup.config, run, state
        self._velocity, self._step_metrics = velocity, step_metrics
        self._mean = preprocess.whole_mean
        self._about = header(setup.config, setup.store, setup.init)
        # A resumed run continues to count from the seconds of its checkpoint.
        self._saved_s = time.perf_counter()
        self._began_s = self._saved_s - state.elapsed_s
        # The step of the last checkpoint; None: the run has none yet.
        self._saved_step = state.step or None

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # A single process alone: other ranks may be at another step.
        # Without a new step, the checkpoint would lose its evaluation and gain nothing.
        if self._net.mesh.world.size > 1 or self._state.step == self._saved_step:
            return
        if isinstance(error, StoreLost | DataError):
            self.save("last")

    def save_snapshot(self) -> None:
        """Keep the filters of the first layer, if the run wants those of this epoch."""
        config, epoch = self._config, self._state.epoch
        if not snapshots.is_due(epoch, config.schedule.epochs, config.snapshots):
            return
        name = f"{self._tested.plan[0].module}.weight"
        filters = self._net.full({name: checkpoint.state_of(self._tested)[name]})
        if self._net.mesh.first:
            snapshots.write(self._run, epoch, filters[name].float().cpu().numpy())

    def elapsed_s(self) -> float:
        """Seconds of training in all processes of this run."""
        return time.perf_counter() - self._began_s

    def due(self) -> bool:
        """Whether the last checkpoint is older than `Config.checkpoint_minutes`."""
        return time.perf_counter() - self._saved_s > 60 * self._config.checkpoint_minutes

    def save_epoch(self, metrics: dict[str, Any]) -> None:
        """Write `last` after an epoch, and `best` if its validation error is the lowest so far."""
        self._about["evaluation"] = {"patches": 1, "split": self._config.val_split, **metrics}
        if metrics["val_error"] < self._state.least_error:
            self._state.least_error = metrics["val_error"]
            # Before `last`, whose header has the error of `best`. After a kill in between, the
            # epoch is trained again.
            self.save("best")
        # Before `last`, too: after a kill in between, the snapshot is written again.
        self.save_snapshot()
        self.save("last")

    def save(self, which: Literal["last", "best"]) -> None:
        """Write a checkpoint.

        Raises:
            NotFinite: A loss or a weight is not finite: a run could not go on from there.
        """
        self._step_metrics.settle()
        # The loss of a step is computed before its update: the last update has shown none yet.
        step = self._state.step
        if (name := weight_fault(self._net)) is not None:
            raise NotFinite(f"step {step}: {name} is not finite since the last update", step)
        self._state.elapsed_s = self.elapsed_s()
        # Only `last` can be resumed, so `best` has neither a velocity nor weights to train.
        weights, training = self._net.full(checkpoint.state_of(self._tested)), {}
        if self._tested is not self._net and which == "last":
            training = self._net.full(checkpoint.state_of(self._net))
        full_velocity = self._net.full(self._velocity if which == "last" else {})
        if self._net.mesh.first:
            about = self._about | {"position": asdict(self._state)}
            # These weights are later than those that were validated at the end of the last epoch.
            if self._state.batch:
                about["evaluation"] = None
            path = self._run / f"{which}.safetensors"
            checkpoint.write(path, weights, full_velocity, self._mean, about, training)
        self._saved_s = time.perf_counter()
        if which == "last":
            self._saved_step = self._state.step


def header(config: Config, store: Store, init: dict[str, Any]) -> dict[str, Any]:
    """The header of a checkpoint: all that is needed to use the weights without the store.

    Its keys are those of the file, which other versions read.

    Args:
        init: The weights that the run began with (`Setup.init`).
    """
    return {
        "code": code_version(),
        "torch": torch.__version__,
        **hardware(config.device),
        "recipe": config.recipe,
        "config": to_dict(config),
        "classes": store.classes,
        "words": store.words,
        "store": store.checksum,
        "stored_px": store.size_px,
        "covariance": store.statistics.covariance.tolist(),
        "evaluation": None,
        # They decide the last bits. Only a run on a CPU has any.
        "products": trial.chosen(),
        **({"init": init} if init else {}),
    }


def hardware(device: str) -> dict[str, Any]:
    """What the last bits of a run depend on beside its settings, as entries of the header.

    Args:
        device: Resolved type of the device.

    Returns:
        machine: The processor and its cores, and the GPU of a run on CUDA.
        threads: Number of threads of PyTorch.
    """
    gpu = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    return {"machine": machine() + gpu, "threads": torch.get_num_threads()}
