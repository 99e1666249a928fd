"""Loss and error counts of each step, copied from the device asynchronously, and their sums."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import torch

from alexnet.distributed.collectives import all_sum, granted, sum_with_requests
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.model import evaluation_mode
from alexnet.train.endings import NotFinite
from alexnet.train.state import TrainState


class _Pending(NamedTuple):
    """The values of a step that are not read yet."""

    values: torch.Tensor
    event: torch.cuda.Event | None
    """None: the values are on the host."""
    x: torch.Tensor
    batch_size: int
    step: int


class StepMetrics:
    """Loss and error counts of the steps, added to a `TrainState` some steps later.

    Args:
        state: Receives the sums.
        late: Number of steps between computing and reading. With 1, a GPU already has its next step
            in the queue when the host waits for the values of this one.
    """

    def __init__(self, net: ShardedNetwork, state: TrainState, late: int) -> None:
        self._net, self._state, self._late = net, state, late
        self._pending: deque[_Pending] = deque()
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
        self._pending.append(_Pending(copied, event, x, batch_size, self._state.step))
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
        # The caller saves next, so pending requests to save are done; one to stop stays.
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
