"""Training from a store: batches alone, then with steps; JPEG, uncompressed, and resident."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from alexnet.config import StoreSettings
from alexnet.data import shapes
from alexnet.data.augment import Preprocess, sample_augmentation
from alexnet.data.loader import FULL_BATCH, Batch, epoch_order
from alexnet.data.prepare import prepare
from alexnet.data.resident import ResidentSplit, epoch_batches
from alexnet.data.store import Split, Store
from benchmarks.gpu.card import DEVICE, Row, Table, run_as_program
from benchmarks.gpu.steps import config, new_graph_step, stored_px

Step = Callable[[Batch, int], object]


def feed(table: Table, out: Path, tiny: bool) -> None:
    # Idle threads of PyTorch spin, and would take the cores from the decoding threads.
    torch.set_num_threads(1)
    images, batch, passes = (16, 8, 1) if tiny else (2048, 512, 16)
    with tempfile.TemporaryDirectory() as folder:
        for encoding in ("jpeg", "ppm"):
            stored = Path(folder) / encoding
            settings = StoreSettings(size_px=stored_px(tiny), encoding=encoding, quality=90)
            table.add(f"prepare {encoding}", partial(_prepare, stored, settings, images))
            table.add(f"{encoding}, resident", partial(_resident, stored, batch, passes, tiny))
            for workers in (1, 2) if tiny else (8, 16, 24):
                table.add(
                    f"{encoding}, {workers} threads",
                    partial(_streamed, stored, batch, passes, tiny, workers),
                )


def _prepare(folder: Path, settings: StoreSettings, images: int) -> Row:
    began_s = time.perf_counter()
    prepare(shapes.source(images, 16), folder, settings)
    taken_s = time.perf_counter() - began_s
    split = Store(folder).split("train")
    kb = sum(len(split.encoded(i)) for i in range(len(split))) / len(split) / 1000
    return {"seconds": taken_s, "KB an image": kb}


def _resident(folder: Path, batch: int, passes: int, tiny: bool) -> Row:
    store = Store(folder)
    began_s = time.perf_counter()
    split = ResidentSplit(store.split("train"), DEVICE, workers=1 if tiny else 16)
    row = {"seconds to load": time.perf_counter() - began_s}
    return row | _with_and_without_steps(split, store, batch, passes, tiny, 0)


def _streamed(folder: Path, batch: int, passes: int, tiny: bool, workers: int) -> Row:
    store = Store(folder)
    split = store.split("train")
    return _with_and_without_steps(split, store, batch, passes, tiny, workers)


def _with_and_without_steps(
    source: Split | ResidentSplit,
    store: Store,
    batch: int,
    passes: int,
    tiny: bool,
    workers: int,
) -> Row:
    order = np.tile(epoch_order(len(store.split("train")), 0, 0), passes)

    def batches() -> Iterator[Batch]:
        return epoch_batches(source, order, batch, workers, 0, DEVICE, FULL_BATCH)

    step = _step(store, batch, tiny)
    for images in batches():  # warm up: kernels are chosen, files are read
        step(images, 0)
        break
    return {
        "batches alone, images/s": _speed(batches(), lambda images, number: None),
        "with steps, images/s": _speed(batches(), step),
    }


def _step(store: Store, batch: int, tiny: bool) -> Step:
    """A training step as the loop takes it: crops drawn on the host, the rest on the card."""
    settings = config(batch, tiny)
    input_px, statistics = settings.architecture.input_px, store.statistics
    preprocess = Preprocess(settings.augment, statistics, input_px, DEVICE, torch.bfloat16)
    graph = new_graph_step(batch, tiny, preprocess)

    def step(images: Batch, number: int) -> None:
        augmentation = sample_augmentation(
            settings.augment, statistics, input_px, 0, 0, images.index, images.position
        )
        graph(images, augmentation, number)

    return step


def _speed(batches: Iterator[Batch], step: Step) -> float:
    """Images per second, from the first batch asked for to the end of the last step."""
    began_s, seen = time.perf_counter(), 0
    for number, batch in enumerate(batches):
        step(batch, number)
        seen += len(batch.labels)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return seen / (time.perf_counter() - began_s)


if __name__ == "__main__":
    run_as_program("feed", feed)
