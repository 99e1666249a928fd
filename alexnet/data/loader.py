"""Batches of decoded pictures, made by threads while the device computes on the batch before."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray

from alexnet.data.picture import decode
from alexnet.data.store import Split

Indices = NDArray[np.int64]

PICTURES_A_TASK = 16


@dataclass(frozen=True)
class Batch:
    """images: (N, size_px, size_px, 3) uint8; labels, index (in the split) and place (in the epoch): (N,) int64."""

    images: torch.Tensor
    labels: torch.Tensor
    index: Indices
    place: Indices
    waited_s: float
    """How long the caller waited for it."""


def epoch_order(images: int, seed: int, epoch: int) -> Indices:
    """The order of an epoch's pictures: a function of (seed, epoch) and nothing else."""
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    return generator.permutation(images).astype(np.int64)


def decode_into(split: Split, index: int, out: NDArray[np.uint8]) -> None:
    """Picture `index` into out: (size_px, size_px, 3) uint8. Raises ValueError naming a picture that is damaged."""
    data = split.encoded(index)
    try:
        if bytes(data[:2]) == b"\xff\xd8":
            simplejpeg.decode_jpeg(data, "RGB", buffer=out)
        else:
            out[:] = decode(data)
    except ValueError as error:
        raise ValueError(f"{split.name(index)} is damaged in the store ({error}); prepare it again") from None


def batches(
    split: Split,
    order: Indices,
    batch: int,
    workers: int = 2,
    start: int = 0,
    ahead: int = 3,
    pin: bool = False,
) -> Iterator[Batch]:
    """The pictures of `order` in batches, the last as large as what is left, from batch `start` on.

    workers threads decode up to `ahead` batches beforehand; with 0 each batch is decoded when asked for. The result
    is the same for any number. pin: in page-locked memory, for a GPU.
    """
    places = [np.arange(a, min(a + batch, len(order))) for a in range(start * batch, len(order), batch)]

    def room(place: Indices) -> torch.Tensor:
        side = split.size_px
        return torch.empty((len(place), side, side, 3), dtype=torch.uint8, pin_memory=pin)

    def fill(images: torch.Tensor, place: Indices, first: int, last: int) -> None:
        array = images.numpy()
        for row in range(first, last):
            decode_into(split, int(order[place[row]]), array[row])

    def finish(images: torch.Tensor, place: Indices, began_s: float) -> Batch:
        index = order[place]
        labels = torch.from_numpy(split.labels[index])
        return Batch(images, labels, index, place, time.perf_counter() - began_s)

    if workers == 0:
        for place in places:
            began_s = time.perf_counter()
            images = room(place)
            fill(images, place, 0, len(place))
            yield finish(images, place, began_s)
        return

    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    waiting: deque[tuple[torch.Tensor, Indices, list[Future[None]]]] = deque()

    def submit(place: Indices) -> None:
        images = room(place)
        cuts = range(0, len(place), PICTURES_A_TASK)
        tasks = [pool.submit(fill, images, place, a, min(a + PICTURES_A_TASK, len(place))) for a in cuts]
        waiting.append((images, place, tasks))

    try:
        todo = iter(places)
        for place in todo:
            submit(place)
            if len(waiting) == ahead:
                break
        while waiting:
            began_s = time.perf_counter()
            images, place, tasks = waiting.popleft()
            for task in tasks:
                task.result()
            ready = finish(images, place, began_s)
            if (following := next(todo, None)) is not None:
                submit(following)
            yield ready
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
