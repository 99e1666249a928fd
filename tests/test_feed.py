"""Batches and augmentation are functions of (seed, epoch, image), for any number of workers."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from alexnet import recipes
from alexnet.config import Augment, Config, StoreSettings
from alexnet.data import augment as augmenting
from alexnet.data import loader, shapes
from alexnet.data.arrow import Index
from alexnet.data.augment import (
    Preprocess,
    colour_shift,
    evaluation_crops,
    fixed_crop,
    sample_augmentation,
)
from alexnet.data.image import decode, encode
from alexnet.data.loader import Share, batches, epoch_order
from alexnet.data.manifest import sealed
from alexnet.data.prepare import prepare
from alexnet.data.resident import ResidentSplit, check_fits, should_decode_once
from alexnet.data.storage import StoreLost
from alexnet.data.store import Split, Statistics, Store
from alexnet.device import dtype_of
from alexnet.errors import ConfigError, DataError
from alexnet.files import file_sha256
from alexnet.train.loop import fit
from tests.conftest import tiny
from tests.runs import same_bits

CPU = torch.device("cpu")
INDEX = np.arange(200)


def statistics(stored_px: int = 40) -> Statistics:
    rng = np.random.default_rng(0)
    root = rng.normal(0, 40, (3, 3))
    return Statistics(rng.uniform(80, 160, (stored_px, stored_px, 3)), root @ root.T)


def test_order_of_an_epoch_is_a_function_of_seed_and_epoch() -> None:
    assert np.array_equal(epoch_order(100, 3, 5), epoch_order(100, 3, 5))
    assert sorted(epoch_order(100, 3, 5)) == list(range(100))
    for other in (epoch_order(100, 3, 6), epoch_order(100, 4, 5)):
        assert not np.array_equal(epoch_order(100, 3, 5), other)


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_batches_are_the_same_for_any_number_of_workers(store: Path, workers: int) -> None:
    split = Store(store).split("train")
    order = epoch_order(len(split), 0, 0)
    fed = list(batches(split, order, 16, workers))
    assert [len(b.labels) for b in fed] == [16, 16, 16, 12]
    for b in fed:
        for row, index in enumerate(b.index):
            assert np.array_equal(b.images[row].numpy(), decode(split.encoded(int(index))))
            assert b.labels[row] == split.labels[index]
    assert np.array_equal(np.concatenate([b.index for b in fed]), order)
    rest = list(batches(split, order, 16, workers, start=2))
    assert np.array_equal(rest[0].images, fed[2].images)
    assert np.array_equal(rest[0].position, fed[2].position)


def test_batches_are_decoded_while_the_caller_computes(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Section 4.1: the next batch is made while the GPU trains on this one."""
    split = Store(store).split("train")
    decoded: list[int] = []
    real = loader.fill

    def watched(split: Split, index: np.ndarray, out: np.ndarray) -> None:
        real(split, index, out)
        decoded.extend(index.tolist())

    monkeypatch.setattr(loader, "fill", watched)
    feed = batches(split, np.arange(60), 8, workers=1)
    first = next(feed)
    # The caller computes now and asks for nothing; a loaded machine may take seconds to decode.
    for _ in range(1000):
        if set(decoded) >= set(range(16)):
            break
        time.sleep(0.01)
    assert set(decoded) >= set(range(16))
    assert first.index.tolist() == list(range(8))
    feed.close()  # type: ignore[attr-defined]


