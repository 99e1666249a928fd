"""Batches and augmentation are functions of (seed, epoch, picture), for any number of workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alexnet import recipes
from alexnet.config import Augment, Config
from alexnet.data import augment as augmenting
from alexnet.data import loader
from alexnet.data.augment import (
    Preprocess,
    colour_shift,
    evaluation_crops,
    fixed_crop,
    sample_augmentation,
)
from alexnet.data.image import decode
from alexnet.data.loader import Share, batches, epoch_order
from alexnet.data.store import Split, Statistics, Store
from alexnet.device import dtype_of

CPU = torch.device("cpu")
INDEX = np.arange(200)


def statistics(stored_px: int = 40) -> Statistics:
    rng = np.random.default_rng(0)
    root = rng.normal(0, 40, (3, 3))
    return Statistics(rng.uniform(80, 160, (stored_px, stored_px, 3)), root @ root.T)


def test_an_epochs_order_is_a_function_of_seed_and_epoch() -> None:
    assert np.array_equal(epoch_order(100, 3, 5), epoch_order(100, 3, 5))
    assert sorted(epoch_order(100, 3, 5)) == list(range(100))
    for other in (epoch_order(100, 3, 6), epoch_order(100, 4, 5)):
        assert not np.array_equal(epoch_order(100, 3, 5), other)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_batches_are_the_same_for_any_number_of_workers(store: Path, workers: int) -> None:
    split = Store(store).split("train")
    order = epoch_order(len(split), 0, 0)
    seen = list(batches(split, order, 16, workers))
    assert [len(b.labels) for b in seen] == [16, 16, 16, 12]
    for b in seen:
        for row, index in enumerate(b.index):
            assert np.array_equal(b.images[row].numpy(), decode(split.encoded(int(index))))
            assert b.labels[row] == split.labels[index]
    assert np.array_equal(np.concatenate([b.index for b in seen]), order)
    rest = list(batches(split, order, 16, workers, start=2))
    assert np.array_equal(rest[0].images, seen[2].images)
    assert np.array_equal(rest[0].position, seen[2].position)


def test_batches_are_decoded_while_the_caller_computes(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Section 4.1: the next batch is made while the GPU trains on this one."""
    split = Store(store).split("train")
    decoded: list[int] = []
    real = loader._fill

    def watched(split: Split, index: np.ndarray, out: np.ndarray) -> None:
        real(split, index, out)
        decoded.extend(index.tolist())

    monkeypatch.setattr(loader, "_fill", watched)
    feed = batches(split, np.arange(60), 8, workers=1)
    first = next(feed)  # the caller computes now and asks for nothing
    for _ in range(1000):
        if set(decoded) >= set(range(16)):
            break
        time.sleep(0.01)
    assert set(decoded) >= set(range(16))
    assert first.index.tolist() == list(range(8))
    feed.close()  # type: ignore[attr-defined]


