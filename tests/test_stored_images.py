"""Stored images: which files are kept as they are, what lossless encodings keep, statistics."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet.config import StoreSettings
from alexnet.data import pixel_sums, processing, shapes
from alexnet.data.image import centre_square, decode, encode
from alexnet.data.loader import batches
from alexnet.data.prepare import prepare
from alexnet.data.sources import InHand, Item, Source, SourceSplit
from alexnet.data.sources.parquet import parquet_files
from alexnet.data.store import Store


def small_jpeg(size: tuple[int, int] = (48, 48), **options: object) -> bytes:
    """A JPEG of a shape, as Pillow writes it with these options; `mode` is Pillow's color mode."""
    mode = str(options.pop("mode", "RGB"))
    buffer = io.BytesIO()
    made = Image.fromarray(shapes.image(3, 1)).resize(size).convert(mode)
    made.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def orientation_tag(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def one_image(folder: Path, data: bytes, settings: StoreSettings) -> tuple[dict[str, int], bytes]:
    """Prepare a store of one image; return its split in the manifest, and the stored bytes."""
    split = SourceSplit("train", 1, lambda start: iter([Item("a", 0, InHand(data))][start:]))
    manifest = prepare(Source("one", ("a", "b"), (split,)), folder, settings)
    return manifest["splits"]["train"], Store(folder).split("train").encoded(0)


KEPT = {
    "grey": small_jpeg(mode="L"),
    "progressive": small_jpeg(progressive=True, quality=60),
    "4:2:0": small_jpeg(subsampling="4:2:0"),
    "4:4:4": small_jpeg(subsampling="4:4:4"),
    "RGB": small_jpeg(keep_rgb=True),
    "restarts": small_jpeg(restart_marker_blocks=1),
    "upright": small_jpeg(exif=orientation_tag(1)),
}
ENCODED = {
    "another size": small_jpeg((48, 50)),
    "CMYK": small_jpeg(mode="CMYK"),
    "rotated": small_jpeg(exif=orientation_tag(6)),
    "PNG": encode(shapes.image(3, 1)[:48, :48], "png"),
}


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("encoding", ["auto", "jpeg"])
def test_jpegs_of_the_stored_size_are_kept_and_feed_their_own_pixels(
    encoding: str, kind: str, tmp_path: Path
) -> None:
    """Images of 48 pixels would be stored as PNG if they were encoded anew."""
    made = StoreSettings(size_px=48, encoding=encoding)  # type: ignore[arg-type]
    record, stored = one_image(tmp_path / "store", KEPT[kind], made)
    assert stored == KEPT[kind]
    assert record["kept"] == 1
    store = Store(tmp_path / "store")
    (batch,) = batches(store.split("train"), np.arange(1), 1)
    assert np.array_equal(batch.images[0].numpy(), decode(KEPT[kind]))
    assert np.array_equal(store.statistics.mean, batch.images[0].numpy())


@pytest.mark.parametrize("kind", ENCODED)
def test_other_files_are_not_kept(kind: str, tmp_path: Path) -> None:
    made = StoreSettings(size_px=48, encoding="jpeg")
    record, stored = one_image(tmp_path / "store", ENCODED[kind], made)
    assert record["kept"] == 0
    assert stored != ENCODED[kind]
    assert decode(stored).shape == (48, 48, 3)


@pytest.mark.parametrize("encoding", ["png", "ppm"])
def test_lossless_store_keeps_the_pixels_of_a_jpeg_and_not_the_file(
    encoding: str, tmp_path: Path
) -> None:
    made = StoreSettings(size_px=48, encoding=encoding)  # type: ignore[arg-type]
    record, _ = one_image(tmp_path / "store", KEPT["4:2:0"], made)
    assert record["kept"] == 0
    (batch,) = batches(Store(tmp_path / "store").split("train"), np.arange(1), 1)
    assert np.array_equal(batch.images[0].numpy(), decode(KEPT["4:2:0"]))


def test_file_with_much_data_beside_its_image_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the store could otherwise exceed 2 GiB, which Arrow's offsets do not reach."""
    data, of_task = KEPT["grey"] + bytes(10_000), processing.ITEMS_PER_TASK
    made = StoreSettings(size_px=48, encoding="jpeg", shard_images=8)
    for kept, most in enumerate((len(data) - 1, len(data))):
        monkeypatch.setattr(processing, "MAX_BYTES", of_task * most)
        assert one_image(tmp_path / str(kept), data, made)[0]["kept"] == kept


@pytest.mark.parametrize("chosen", ["jpeg", "png"])
def test_statistics_are_those_of_the_images_as_stored(chosen: str, tmp_path: Path) -> None:
    """They are computed from what training reads, which lossy compression has changed."""
    encoding: Any = chosen
    rough = StoreSettings(size_px=48, encoding=encoding, quality=10, shard_images=8)
    prepare(shapes.source(20, 10), tmp_path / "store", rough)
    store = Store(tmp_path / "store")
    split = store.split("train")
    (batch,) = batches(split, np.arange(20), 20)
    pixels = batch.images.numpy().astype(np.float64)
    np.testing.assert_allclose(store.statistics.mean, pixels.mean(0), rtol=1e-14)
    covariance = np.cov(pixels.reshape(-1, 3), rowvar=False, bias=True)
    np.testing.assert_allclose(store.statistics.covariance, covariance, rtol=1e-9)
    given = np.stack(
        [centre_square(decode(i.read()), 48) for i in shapes.source(20, 10).splits[0].items(0)]
    )
    assert (np.abs(pixels - given).mean() > 1) == (chosen == "jpeg")


@pytest.mark.slow
def test_cifar_10_is_stored_without_loss(pictures: Path, tmp_path: Path) -> None:
    source = parquet_files(pictures / "cifar10")
    first = next(source.splits[0].items(0))
    few = replace(source, splits=(replace(source.splits[1], name="train", count=10_000),))
    manifest = prepare(few, tmp_path / "store", StoreSettings())
    assert manifest["settings"]["size_px"] == 32
    assert manifest["settings"]["encoding"] == "png"
    assert manifest["splits"]["train"]["per_class"] == [1000] * 10
    assert decode(first.read()).shape == (32, 32, 3)
    stored = Store(tmp_path / "store").split("train")
    for number, item in zip(range(5), source.splits[1].items(0), strict=False):
        assert np.array_equal(decode(stored.encoded(number)), decode(item.read()))


def test_lossless_encodings_feed_the_same_pixels(tmp_path: Path) -> None:
    fed = []
    for encoding in ("png", "ppm"):
        prepare(
            shapes.source(20, 10), tmp_path / encoding, StoreSettings(size_px=24, encoding=encoding)
        )
        split = Store(tmp_path / encoding).split("train")
        (batch,) = batches(split, np.arange(20), 20)
        fed.append(batch.images)
        loaded = datasets.load_from_disk(str(tmp_path / encoding))["train"]
        assert np.array_equal(np.asarray(loaded[3]["image"]), batch.images[3].numpy())
    assert torch.equal(*fed)


@pytest.mark.usefixtures("compiled_code")
@settings(max_examples=20)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from([0, 255, None]))
def test_compiled_products_equal_the_plain_ones(height: int, width: int, value: int | None) -> None:
    rgb = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    if value is not None:
        rgb[:] = value
    assert np.array_equal(pixel_sums.products(rgb), pixel_sums.plain_products(rgb))
    assert np.array_equal(pixel_sums.products(rgb[:, ::-1]), pixel_sums.plain_products(rgb))


@pytest.mark.parametrize("compiled", [True, False])
def test_sums_of_products_are_exact_beyond_two_to_the_53(
    compiled: bool, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if compiled:
        request.getfixturevalue("compiled_code")
    else:
        monkeypatch.setattr("alexnet.native.kernels", lambda: None)
    sums = pixel_sums.Sums.zero(8)
    sums.products[:] = 2**53
    image = np.zeros((8, 8, 3), np.uint8)
    image[0, 0] = 1
    sums.add([image])
    assert sums.products.tolist() == [[2**53 + 1] * 3] * 3
