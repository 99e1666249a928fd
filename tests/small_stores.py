"""Small folders and stores for the tests of `prepare`, and preparations that are stopped."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alexnet.config import StoreSettings
from alexnet.data.image import Rgb
from alexnet.data.prepare import prepare
from alexnet.data.sources import Item, Source

SMALL = StoreSettings(size_px=24, encoding="jpeg", shard_images=8)


def digest(folder: Path) -> dict[str, str]:
    """The checksum of each file of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def grey(label: int, number: int) -> Rgb:
    """An image of 40 x 30 pixels of one level."""
    return np.full((30, 40, 3), 40 * label + number, np.uint8)


def folder_of(
    folder: Path, images: Mapping[str, int], image: Callable[[int, int], Rgb] = grey
) -> Path:
    """Write a class folder for each name, with so many images, named by their numbers."""
    for label, (name, count) in enumerate(images.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(image(label, number)).save(folder / name / f"{number}.png")
    return folder


def class_folder(folder: Path, classes: int = 2, each: int = 5) -> Path:
    """Write the folders class0, class1, ..., with as many grey images each."""
    return folder_of(folder, {f"class{label}": each for label in range(classes)})


class Stop(Exception):
    """Ends a preparation at an image."""


def stopping(source: Source, after: int) -> Source:
    """The source, cut off by an error at item `after` of the training split."""

    def items(start: int) -> Iterator[Item]:
        for number, item in enumerate(source.splits[0].items(start), start):
            if number == after:
                raise Stop
            yield item

    first = replace(source.splits[0], items=items)
    return replace(source, splits=(first, *source.splits[1:]))


def stop_in(folder: Path, source: Source) -> None:
    """Begin a preparation of a source, and stop it after the first files of the store."""
    with pytest.raises(Stop):
        prepare(stopping(source, 13), folder, replace(SMALL, shard_images=2), workers=1)


def without_index(store: Path, copy: Path) -> Path:
    """A copy of a store as version 0.1 wrote it."""
    shutil.copytree(store, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    for name, split in manifest["splits"].items():
        (copy / name / split.pop("index")["file"]).unlink()
    del manifest["sha256"]
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    return copy