def test_each_share_reads_its_own_pictures_and_all_read_each_once(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Store(store).split("train")
    order = epoch_order(len(split), 0, 0)
    real, taken = split.read, list[int]()
    monkeypatch.setattr(split, "read", lambda numbers: taken.extend(numbers) or real(numbers))
    read = set[int]()
    for place in range(3):
        parts = list(batches(split, order, 16, workers=2, share=Share(place, 3)))
        own = np.concatenate([part.index for part in parts])
        assert sorted(taken) == sorted(own)
        assert not read & set(taken)
        read |= set(taken)
        taken.clear()
    assert read == set(order)


def test_what_happens_to_a_picture_does_not_depend_on_its_batch() -> None:
    a = Augment()
    whole = sample_augmentation(a, statistics(), 32, 1, 2, INDEX, INDEX)
    part = sample_augmentation(a, statistics(), 32, 1, 2, INDEX[50:60], INDEX[:10])
    for name in ("top", "left", "flip", "shift"):
        assert np.array_equal(getattr(whole, name)[50:60], getattr(part, name))
    other = sample_augmentation(a, statistics(), 32, 1, 3, INDEX, INDEX)
    assert not np.array_equal(whole.top, other.top)


def test_patches_reach_every_offset_and_flips_are_half() -> None:
    index = np.arange(4000)
    d = sample_augmentation(Augment(colour="none"), statistics(), 32, 0, 0, index, index)
    assert set(d.top) == set(d.left) == set(range(9))  # 40 - 32 = 8, the last included
    assert abs(d.flip.mean() - 0.5) < 0.04  # five deviations
    assert abs(np.corrcoef(d.top, d.left)[0, 1]) < 0.08
    still = sample_augmentation(
        Augment(crops=False, flips=False), statistics(), 32, 0, 0, index, index
    )
    assert set(still.top) == {4}
    assert not still.flip.any()


def test_the_paper_has_2048_crops_of_an_image_and_the_original_2178() -> None:
    """Section 4.1: a factor of 2048 = 32 x 32 x 2. The authors' code also draws the last offset."""
    index = np.arange(200_000)
    stored = Statistics(np.zeros((256, 256, 3)), np.eye(3))
    for recipe, positions in ((recipes.paper(), 32), (recipes.original(), 33)):
        a = replace(recipe.augment, chunk=1, colour="none")
        d = sample_augmentation(a, stored, 224, 0, 0, index, index)
        crops = set(zip(d.top.tolist(), d.left.tolist(), d.flip.tolist(), strict=True))
        assert len(crops) == 2 * positions**2
        assert (d.top.max(), d.left.max()) == (positions - 1, positions - 1)


def test_a_crop_as_large_as_its_image_has_one_position() -> None:
    d = sample_augmentation(Augment(last_offset=False), statistics(), 40, 0, 0, INDEX, INDEX)
    assert not d.top.any()
    assert not d.left.any()


def test_the_original_cuts_a_chunk_alike_and_colours_each_picture() -> None:
    d = sample_augmentation(
        recipes.original().augment, statistics(), 32, 0, 0, INDEX[::-1].copy(), INDEX
    )
    for first in range(0, 192, 32):
        chunk = slice(first, first + 32)
        assert len(set(zip(d.top[chunk], d.left[chunk], d.flip[chunk], strict=True))) == 1
    assert len({tuple(shift) for shift in d.shift}) == 200
    assert len(set(d.top)) > 1


def slow(
    picture: np.ndarray, d: augmenting.Augmentation, i: int, mean: str, image: np.ndarray, px: int
) -> np.ndarray:
    """One picture, as one reads section 4.1."""
    half = (picture.shape[0] - px) // 2
    y, x = d.top[i], d.left[i]
    cut = picture[y : y + px, x : x + px].astype(np.float64)
    own = (
        image[y : y + px, x : x + px]
        if mean == "pixel"
        else image[half : half + px, half : half + px]
    )
    if mean == "pixel":
        cut = cut - own
    if d.flip[i]:
        cut = cut[:, ::-1]
    if mean == "centre":
        cut = cut - own
    return (cut + d.shift[i]) * d.scale


@pytest.mark.parametrize("recipe", [recipes.paper, recipes.original])
def test_preprocessing_is_its_slow_twin(recipe: object) -> None:
    a, s = recipe().augment, statistics()  # type: ignore[operator]
    images = torch.randint(0, 256, (8, 40, 40, 3), dtype=torch.uint8)
    d = sample_augmentation(replace(a, chunk=1), s, 32, 0, 0, INDEX[:8], INDEX[:8])
    assert d.flip.any()
    assert not d.flip.all()
    preprocess = Preprocess(a, s, 32, CPU)
    got = preprocess(images, d)
    assert got.shape == (8, 3, 32, 32)
    assert got.is_contiguous(memory_format=torch.channels_last)
    for i in range(8):
        want = slow(images[i].numpy(), d, i, a.mean, s.mean, 32)
        np.testing.assert_allclose(
            got[i].permute(1, 2, 0).numpy(), want, rtol=0, atol=2e-4
        )  # float32 of +-400


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([recipes.paper, recipes.original, recipes.torchvision]),
    st.sampled_from(["float32", "bfloat16"]),
    st.integers(20, 40),
    st.integers(0, 5),
    st.integers(0, 3),
)
def test_one_pass_over_memory_gives_the_bits_of_the_plain_way(
    recipe: Callable[[], Config], precision: str, px: int, count: int, epoch: int
) -> None:
    a = recipe().augment
    preprocess = Preprocess(a, statistics(), px, CPU, dtype_of(precision))
    images = torch.randint(0, 256, (count, 40, 40, 3), dtype=torch.uint8)
    d = sample_augmentation(
        replace(a, chunk=1), statistics(), px, 0, epoch, INDEX[:count], INDEX[:count]
    )
    assert torch.equal(preprocess(images, d), preprocess.plain(images, d).permute(0, 3, 1, 2))


