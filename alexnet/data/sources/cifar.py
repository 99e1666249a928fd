"""CIFAR-10's own binary files."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from alexnet.data.picture import encode
from alexnet.data.sources.source import Item, Source, SourceSplit

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
    """data_batch_1.bin to 5 and test_batch.bin; a label byte and 3072 of pixels each."""
    record = 1 + 3072

    def split(name: str, files: list[Path]) -> SourceSplit:
        for path in files:
            if not path.is_file() or path.stat().st_size % record:
                raise ValueError(
                    f"{path} is missing or is no CIFAR-10 file: its records have {record} bytes"
                )
        count = sum(path.stat().st_size // record for path in files)

        def items(start: int) -> Iterator[Item]:
            seen = 0
            for path in files:
                rows = np.memmap(path, np.uint8, "r").reshape(-1, record)
                for row in rows:
                    if seen >= start:
                        rgb = row[1:].reshape(3, 32, 32).transpose(1, 2, 0)
                        yield Item(
                            f"{path.name}:{seen}",
                            int(row[0]),
                            partial(encode, np.ascontiguousarray(rgb), "png"),
                        )
                    seen += 1

        return SourceSplit(name, count, items)

    train = [folder / f"data_batch_{number}.bin" for number in range(1, 6)]
    splits = (split("train", train), split("test", [folder / "test_batch.bin"]))
    return Source(f"CIFAR-10 {folder}", CIFAR_CLASSES, splits)
