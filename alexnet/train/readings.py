"""What a step says of itself: its loss and its errors, on their way from the device to the sums of the epoch."""

from __future__ import annotations

import math
from collections import deque

import torch

from alexnet.model import Network
from alexnet.parallel.exchange import all_sum
from alexnet.parallel.part import Part
from alexnet.train.checkpoint import Position


class NotFinite(Exception):
    """A NaN or an infinity; the message names step and tensor."""


class Readings:
    """Read `late` steps after they were computed: with 1 a GPU has its next step before the host waits for this one."""

    def __init__(self, net: Part, at: Position, late: int) -> None:
        self._net, self._at, self._late = net, at, late
        self._waiting: deque[
            tuple[torch.Tensor, torch.cuda.Event | None, torch.Tensor, int, int]
        ] = deque()
        self._agreed = False, False

    def add(
        self,
        x: torch.Tensor,
        loss: torch.Tensor,
        wrong: torch.Tensor,
        whole: int,
        stop: bool,
        save: bool,
    ) -> None:
        """Those of a step, before its update, and what this rank wants. x: what the network saw; loss, wrong: as
        `Part.loss` gives them for a batch of `whole`. Raises NotFinite for a loss that was read.
        """
        mesh = self._net.mesh
        values = torch.stack([loss.detach(), wrong.to(loss.dtype)])
        if mesh.world.size > 1:
            seen = (
                values if mesh.units.place == 0 else torch.zeros_like(values)
            )  # ranks of one shard saw the same
            wanted = values.new_tensor([float(stop), float(save and mesh.first)])
            values = all_sum(torch.cat([seen, wanted]), mesh, mesh.world, "readings")
        copied, event = values.to("cpu", non_blocking=True), None
        if values.is_cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._waiting.append((copied, event, x, whole, self._at.step))
        self._read(self._late)

    def agreed(self, stop: bool, save: bool) -> tuple[bool, bool]:
        """Whether to stop and whether to save now: of one process what it wants; of several the same on all, namely
        whether any was told to stop and the first wanted a checkpoint when the readings were taken."""
        return self._agreed if self._net.mesh.world.size > 1 else (stop, save)

    def settle(self) -> None:
        """All that still waits, into the sums; as `add`."""
        self._read(0)

    def _read(self, left: int) -> None:
        while len(self._waiting) > left:
            values, event, x, whole, step = self._waiting.popleft()
            if event is not None:
                event.synchronize()
            loss, errors, *wanted = values.tolist()
            if wanted:
                self._agreed = wanted[0] > 0, wanted[1] > 0
            if not math.isfinite(loss):
                raise NotFinite(_which_tensor(self._net, x, step))
            self._at.loss_sum += loss * whole
            self._at.errors += int(errors)
            self._at.images += whole

    def __str__(self) -> str:
        images = max(1, self._at.images)
        return f"loss {self._at.loss_sum / images:.3f}  error {self._at.errors / images:.1%}"


@torch.no_grad()
def _which_tensor(net: Network, x: torch.Tensor, step: int) -> str:
    for name, weight in net.named_parameters():
        if not torch.isfinite(weight).all():
            return f"step {step}: {name} is not finite since the last update; a smaller --sgd.rate may help"
    for name, value in net.activations(x).items():
        if not torch.isfinite(value).all():
            return f"step {step}: the output of {name} is not finite; a smaller --sgd.rate may help"
    return f"step {step}: the loss is not finite, though every weight and activation is"
