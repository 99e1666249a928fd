"""Batches on their way to a GPU: copied on a stream of their own while it computes.

On the stream that computes, each copy would wait for the step before it, and the step after for
the copy: 25 MB for 128 images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.loader import Batch


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Return the same batches, with their images and labels on a CUDA device.

    Each batch is copied while the caller computes on the one before it. On other devices the
    batches are returned as they are.

    Args:
        batches: In page-locked memory (`loader.batches` with `pin`), from which copies do not wait.
    """
    if device.type != "cuda":
        return batches
    return _ahead(batches, Copies(device))


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the host to a device, on CUDA without waiting for the copy.

    Apple's MPS is waited for: there a copy may still read memory that is in use again.
    """
    return tensor.to(device, non_blocking=device.type == "cuda")


class Copies:
    """Copies of tensors to a CUDA device on a stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def stream(self) -> torch.cuda.StreamContext:
        """Return a context whose operations are queued on the stream of the copies."""
        return torch.cuda.stream(self._stream)

    def start(self, batch: Batch) -> tuple[Batch, torch.cuda.Event]:
        """Start copying a batch. Return it, not yet to be read, and the event of its arrival."""
        with self.stream():
            images, labels = (
                tensor.to(self._device, non_blocking=True)
                for tensor in (batch.images, batch.labels)
            )
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        return replace(batch, images=images, labels=labels), event

    def hand_over(self, batch: Batch, arrived: torch.cuda.Event) -> None:
        """Let the stream that computes wait for a batch; the host does not wait."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(arrived)
        # The memory belongs to the stream of the copies. Without this note the next copy could be
        # written into it as soon as the host drops the batch, while the step still reads it.
        for tensor in (batch.images, batch.labels):
            tensor.record_stream(computing)


def _ahead(batches: Iterator[Batch], copies: Copies) -> Iterator[Batch]:
    """Yield each batch after the copy of the next one has been started."""
    # Batches on the host and the events of their arrival. The loader may use the memory of a batch
    # again when nobody holds it, so it is held until its copy has ended.
    leaving: list[tuple[Batch, torch.cuda.Event]] = []
    waiting: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        leaving = [e for e in leaving if not e[1].query()]  # type: ignore[no-untyped-call]
        moved, arrived = copies.start(batch)
        leaving.append((batch, arrived))
        if waiting is not None:
            copies.hand_over(*waiting)
            yield waiting[0]
        waiting = moved, arrived
    if waiting is not None:
        copies.hand_over(*waiting)
        yield waiting[0]


class LateResults:
    """Results of batches, copied from a device without waiting and read one batch late."""

    def __init__(self, device: torch.device) -> None:
        self._late = device.type == "cuda"
        self._copied: list[tuple[torch.Tensor, torch.cuda.Event]] = []

    def add(self, result: torch.Tensor) -> list[NDArray[np.float32]]:
        """Start copying a result; return those that were added before it, or this one on a CPU."""
        if not self._late:
            return [result.cpu().numpy()]
        before, event = self.rest(), torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied = result.to("cpu", non_blocking=True)
        event.record(torch.cuda.current_stream(result.device))
        self._copied.append((copied, event))
        return before

    def rest(self) -> list[NDArray[np.float32]]:
        """Wait for the results that have not been returned, and return them."""
        rest = []
        for copied, event in self._copied:
            event.synchronize()
            rest.append(copied.numpy())
        self._copied.clear()
        return rest