def test_each_share_reads_its_images_and_all_read_each_once(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Store(store).split("train")
    order = epoch_order(len(split), 0, 0)
    real, read_now = split.read, list[int]()
    monkeypatch.setattr(split, "read", lambda index: read_now.extend(index) or real(index))
    read_before = set[int]()
    for rank in range(3):
        parts = list(batches(split, order, 16, workers=2, share=Share(rank, 3)))
        assert sorted(read_now) == sorted(np.concatenate([part.index for part in parts]))
        assert not read_before & set(read_now)
        read_before |= set(read_now)
        read_now.clear()
    assert read_before == set(order)


def test_resident_split_gives_the_same_batches(store: Path) -> None:
    split = Store(store).split("train")
    order = epoch_order(len(split), 0, 0)
    resident = ResidentSplit(split, CPU, workers=1)
    for start, share in ((0, Share()), (2, Share()), (1, Share(1, 3))):
        fed = list(batches(split, order, 16, start=start, share=share))
        gathered = list(resident.batches(order, 16, start, share))
        for a, b in zip(fed, gathered, strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.labels, b.labels)
            assert np.array_equal(a.index, b.index)
            assert np.array_equal(a.position, b.position)
            assert a.global_size == b.global_size


def test_resident_images_that_do_not_fit_are_refused() -> None:
    check_fits(252 * 10**9, 400 * 10**9, "memory")
    with pytest.raises(
        ConfigError,
        match=r"take 252\.0 GB, more than 70% of the 80\.0 GB of memory; train without --resident",
    ):
        check_fits(252 * 10**9, 80 * 10**9, "memory")


def test_resident_images_beyond_the_memory_of_the_machine_are_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Store(store).split("train")
    size = len(split) * 40 * 40 * 3
    monkeypatch.setattr("alexnet.data.resident.memory_limit", lambda: size)
    with pytest.raises(ConfigError, match="memory for this process; train without --resident"):
        ResidentSplit(split, CPU, workers=1)
    # Two ranks of one machine decode it twice.
    monkeypatch.setattr("alexnet.data.resident.memory_limit", lambda: 2 * size)
    ResidentSplit(split, CPU, workers=1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="memory for this process; train without --resident"):
        ResidentSplit(split, CPU, workers=1)
    monkeypatch.setattr("alexnet.data.resident.memory_limit", lambda: size)
    assert not should_decode_once(Store(store), "train", "cpu")


def test_training_on_resident_images_changes_nothing(
    store: Path, run: Path, tmp_path: Path
) -> None:
    fit(tiny(store, resident=True), tmp_path / "run")
    assert same_bits(tmp_path / "run", run)


def jpeg(image: np.ndarray, mode: str = "RGB", **options: object) -> bytes:
    """A JPEG of (H, W, 3) uint8, written by Pillow with these options."""
    buffer = io.BytesIO()
    Image.fromarray(image).convert(mode).save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def test_batch_of_every_stored_format_has_the_pixels_that_decode_gives(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = np.cumsum(np.random.default_rng(0).integers(-9, 10, (40, 40, 3)), 1).astype(np.uint8)
    stored = [
        jpeg(rgb),
        jpeg(rgb, subsampling=0, optimize=True),
        jpeg(rgb, subsampling=1),
        jpeg(rgb, progressive=True),
        jpeg(rgb, restart_marker_blocks=1),
        jpeg(rgb, keep_rgb=True),
        jpeg(rgb, mode="L"),
        encode(rgb, "png"),
        encode(rgb, "ppm"),
    ]
    split = Store(store).split("train")
    monkeypatch.setattr(split, "read", lambda index: [stored[i] for i in index])
    (batch,) = batches(split, np.arange(len(stored)), len(stored))
    for data, fed in zip(stored, batch.images, strict=True):
        assert np.array_equal(fed.numpy(), decode(data))
        if data.startswith(b"\xff\xd8"):
            # Pillow uses libjpeg-turbo too, perhaps of another version: one gray level.
            pillow = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
            assert np.abs(fed.numpy() - pillow).max() <= 1


@pytest.fixture(scope="module")
def uncompressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of `store` as PPM."""
    folder = tmp_path_factory.mktemp("stores") / "ppm"
    made = StoreSettings(size_px=40, encoding="ppm", shard_images=25)
    prepare(shapes.source(60, 30), folder, made, workers=2)
    return folder


@pytest.mark.skipif(not hasattr(os, "preadv"), reason="this system cannot read into memory")
def test_uncompressed_images_are_read_to_their_place_without_a_copy(
    uncompressed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Store(uncompressed).split("train")
    want = [decode(split.encoded(i)) for i in range(60)]
    monkeypatch.setattr(split, "read", lambda index: pytest.fail("it was read as bytes"))
    order = epoch_order(60, 0, 0)
    fed = np.concatenate([b.images.numpy() for b in batches(split, order, 16)])
    assert np.array_equal(fed, [want[i] for i in order])
    monkeypatch.undo()
    with monkeypatch.context() as without:
        without.delattr(os, "preadv")
        fed = np.concatenate([b.images.numpy() for b in batches(split, order, 16)])
        assert np.array_equal(fed, [want[i] for i in order])


def test_uncompressed_image_that_is_damaged_or_cut_is_named(
    uncompressed: Path, tmp_path: Path
) -> None:
    shutil.copytree(uncompressed, tmp_path / "copy")
    split = Store(tmp_path / "copy").split("train")
    file, begin, _ = split._ranges(np.array([3]))[0]
    path = tmp_path / "copy" / file
    data = bytearray(path.read_bytes())
    data[begin : begin + 2] = b"XX"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"is damaged in the store"):
        list(batches(split, np.arange(4), 4))
    os.truncate(path, begin + 100)
    with pytest.raises(StoreLost, match=r"data-00000\.arrow cannot .* shorter than it was"):
        list(batches(split, np.arange(4), 4))


def test_jpeg_that_is_as_long_as_a_ppm_is_decoded(
    uncompressed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Store(uncompressed).split("train")
    stored = jpeg(decode(split.encoded(0)))
    monkeypatch.setattr(split, "read", lambda index: [stored] * len(index))
    monkeypatch.setattr(
        split, "read_into", lambda index, head_bytes, out: [stored[:head_bytes]] * len(index)
    )
    (batch,) = batches(split, np.arange(3), 3)
    assert np.array_equal(batch.images[2].numpy(), decode(stored))


@settings(max_examples=100)
@given(st.data())
def test_truncated_jpeg_is_never_fed(store: Path, given: st.DataObject) -> None:
    split = Store(store).split("train")
    complete = split.encoded(3)
    truncated = complete[: given.draw(st.integers(2, len(complete) - 1))]
    split.read = lambda index: [truncated]  # type: ignore[method-assign]
    with pytest.raises(DataError, match=r"is damaged in the store \(.*\); prepare it again"):
        list(batches(split, np.array([3]), 1, workers=0))


def test_image_of_one_pixel_is_not_spread_over_a_stored_one(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Store(store).split("train")
    pixel = encode(np.zeros((1, 1, 3), np.uint8), "png")
    monkeypatch.setattr(split, "read", lambda index: [pixel])
    with pytest.raises(DataError, match="1x1 pixels in place of 40x40"):
        list(batches(split, np.array([3]), 1, workers=0))


def test_damaged_image_is_named(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = Store(store).split("train")
    complete, name = split.encoded(3), split.name(3)
    half = np.zeros((20, 40, 3), np.uint8)
    for damaged, reason in (
        (complete[:-200] + b"\xff\xd9" + complete[-200:], "Corrupt JPEG data|Premature end"),
        (complete[:300], "Premature end|Could not determine"),
        # A smaller image would leave the rest of its place in the batch unset.
        (jpeg(half), "40x20 pixels in place of 40x40"),
        (encode(half, "ppm"), "not a PPM of 40x40 pixels"),
        (b"no image", "not an image of a known format"),
    ):
        monkeypatch.setattr(split, "read", lambda index, data=damaged: [data])
        with pytest.raises(
            DataError,
            match=rf"^{name} is damaged in the store \(.*({reason}).*\); prepare it again$",
        ):
            list(batches(split, np.array([3]), 1))


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    """A copy of the store, to be damaged."""
    shutil.copytree(store, tmp_path / "copy")
    return tmp_path / "copy"


def change_manifest(copy: Path, path: str, value: object) -> None:
    """Replace the entry of the manifest at a path such as `splits/train/images`."""
    manifest = json.loads((copy / "manifest.json").read_text())
    *parents, last = path.split("/")
    node = manifest
    for parent in parents:
        node = node[int(parent) if isinstance(node, list) else parent]
    node[int(last) if isinstance(node, list) else last] = value
    (copy / "manifest.json").write_text(json.dumps(sealed(manifest)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("classes", None),
        ("classes", ["a", 3]),
        ("classes", ["\ud800"]),
        ("words", ["one"]),
        ("settings", []),
        ("settings/size_px", 10**400),
        ("settings/size_px", True),
        ("covariance", [[1, 0], [0, 1]]),
        ("covariance/1/2", float("nan")),
        ("mean_sha256", 3),
        ("splits", []),
        ("splits", {}),
        ("splits", {"../train": {"shards": [], "images": 0}}),
        ("splits/train", 3),
        ("splits/train/shards", {}),
        ("splits/train/shards/0/file", "../../secret"),
        ("splits/train/shards/0/file", ".."),
        ("splits/train/shards/0/file", ".hidden"),
        ("splits/train/shards/0/bytes", -1),
        ("splits/train/shards/0/images", -1),
        ("splits/train/shards/0/images", 10**9),
        ("splits/train/shards/0/sha256", "0"),
        ("splits/train/images", 61),
        ("splits/train/index", {"file": "/etc/passwd", "bytes": 1, "sha256": "0" * 64}),
    ],
)
def test_manifest_that_cannot_be_used_is_refused(copy: Path, path: str, value: object) -> None:
    change_manifest(copy, path, value)
    with pytest.raises(
        DataError, match=r"copy/manifest\.json is damaged.*; prepare the store again"
    ):
        Store(copy)


@pytest.mark.parametrize("value", [["ten", *"abcdefghi"], []])
def test_manifest_without_its_checksum_is_refused(copy: Path, value: object) -> None:
    """Other names of classes fit the store as well; only the checksum shows that they are wrong."""
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | {"classes": value}))
    with pytest.raises(DataError, match=r"copy/manifest\.json is damaged: it does not have the"):
        Store(copy)
    del manifest["sha256"]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"copy/manifest\.json is damaged: it does not have the"):
        Store(copy)
    changed_format = manifest | {"format": 1, "sha256": "0" * 64}
    (copy / "manifest.json").write_text(json.dumps(changed_format))
    with pytest.raises(DataError, match=r"copy/manifest\.json is damaged: it does not have the"):
        Store(copy)
    (copy / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    assert Store(copy).classes == manifest["classes"], "stores of version 0.2 are still read"


@pytest.mark.parametrize("text", ["3", "[]", "[" * 100_000, "{}", "\ud800"])
def test_manifest_that_is_no_object_is_refused(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_bytes(text.encode(errors="surrogatepass"))
    with pytest.raises(DataError, match=r"copy/manifest\.json is damaged; prepare the store again"):
        Store(copy)


def test_damaged_mean_image_is_refused(copy: Path) -> None:
    """Its checksum protects it, and also what the checksum of a forged manifest confirms."""
    file = copy / "mean.npy"
    data, mean = bytearray(file.read_bytes()), np.load(file)
    data[len(data) // 2] ^= 1
    with pytest.raises(DataError, match=r"copy/mean\.npy is missing or damaged"):
        file.write_bytes(data)
        _ = Store(copy).statistics
    for wrong in (mean[:3], mean.astype(np.int64), mean * np.inf, np.array(["a"]), None):
        if wrong is None:
            file.write_bytes(b"\x93NUMPY")
        else:
            np.save(file, wrong)
        change_manifest(copy, "mean_sha256", file_sha256(file))
        with pytest.raises(DataError, match=r"copy/mean\.npy is missing or damaged"):
            _ = Store(copy).statistics


@pytest.mark.parametrize(
    "change",
    [
        lambda index: replace(index, labels=index.labels + 10),
        lambda index: replace(index, labels=index.labels.astype(np.int32)),
        lambda index: replace(index, labels=index.labels[1:]),
        lambda index: replace(index, begins=index.begins[::-1].copy()),
        lambda index: replace(index, begins=index.begins + 10**9),
        lambda index: replace(index, begins=index.begins - 10**9),
        lambda index: replace(index, names=index.names[:, ::-1].copy()),
        lambda index: replace(index, names=index.names + 10**9),
        lambda index: None,
    ],
)
def test_index_that_leads_out_of_its_files_is_refused(
    copy: Path, change: Callable[[Index], Index | None]
) -> None:
    file = copy / "train" / "index.npz"
    index = change(Index.from_bytes(file.read_bytes()))
    file.write_bytes(b"PK\x03\x04" if index is None else index.to_bytes())
    change_manifest(copy, "splits/train/index/sha256", file_sha256(file))
    with pytest.raises(DataError, match=r"copy/train/index\.npz is missing or damaged"):
        Store(copy).split("train")


def test_file_of_a_store_that_was_cut_after_opening_is_lost(copy: Path) -> None:
    split = Store(copy).split("train")
    for file in (copy / "train").glob("*.arrow"):
        os.truncate(file, 100)
    for read in (lambda: split.encoded(0), lambda: split.name(0)):
        with pytest.raises(StoreLost, match=r"data-00000\.arrow cannot .* shorter than it was"):
            read()


def test_damaged_names_are_refused_by_the_name_of_their_file(copy: Path) -> None:
    split = Store(copy).split("train")
    file = copy / "train" / "data-00000.arrow"
    data = bytearray(file.read_bytes())
    begin, end = split._index.names[0].tolist()
    for place in (begin, begin + 3, end - 12):
        damaged = data.copy()
        damaged[place] = 0xFF
        file.write_bytes(damaged)
        with pytest.raises(DataError, match=r"data-00000\.arrow is missing or damaged"):
            Store(copy).split("train").name(0)


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
    begun_before = augmenting._begun.cache_info().hits
    following = augmenting._begun(987, 1, 1, 8).result(timeout=10)
    assert augmenting._begun.cache_info().hits == begun_before + 1
    assert sorted(epoch for epoch, _ in drawn) == [0, 1]
    assert threading.get_ident() not in [thread for _, thread in drawn]
    np.testing.assert_array_equal(table, real(987, 0, 1, 8))
    assert augmenting._table(987, 1, 1, 8) is following
    np.testing.assert_array_equal(following, real(987, 1, 1, 8))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_process_draws_what_a_thread_was_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    parent, go_on, real = os.getpid(), threading.Event(), augmenting._drawn

    def draw(*arguments: int) -> NDArray[np.float64]:
        if os.getpid() == parent:
            go_on.wait()
        return real(*arguments)

    monkeypatch.setattr(augmenting, "_drawn", draw)
    unfinished = augmenting._begun(986, 0, 1, 8)
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
