"""The work of the threads of `prepare`: read, decode, rescale and encode images, and sum pixels."""

from __future__ import annotations

import errno
import sys
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alexnet.config import StoreSettings
from alexnet.data.arrow import MAX_BYTES
from alexnet.data.image import (
    NoMemory,
    as_stored,
    centre_square,
    decode,
    decoding_bytes,
    encode,
    reason,
)
from alexnet.data.pixel_sums import Sums
from alexnet.data.sources import Item
from alexnet.errors import AlexNetError, DataError
from alexnet.files import AWAY

ITEMS_PER_TASK = 16  # enough work to hide the cost of a task, few enough to spread over threads
# Images of archives are in memory before a worker takes them, up to 256 MiB each. A task is
# complete at so many bytes of them, and no more tasks are begun while so many wait.
TASK_BYTES, HELD_BYTES = 32 << 20, 512 << 20
SPARE_BYTES = 64 << 20  # beside the memory for the pixels of an image, for its decoder
# Images that are stored and reported, because they are seldom meant: enlarged from fewer pixels to
# the 256 of a stored image, one pixel becomes a block of 16x16 or more, and of an image that is
# more than ten times as long as wide, the central square shows less than a tenth.
LEAST_PX, MOST_ELONGATED = 16, 10
# Errors of the process, of its machine or of a disk.
NOT_OF_THE_IMAGE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, *AWAY)


