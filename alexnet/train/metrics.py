"""Per-step loss and error counts, copied from the device asynchronously and summed over an epoch.

Also the position of training (`TrainState`) and the log of a run (`RunLog`, metrics.jsonl).
"""

from __future__ import annotations

import json
import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from alexnet.distributed.collectives import all_sum
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.errors import RunError
from alexnet.files import write_whole
from alexnet.model import Network, evaluation_mode
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
    def from_dict(cls, saved: dict[str, Any]) -> TrainState:
        """Read the state from the header of a checkpoint (`dataclasses.asdict`)."""
        return cls(**{**saved, "plateau": PlateauState(**saved["plateau"])})


class NotFinite(Exception):
    """The loss is NaN or infinite; the message names the step and the first such tensor."""


class StepMetrics:
    """Loss and error counts of the steps, added to a `TrainState` some steps later.

    Args:
        state: Receives the sums.
        late: Number of steps between computing and reading. With 1, a GPU already has its next step
            in the queue when the host waits for the values of this one.
    """

    def __init__(self, net: ShardedNetwork, state: TrainState, late: int) -> None:
        self._net, self._state, self._late = net, state, late
        self._pending: deque[
            tuple[torch.Tensor, torch.cuda.Event | None, torch.Tensor, int, int]
        ] = deque()
        self._agreed = False, False

    def add(
        self,
        x: torch.Tensor,
        loss: torch.Tensor,
        num_wrong: torch.Tensor,
        batch_size: int,
        stop: bool,
        save: bool,
    ) -> None:
        """Record the values of a step, before its update.

        Args:
            x: Input of the network; kept to find the first tensor that is not finite.
            loss, num_wrong: Scalars on the device, as returned by `ShardedNetwork.loss`.
            batch_size: Number of images in the batch, on all ranks together.
            stop, save: Whether this rank wants to stop training, and to write a checkpoint.

        Raises:
            NotFinite: A loss that was read now is not finite.
        """
        mesh = self._net.mesh
        values = torch.stack([loss.detach(), num_wrong.to(loss.dtype)])
        if mesh.world.size > 1:
            # Ranks that share the units computed the same loss; it must enter the sum once.
            counted = values if mesh.units.index == 0 else torch.zeros_like(values)
            # The requests travel in the same collective, so that agreeing costs no further one.
            # Only the first rank's clock decides when to save.
            requests = values.new_tensor([float(stop), float(save and mesh.first)])
            values = all_sum(torch.cat([counted, requests]), mesh.world)
        copied, event = values.to("cpu", non_blocking=True), None
        if values.is_cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._pending.append((copied, event, x, batch_size, self._state.step))
        self._read(self._late)

    def agreed(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether to stop and whether to save now, the same on all ranks.

        A single process gets its own requests back. With several ranks, the values are those of the
        last step that was read: whether any rank was asked to stop, and whether the first rank
        wanted a checkpoint.
        """
        return self._agreed if self._net.mesh.world.size > 1 else (stop, save)

    def settle(self) -> None:
        """Read all pending values. Raises NotFinite as `add` does."""
        self._read(0)

    def _read(self, remaining: int) -> None:
        """Read pending values until `remaining` steps are left."""
        while len(self._pending) > remaining:
            values, event, x, batch_size, step = self._pending.popleft()
            # The copy is asynchronous: its memory holds the values only after the event.
            if event is not None:
                event.synchronize()
            # One call for all values: each call would copy from a tensor once more.
            loss, errors, *requests = values.tolist()
            if requests:
                self._agreed = requests[0] > 0, requests[1] > 0
            if not math.isfinite(loss):
                raise NotFinite(_which_tensor(self._net, x, step))
            self._state.loss_sum += loss * batch_size
            self._state.errors += int(errors)
            self._state.images += batch_size

    def __str__(self) -> str:
        images = max(1, self._state.images)
        return f"loss {self._state.loss_sum / images:.3f}  error {self._state.errors / images:.1%}"


@torch.no_grad()
def _which_tensor(net: Network, x: torch.Tensor, step: int) -> str:
    """Name the first tensor that is not finite: a weight, else an activation, else the loss."""
    for name, weight in net.named_parameters():
        if not torch.isfinite(weight).all():
            return (
                f"step {step}: {name} is not finite since the last update; "
                "a smaller --sgd.lr may help"
            )
    with evaluation_mode(net):
        activations = net.activations(x)
    for name, value in activations.items():
        if not torch.isfinite(value).all():
            return f"step {step}: the output of {name} is not finite; a smaller --sgd.lr may help"
    return f"step {step}: the loss is not finite, though every weight and activation is"


class RunLog:
    """The log of a run: appends JSON lines to metrics.jsonl, and to TensorBoard if installed.

    The field `kind` of a line is "start" or "epoch".
    """

    def __init__(self, run: Path, step: int, epochs: int, writes: bool = True) -> None:
        """Open the log of a run and remove the lines that a resumed run will write again.

        Args:
            step, epochs: Position of the run's checkpoint, in steps and completed epochs.
            writes: False on ranks other than the first; they write nothing.
        """
        self._path, self._writes, self._board = run / "metrics.jsonl", writes, None
        if not writes:
            return
        if self._path.exists():
            # Lines after the checkpoint belong to steps that are repeated.
            kept = [
                line for line in read_metrics(run) if step > 0 and line.get("epoch", 0) <= epochs
            ]
            write_whole(self._path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._board = _tensorboard(run)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append a line with these values; numbers go to TensorBoard too."""
        if not self._writes:
            return
        # Opened for each line, so that a killed run keeps every line that it has written.
        with self._path.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": step} | values) + "\n")
        if self._board is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _tensorboard(run: Path) -> Any:
    # TensorBoard is not among the dependencies.
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(run / "tensorboard"))


def read_metrics(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Read the lines of a run's metrics.jsonl, all or those of one kind.

    Lines that are not valid JSON are skipped: a killed process may leave half a line.

    Raises:
        RunError: The folder has no metrics.jsonl.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise RunError(f"{run} is not a run: it has no metrics.jsonl")
    lines = []
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if "rate" in line:  # runs of version 0.1
            line["lr"] = line.pop("rate")
        lines.append(line)
    return [line for line in lines if kind is None or line["kind"] == kind]
