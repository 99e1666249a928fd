"""The work of the threads of `prepare`: read, decode, rescale and encode images, and sum pixels."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from alexnet.config import StoreSettings
from alexnet.data.image import as_stored, centre_square, decode, encode
from alexnet.data.pixel_sums import Sums
from alexnet.data.sources import Item

ITEMS_PER_TASK = 16  # enough work to hide the cost of a task, few enough to spread over threads
MAX_BYTES = 2**31 - 1  # Arrow counts the bytes of a column with signed 32-bit integers


@dataclass
class Processed:
    """The result of one task.

    Attributes:
        rows: Stored bytes, name and label of each image.
        sums: Pixel sums of these images.
        skipped: Name of each unreadable item, and the reason.
        kept: How many of the rows are the source's own files, unchanged.
    """

    rows: list[tuple[bytes, str, int]]
    sums: Sums
    skipped: list[tuple[str, str]] = field(default_factory=list)
    kept: int = 0

    @property
    def items(self) -> int:
        return len(self.rows) + len(self.skipped)


def process_in_order(
    items: Iterator[Item],
    upright: bool,
    settings: StoreSettings,
    pool: ThreadPoolExecutor,
    workers: int,
) -> Iterator[Processed]:
    """Yield the results of tasks in the order of the items.

    There are a few more tasks in flight than workers, so that none waits for work. No task reaches
    across the end of a file of the store, where an interrupted preparation resumes.

    Args:
        upright: Whether images are rotated as their EXIF orientation says.
    """
    waiting: deque[Future[Processed]] = deque()
    room = settings.shard_images  # number of images that still fit into the current file
    while True:
        while len(waiting) < 2 * workers + 1 and (
            task := list(itertools.islice(items, min(ITEMS_PER_TASK, room)))
        ):
            waiting.append(pool.submit(process, task, upright, settings))
            # A file without room is full, and the next one begins.
            room = room - len(task) or settings.shard_images
        if not waiting:
            return
        yield waiting.popleft().result()


def process(items: list[Item], upright: bool, settings: StoreSettings) -> Processed:
    """Read, decode, rescale and encode images; runs in a worker thread."""
    # Small sums stay in the processor's cache while the images of the task are added.
    result = Processed([], Sums.zero(settings.size_px, np.uint16))
    encoding = settings.settled_encoding()
    images: list[NDArray[np.uint8]] = []
    for item in items:
        try:
            data = item.read()
            # A JPEG of the stored size is kept as it is: encoding it again would lose quality.
            rgb = as_stored(data, settings.size_px) if _keeps(data, settings) else None
            if rgb is not None:
                result.kept += 1
            else:
                rgb = centre_square(decode(data, upright, settings.size_px), settings.size_px)
                data = encode(rgb, encoding, settings.quality, settings.chroma)
                # The statistics are those of what training will see, and JPEG changes an image.
                if encoding == "jpeg":
                    rgb = decode(data)
        # One unreadable image must not end hours of work; too many do (`_check_skipped`).
        except (ValueError, OSError) as error:
            result.skipped.append((item.name, str(error)))
            continue
        images.append(rgb)
        result.rows.append((data, item.name, item.label))
    result.sums.add(images)
    return result


def _keeps(data: bytes, settings: StoreSettings) -> bool:
    """Tell whether a file may be stored as it is: a JPEG, unless a lossless store is wanted.

    The bound keeps a file of the store below 2 GiB, whatever the source's files contain beside
    their images.
    """
    return settings.encoding in ("auto", "jpeg") and len(data) <= MAX_BYTES // settings.shard_images