class Memory:
    """A bound on the memory of all images that are being decoded at one time.

    Args:
        total: The bound in bytes. An image that needs more is decoded alone: it is not refused,
            because the content of a store must depend neither on the bound nor on the number of
            workers. How large an image may be is a fixed number (`MAX_PIXELS`).
    """

    def __init__(self, total: int) -> None:
        self._total = self._free = total
        self._changed = threading.Condition()

    @contextmanager
    def reserved(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free, and hold them."""
        size = min(size, self._total)
        with self._changed:
            # Small images may overtake a large one, but only those of the few tasks in flight:
            # the results are taken in order, so the large one is soon the only one left.
            self._changed.wait_for(lambda: self._free >= size)
            self._free -= size
        try:
            yield
        finally:
            with self._changed:
                self._free += size
                self._changed.notify_all()


@dataclass
class Processed:
    """The result of one task.

    Attributes:
        rows: Stored bytes, name and label of each image.
        sums: Pixel sums of these images.
        skipped: Name of each unreadable item, and the reason.
        kept: How many of the rows are the source's own files, unchanged.
        extreme: Names of the images that are very small or very long (`is_extreme`).
    """

    rows: list[tuple[bytes, str, int]]
    sums: Sums
    skipped: list[tuple[str, str]] = field(default_factory=list)
    kept: int = 0
    extreme: list[str] = field(default_factory=list)

    @property
    def items(self) -> int:
        return len(self.rows) + len(self.skipped)

    @property
    def stored_bytes(self) -> int:
        return sum(len(data) for data, _, _ in self.rows)


def process_in_order(
    items: Iterator[Item],
    done: int,
    upright: bool,
    settings: StoreSettings,
    pool: ThreadPoolExecutor,
    workers: int,
    memory: Memory,
    summed: bool,
) -> Iterator[Processed]:
    """Yield the results of tasks in the order of the items.

    There are a few more tasks in flight than workers, so that none waits for work, but fewer where
    their images are large and in memory already. No task reaches across the end of a file of the
    store, where an interrupted preparation resumes.

    Args:
        done: Number of items of the split before these.
        upright: Whether images are rotated as their EXIF orientation says.
        memory: The memory of the workers together.
        summed: Whether the pixels are summed, as those of the training split.

    Raises:
        DataError: If the source itself cannot be read, such as a damaged archive.
    """
    waiting: deque[tuple[Future[Processed], int]] = deque()
    held_bytes = 0
    # The number of items until a file ends, the same after an interruption as without one.
    room = settings.shard_images - done % settings.shard_images
    # No stored image has four bytes a pixel, and a task has to fit into a file.
    most = min(ITEMS_PER_TASK, MAX_BYTES // (4 * settings.size_px**2))
    while True:
        while (
            len(waiting) < 2 * workers + 1
            and held_bytes < HELD_BYTES
            and (task := _next_task(items, min(most, room)))
        ):
            task_bytes = sum(item.held_bytes for item in task)
            future = pool.submit(process, task, upright, settings, memory, summed)
            waiting.append((future, task_bytes))
            held_bytes += task_bytes
            # A file without room is full, and the next one begins.
            room = room - len(task) or settings.shard_images
        if not waiting:
            return
        future, task_bytes = waiting.popleft()
        yield future.result()
        held_bytes -= task_bytes


def _next_task(items: Iterator[Item], limit: int) -> list[Item]:
    """Take the next items, `limit` of them or as many as hold TASK_BYTES."""
    task, held_bytes = list[Item](), 0
    while len(task) < limit and held_bytes < TASK_BYTES:
        if (item := next(items, None)) is None:
            break
        task.append(item)
        held_bytes += item.held_bytes
    return task


def process(
    items: list[Item], upright: bool, settings: StoreSettings, memory: Memory, summed: bool
) -> Processed:
    """Read, decode, rescale and encode images; runs in a worker thread."""
    # Small sums stay in the processor's cache while the images of the task are added.
    result = Processed([], Sums.zero(settings.size_px, np.uint16))
    encoding = settings.settled_encoding()
    images: list[NDArray[np.uint8]] = []
    for item in items:
        data = read(item)
        if isinstance(data, Unreadable):
            result.skipped.append((item.name, data.reason))
            continue
        try:
            # A JPEG of the stored size is kept as it is: encoding it again would lose quality.
            rgb = as_stored(data, settings.size_px) if _keeps(data, settings) else None
            if rgb is not None:
                result.kept += 1
            else:
                rgb, extreme = _square(data, upright, settings.size_px, memory)
                if extreme:
                    result.extreme.append(item.name)
                data = encode(rgb, encoding, settings.quality, settings.chroma)
                # The statistics are those of what training will see, and JPEG changes an image.
                if encoding == "jpeg" and summed:
                    rgb = decode(data)
        except (NoMemory, MemoryError):
            raise _too_little_memory(item) from None
        # One unreadable image must not end hours of work; too many do (`_check_skipped`).
        except DataError as error:
            result.skipped.append((item.name, reason(error)))
            continue
        if summed:
            images.append(rgb)
        result.rows.append((data, item.name, item.label))
    result.sums.add(images)
    return result


@dataclass(frozen=True)
class Unreadable:
    """Why the bytes of an item cannot be read."""

    reason: str


def read(item: Item) -> bytes | Unreadable:
    """Read an item.

    Raises:
        DataError: If the source itself is damaged, so that the items after this one are lost too.
        AlexNetError: If there is too little memory.
    """
    try:
        return item.read()
    except DataError:
        raise
    # No file of more than MAX_IMAGE_BYTES is read, so it is the machine that lacks memory.
    except MemoryError:
        raise _too_little_memory(item) from None
    # A file may be gone or unreadable, and libraries that read archives raise any kind of error.
    except Exception as error:
        # What the whole process lacks, or a disk that does not answer, says nothing of this image,
        # which must not be left out.
        if isinstance(error, OSError) and error.errno in NOT_OF_THE_IMAGE:
            error.filename = error.filename or item.name
            raise
        return Unreadable(reason(error))


def _too_little_memory(item: Item) -> AlexNetError:
    # The image must not be left out: what is in a store would depend on the machine.
    return AlexNetError(
        f"there is too little memory for the image {item.name}; end other programs, or let "
        "`alexnet prepare` make the store with fewer --workers or a smaller --memory-gib"
    )


def _square(
    data: bytes, upright: bool, size_px: int, memory: Memory
) -> tuple[NDArray[np.uint8], bool]:
    """Decode an image and cut out its central square; tell also whether its shape is extreme.

    Raises:
        DataError: If the image is damaged.
        NoMemory, MemoryError: If there is too little memory.
    """
    needed = decoding_bytes(data, size_px)
    try:
        with memory.reserved(needed):
            return _decoded_square(data, upright, size_px)
    except (NoMemory, MemoryError):
        pass
    # Once more, alone: other images may have taken what this one needs.
    with memory.reserved(sys.maxsize):
        try:
            return _decoded_square(data, upright, size_px)
        except (NoMemory, MemoryError) as error:
            # Raises MemoryError where the machine lacks what an intact image would need. A damaged
            # one may ask for any number of bytes.
            np.empty(needed + SPARE_BYTES, np.uint8)
            raise DataError(reason(MemoryError())) from error


def _decoded_square(data: bytes, upright: bool, size_px: int) -> tuple[NDArray[np.uint8], bool]:
    # A decoder reduces only large images, and both sides by the same factor.
    rgb = decode(data, upright, size_px)
    height, width = rgb.shape[:2]
    return centre_square(rgb, size_px), is_extreme(height, width, size_px)


def is_extreme(height: int, width: int, size_px: int) -> bool:
    """Tell whether an image is very small, and smaller than stored images, or very long."""
    short, long = sorted((height, width))
    return short < min(LEAST_PX, size_px) or long > MOST_ELONGATED * short


def _keeps(data: bytes, settings: StoreSettings) -> bool:
    """Tell whether a file may be stored as it is: a JPEG, unless a lossless store is wanted.

    The bound keeps the images of a task below the size of a file of the store, whatever the
    source's files contain beside their images.
    """
    return settings.encoding in ("auto", "jpeg") and len(data) <= MAX_BYTES // ITEMS_PER_TASK
