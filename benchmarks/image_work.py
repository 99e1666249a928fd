"""What `prepare` does with each image and nothing else, the limit of its speed.

No sums of pixels, no order, no store: `processing.process`, which has them, is compared with this.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from alexnet.config import StoreSettings
from alexnet.data.image import as_stored, centre_square, decode, encode
from alexnet.data.processing import Unreadable, read
from alexnet.data.sources import Item
from alexnet.errors import DataError


def work_on(
    items: Iterable[Item], upright: bool, settings: StoreSettings, workers: int
) -> list[bytes]:
    """Decode, rescale, encode and decode again, on `workers` threads.

    Args:
        settings: With the size filled in, as `prepare.settled` does.

    Returns:
        The bytes that `prepare` would store; without those of images that it would skip.
    """
    encoding = settings.settled_encoding()

    def one(item: Item) -> bytes | None:
        data = read(item)
        if isinstance(data, Unreadable):
            return None
        # A JPEG of the stored size is kept.
        if settings.encoding in ("auto", "jpeg") and as_stored(data, settings.size_px) is not None:
            return data
        try:
            # A decoder reduces a large JPEG where the stored size allows it.
            rgb = centre_square(decode(data, upright, settings.size_px), settings.size_px)
        except DataError:
            return None
        data = encode(rgb, encoding, settings.quality, settings.chroma)
        # The statistics of a store are those of what training will see.
        if encoding == "jpeg":
            decode(data)
        return data

    with ThreadPoolExecutor(workers) as pool:
        return [data for data in pool.map(one, items) if data is not None]