def test_a_patch_that_leaves_its_picture_is_refused() -> None:
    preprocess = Preprocess(recipes.paper().augment, statistics(), 32, CPU)
    for top, left in ((9, 0), (0, 9), (-1, 0)):
        with pytest.raises(ValueError, match="reaches beyond its image"):
            preprocess(
                torch.zeros(2, 40, 40, 3, dtype=torch.uint8), fixed_crop(top, left, False, 2)
            )


def test_torchvisions_preprocessing() -> None:
    images = torch.randint(0, 256, (2, 40, 40, 3), dtype=torch.uint8)
    got = Preprocess(recipes.torchvision().augment, statistics(), 32, CPU)(
        images, fixed_crop(4, 4, False, 2)
    )
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    want = ((images[:, 4:36, 4:36] / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_the_colour_shift_lies_along_the_principal_components() -> None:
    s = statistics()
    values, vectors = np.linalg.eigh(s.covariance)
    normal = np.random.default_rng(0).standard_normal((20_000, 3))
    for colour, sizes in (("paper", values / 255), ("original", np.sqrt(values))):
        shift = colour_shift(Augment(colour=colour), s, normal)  # type: ignore[arg-type]
        along = shift @ vectors
        np.testing.assert_allclose(
            along.std(0), 0.1 * sizes, rtol=0.03
        )  # 20,000 draws: 0.5 % is a deviation
        assert abs(np.corrcoef(along.T) - np.eye(3)).max() < 0.04


def test_the_papers_colour_is_the_covariance_of_rgb_in_0_to_1_times_255() -> None:
    s = statistics()
    small = Statistics(s.mean / 255, s.covariance / 255**2)
    values, vectors = np.linalg.eigh(small.covariance)
    a = np.array([[0.3, -1.0, 0.5]])
    want = 255 * (vectors @ (0.1 * a[0] * values))
    np.testing.assert_allclose(colour_shift(Augment(), s, a)[0], want, rtol=1e-10)


def test_the_originals_noise_has_its_files_size_and_ends_with_its_scale() -> None:
    a = recipes.original().augment
    on = sample_augmentation(a, statistics(), 32, 0, 0, INDEX, INDEX)
    off = sample_augmentation(a, statistics(), 32, 0, 0, INDEX, INDEX, colour=False)
    assert on.scale == pytest.approx(1 / 1.1)
    assert off.scale == 1
    assert not off.shift.any()
    assert np.array_equal(on.top, off.top)
    double = replace(a, colour_std=0.2)
    assert sample_augmentation(double, statistics(), 32, 0, 0, INDEX, INDEX).scale == pytest.approx(
        1 / 1.2
    )
    none = sample_augmentation(replace(a, colour_std=0.0), statistics(), 32, 0, 0, INDEX, INDEX)
    assert none.scale == 1
    assert not none.shift.any()
    normal = np.array([[1.0, 0, 0]])
    np.testing.assert_allclose(
        colour_shift(a, statistics(), normal)[0],
        0.1 * 121.780 * np.array([-0.56351, -0.57618, -0.59200]),
    )


def test_ten_patches_are_corners_and_centre_and_their_reflections() -> None:
    ten = evaluation_crops(Augment(), 256, 224)
    assert len(set(ten)) == 10
    assert {(y, x) for y, x, _ in ten} == {(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)}
    assert evaluation_crops(Augment(test_patches="centre"), 256, 224) == [(16, 16, False)]
    assert len(set(evaluation_crops(Augment(test_patches="nine"), 32, 24))) == 9
    assert evaluation_crops(Augment(), 32, 32) == [(0, 0, False)]


def test_a_network_that_sees_more_than_is_stored_is_refused() -> None:
    with pytest.raises(ValueError, match="prepare it with a larger --size-px"):
        Preprocess(Augment(), statistics(), 48, CPU)
    with pytest.raises(ValueError, match="sees 19 of the 40 pixels per side"):
        Preprocess(Augment(), statistics(), 19, CPU)
