"""Per-step loss and error counts, copied from the device asynchronously and summed over an epoch.

Also the position of training (`TrainState`) and the log of a run (`RunLog`, metrics.jsonl).
"""

from __future__ import annotations

import json
import math
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from alexnet.distributed.collectives import all_sum, granted, sum_with_requests
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.errors import RunError
from alexnet.files import naming, parse_json, write_whole
from alexnet.model import evaluation_mode
from alexnet.saved_config import MOST_INT, from_dict
from alexnet.train.sgd import PlateauState
from alexnet.train.trackers import InThread, Outcome, Tracker, deadline_s, trackers


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


class NotFinite(Exception):
    """The loss or a weight is NaN or infinite.

    Attributes:
        what: The step and the first such tensor, in words.
        step: The number of the step.
    """

    def __init__(self, what: str, step: int, mend: str = "") -> None:
        super().__init__(f"{what}; {mend}" if mend else what)
        self.what, self.step = what, step


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
        values = torch.stack([loss.detach(), num_wrong])  # in the dtype of the loss
        values = sum_with_requests(values, self._net.mesh, stop, save)
        copied, event = values.to("cpu", non_blocking=values.is_cuda), None
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
        # Whoever settles saves next, which answers the requests to save. One to stop remains.
        self._agreed = self._agreed[0], False

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
                self._agreed = granted(requests)
            if not math.isfinite(loss):
                what = _which_tensor(self._net, x, batch_size, step, updated=self._late > 0)
                raise NotFinite(what, step)
            self._state.loss_sum += loss * batch_size
            self._state.errors += int(errors)
            self._state.images += batch_size

    def __str__(self) -> str:
        images = max(1, self._state.images)
        return f"loss {self._state.loss_sum / images:.3f}  error {self._state.errors / images:.1%}"


def weight_fault(net: ShardedNetwork) -> str | None:
    """Return the name of a weight that is not finite on any rank; None if there is none.

    Ranks whose own weights are finite get "a weight of another rank". All have to decide alike:
    those that went on would wait for this one in the next collective operation.
    """
    name = next((name for name, w in net.named_parameters() if not w.isfinite().all()), None)
    count = next(net.parameters()).new_tensor([float(name is not None)])
    if float(all_sum(count, net.mesh.world)) == 0:
        return None
    return name or "a weight of another rank"


@torch.no_grad()
def _which_tensor(
    net: ShardedNetwork, x: torch.Tensor, batch_size: int, step: int, updated: bool
) -> str:
    """Name the first tensor that is not finite: a weight, else an activation, else the loss.

    All ranks name the same activation, whichever of them has the image or the map at fault.

    Args:
        updated: Whether the weights have been updated since. Such a loss makes them all NaN, so
            that they no longer tell which tensor was the first.
    """
    if (name := weight_fault(net)) is not None:
        if updated:
            return f"step {step}: the loss is not finite"
        return f"step {step}: {name} is not finite since the last update"
    with evaluation_mode(net):
        activations = net.activations(x, global_size=batch_size)
    faults = torch.stack([~value.isfinite().all() for value in activations.values()])
    counts = all_sum(faults.float(), net.mesh.world).tolist()
    for name, count in zip(activations, counts, strict=True):
        if count:
            return f"step {step}: the output of {name} is not finite"
    return f"step {step}: the loss is not finite, though every weight and activation is"


