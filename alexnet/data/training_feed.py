"""The three ways in which training images reach the device, behind one interface."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from alexnet.config import Config
from alexnet.data.device_feed import on_device
from alexnet.data.gpu_decoding import GpuDecodedSplit, decodes_on_gpu
from alexnet.data.loader import Batch, Indices, Share, batches
from alexnet.data.resident import ResidentSplit
from alexnet.data.store import Split
from alexnet.errors import ConfigError
from alexnet.terminal import print_if_read

TrainingSplit = Split | ResidentSplit | GpuDecodedSplit


def training_split(
    config: Config, split: Split, device: torch.device, workers: int
) -> TrainingSplit:
    """Return the images of a split as the config wants them: decoded once, by a GPU, or by threads.

    Args:
        workers: Number of threads that read or decode.

    Resident images that do not fit into the memory of this machine are decoded in every epoch, with
    a warning: the batches are the same.

    Raises:
        ConfigError: As `GpuDecodedSplit` does.
        DataError, StoreLost: As `loader.batches` does.
    """
    if config.resident:
        try:
            return ResidentSplit(split, device, workers)
        except ConfigError as error:
            print_if_read(f"warning: {error}; they are decoded in every epoch", err=True)
            return split
    if decodes_on_gpu(config):
        return GpuDecodedSplit(split, device, workers)
    return split


def epoch_batches(
    source: TrainingSplit,
    order: Indices,
    batch: int,
    workers: int,
    start: int,
    device: torch.device,
    share: Share,
) -> Iterator[Batch]:
    """Return the batches of an epoch, on the device if it is a GPU; arguments as of `batches`."""
    if not isinstance(source, Split):
        return source.batches(order, batch, start, share)
    pin = device.type == "cuda"
    return on_device(batches(source, order, batch, workers, start, pin=pin, share=share), device)
