"""One picture: from the bytes of a file to 256x256 RGB and back to bytes (section 2)."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps

Rgb = NDArray[np.uint8]  # (H, W, 3)

MOST_PIXELS = 200_000_000  # a file may claim any size; this much is 600 MB decoded


def decode(data: bytes, upright: bool = False, enough_px: int = 0) -> Rgb:
    """RGB of any picture: the first frame, 16 bits scaled to 8, CMYK and palettes converted, transparency dropped.

    upright: turned as its EXIF orientation says. enough_px: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as
    long as its shorter side keeps twice that many pixels (0: at its own size), several times faster. Returns (H, W, 3)
    uint8. Raises ValueError with the reason when the bytes are no picture, end too early, or claim more than
    MOST_PIXELS.
    """
    if data.startswith(b"\xff\xd8"):
        rgb = _decode_jpeg(data, 2 * enough_px)
        if rgb is not None:
            return _turned(rgb, data) if upright else rgb
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_size(*image.size)
            image.load()
            turned = ImageOps.exif_transpose(image) if upright else image
            return np.array(_eight_bits(turned).convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).replace("\n", " ") or type(error).__name__
        if "cannot identify" in reason:
            reason = "not a picture of a known format"
        raise ValueError(reason) from None


def _decode_jpeg(data: bytes, least_px: int) -> Rgb | None:
    """None where Pillow should look: CMYK, and files with errors (it tells a harmless one from a truncated one)."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        _check_size(width, height)
        if space in ("CMYK", "YCCK"):
            return None
        if min(height, width) < 2 * least_px or least_px == 0:
            rgb: Rgb = simplejpeg.decode_jpeg(data, "RGB")
        else:
            rgb = simplejpeg.decode_jpeg(
                data, "RGB", min_height=least_px, min_width=least_px, min_factor=2
            )
    except KeyError:  # simplejpeg's, for a header cut short
        return None
    except ValueError as error:
        if "pixels" in str(error):
            raise
        return None
    return rgb


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width}x{height} is more than {MOST_PIXELS:,} pixels")


def as_stored(data: bytes, size_px: int) -> Rgb | None:
    """The pixels of a JPEG that a store can hold as it is, (size_px, size_px, 3); None for others.

    It is RGB or grey, has the stored size, decodes without a warning by the decoder that training
    uses, and is upright: other readers of a store would turn it as its EXIF orientation says.
    """
    if not data.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        if (height, width) != (size_px, size_px) or space in ("CMYK", "YCCK"):
            return None
        rgb: Rgb = simplejpeg.decode_jpeg(data, "RGB")
        return rgb if _orientation(data) == 1 else None
    except (ValueError, KeyError, OSError, SyntaxError):
        return None


def _orientation(data: bytes) -> int:
    with Image.open(io.BytesIO(data)) as image:
        return int(image.getexif().get(0x0112, 1))


def _turned(rgb: Rgb, data: bytes) -> Rgb:
    turn = _orientation(data)
    if turn not in range(2, 9):
        return rgb
    blank = Image.fromarray(rgb)
    blank.getexif()[0x0112] = turn
    return np.array(ImageOps.exif_transpose(blank))


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits, which Pillow would cut at 255
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8))
    return image


def centre_square(rgb: Rgb, size_px: int) -> Rgb:
    """The shorter side rescaled to size_px and the central square cut out, in one step (section 2).

    Bicubic, averaging where it shrinks. A picture of exactly that size comes back as it is.
    """
    height, width = rgb.shape[:2]
    if height == width == size_px:
        return rgb
    short = min(height, width)
    left, top = (width - short) / 2, (height - short) / 2
    box = (left, top, left + short, top + short)
    return np.array(Image.fromarray(rgb).resize((size_px, size_px), Image.Resampling.BICUBIC, box))


def encode(
    rgb: Rgb,
    encoding: Literal["jpeg", "png", "ppm"],
    quality: int = 95,
    chroma: Literal["420", "444"] = "420",
) -> bytes:
    """The bytes of a JPEG, of a lossless PNG, or of a PPM: the pixels as they are. rgb: (H, W, 3) uint8."""
    if encoding == "jpeg":
        data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality, "RGB", chroma)
        return data
    if encoding == "ppm":
        return _ppm_header(rgb) + rgb.tobytes()
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def pixels_of_ppm(data: bytes, out: Rgb) -> None:
    """The pixels of a PPM into out: (H, W, 3) uint8. Raises ValueError when data is no PPM of that size."""
    header = _ppm_header(out)
    if not data.startswith(header) or len(data) != len(header) + out.nbytes:
        raise ValueError(f"no PPM of {out.shape[1]}x{out.shape[0]} pixels")
    out[:] = np.frombuffer(data, np.uint8, offset=len(header)).reshape(out.shape)


def _ppm_header(rgb: Rgb) -> bytes:
    return b"P6\n%d %d\n255\n" % (rgb.shape[1], rgb.shape[0])
