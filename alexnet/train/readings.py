"""What a step says of itself: its loss and its errors, on their way from the device to the sums of the epoch."""

from __future__ import annotations

import math
from collections import deque

import torch

from alexnet.model import Network
from alexnet.train.checkpoint import Position


class NotFinite(Exception):
    """A NaN or an infinity; the message names step and tensor."""


class Readings:
    """Read `late` steps after they were computed: with 1 a GPU has its next step before the host waits for this one."""

    def __init__(self, net: Network, at: Position, late: int) -> None:
        self._net, self._at, self._late = net, at, late
        self._waiting: deque[tuple[torch.Tensor, torch.cuda.Event | None, torch.Tensor, int]] = deque()

    def add(self, x: torch.Tensor, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Those of a step, before its update. x: what the network saw. Raises NotFinite for a loss that was read."""
        values = torch.stack([loss.detach().float(), (logits.argmax(1) != labels).sum().float()])
        copied, event = values.to("cpu", non_blocking=True), None
        if values.is_cuda:
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        self._waiting.append((copied, event, x, self._at.step))
        self._read(self._late)

    def settle(self) -> None:
        """All that still waits, into the sums; as `add`."""
        self._read(0)

    def _read(self, left: int) -> None:
        while len(self._waiting) > left:
            values, event, x, step = self._waiting.popleft()
            if event is not None:
                event.synchronize()
            loss, errors = values.tolist()
            if not math.isfinite(loss):
                raise NotFinite(_which_tensor(self._net, x, step))
            self._at.loss_sum += loss * len(x)
            self._at.errors += int(errors)
            self._at.images += len(x)

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
