"""Images that occur in two splits or two classes are named, whatever interrupts the preparation."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alexnet.config import StoreSettings
from alexnet.data.copies import find_copies
from alexnet.data.prepare import prepare
from alexnet.data.sources import find
from tests.small_stores import Stop, class_folder, stopping

SETTINGS = StoreSettings(size_px=24, encoding="jpeg", shard_images=3)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=20))
def test_copies_are_those_that_a_search_of_all_pairs_finds(images: list[tuple[int, int]]) -> None:
    expected = []
    for first, (digest, kind) in enumerate(images):
        if digest in [earlier for earlier, _ in images[:first]]:
            continue
        others = [i for i, (d, k) in enumerate(images) if d == digest and k != kind]
        expected += [[first, others[0]]] if others else []
    digests, kinds = np.array(images, np.int64).reshape(-1, 2).T
    assert find_copies(digests.astype(np.uint64), kinds).tolist() == expected


def test_copies_in_two_splits_and_in_two_classes_are_noted(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    class_folder(folder / "train", each=5)
    class_folder(folder / "val", classes=4, each=5)
    for label in (0, 1):
        shutil.rmtree(folder / "val" / f"class{label}")
        (folder / "val" / f"class{label + 2}").rename(folder / "val" / f"class{label}")
    assert prepare(find(str(folder)), tmp_path / "none", SETTINGS)["notes"] == []
    shutil.copy(folder / "train/class0/1.png", folder / "val/class0/again.png")
    shutil.copy(folder / "train/class1/3.png", folder / "train/class0/other.png")
    # Two copies with one label in one split are no mistake.
    shutil.copy(folder / "train/class1/4.png", folder / "train/class1/twice.png")
    in_splits = "class0/1.png (train) = class0/again.png (val)"
    in_classes = "class0/other.png (class0) = class1/3.png (class1)"
    notes = [
        f"1 image occurs in more than one split: {in_splits}",
        f"1 image occurs in more than one class: {in_classes}",
    ]
    source = find(str(folder))
    assert prepare(source, tmp_path / "whole", SETTINGS)["notes"] == notes
    with pytest.raises(Stop):
        prepare(stopping(source, 7), tmp_path / "stopped", SETTINGS, workers=1)
    assert prepare(source, tmp_path / "stopped", SETTINGS)["notes"] == notes


def test_the_first_three_of_many_copies_are_named(tmp_path: Path) -> None:
    class_folder(tmp_path / "train", each=5)
    class_folder(tmp_path / "val", each=2)
    (note,) = prepare(find(str(tmp_path)), tmp_path / "store", SETTINGS)["notes"]
    assert note.startswith("4 images occur in more than one split: class0/0.png (train) = class0/")
    assert note.endswith(" and 1 more")


@pytest.mark.parametrize("change", ["removed", "cut", "empty", "of another file"])
def test_damaged_digests_of_an_unfinished_store_cost_a_note(tmp_path: Path, change: str) -> None:
    source = find(str(class_folder(tmp_path / "pictures", each=10)))
    with pytest.raises(Stop):
        prepare(stopping(source, 9), tmp_path / "store", replace(SETTINGS, shard_images=2), 1)
    first, second, *_ = sorted((tmp_path / "store.partial").glob("digests-*.npz"))
    if change == "removed":
        first.unlink()
    elif change == "empty":
        first.write_bytes(b"")
    elif change == "cut":
        first.write_bytes(first.read_bytes()[:-30])
    else:
        np.savez(second, digest=np.zeros(3, np.uint64), label=np.zeros(3, np.int64))
    (note,) = prepare(source, tmp_path / "store", replace(SETTINGS, shard_images=2))["notes"]
    assert note.startswith("copies of images were not looked for: digests-train-")
    assert note.endswith(".npz is missing or damaged")
