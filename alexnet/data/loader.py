"""Batches of decoded pictures, made by threads while the device computes on the batch before."""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray

from alexnet.data.jpeg import decode_jpegs
from alexnet.data.picture import decode, pixels_of_ppm
from alexnet.data.places import StoreLost
from alexnet.data.store import Split

Indices = NDArray[np.int64]

PICTURES_A_TASK = 16


@dataclass(frozen=True)
class Share:
    """The part of every batch that one of several processes takes: the `place`-th of `of`, as even as they can be."""

    place: int = 0
    of: int = 1

    def sizes(self, batch: int) -> tuple[int, ...]:
        """How many pictures of a batch each part has."""
        return tuple(len(part) for part in np.array_split(np.empty(batch), self.of))


WHOLE = Share()


@dataclass(frozen=True)
class Batch:
    """images: (N, size_px, size_px, 3) uint8; labels, index (in the split) and place (in the epoch): (N,) int64.

    N pictures of this process's share.
    """

    images: torch.Tensor
    labels: torch.Tensor
    index: Indices
    place: Indices
    whole: int
    """Pictures of all shares together."""
    waited_s: float
    """How long the caller waited for it."""


def epoch_order(images: int, seed: int, epoch: int) -> Indices:
    """The order of an epoch's pictures: a function of (seed, epoch) and nothing else."""
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    return generator.permutation(images).astype(np.int64)


def _decode(data: bytes, out: NDArray[np.uint8]) -> None:
    """A picture of any kind that a store may hold into out: (size_px, size_px, 3) uint8. Raises ValueError."""
    if data.startswith(b"\xff\xd8"):
        simplejpeg.decode_jpeg(data, "RGB", buffer=out)
    elif data.startswith(b"P6"):
        pixels_of_ppm(data, out)
    else:
        out[:] = decode(data)


def batches(
    split: Split,
    order: Indices,
    batch: int,
    workers: int = 2,
    start: int = 0,
    ahead: int = 3,
    pin: bool = False,
    share: Share = WHOLE,
) -> Iterator[Batch]:
    """The pictures of `order` in batches, the last as large as what is left, from batch `start` on.

    workers threads decode up to `ahead` batches beforehand; with 0 each batch is decoded when asked for. The result
    is the same for any number. pin: in page-locked memory, for a GPU. share: of every batch, nothing else is read.
    """
    whole = [
        np.arange(a, min(a + batch, len(order))) for a in range(start * batch, len(order), batch)
    ]
    places = [np.array_split(every, share.of)[share.place] for every in whole]
    sizes = iter(map(len, whole))

    def room(place: Indices) -> torch.Tensor:
        return torch.empty(
            (len(place), split.size_px, split.size_px, 3), dtype=torch.uint8, pin_memory=pin
        )

    if workers == 0:
        for place in places:
            began_s = time.perf_counter()
            images = room(place)
            _fill(split, order[place], images.numpy())
            yield _batch(split, order, place, next(sizes), images, began_s)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    waiting: deque[tuple[Indices, torch.Tensor, list[Future[None]]]] = deque()

    def submit(place: Indices) -> None:
        images = room(place)
        index, rows = order[place], images.numpy()
        cuts = [slice(a, a + PICTURES_A_TASK) for a in range(0, len(place), PICTURES_A_TASK)]
        waiting.append(
            (place, images, [pool.submit(_fill, split, index[cut], rows[cut]) for cut in cuts])
        )

    todo = iter(places)
    try:
        for place in itertools.islice(todo, ahead):
            submit(place)
        while waiting:
            began_s = time.perf_counter()
            place, images, tasks = waiting.popleft()
            for task in tasks:
                _answered(task, split)
            ready = _batch(split, order, place, next(sizes), images, began_s)
            for following in itertools.islice(todo, 1):
                submit(following)
            yield ready
    finally:
        hang = isinstance(sys.exception(), StoreLost)  # its threads, maybe for ever
        pool.shutdown(wait=not hang, cancel_futures=True)


def _answered(task: Future[None], split: Split) -> None:
    """Waits second by second, so that a process that was stopped meanwhile does not think that so much has passed."""
    for _ in range(math.ceil(split.answer_s)):
        with suppress(TimeoutError):
            return task.result(timeout=1)
    raise StoreLost(f"{split.place.name} has not given a picture for {split.answer_s:g} s")


def _fill(split: Split, index: Indices, out: NDArray[np.uint8]) -> None:
    """Pictures into out: (N, size_px, size_px, 3) uint8. Raises ValueError naming one that is damaged."""
    numbers = index.tolist()
    encoded = split.read(index)
    for number, data, row, done in zip(
        numbers, encoded, out, decode_jpegs(encoded, out), strict=True
    ):
        try:
            if not done:
                _decode(data, row)
        except ValueError as error:
            raise ValueError(
                f"{split.name(number)} is damaged in the store ({error}); prepare it again"
            ) from None


def _batch(
    split: Split, order: Indices, place: Indices, whole: int, images: torch.Tensor, began_s: float
) -> Batch:
    index = order[place]
    labels = torch.from_numpy(split.labels[index])
    return Batch(images, labels, index, place, whole, time.perf_counter() - began_s)
