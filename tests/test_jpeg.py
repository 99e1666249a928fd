"""`data/jpeg.cpp` against simplejpeg: the same bits, and what it is not made for it leaves alone."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from alexnet import native
from alexnet.data.image import centre_square, decode, encode
from alexnet.data.jpeg import decode_jpegs

Rgb = NDArray[np.uint8]

pytestmark = pytest.mark.skipif(native.jpeg() is None, reason="needs a C++ compiler")


def picture(height: int, width: int, seed: int, rough: int = 9) -> Rgb:
    """A walk from pixel to pixel, by up to `rough` levels a step; 256 and more: noise."""
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.integers(-rough, rough + 1, (height, width, 3)), 1).astype(np.uint8)


def ours(data: bytes, height: int, width: int) -> Rgb | None:
    out = np.full((1, height, width, 3), 7, np.uint8)
    return out[0] if decode_jpegs([data], out)[0] else None


def theirs(data: bytes) -> Rgb:
    found: Rgb = simplejpeg.decode_jpeg(data, "RGB")
    return found


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 100),
    st.sampled_from(["420", "444"]),
    st.integers(0, 2**32),
    st.sampled_from([0, 1, 9, 60, 300]),
)
def test_the_same_bits_as_simplejpeg(
    high: int, wide: int, quality: int, chroma: str, seed: int, rough: int
) -> None:
    rgb = picture(16 * high, 16 * wide, seed, rough)
    data = simplejpeg.encode_jpeg(rgb, quality, "RGB", chroma)
    assert np.array_equal(ours(data, 16 * high, 16 * wide), theirs(data))


@pytest.mark.parametrize("quality", [1, 50, 95, 100])
def test_extremes(quality: int) -> None:
    rng = np.random.default_rng(0)
    for rgb in (
        rng.integers(0, 2, (32, 32, 3)) * 255,
        rng.integers(0, 2, (32, 32, 1)) * [255, 0, 255],
    ):
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb, np.uint8), quality, "RGB", "420")
        assert np.array_equal(ours(data, 32, 32), theirs(data))


def test_photographs(pictures: Path) -> None:
    for path in sorted((pictures).rglob("*.JPEG"))[:40] + sorted(pictures.rglob("*.jpg"))[:40]:
        for quality in (80, 95):
            data = encode(centre_square(decode(path.read_bytes()), 256), "jpeg", quality)
            assert np.array_equal(ours(data, 256, 256), theirs(data)), path


def test_many_at_once_and_tables_that_change() -> None:
    def saved(seed: int, **how: object) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(picture(32, 32, seed)).save(buffer, "JPEG", **how)
        return buffer.getvalue()

    data = [
        saved(i, quality=90, optimize=i % 2 == 1, comment=b"hello" * i) for i in range(8)
    ]  # tables of its own
    data.insert(3, b"no picture")
    out = np.zeros((9, 32, 32, 3), np.uint8)
    done = decode_jpegs(data, out)
    assert done.tolist() == [True] * 3 + [False] + [True] * 5
    for one, found in zip(data, out, strict=True):
        assert np.array_equal(found, theirs(one) if one != b"no picture" else np.zeros_like(found))


def test_what_it_is_not_made_for_is_left() -> None:
    rgb = picture(32, 32, 0)

    def saved(image: Image.Image, **how: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90, **how)
        return buffer.getvalue()

    image = Image.fromarray(rgb)
    kinds = {
        "progressive": saved(image, progressive=True),
        "grey": saved(image.convert("L")),
        "four inks": saved(image.convert("CMYK")),
        "no transformation of colours": saved(image, keep_rgb=True),
        "4:2:2": saved(image, subsampling=1),
        "restarts": saved(image, restart_marker_blocks=1),
        "another size": saved(image.resize((48, 32))),
        "PNG": encode(rgb, "png"),
        "nothing": b"",
    }
    for kind, data in kinds.items():
        assert ours(data, 32, 32) is None, kind
    odd = saved(Image.fromarray(picture(40, 40, 0)))
    assert ours(odd, 40, 40) is None
    out = np.full((1, 32, 32, 3), 7, np.uint8)
    decode_jpegs([kinds["progressive"]], out)
    assert (out == 7).all()


@pytest.mark.parametrize("kind", [0xC4, 0xDB])
def test_tables_of_the_picture_before_do_not_serve(kind: int) -> None:
    data = simplejpeg.encode_jpeg(picture(32, 32, 0), 90, "RGB", "420")
    parts, at = [data[:2]], 2
    while data[at + 1] != 0xDA:
        size = 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] != kind:
            parts.append(data[at : at + size])
        at += size
    assert ours(data, 32, 32) is not None
    assert ours(b"".join(parts) + data[at:], 32, 32) is None


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_survived(given: st.DataObject) -> None:
    """And a file that ends too early is never taken for a whole one."""
    data = bytearray(simplejpeg.encode_jpeg(picture(32, 48, 1, 40), 90, "RGB", "420"))
    cut = given.draw(st.integers(0, len(data) - 1))
    assert ours(bytes(data[:cut]), 32, 48) is None
    for _ in range(given.draw(st.integers(1, 6))):
        data[given.draw(st.integers(2, len(data) - 1))] = given.draw(st.integers(0, 255))
    found = ours(bytes(data), 32, 48)
    assert found is None or found.shape == (32, 48, 3)
