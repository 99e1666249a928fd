"""Augmentation: a function of (seed, epoch, image); crops, colors and what the network sees."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from alexnet import recipes
from alexnet.config import Augment, Config
from alexnet.data import augment as augmenting
from alexnet.data.augment import colour_shift, evaluation_crops, fixed_crop, sample_augmentation
from alexnet.data.preprocess import Preprocess
from alexnet.data.store import Statistics
from alexnet.device import dtype_of
from alexnet.errors import DataError

CPU = torch.device("cpu")
INDEX = np.arange(200)


def statistics(stored_px: int = 40) -> Statistics:
    rng = np.random.default_rng(0)
    root = rng.normal(0, 40, (3, 3))
    return Statistics(rng.uniform(80, 160, (stored_px, stored_px, 3)), root @ root.T)


def test_augmentation_of_an_image_does_not_depend_on_its_batch() -> None:
    a = Augment()
    full = sample_augmentation(a, statistics(), 32, 1, 2, INDEX, INDEX)
    part = sample_augmentation(a, statistics(), 32, 1, 2, INDEX[50:60], INDEX[:10])
    for name in ("top", "left", "flip", "shift"):
        assert np.array_equal(getattr(full, name)[50:60], getattr(part, name))
    other = sample_augmentation(a, statistics(), 32, 1, 3, INDEX, INDEX)
    assert not np.array_equal(full.top, other.top)


def test_numbers_of_the_next_epoch_are_drawn_before_it_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[tuple[int, int]] = []

    def draw(seed: int, epoch: int, stream: int, rows: int) -> NDArray[np.float64]:
        drawn.append((epoch, threading.get_ident()))
        return real(seed, epoch, stream, rows)

    real = augmenting._drawn
    monkeypatch.setattr(augmenting, "_drawn", draw)
    table = augmenting._table(987, 0, 1, 8)
    following = augmenting._TABLES[1, 987][1, 8].result(timeout=10)
    assert sorted(epoch for epoch, _ in drawn) == [0, 1]
    assert threading.get_ident() not in [thread for _, thread in drawn]
    np.testing.assert_array_equal(table, real(987, 0, 1, 8))
    assert augmenting._table(987, 1, 1, 8) is following
    np.testing.assert_array_equal(following, real(987, 1, 1, 8))


def test_tables_of_two_epochs_are_kept_however_many_there_were() -> None:
    rng, augment = np.random.default_rng(0), Augment()
    for seed in (985, 984):
        for epoch in range(4):
            # The batches of two images may need shorter tables.
            for index in (INDEX, *rng.permutation(INDEX).reshape(-1, 2)):
                sample_augmentation(augment, statistics(), 32, seed, epoch, index, index)
            for stream in (0, augmenting.NORMAL):
                kept = augmenting._TABLES[stream, seed]
                assert {of_epoch for of_epoch, _ in kept} == {epoch, epoch + 1}
                assert len({rows for _, rows in kept}) > 1


def test_two_trainings_in_turns_draw_their_tables_once(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, int]] = []

    def draw(seed: int, epoch: int, stream: int, rows: int) -> NDArray[np.float64]:
        drawn.append((seed, epoch))
        return real(seed, epoch, stream, rows)

    real = augmenting._drawn
    monkeypatch.setattr(augmenting, "_drawn", draw)
    augmenting._table(981, 0, 1, 8)
    for _ in range(5):
        for seed in (983, 982):
            augmenting._table(seed, 0, 1, 8)
    kept = {seed: tables for (stream, seed), tables in augmenting._TABLES.items() if stream == 1}
    assert list(kept) == [983, 982]
    for tables in kept.values():
        for table in tables.values():
            table.result(timeout=10)
    assert sorted(drawn)[-4:] == [(982, 0), (982, 1), (983, 0), (983, 1)]
    assert len(drawn) <= 6


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_process_draws_what_a_thread_was_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    parent, go_on, real = os.getpid(), threading.Event(), augmenting._drawn

    def draw(*arguments: int) -> NDArray[np.float64]:
        if os.getpid() == parent:
            go_on.wait()
        return real(*arguments)

    monkeypatch.setattr(augmenting, "_drawn", draw)
    unfinished = augmenting._begun(986, 0, 1, 8)
    augmenting._TABLES[1, 986] = {(0, 8): unfinished}
    if not (child := os.fork()):
        # An alarm ends a child that waits for ever.
        signal.alarm(20)
        os._exit(int(augmenting._table(986, 0, 1, 8).shape != (8, 3)))
    try:
        assert os.waitpid(child, 0)[1] == 0
    finally:
        go_on.set()
        unfinished.result()


def test_crops_reach_every_offset_and_half_are_flipped() -> None:
    index = np.arange(4000)
    d = sample_augmentation(Augment(colour="none"), statistics(), 32, 0, 0, index, index)
    # The border is 40 - 32 = 8 pixels, and the last offset is included.
    assert set(d.top) == set(d.left) == set(range(9))
    # Five standard deviations of 4,000 fair draws.
    assert abs(d.flip.mean() - 0.5) < 0.04
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


def test_original_crops_a_chunk_alike_and_shifts_each_color() -> None:
    d = sample_augmentation(
        recipes.original().augment, statistics(), 32, 0, 0, INDEX[::-1].copy(), INDEX
    )
    for first in range(0, 192, 32):
        chunk = slice(first, first + 32)
        assert len(set(zip(d.top[chunk], d.left[chunk], d.flip[chunk], strict=True))) == 1
    assert len({tuple(shift) for shift in d.shift}) == 200
    assert len(set(d.top)) > 1


def slow(
    image: np.ndarray,
    d: augmenting.Augmentation,
    i: int,
    mean: str,
    mean_image: np.ndarray,
    px: int,
) -> np.ndarray:
    """Augment one image, step by step as section 4.1 describes it."""
    half = (image.shape[0] - px) // 2
    y, x = d.top[i], d.left[i]
    crop = image[y : y + px, x : x + px].astype(np.float64)
    # `paper` subtracts the mean of each pixel before the reflection, `original` the center of the
    # mean image after it: the order matters, because the mean image is not symmetric.
    if mean == "pixel":
        crop = crop - mean_image[y : y + px, x : x + px]
    if d.flip[i]:
        crop = crop[:, ::-1]
    if mean == "centre":
        crop = crop - mean_image[half : half + px, half : half + px]
    return (crop + d.shift[i]) * d.scale


@pytest.mark.parametrize("recipe", [recipes.paper, recipes.original])
def test_preprocessing_equals_its_slow_reference(recipe: object) -> None:
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
        # float32 of values up to 400.
        np.testing.assert_allclose(got[i].permute(1, 2, 0).numpy(), want, rtol=0, atol=2e-4)


@pytest.mark.usefixtures("compiled_code")
@settings(max_examples=40)
@given(
    st.sampled_from([recipes.paper, recipes.original, recipes.torchvision]),
    st.sampled_from(["float32", "bfloat16"]),
    st.integers(20, 40),
    st.integers(0, 5),
    st.integers(0, 3),
)
def test_single_pass_equals_the_plain_implementation(
    recipe: Callable[[], Config], precision: str, px: int, count: int, epoch: int
) -> None:
    a = recipe().augment
    preprocess = Preprocess(a, statistics(), px, CPU, dtype_of(precision))
    images = torch.randint(0, 256, (count, 40, 40, 3), dtype=torch.uint8)
    d = sample_augmentation(
        replace(a, chunk=1), statistics(), px, 0, epoch, INDEX[:count], INDEX[:count]
    )
    assert torch.equal(preprocess(images, d), preprocess.plain(images, d).permute(0, 3, 1, 2))


def test_crop_beyond_its_image_is_refused() -> None:
    preprocess = Preprocess(recipes.paper().augment, statistics(), 32, CPU)
    for top, left in ((9, 0), (0, 9), (-1, 0)):
        with pytest.raises(ValueError, match="reaches beyond its image"):
            preprocess(
                torch.zeros(2, 40, 40, 3, dtype=torch.uint8), fixed_crop(top, left, False, 2)
            )
    whole = replace(fixed_crop(0, 0, False, 2), sides=np.array([[40.0, 20.0], [40.0, 20.0]]))
    images = torch.zeros(2, 40, 40, 3, dtype=torch.uint8)
    assert preprocess(images, whole).shape == (2, 3, 32, 32)
    for field in ("top", "left"):
        # The second crop, of 20 pixels, reaches half a pixel beyond its image.
        beyond = replace(whole, **{field: np.array([0.0, 20.5])})
        with pytest.raises(DataError, match="a crop of 20 pixels reaches beyond its image of 40"):
            preprocess(images, beyond)


@pytest.mark.parametrize("shape", [(2, 32, 32, 3), (2, 40, 48, 3), (2, 48, 48, 3), (2, 40, 40, 1)])
def test_images_of_another_size_are_refused(shape: tuple[int, ...]) -> None:
    preprocess = Preprocess(recipes.paper().augment, statistics(), 32, CPU)
    with pytest.raises(DataError, match=r"\(40, 40, 3\), and these have .*--size-px 40"):
        preprocess.centre(torch.zeros(shape, dtype=torch.uint8))


def test_images_that_are_not_bytes_are_refused() -> None:
    preprocess = Preprocess(recipes.paper().augment, statistics(), 32, CPU)
    with pytest.raises(DataError, match=r"in bytes \(torch.uint8\), and these are torch.float32"):
        preprocess.centre(torch.zeros(2, 40, 40, 3))


@pytest.mark.parametrize(("count", "images"), [(1, 8), (8, 1), (0, 2)])
def test_augmentation_of_another_number_of_images_is_refused(count: int, images: int) -> None:
    preprocess = Preprocess(recipes.paper().augment, statistics(), 32, CPU)
    one = fixed_crop(0, 0, False, count)
    with pytest.raises(DataError, match=f"augmentation of {count} images was given for {images}"):
        preprocess(torch.zeros(images, 40, 40, 3, dtype=torch.uint8), one)


@pytest.mark.parametrize("compiled", [False, True])
def test_preprocessing_does_not_depend_on_the_default_device(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not compiled:
        monkeypatch.setattr(Preprocess, "_compiled", lambda *_: None)
    images = torch.randint(0, 256, (2, 40, 40, 3), dtype=torch.uint8)
    preprocess = Preprocess(recipes.paper().augment, statistics(), 32, CPU)
    wanted = preprocess.centre(images)
    with torch.device("meta"):
        assert torch.equal(preprocess.centre(images), wanted)


def test_torchvisions_preprocessing() -> None:
    images = torch.randint(0, 256, (2, 40, 40, 3), dtype=torch.uint8)
    got = Preprocess(recipes.torchvision().augment, statistics(), 32, CPU)(
        images, fixed_crop(4, 4, False, 2)
    )
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    want = ((images[:, 4:36, 4:36] / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_color_shift_lies_along_the_principal_components() -> None:
    s = statistics()
    values, vectors = np.linalg.eigh(s.covariance)
    normal = np.random.default_rng(0).standard_normal((20_000, 3))
    for colour, sizes in (("paper", values / 255), ("original", np.sqrt(values))):
        shift = colour_shift(Augment(colour=colour), s, normal)  # type: ignore[arg-type]
        along = shift @ vectors
        # Of 20,000 draws, the standard deviation of this estimate is 0.5 %.
        np.testing.assert_allclose(along.std(0), 0.1 * sizes, rtol=0.03)
        assert abs(np.corrcoef(along.T) - np.eye(3)).max() < 0.04


def test_color_shift_of_the_paper_is_for_rgb_in_0_to_1_times_255() -> None:
    s = statistics()
    small = Statistics(s.mean / 255, s.covariance / 255**2)
    values, vectors = np.linalg.eigh(small.covariance)
    a = np.array([[0.3, -1.0, 0.5]])
    want = 255 * (vectors @ (0.1 * a[0] * values))
    np.testing.assert_allclose(colour_shift(Augment(), s, a)[0], want, rtol=1e-10)


def test_original_color_noise_has_its_size_and_ends_with_its_scale() -> None:
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


def test_ten_crops_are_corners_and_center_and_their_reflections() -> None:
    ten = evaluation_crops(Augment(), 256, 224)
    assert len(set(ten)) == 10
    assert {(y, x) for y, x, _ in ten} == {(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)}
    assert evaluation_crops(Augment(test_patches="centre"), 256, 224) == [(16, 16, False)]
    nine = evaluation_crops(Augment(test_patches="nine"), 32, 24)
    assert sorted(nine) == [(y, x, False) for y in (0, 4, 8) for x in (0, 4, 8)]
    assert evaluation_crops(Augment(), 32, 32) == [(0, 0, False)]


def test_input_larger_than_the_stored_images_is_refused() -> None:
    with pytest.raises(ValueError, match="prepare it with a larger --size-px"):
        Preprocess(Augment(), statistics(), 48, CPU)
    with pytest.raises(ValueError, match="sees 19 of the 40 pixels per side"):
        Preprocess(Augment(), statistics(), 19, CPU)
