"""A training split whose images lie decoded in the memory of the device.

A step then waits for no decoder and no copy: its batch is gathered on the device. An image of 256
pixels takes 197 KB, so that 280,000 fit beside the network on a card of 80 GB.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from alexnet.cores import local_ranks, memory_limit
from alexnet.data.device_feed import on_device
from alexnet.data.loader import FULL_BATCH, Batch, Indices, Share, batches, cut
from alexnet.data.store import Split, Store
from alexnet.errors import ConfigError
from alexnet.progress import Progress

LARGEST_SHARE = 0.7
"""Share of the memory that images may take: of what is free on a GPU, and elsewhere of what the
process may use. The network needs the rest."""
AT_ONCE = 128  # images
MAX_CPU_BYTES = 2**30
"""Largest training set that is decoded once and kept in memory, where a CPU trains. Decoding the
images anew in every epoch takes a sixth to a fifth of the time of a small network."""
MAX_CUDA_BYTES = 2**32
"""The same for a GPU, which a small network leaves waiting for the decoders: half of the memory of
a small card. Trainings that begin at the same time share it, and none sees what the others are
about to take."""


def should_decode_once(store: Store, split: str, device: str, trainings: int = 1) -> bool:
    """Whether a training should decode the images of a split once for all epochs.

    Args:
        device: Its kind: cpu, cuda or mps.
        trainings: Number of trainings at the same time, each of which keeps its own images.

    On CUDA, `ResidentSplit` also looks at the memory that is free when a training begins.

    Raises:
        DataError: If the store has no such split.
    """
    kept_bytes = trainings * 3 * store.num_images(split) * store.size_px**2
    if device == "cuda":
        return kept_bytes <= MAX_CUDA_BYTES
    return device == "cpu" and kept_bytes <= min(MAX_CPU_BYTES, LARGEST_SHARE * memory_limit())


class ResidentSplit:
    """The images of a split on a device, and its labels.

    Attributes:
        images: (N, size_px, size_px, 3) uint8, in the order of the split.
        labels: (N,) int64.
    """

    def __init__(self, split: Split, device: torch.device, workers: int) -> None:
        """Decode all images of a split.

        Args:
            workers: Number of decoding threads.

        Raises:
            ConfigError: If they do not fit into the memory of the device.
            DataError, StoreLost: As `batches` does.
        """
        shape = len(split), split.size_px, split.size_px, 3
        pin = device.type == "cuda"
        wanted = int(np.prod(shape, dtype=np.int64))
        if pin:
            check_fits(wanted, torch.cuda.mem_get_info(device)[0], "free memory of the GPU")
        else:
            # What the system says is free may be too little: it gives up its caches on demand. Each
            # rank of this machine has its own copy.
            check_fits(wanted, memory_limit() // local_ranks(), "memory for this process")
        self.images = torch.empty(shape, dtype=torch.uint8, device=device)
        self.labels = torch.from_numpy(split.labels).to(device)
        order = np.arange(len(split))
        feed = on_device(batches(split, order, AT_ONCE, workers, pin=pin), device)
        with Progress("images to the device", len(split), "images") as progress:
            for batch in feed:
                first = int(batch.position[0])
                self.images[first : first + len(batch.images)] = batch.images
                progress.advance(len(batch.images))

    def batches(
        self, order: Indices, batch: int, start: int = 0, share: Share = FULL_BATCH
    ) -> Iterator[Batch]:
        """Yield the same batches as `loader.batches`, gathered on the device."""
        for positions, global_size in cut(len(order), batch, start, share):
            began_s = time.perf_counter()
            index = order[positions]
            wanted = torch.from_numpy(index)
            if self.images.is_cuda:
                # From other memory the copy would wait for the step before it.
                wanted = wanted.pin_memory()
            wanted = wanted.to(self.images.device, non_blocking=True)
            images = self.images.index_select(0, wanted)
            labels = self.labels.index_select(0, wanted)
            waited_s = time.perf_counter() - began_s
            yield Batch(images, labels, index, positions, global_size, waited_s)


def check_fits(wanted: int, available: int, memory: str) -> None:
    """Raise ConfigError if images of `wanted` bytes do not fit into `available` bytes.

    Args:
        memory: What is available, such as "free memory of the GPU".
    """
    if wanted > LARGEST_SHARE * available:
        raise ConfigError(
            f"resident: the training images take {wanted / 1e9:.1f} GB, more than "
            f"{LARGEST_SHARE:.0%} of the {available / 1e9:.1f} GB of {memory}"
        )
