"""Large tensors on a CPU in memory that is kept from step to step (arena.cpp), while a training or a test runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from alexnet import native


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Inside, tensors of a MiB or more that are freed leave their memory to those that follow, of any size.

    For the whole process, may be nested; a tensor may outlive it. Nothing happens for another device, where there is
    no compiler, or with ALEXNET_NATIVE=0: PyTorch's own allocator serves then, as it does outside.
    """
    arena = native.arena() if device.type == "cpu" else None
    begun = arena is not None and arena.arena_begin()
    try:
        yield
    finally:
        if arena is not None and begun:
            arena.arena_end()
