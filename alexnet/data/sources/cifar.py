"""CIFAR-10 in its own binary format."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from alexnet.data.image import encode
from alexnet.data.sources.source import Item, Source, SourceSplit
from alexnet.errors import DataError

CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def cifar_binary(folder: Path) -> Source:
    """Read data_batch_1.bin to data_batch_5.bin and test_batch.bin.

    A record is one byte with the label and 3072 bytes of pixels: a red, a green and a blue plane
    of 32x32.

    Raises:
        DataError: If a file is missing, does not consist of such records, or is shorter than the
            others.
    """
    record = 1 + 3072
    train = [folder / f"data_batch_{number}.bin" for number in range(1, 6)]
    test = [folder / "test_batch.bin"]
    for path in train + test:
        if not path.is_file() or path.stat().st_size % record or not path.stat().st_size:
            raise DataError(
                f"{path} is missing or is not a CIFAR-10 file: its records have {record} bytes"
            )
        # A file cut between two records can only be told by the others.
        size, first = path.stat().st_size, train[0].stat().st_size
        if size != first:
            raise DataError(
                f"{path} has {size // record} images, and {train[0].name} has {first // record}; "
                "fetch the shorter file again"
            )
        labels = np.memmap(path, np.uint8, "r")[::record]
        # A loop over at most one row: the first wrong one is reported.
        for wrong in np.flatnonzero(labels >= len(CIFAR_CLASSES))[:1]:
            raise DataError(
                f"{path} has the label {labels[wrong]} in record {wrong}, and there are "
                f"{len(CIFAR_CLASSES)} classes; fetch it again"
            )

    def split(name: str, files: list[Path]) -> SourceSplit:
        count = sum(path.stat().st_size // record for path in files)

        def items(start: int) -> Iterator[Item]:
            number = 0
            for path in files:
                # Mapped, so that resuming in the middle reads nothing before it.
                rows = np.memmap(path, np.uint8, "r").reshape(-1, record)
                for row in rows:
                    if number >= start:
                        # Planes to interleaved pixels.
                        rgb = row[1:].reshape(3, 32, 32).transpose(1, 2, 0)
                        yield Item(
                            f"{path.name}:{number}",
                            int(row[0]),
                            # As PNG, because an item is always the bytes of an image file.
                            partial(encode, np.ascontiguousarray(rgb), "png"),
                        )
                    number += 1

        return SourceSplit(name, count, items)

    splits = (split("train", train), split("test", test))
    return Source(f"CIFAR-10 {folder}", CIFAR_CLASSES, splits)
