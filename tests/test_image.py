"""Decoding: every file in a folder of images becomes RGB or is refused with a reason."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from alexnet.config import StoreSettings
from alexnet.data import image as image_file
from alexnet.data.image import (
    Rgb,
    as_stored,
    centre_square,
    decode,
    decoding_bytes,
    encode,
    pixels_of_jpeg,
    pixels_of_ppm,
)
from alexnet.data.prepare import prepare
from alexnet.data.sources import InHand, Item, Source, SourceSplit
from alexnet.data.store import Store
from alexnet.errors import DataError

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


def test_pillow_takes_the_place_of_simplejpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    with_simplejpeg = decode(jpeg())
    monkeypatch.setattr(image_file, "simplejpeg", None)
    # The two may contain different versions of libjpeg-turbo.
    assert near(decode(jpeg()), with_simplejpeg, 0.5)
    assert near(decode(encode(RGB, "jpeg", chroma="444")), RGB, 2)
    assert len(encode(RGB, "jpeg", 30)) < len(encode(RGB, "jpeg", 90))
    out = np.empty_like(RGB)
    pixels_of_jpeg(jpeg(), out)
    assert np.array_equal(out, decode(jpeg()))
    with pytest.raises(DataError, match="60x40 pixels in place of 60x39"):
        pixels_of_jpeg(jpeg(), out[1:])
    # No store gets a file unchanged that training would decode by another decoder.
    assert as_stored(encode(RGB[:, :40], "jpeg"), 40) is None
    assert decoding_bytes(jpeg()) > 0


def test_grey_cmyk_palette_and_transparent_images_become_rgb() -> None:
    grey = Image.fromarray(RGB).convert("L")
    assert near(decode(encoded(grey, "JPEG")), np.stack([np.asarray(grey)] * 3, -1), 2)
    assert near(decode(encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95)), RGB, 4)
    assert decode(encoded(Image.fromarray(RGB).convert("P"), "PNG")).shape == (40, 60, 3)
    assert np.array_equal(decode(encoded(Image.fromarray(RGB).convert("RGBA"), "PNG")), RGB)


def test_sixteen_bit_images_are_scaled_not_truncated() -> None:
    sixteen = Image.fromarray((RGB[..., 0].astype(np.uint16) << 8) + 77)
    assert np.array_equal(decode(encoded(sixteen, "PNG"))[..., 0], RGB[..., 0])


@pytest.mark.parametrize(("bits", "white"), [(12, 4095), (16, 65535), (16, 0)])
def test_white_of_a_tiff_is_that_of_its_tags(bits: int, white: int) -> None:
    """Pillow writes neither 12 bits nor a white of zero, so the bytes are made by hand."""
    tags = (256, 4, 2), (257, 4, 1), (258, 3, bits), (259, 3, 1), (262, 3, int(white > 0))
    tags += (273, 4, 8), (277, 3, 1), (278, 4, 1), (279, 4, 4)
    packed = b"\xff\xf0\x00" if bits == 12 else struct.pack("<HH", white, 65535 - white)
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    data = b"II*\0" + struct.pack("<I", 12) + packed.ljust(4, b"\0")
    data += struct.pack("<H", len(tags)) + entries + bytes(4)
    assert decode(data)[0, :, 0].tolist() == [255, 0]


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_image_whose_white_is_unknown_is_refused(kind: type) -> None:
    """A float TIFF from 0 to 1, or one of 32 bits from 0 to 255, would become black."""
    with pytest.raises(DataError, match="convert it to 8 or 16 bits"):
        decode(encoded(Image.fromarray(RGB[..., 0].astype(kind)), "TIFF"))


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


FAKE_GHOSTSCRIPT = """#!/bin/sh
echo called > {called}
"""


@pytest.mark.parametrize("suffix", [".jpg", ".eps"])
def test_an_eps_file_does_not_start_ghostscript(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow would, whatever the file is called: PostScript is a program."""
    fake = tmp_path / "bin" / "gs"
    fake.parent.mkdir()
    fake.write_text(FAKE_GHOSTSCRIPT.format(called=tmp_path / "called"))
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    # Pillow looks for the program once in a process.
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    eps = encoded(Image.fromarray(RGB), "EPS")
    with pytest.raises(OSError), Image.open(io.BytesIO(eps)) as image:
        image.load()
    assert (tmp_path / "called").exists(), "Pillow alone should have called it"
    (tmp_path / "called").unlink()
    for upright in (False, True):
        with pytest.raises(DataError, match="not an image of a known format"):
            decode(eps, upright)
    assert as_stored(eps, 40) is None
    assert decoding_bytes(eps) == 0
    split = SourceSplit("train", 2, lambda start: iter([Item(f"evil{suffix}", 0, InHand(eps))]))
    with pytest.raises(DataError, match="no readable image"):
        prepare(
            Source("evil", ("a", "b"), (split,)), tmp_path / "store", StoreSettings(most_skipped=1)
        )
    assert not (tmp_path / "called").exists()


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims another size than it has."""
    data = encoded(Image.fromarray(RGB), "PNG")
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def jpeg_claiming(width: int, height: int, **options: object) -> bytes:
    """A JPEG whose header claims another size than it has."""
    data = jpeg(**options)
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", height, width) + data[frame + 9 :]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("upright", [False, True])
@pytest.mark.parametrize("make", [jpeg_claiming, png_claiming])
def test_the_limit_of_pixels_is_that_of_pillow(make: Callable[..., bytes], upright: bool) -> None:
    """A size that one decoder accepts and the other refuses must not end a preparation."""
    assert Image.MAX_IMAGE_PIXELS is not None
    assert 2 * Image.MAX_IMAGE_PIXELS == image_file.MAX_PIXELS
    # Between our old limit of 200 million and Pillow's of 179 million.
    with pytest.raises(DataError, match="more than 178,956,970 pixels"):
        decode(make(14000, 14000), upright)


def test_damaged_exif_data_is_refused_where_the_orientation_is_needed() -> None:
    # The header of EXIF data has eight bytes.
    data = encoded(Image.fromarray(RGB), "WEBP", exif=b"Exif\0\0II*\0")
    with pytest.raises(struct.error), Image.open(io.BytesIO(data)) as image:
        image.getexif()
    with pytest.raises(DataError, match="error: unpack"):
        decode(data, upright=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", image_file._formats())
def test_damaged_images_of_every_format_are_decoded_or_refused(format: str) -> None:
    """The decoders raise RuntimeError, struct.error and nearly every other kind of exception."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 40
    whole = encoded(Image.fromarray(RGB), format, exif=exif.tobytes())
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for position in rng.integers(0, min(len(data), 400), 4):
            data[position] = rng.integers(0, 256)
        try:
            decode(bytes(data), upright=True)
        except DataError as error:
            refused += 1
            assert 0 < len(str(error)) < 250 and "\n" not in str(error)
    assert refused > 0