class RunLog:
    """The log of a run: appends JSON lines to metrics.jsonl, and numbers to the trackers.

    The field `kind` of a line is "start", "epoch", or "change": the learning rate and the number of
    epochs that a resumed run goes on with, where they are new.
    """

    stopped = False
    """Whether an exception that ends the training is a stop that was asked for, not an error."""

    def __init__(self, run: Path, step: int, epochs: int, writes: bool = True) -> None:
        """Open the log of a run and remove the lines that a resumed run will write again.

        Args:
            step, epochs: Position of the run's checkpoint, in steps and completed epochs.
            writes: False on ranks other than the first; they write nothing.
        """
        self._path, self._writes = run / "metrics.jsonl", writes
        self._trackers: list[Tracker] = []
        if not writes:
            return
        if self._path.exists():
            # Lines after the checkpoint belong to steps that are repeated. Without a checkpoint the
            # run begins again, and writes its first line again too.
            kept = [
                line for line in read_metrics(run) if step > 0 and line.get("epoch", 0) <= epochs
            ]
            write_whole(self._path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._trackers = trackers(run)

    def write(self, kind: str, step: int, **values: Any) -> None:
        """Append a line with these values; numbers go to the trackers too."""
        if not self._writes:
            return
        # Opened for each line, so that a killed run keeps every line that it has written.
        with naming(self._path), self._path.open("a") as file:
            file.write(json.dumps({"kind": kind, "step": step} | values) + "\n")
        numbers = {
            f"{kind}/{name}": value
            for name, value in values.items()
            if isinstance(value, int | float)
        }
        self._tell(
            lambda tracker: [tracker.add_scalar(name, x, step) for name, x in numbers.items()]
        )

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close("finished")
        # KeyboardInterrupt is not an Exception.
        else:
            stopped = self.stopped or not issubclass(kind, Exception)
            self.close("stopped" if stopped else "failed")

    def close(self, outcome: Outcome = "finished") -> None:
        """Close the trackers."""
        self._tell(lambda tracker: tracker.close(outcome))
        # All at once, so that two silent servers cost no more time than one.
        until_s = deadline_s()

        def wait(tracker: Tracker) -> None:
            if isinstance(tracker, InThread):
                tracker.wait_closed(until_s)

        self._tell(wait)

    def _tell(self, call: Callable[[Tracker], Any]) -> None:
        """Call each tracker. One that fails gets no more numbers: training goes on without it."""
        for tracker in tuple(self._trackers):
            try:
                call(tracker)
            except Exception as error:  # Each library has its own, and servers vanish.
                self._trackers.remove(tracker)
                name = getattr(tracker, "name", type(tracker).__name__)
                print(f"warning: {name} failed and gets no more numbers: {error}", file=sys.stderr)


def read_metrics(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Read the lines of a run's metrics.jsonl, all or those of one kind.

    A last line without its end is dropped: a killed process may leave one.

    Raises:
        RunError: The folder has no metrics.jsonl, or a line of it is damaged.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise RunError(f"{run} is not a run: it has no metrics.jsonl")
    *texts, _ = path.read_bytes().split(b"\n")
    lines = [_parsed(text, f"{path}, line {number}") for number, text in enumerate(texts, 1)]
    if kind is None:
        return lines
    for number, line in enumerate(lines, 1):
        if line["kind"] == kind and not _complete(line):
            raise _damaged(f"{path}, line {number}", "it lacks a field")
    return [line for line in lines if line["kind"] == kind]


# The numbers that the readers of an "epoch" line need.
EPOCH_NUMBERS = ("epoch", "lr", "train_loss", "train_error", "val_loss", "val_error")
NUMBERS = {"epoch": EPOCH_NUMBERS, "change": ("epoch", "lr", "epochs")}


def _parsed(text: bytes, where: str) -> dict[str, Any]:
    """Return a line of metrics.jsonl. Raises RunError if it is damaged."""
    try:
        line = parse_json(text)
    except ValueError as error:
        raise _damaged(where, str(error)) from None
    if not isinstance(line, dict) or not isinstance(line.get("kind"), str):
        raise _damaged(where, "not an object with a `kind`")
    if "rate" in line:  # runs of version 0.1
        line["lr"] = line.pop("rate")
    for name, value in line.items():
        # The top-5 error of a network with fewer classes is null.
        absent = value is None and name not in EPOCH_NUMBERS
        signal = name == "signal" and _is_signal(value)
        if not (name == "kind" or absent or signal or _is_number(value)):
            raise _damaged(where, f"{name!r} is not a number")
    return line


def _complete(line: dict[str, Any]) -> bool:
    """Tell whether a line has the fields that its readers need."""
    if line["kind"] == "start":
        return _is_signal(line.get("signal"))
    return all(name in line for name in NUMBERS.get(line["kind"], ()))


def _damaged(where: str, why: str) -> RunError:
    return RunError(f"{where} is damaged ({why}); remove this line")


def _is_number(value: Any) -> bool:
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= MOST_INT
    return isinstance(value, float)


def _is_signal(value: Any) -> bool:
    """Tell whether a value is that of `signal` in the line "start": two numbers for each layer."""
    return isinstance(value, dict) and all(
        isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair))
        for pair in value.values()
    )
