"""Small stores that claims can be run on, for tests of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from alexnet.config import StoreSettings
from alexnet.data import shapes
from alexnet.data.prepare import prepare
from alexnet.data.store import Store
from alexnet.experiments import specs
from alexnet.experiments.data_sets import DATA, Kind


def of_32_pixels(classes: tuple[str, ...], folder: Path) -> Store:
    """Images of 32 pixels in a training split and one named test, as CIFAR-10 has them."""
    source = shapes.source(60, 30)
    train, val = source.splits
    source = replace(source, splits=(train, replace(val, name="test")), classes=classes)
    prepare(source, folder, StoreSettings(size_px=32))
    return Store(folder)


def settings_for(store: Store, out: Path, seeds: int = 2) -> specs.Settings:
    return specs.Settings(store, "smoke", seeds, out, jobs=2)


def with_classes(store_px: int, classes: tuple[str, ...], folder: Path) -> Store:
    source = shapes.source(10, 10)
    prepare(replace(source, classes=classes), folder, StoreSettings(size_px=store_px))
    return Store(folder)


NAMES = tuple(f"n{number:08d}" for number in range(55))


def two_stores(folder: Path) -> tuple[Store, Store]:
    """What stands for mini-ImageNet, and the store whose classes are learned first.

    The images are of the first ten classes of each, and the first store lacks five of the other's.
    """
    return with_classes(64, NAMES[:50], folder / "mini"), with_classes(
        64, NAMES[5:], folder / "first"
    )


def recognised(kind: Kind, classes: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a store of these classes count as one of a kind of data."""
    digest = hashlib.sha256("\n".join(classes).encode()).hexdigest()
    monkeypatch.setitem(DATA, kind, replace(DATA[kind], wnids_sha256=digest))


def of_one_split(folder: Path) -> Path:
    """A store whose images are all for training."""
    source = shapes.source(10, 10)
    source = replace(source, splits=source.splits[:1])
    prepare(source, folder / "one", StoreSettings(size_px=112))
    return folder / "one"
