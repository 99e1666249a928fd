"""The kinds of data that claims are tested on, and what is known of each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from alexnet.data.sources.cifar import CIFAR_CLASSES
from alexnet.data.store import Store

Kind = Literal["photographs", "cifar10", "tiny-imagenet", "mini-imagenet", "imagenet"]


@dataclass(frozen=True)
class Part:
    """A subset of a store, the same for every seed; 0 stands for all."""

    first_class: int = 0
    classes: int = 0
    train_of_each: int = 0
    """Training images of each class."""
    of: Literal["store", "first", "new"] = "store"
    """first: of the store whose classes are learned first (`--first`). new: of the store, without
    the classes that the first one has."""

    def __str__(self) -> str:
        """`, 200 images of each of classes 6 to 10`; empty for the whole store."""
        if self.of != "store":
            words = {
                "first": "classes of the first store",
                "new": "classes that the first one lacks",
            }
            return f", {words[self.of]}"
        of = (
            f" of classes {self.first_class + 1} to {self.first_class + self.classes}"
            if self.classes
            else " class"
        )
        if self.train_of_each:
            return f", {self.train_of_each:,} images of each{of}"
        return f", images{of}" if self.classes else ""


@dataclass(frozen=True)
class DataSet:
    """What is known of a kind of data."""

    name: str
    needs: str
    """What a store of it holds, for those who prepare one."""
    classes: int
    images: int
    val_images: int
    """Classes, training and validation images where no store is given."""
    val_split: str = "val"
    input_px: int = 96
    """Side of the input of five convolutions below full scale."""
    desk_epochs: int = 24
    """Epochs of five convolutions at desk scale."""
    desk_part: Part = Part()
    """The part of a store that the smaller scales train on."""
    size_px: int | None = None
    """Side of small images, which are used at the size that they have; None for photographs."""
    wnids_sha256: str = ""
    """sha256 of the wnids of the classes in order, joined by newlines, by which a store is
    recognized."""


FIRST_CLASSES, FIRST_IMAGES = 200, 100_000
"""Classes and training images of tiny-imagenet, which claim pretrain learns first."""
NEW_CLASSES, NEW_IMAGES = 75, 37_500
"""The same of mini-ImageNet's classes that tiny-imagenet lacks."""

# Of the 25,000 images of tiny-imagenet's part and the 37,500 of mini-ImageNet's, the epochs at desk
# scale are 1.2 million presentations of an image.
DATA: dict[Kind, DataSet] = {
    "photographs": DataSet(
        "photographs",
        "photographs of 112 pixels or more",
        classes=10,
        images=4_000,
        val_images=1_000,
    ),
    "cifar10": DataSet(
        "CIFAR-10",
        "CIFAR-10 at 32 pixels, with its names of the classes",
        classes=10,
        images=50_000,
        val_images=10_000,
        # It has no validation split.
        val_split="test",
        input_px=23,
        # A fifth, so that a run takes minutes.
        desk_part=Part(train_of_each=1000),
        size_px=32,
    ),
    "tiny-imagenet": DataSet(
        "tiny-imagenet",
        "tiny-imagenet-200 at 64 pixels",
        classes=FIRST_CLASSES,
        images=FIRST_IMAGES,
        val_images=10_000,
        input_px=56,
        desk_epochs=48,
        # With all 200 classes the base is underfitted after the same time.
        desk_part=Part(0, 50),
        size_px=64,
        wnids_sha256="add4bf0c8712ef7fb4bca98e3bbaf07101636c5db62cce486fd2af71cc11caf8",
    ),
    "mini-imagenet": DataSet(
        "mini-ImageNet",
        "mini-ImageNet at 64 pixels",
        classes=100,
        images=50_000,
        val_images=10_000,
        input_px=56,
        desk_epochs=32,
        size_px=64,
        wnids_sha256="1b4824645ca6499eae20325be027c6a1b408e7adf003ea4a544cf3b84b10a170",
    ),
    "imagenet": DataSet(
        "ImageNet 2012",
        "ImageNet 2012",
        classes=1000,
        images=1_281_167,
        val_images=50_000,
        wnids_sha256="385e0240499426c022b773be1ae4da780f057b89c9694c7f47199f62746b6edd",
    ),
}


def kind_of(store: Store) -> Kind:
    """The kind of data in a store.

    Each set is recognized by the names of its classes, so that no other images count as the paper's
    own setting.
    """
    cifar10 = set(CIFAR_CLASSES) == {name.lower() for name in store.classes}
    if store.size_px == 32 and cifar10 and "test" in store.manifest["splits"]:
        return "cifar10"
    wnids = hashlib.sha256("\n".join(store.classes).encode()).hexdigest()
    for kind, data in DATA.items():
        if wnids == data.wnids_sha256 and data.size_px in (None, store.size_px):
            return kind
    return "photographs"