@pytest.mark.parametrize(
    "error",
    [NotImplementedError("x"), MemoryError(), RecursionError("x"), SyntaxError("x"), IndexError()],
)
def test_whatever_a_decoder_raises_is_a_data_error(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise error

    png = encoded(Image.fromarray(RGB), "PNG")
    monkeypatch.setattr(Image, "open", fail)
    for data in (png, jpeg(exif=b"")):
        with pytest.raises(DataError):
            decode(data, upright=True)


def test_large_images_are_converted_in_parts_with_the_same_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8))
    sixteen = Image.fromarray(rng.integers(0, 65536, (40, 60), np.uint16))
    made = [encoded(rgb.convert(mode), "TIFF") for mode in ("RGB", "CMYK", "L", "P", "LA", "1")]
    made += [encoded(sixteen, "PNG"), encoded(rgb, "GIF")]
    before = [decode(data) for data in made]
    monkeypatch.setattr(image_file, "TILE_PX", 16)
    for data, pixels in zip(made, before, strict=True):
        assert np.array_equal(decode(data), pixels)


BOMB = """
import resource, sys
from pathlib import Path
import numpy as np
from alexnet.data.image import centre_square, decode, decoding_bytes
data = Path(sys.argv[1]).read_bytes()
before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert centre_square(decode(data, True, 64), 64).shape == (64, 64, 3)
used = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) * 1024
print(used, decoding_bytes(data, 64))
"""


@pytest.mark.parametrize("kind", ["I;16", "RGB", "CMYK", "progressive", "WEBP", "JPEG2000"])
def test_decoding_needs_no_more_memory_than_estimated(kind: str, tmp_path: Path) -> None:
    """Of a child process; a PNG with 16 bits needed 28 bytes for each pixel."""
    size = (2000, 2000)
    match kind:
        case "CMYK":
            data = encoded(Image.new("CMYK", size), "JPEG", progressive=True, subsampling=0)
        case "progressive":
            data = encoded(Image.new("RGB", size), "JPEG", progressive=True, subsampling=0)
        case "WEBP":
            data = encoded(Image.new("RGB", size), "WEBP", lossless=True, method=0)
        case "JPEG2000":
            data = encoded(Image.new("RGB", size), "JPEG2000")
        case _:
            data = encoded(Image.new(kind, size), "PNG")
    (tmp_path / "image").write_bytes(data)
    command = [sys.executable, "-c", BOMB, str(tmp_path / "image")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used, estimated = map(int, output.split())
    # The parts of an image that are converted one after the other take a fixed amount.
    assert used < estimated + 32 * 2**20, f"{used / 4e6:.1f} bytes for each pixel"


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
@settings(max_examples=25)
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
    items = [Item(f"{i}", i, InHand(encode(wide, "ppm"))) for i in range(2)]
    split = SourceSplit("train", 2, lambda start: iter(items[start:]))
    settings = StoreSettings(encoding="ppm")
    prepare(Source("two", ("a", "b"), (split,)), tmp_path / "store", settings)
    store = Store(tmp_path / "store")
    assert store.size_px == 256
    stored = decode(store.split("train").encoded(0))
    np.testing.assert_array_equal(stored[:, 1:-1], 200)  # the bicubic filter extends over the edge
