"""Batches of decoded images, prepared by threads while the device computes on the previous batch.

Threads suffice, because the JPEG decoders release the interpreter lock while they run. Processes
would have to copy each batch from one to another.
"""

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
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.data.image import pixels_of_jpeg, pixels_of_other, pixels_of_ppm, ppm_header
from alexnet.data.storage import MEND, StoreLost
from alexnet.data.store import Split
from alexnet.errors import DataError

Indices = NDArray[np.int64]
Result = TypeVar("Result")

AHEAD = 3  # batches that are read or decoded ahead of the caller
IMAGES_PER_TASK = 16  # enough work to hide the cost of a task, few enough to spread over threads


@dataclass(frozen=True)
class Share:
    """The part of every batch that one of several processes takes.

    Process number `index` of `count` takes its part of each batch; the parts differ by at most one
    image.
    """

    index: int = 0
    count: int = 1

    def sizes(self, batch: int) -> tuple[int, ...]:
        """Return the number of images of a batch in each part."""
        # The same function as in `cut`, so that the two cannot disagree.
        return tuple(len(part) for part in np.array_split(np.empty(batch), self.count))


FULL_BATCH = Share()


@dataclass(frozen=True)
class Batch:
    """The images and labels of this process's part of a batch.

    Attributes:
        images: (N, size_px, size_px, 3) uint8.
        labels: (N,) int64.
        index: Positions of the images in the split, (N,) int64.
        position: Positions of the images in the order of the epoch, (N,) int64.
        global_size: Number of images in the batch over all processes.
        waited_s: How long the caller waited for the batch, in seconds.
    """

    images: torch.Tensor
    labels: torch.Tensor
    index: Indices
    position: Indices
    global_size: int
    waited_s: float


def epoch_order(images: int, seed: int, epoch: int) -> Indices:
    """Return the order of the images in an epoch, a function of (seed, epoch) alone.

    Shape (images,), int64. The order does not depend on the past, so a resumed run finds its place.
    """
    # Philox takes (seed, epoch) as its key: each epoch has a stream of its own, and no stream has
    # to be advanced to reach it.
    generator = np.random.Generator(np.random.Philox(key=np.array([seed, epoch], np.uint64)))
    return generator.permutation(images).astype(np.int64)


def _decode(data: bytes, out: NDArray[np.uint8]) -> None:
    """Decode an image of any format that a store may contain into `out`.

    Args:
        out: (size_px, size_px, 3) uint8.

    Raises:
        DataError: If the image is damaged.
    """
    # The formats are told apart by their first bytes; a store may mix kept JPEGs with others.
    if data.startswith(b"\xff\xd8"):
        pixels_of_jpeg(data, out)
    elif data.startswith(b"P6"):
        pixels_of_ppm(data, out)
    else:
        pixels_of_other(data, out)


def cut(images: int, batch: int, start: int, share: Share) -> list[tuple[Indices, int]]:
    """Return this process's positions in the order of an epoch, and the global size, of each batch.

    Args:
        images: Number of images in the epoch.
        batch: Number of images in a batch, over all processes.
        start: Number of batches to skip.
    """
    # Batches are cut first and then divided, so that their borders do not depend on the number of
    # processes: every rank computes on its part of the batch a single process would see.
    global_batches = [
        np.arange(a, min(a + batch, images)) for a in range(start * batch, images, batch)
    ]
    return [
        (np.array_split(positions, share.count)[share.index], len(positions))
        for positions in global_batches
    ]


