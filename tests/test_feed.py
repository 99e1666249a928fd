"""Batches are functions of (seed, epoch, image), for any number of workers and any format."""

from __future__ import annotations

import io
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet.config import StoreSettings
from alexnet.data import loader, shapes
from alexnet.data.image import decode, encode
from alexnet.data.loader import Share, batches, epoch_order
from alexnet.data.prepare import prepare
from alexnet.data.resident import ResidentSplit, check_fits, should_decode_once
from alexnet.data.storage import StoreLost
from alexnet.data.store import Split, Store
from alexnet.errors import ConfigError, DataError
from alexnet.train.start import fit
from tests.conftest import tiny
from tests.processes import launched
from tests.runs import same_bits

CPU = torch.device("cpu")


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
        match=r"take 252\.0 GB, more than 70% of the 80\.0 GB of memory$",
    ):
        check_fits(252 * 10**9, 80 * 10**9, "memory")


def test_resident_images_beyond_the_memory_of_the_machine_are_refused(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = Store(store).split("train")
    size = len(split) * 40 * 40 * 3
    monkeypatch.setattr("alexnet.data.resident.memory_limit", lambda: size)
    with pytest.raises(ConfigError, match=r"memory for this process$"):
        ResidentSplit(split, CPU, workers=1)
    # Two ranks of one machine decode it twice.
    monkeypatch.setattr("alexnet.data.resident.memory_limit", lambda: 2 * size)
    ResidentSplit(split, CPU, workers=1)
    launched(monkeypatch, 2)
    with pytest.raises(ConfigError, match=r"memory for this process$"):
        ResidentSplit(split, CPU, workers=1)
    monkeypatch.setattr("alexnet.data.resident.memory_limit", lambda: size)
    assert not should_decode_once(Store(store), "train", "cpu")


def test_training_on_resident_images_changes_nothing(
    store: Path, run: Path, tmp_path: Path
) -> None:
    fit(tiny(store, resident=True), tmp_path / "run")
    assert same_bits(tmp_path / "run", run)


def test_training_on_resident_images_goes_on_on_a_machine_with_less_memory(
    store: Path,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("alexnet.data.resident.memory_limit", lambda: 1)
    fit(tiny(store, resident=True), tmp_path / "run")
    assert "memory for this process; they are decoded in every epoch\n" in capsys.readouterr().err
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
