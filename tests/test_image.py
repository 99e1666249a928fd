"""Decoding: every file in a folder of images becomes RGB or is refused with a reason."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from alexnet.config import StoreSettings
from alexnet.data import image as image_file
from alexnet.data.image import Rgb, centre_square, decode, encode, pixels_of_ppm
from alexnet.data.prepare import prepare
from alexnet.data.sources import Item, Source, SourceSplit, in_hand
from alexnet.data.store import Store

GRADIENT = np.stack([*np.meshgrid(np.arange(60) * 4, np.arange(40) * 6), np.full((40, 60), 90)], -1)
RGB = GRADIENT.astype(np.uint8)  # (40, 60, 3)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(**options: object) -> bytes:
    return encoded(Image.fromarray(RGB), "JPEG", quality=95, subsampling=0, **options)


def near(got: np.ndarray, want: np.ndarray, levels: float) -> bool:
    return got.shape == want.shape and float(np.abs(got.astype(int) - want).mean()) < levels


def test_common_formats_decode_to_rgb() -> None:
    assert near(decode(jpeg()), RGB, 2)
    for format in ("PNG", "BMP", "TIFF", "PPM"):
        assert np.array_equal(decode(encoded(Image.fromarray(RGB), format)), RGB)


def test_grey_cmyk_palette_and_transparent_images_become_rgb() -> None:
    grey = Image.fromarray(RGB).convert("L")
    assert near(decode(encoded(grey, "JPEG")), np.stack([np.asarray(grey)] * 3, -1), 2)
    assert near(decode(encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95)), RGB, 4)
    assert decode(encoded(Image.fromarray(RGB).convert("P"), "PNG")).shape == (40, 60, 3)
    assert np.array_equal(decode(encoded(Image.fromarray(RGB).convert("RGBA"), "PNG")), RGB)


def test_sixteen_bit_images_are_scaled_not_truncated() -> None:
    sixteen = Image.fromarray((RGB[..., 0].astype(np.uint16) << 8) + 77)
    assert np.array_equal(decode(encoded(sixteen, "PNG"))[..., 0], RGB[..., 0])


def test_first_frame_of_an_animation_is_used() -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (10, 200)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert near(decode(data), np.full((8, 8, 3), 10), 2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_only_on_request(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = jpeg(exif=exif)
    k, flip = {
        1: (0, 0),
        2: (0, 1),
        3: (2, 0),
        4: (2, 1),
        5: (3, 1),
        6: (3, 0),
        7: (1, 1),
        8: (1, 0),
    }[orientation]
    upright = np.rot90(RGB, k)
    upright = upright[:, ::-1] if flip else upright
    assert near(decode(data, upright=True), upright, 2)
    assert near(decode(data), RGB, 2)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an image"),
        (b"hello world", "not an image"),
        (jpeg()[: len(jpeg()) // 2], "truncated"),
        (encoded(Image.fromarray(RGB), "PNG")[:90], "truncated|broken|incomplete|not an image"),
        (b"\xff\xd8\xff", "not an image"),
    ],
)
def test_undecodable_data_is_refused_with_a_reason(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(data)


def test_image_with_too_many_pixels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_file, "MAX_PIXELS", 1000)
    for data in (jpeg(), encoded(Image.fromarray(RGB), "PNG")):
        with pytest.raises(ValueError, match="60x40 is more than 1,000 pixels"):
            decode(data)


def test_central_square_is_cut_from_the_rescaled_image() -> None:
    wide = np.random.default_rng(0).integers(0, 256, (64, 128, 3), np.uint8)
    rescaled = np.asarray(Image.fromarray(wide).resize((64, 32), Image.Resampling.BICUBIC))
    assert np.array_equal(centre_square(wide, 32), rescaled[:, 16:48])
    assert centre_square(wide[:, :64], 64) is not wide
    assert np.array_equal(centre_square(wide[:, :64], 64), wide[:, :64])


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1), (3, 2)])
def test_images_of_one_pixel_or_one_line_are_enlarged(shape: tuple[int, int]) -> None:
    assert centre_square(np.full((*shape, 3), 7, np.uint8), 32).shape == (32, 32, 3)
    assert (centre_square(np.full((*shape, 3), 7, np.uint8), 32) == 7).all()


@given(
    # Multiples of 8, since otherwise the last row of the reduced image covers a part of a pixel.
    height=st.integers(13, 110).map(lambda blocks: 8 * blocks),
    width=st.integers(13, 110).map(lambda blocks: 8 * blocks),
    enough_px=st.sampled_from([0, 32, 100, 128]),
    seed=st.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_jpeg_decoded_at_reduced_size_gives_nearly_the_same_square(
    height: int, width: int, enough_px: int, seed: int
) -> None:
    """They differ by at most 3 of 255 grey levels on average.

    The images are rougher than photographs and have the full contrast in colour.
    """
    rng = np.random.default_rng(seed)
    rough = Image.fromarray(
        rng.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    )
    smooth = np.asarray(rough.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    data = encode(
        np.clip(smooth + rng.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8), "jpeg"
    )
    full, reduced = decode(data), decode(data, enough_px=enough_px)
    if enough_px == 0 or min(height, width) < 4 * enough_px:
        assert np.array_equal(full, reduced)
        return
    assert 2 * enough_px <= min(reduced.shape[:2]) < min(height, width)
    assert difference(centre_square(full, enough_px), centre_square(reduced, enough_px)) <= 3


def difference(a: Rgb, b: Rgb) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(a.astype(int) - b).mean())


def test_reduced_decoding_of_photographs_loses_less_than_jpeg_storage(pictures: Path) -> None:
    from_reduced, from_jpeg = [], []
    for path in sorted(
        p for p in (pictures / "photos").rglob("*") if p.suffix.lower() in (".jpg", ".jpeg")
    ):
        data = path.read_bytes()
        square = centre_square(decode(data), 96)
        from_reduced.append(difference(square, centre_square(decode(data, enough_px=96), 96)))
        from_jpeg.append(difference(square, decode(encode(square, "jpeg"))))
    assert sum(d > 0 for d in from_reduced) > 5
    assert sum(from_reduced) < sum(from_jpeg) / 2


def test_ppm_is_lossless_and_readable_by_pillow() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    data, out = encode(noise, "ppm"), np.empty_like(noise)
    assert np.array_equal(decode(data), noise)
    pixels_of_ppm(data, out)
    assert np.array_equal(out, noise)
    for invalid in (
        data[:-1],
        data + b"x",
        encode(noise.transpose(1, 0, 2), "ppm"),
        b"P6\n",
        encode(noise, "png"),
    ):
        with pytest.raises(ValueError, match="not a PPM of 7x9"):
            pixels_of_ppm(invalid, out)


def test_png_is_lossless_and_444_keeps_more_colour_than_420() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert np.array_equal(decode(encode(noise, "png")), noise)
    errors = [
        np.abs(decode(encode(noise, "jpeg", 95, chroma)).astype(int) - noise).mean()
        for chroma in ("444", "420")
    ]
    assert errors[0] < errors[1] / 3


def test_every_real_photograph_can_be_decoded(pictures: object) -> None:
    files = sorted((pictures / "photos").glob("*.JPEG"))  # type: ignore[operator]
    assert len(files) == 40
    assert {centre_square(decode(path.read_bytes()), 256).shape for path in files} == {
        (256, 256, 3)
    }


def test_photographs_are_stored_at_256_pixels(tmp_path: Path) -> None:
    """Section 2: the shorter side becomes 256 and the central square is cut out."""
    wide = np.zeros((300, 400, 3), np.uint8)
    wide[:, 50:350] = 200  # the central square; the rest is black
    items = [Item(f"{i}", i, in_hand(encode(wide, "ppm"))) for i in range(2)]
    split = SourceSplit("train", 2, lambda start: iter(items[start:]))
    settings = StoreSettings(encoding="ppm")
    prepare(Source("two", ("a", "b"), (split,)), tmp_path / "store", settings)
    store = Store(tmp_path / "store")
    assert store.size_px == 256
    stored = decode(store.split("train").encoded(0))
    np.testing.assert_array_equal(stored[:, 1:-1], 200)  # the bicubic filter extends over the edge