def batches(
    split: Split,
    order: Indices,
    batch: int,
    workers: int = 2,
    start: int = 0,
    pin: bool = False,
    share: Share = FULL_BATCH,
) -> Iterator[Batch]:
    """Yield the images of `order` in batches, beginning with batch number `start`.

    The last batch holds what is left. The result does not depend on `workers`.

    Args:
        order: Positions in the split, in the order in which they are wanted.
        batch: Number of images in a batch, over all processes.
        workers: Number of decoding threads; with 0 each batch is decoded when it is asked for.
        start: Number of batches to skip, for a run that resumes.
        pin: Whether to use page-locked memory, from which a GPU copies asynchronously.
        share: This process's part of every batch; the other images are not read.

    Raises:
        DataError: If an image is damaged.
        StoreLost: If the storage no longer answers.
    """
    cuts = cut(len(order), batch, start, share)
    local_batches = [positions for positions, _ in cuts]
    sizes = iter([global_size for _, global_size in cuts])

    def empty_images(positions: Indices) -> torch.Tensor:
        shape = (len(positions), split.size_px, split.size_px, 3)
        return torch.empty(shape, dtype=torch.uint8, device="cpu", pin_memory=pin)

    # Without threads: simpler to debug, and right where the caller decodes single batches.
    if workers == 0:
        for positions in local_batches:
            began_s = time.perf_counter()
            images = empty_images(positions)
            fill(split, order[positions], images.numpy())
            yield _batch(split, order, positions, next(sizes), images, began_s)
        return
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    waiting: deque[tuple[Indices, torch.Tensor, list[Future[None]]]] = deque()

    def submit(positions: Indices) -> None:
        # The threads write into slices of one tensor, so that no batch is assembled by copying.
        images = empty_images(positions)
        index, rows = order[positions], images.numpy()
        tasks = [pool.submit(fill, split, index[part], rows[part]) for part in tasks_of(positions)]
        waiting.append((positions, images, tasks))

    todo = iter(local_batches)
    try:
        for positions in itertools.islice(todo, AHEAD):
            submit(positions)
        while waiting:
            began_s = time.perf_counter()
            positions, images, tasks = waiting.popleft()
            for task in tasks:
                result_of(task, split)
            ready = _batch(split, order, positions, next(sizes), images, began_s)
            # The next batch is submitted before this one is handed over, because the caller may
            # not return here until its step is finished.
            for following in itertools.islice(todo, 1):
                submit(following)
            yield ready
    finally:
        shut_down(pool)


def tasks_of(positions: Indices) -> list[slice]:
    """Cut a batch into the parts that a thread reads, or reads and decodes, at a time."""
    return [slice(a, a + IMAGES_PER_TASK) for a in range(0, len(positions), IMAGES_PER_TASK)]


def shut_down(*pools: ThreadPoolExecutor) -> None:
    """End threads that read or decode; called in the `finally` of what uses them."""
    # Threads that wait for a lost store may never return; to join them would hang the program.
    hang = isinstance(sys.exception(), StoreLost)
    for pool in pools:
        pool.shutdown(wait=not hang, cancel_futures=True)


def result_of(task: Future[Result], split: Split) -> Result:
    """Wait for the result of a task, at most `split.answer_s` seconds.

    The time is counted in waits of one second: a process that was stopped (SIGSTOP) in between
    must not conclude, from the clock, that the store was silent all the while.

    Raises:
        StoreLost: If the task takes longer.
    """
    for _ in range(math.ceil(split.answer_s)):
        with suppress(TimeoutError):
            return task.result(timeout=1)
    raise StoreLost(
        f"{split.storage.name} has not delivered an image for {split.answer_s:g} s; {MEND}"
    )


def fill(split: Split, index: Indices, out: NDArray[np.uint8]) -> None:
    """Read and decode the images at `index` into `out`, (N, size_px, size_px, 3) uint8.

    Raises:
        DataError: If an image is damaged; the message names it.
    """
    if len(index) and _read_uncompressed(split, index, out):
        return
    # One read for the whole group, which a remote storage may answer in parallel.
    for number, data, row in zip(index.tolist(), split.read(index), out, strict=True):
        try:
            _decode(data, row)
        # simplejpeg raises ValueError for a damaged image, and DataError is a ValueError.
        except ValueError as error:
            raise DataError(
                f"{split.name(number)} is damaged in the store ({error}); prepare it again"
            ) from None


def _read_uncompressed(split: Split, index: Indices, out: NDArray[np.uint8]) -> bool:
    """Read PPM images straight to their place, which saves a copy of each image.

    Returns False if an image is of another kind; `out` then has no meaning.
    """
    header = ppm_header(out[0])
    heads = split.read_into(index, len(header), out)
    # A file of another format may have the length of a PPM; its first bytes tell.
    return heads is not None and all(head == header for head in heads)


def _batch(
    split: Split,
    order: Indices,
    positions: Indices,
    global_size: int,
    images: torch.Tensor,
    began_s: float,
) -> Batch:
    index = order[positions]
    # Labels are in memory since the split was opened.
    labels = torch.from_numpy(split.labels[index])
    # Page-locked like the images: otherwise this copy alone would make the host wait.
    labels = labels.pin_memory() if images.is_pinned() else labels
    waited_s = time.perf_counter() - began_s
    return Batch(images, labels, index, positions, global_size, waited_s)
