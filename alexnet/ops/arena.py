"""Keeps the memory of large tensors on a CPU from step to step (`native/arena.cpp`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from alexnet import native


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Inside, a freed tensor of a MiB or more leaves its memory to the tensors that follow.

    This holds for the whole process. Contexts may be nested, and a tensor may outlive its context.
    On another device, without a compiler, or with ALEXNET_NATIVE=0, nothing changes: PyTorch's own
    allocator is used, as it is outside.
    """
    # PyTorch's allocator returns large blocks to the system, which must then clear every page
    # before the next step may use it.
    arena = native.arena() if device.type == "cpu" else None
    is_begun = arena is not None and arena.arena_begin()
    try:
        yield
    finally:
        if arena is not None and is_begun:
            arena.arena_end()
