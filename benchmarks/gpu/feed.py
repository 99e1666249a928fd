"""Batches from a store of JPEGs, from an uncompressed one, and from the memory of the card.

Each with decoding threads of several numbers: the batches alone, and with training steps.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from alexnet.config import StoreSettings
from alexnet.data import shapes
from alexnet.data.augment import sample_augmentation
from alexnet.data.gpu_decoding import GpuDecodedSplit
from alexnet.data.image import simplejpeg
from alexnet.data.loader import FULL_BATCH, Batch, epoch_order
from alexnet.data.prepare import prepare
from alexnet.data.resident import ResidentSplit
from alexnet.data.store import Split, Store
from alexnet.data.training_feed import TrainingSplit, epoch_batches
from alexnet.errors import ConfigError
from benchmarks import same_training
from benchmarks.gpu.lab import (
    STORED_PX,
    TINY_STORED_PX,
    Lab,
    Value,
    as_trained,
    images_for,
    training_config,
)

IMAGES, BATCH, EPOCHS, THREADS = 4096, 512, 8, (8, 16, 24)
TINY_IMAGES, TINY_BATCH, TINY_EPOCHS, TINY_THREADS = 10, 2, 1, (1,)


def run(lab: Lab) -> None:
    as_trained("bfloat16")
    torch.set_num_threads(1)  # PyTorch's idle threads would take cores from the decoders
    if simplejpeg is None:
        lab.row("simplejpeg", found="missing: Pillow decodes the JPEGs")
    batch = TINY_BATCH if lab.tiny else BATCH
    config = training_config(lab, batch)
    config = replace(config, sgd=replace(config.sgd, lr=1e-6))
    images = images_for(lab, config)
    step = same_training.graph(config, images.preprocess)
    numbers = iter(range(1 << 40))

    def train(read: Batch) -> None:
        drawn = sample_augmentation(
            config.augment,
            images.statistics,
            config.architecture.input_px,
            0,
            0,
            read.index,
            read.position,
        )
        step(read, drawn, next(numbers))

    with tempfile.TemporaryDirectory() as folder:
        splits = {encoding: _split(lab, Path(folder), encoding) for encoding in ("jpeg", "ppm")}
        for threads in TINY_THREADS if lab.tiny else THREADS:
            for encoding, split in splits.items():
                name = f"{encoding}, {threads} threads"
                _both(lab, name, split, batch, threads, train)
        try:
            decoded = GpuDecodedSplit(splits["jpeg"], lab.device, 8)
        except ConfigError as error:
            lab.row("jpeg, decoded by the GPU", found=str(error))
        else:
            _both(lab, "jpeg, decoded by the GPU", decoded, batch, 8, train)
        _both(lab, "resident", ResidentSplit(splits["ppm"], lab.device, 8), batch, 8, train)


def _split(lab: Lab, folder: Path, encoding: str) -> Split:
    """Make a store of the built-in images."""
    began_s = time.perf_counter()
    settings = StoreSettings(
        size_px=TINY_STORED_PX if lab.tiny else STORED_PX,
        encoding=encoding,  # type: ignore[arg-type]
    )
    source = shapes.source(TINY_IMAGES if lab.tiny else IMAGES, 10)
    prepare(source, folder / encoding, settings, workers=1 if lab.tiny else 0)
    split = Store(folder / encoding).split("train")
    took_s, kilobytes = time.perf_counter() - began_s, len(split.encoded(0)) / 1e3
    lab.row(f"store of {encoding}", images=len(split), seconds=took_s, kb_an_image=kilobytes)
    return split


def _both(
    lab: Lab,
    name: str,
    source: TrainingSplit,
    batch: int,
    threads: int,
    train: Callable[[Batch], None],
) -> None:
    for what, use in (("alone", lambda read: None), ("with steps", train)):
        lab.attempt(f"{name}, {what}", lambda use=use: _measured(lab, source, batch, threads, use))


def _measured(
    lab: Lab,
    source: TrainingSplit,
    batch: int,
    threads: int,
    use: Callable[[Batch], None],
) -> dict[str, Value]:
    count = len(source.labels)
    epochs = TINY_EPOCHS if lab.tiny else EPOCHS
    order = np.tile(epoch_order(count, 0, 0), epochs)
    order = order[: len(order) // batch * batch]  # full batches alone, which the graph is for
    waited_s, seen, began_s = 0.0, 0, time.perf_counter()
    for read in epoch_batches(source, order, batch, threads, 0, lab.device, FULL_BATCH):
        use(read)
        waited_s += read.waited_s
        seen += len(read.index)
    if lab.device.type == "cuda":
        torch.cuda.synchronize()
    took_s = time.perf_counter() - began_s
    return {"images_per_s": seen / took_s, "waited_share": waited_s / took_s}
