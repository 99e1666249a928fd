"""Single images: decode a file, rescale and crop it to 256x256 RGB, and encode it (section 2)."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps

from alexnet.errors import DataError

Rgb = NDArray[np.uint8]  # (H, W, 3)

MAX_PIXELS = 200_000_000  # 600 MB decoded; a small file may claim any size


def decode(data: bytes, upright: bool = False, enough_px: int = 0) -> Rgb:
    """Decode an image of any format to RGB.

    Of several frames the first is taken. 16-bit values are scaled to 8 bits, CMYK and palette
    images are converted, and transparency is dropped.

    Args:
        upright: Whether the image is rotated as its EXIF orientation says.
        enough_px: A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, several times faster, as
            long as its shorter side keeps twice this many pixels. 0 decodes it at full size.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: If the bytes are not an image, end too early, or claim more than MAX_PIXELS. The
            message gives the reason.
    """
    if data.startswith(b"\xff\xd8"):
        # Twice as many pixels as needed, so that the final rescaling still averages over the
        # coarse reduction of the decoder.
        rgb = _decode_jpeg(data, 2 * enough_px)
        if rgb is not None:
            return _rotate_upright(rgb, data) if upright else rgb
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_size(*image.size)
            image.load()
            rotated = ImageOps.exif_transpose(image) if upright else image
            return np.array(_eight_bits(rotated).convert("RGB"))
    # Pillow raises SyntaxError for some damaged files.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = str(error).replace("\n", " ") or type(error).__name__
        if "cannot identify" in reason:
            reason = "not an image of a known format"
        raise DataError(reason) from None


def _decode_jpeg(data: bytes, least_px: int) -> Rgb | None:
    """Decode a JPEG, at reduced size if its shorter side keeps `least_px` pixels.

    Returns None where Pillow should decode instead: for CMYK, which libjpeg-turbo does not convert
    to RGB, and for files with errors, because Pillow tells a harmless error from a truncated file.
    """
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
    except KeyError:  # simplejpeg raises it for a truncated header
        return None
    except ValueError as error:
        if "pixels" in str(error):  # from `_check_size`; Pillow would fail for the same reason
            raise
        return None
    return rgb


def _check_size(width: int, height: int) -> None:
    """Raise DataError if an image claims too many pixels, before memory is allocated for them."""
    if width * height > MAX_PIXELS:
        raise DataError(f"{width}x{height} is more than {MAX_PIXELS:,} pixels")


def as_stored(data: bytes, size_px: int) -> Rgb | None:
    """Return the pixels of a JPEG that a store may contain unchanged, or None for other files.

    Such a file is RGB or gray, has the stored size, is decoded without a warning by the decoder
    that training uses, and is upright: other readers of a store would rotate it as its EXIF
    orientation says.

    Returns:
        (size_px, size_px, 3) uint8, or None.
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
    """Return the EXIF orientation of an image file; 1 is upright."""
    with Image.open(io.BytesIO(data)) as image:
        return int(image.getexif().get(0x0112, 1))


def _rotate_upright(rgb: Rgb, data: bytes) -> Rgb:
    """Rotate or mirror decoded pixels as the file's EXIF orientation says."""
    orientation = _orientation(data)
    if orientation not in range(2, 9):
        return rgb
    # Pillow knows how to apply each orientation, so it gets an image with only this EXIF entry.
    image = Image.fromarray(rgb)
    image.getexif()[0x0112] = orientation
    return np.array(ImageOps.exif_transpose(image))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return an image with 16-bit or floating-point values as an 8-bit image."""
    if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip them at 255
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8))
    return image


def centre_square(rgb: Rgb, size_px: int) -> Rgb:
    """Rescale the shorter side to `size_px` and take the central square (section 2).

    Both happen in one step, so that nothing is rescaled only to be cut off, and the square need not
    lie on whole pixels. The filter is bicubic, and averages where it shrinks. An image of exactly
    this size is returned unchanged.
    """
    height, width = rgb.shape[:2]
    if height == width == size_px:
        return rgb
    short = min(height, width)
    left, top = (width - short) / 2, (height - short) / 2
    # The box may have half pixels; Pillow's `resize` takes it as floating-point numbers.
    box = (left, top, left + short, top + short)
    return np.array(Image.fromarray(rgb).resize((size_px, size_px), Image.Resampling.BICUBIC, box))


def encode(
    rgb: Rgb,
    encoding: Literal["jpeg", "png", "ppm"],
    quality: int = 95,
    chroma: Literal["420", "444"] = "420",
) -> bytes:
    """Encode pixels as JPEG, as lossless PNG, or as PPM, which is uncompressed.

    Args:
        rgb: (H, W, 3) uint8.
        quality: JPEG quality, 1 to 100.
        chroma: JPEG chroma subsampling.
    """
    if encoding == "jpeg":
        data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality, "RGB", chroma)
        return data
    if encoding == "ppm":
        return _ppm_header(rgb) + rgb.tobytes()
    # The lowest compression level: higher ones are much slower and gain little on photographs.
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def pixels_of_ppm(data: bytes, out: Rgb) -> None:
    """Copy the pixels of a PPM file into `out`.

    Args:
        out: (H, W, 3) uint8.

    Raises:
        DataError: If `data` is not a PPM of this size.
    """
    # Only the header that `encode` writes is accepted, so no parser is needed.
    header = _ppm_header(out)
    if not data.startswith(header) or len(data) != len(header) + out.nbytes:
        raise DataError(f"not a PPM of {out.shape[1]}x{out.shape[0]} pixels")
    out[:] = np.frombuffer(data, np.uint8, offset=len(header)).reshape(out.shape)


def _ppm_header(rgb: Rgb) -> bytes:
    """Return the header of a binary PPM with 8 bits per channel."""
    return b"P6\n%d %d\n255\n" % (rgb.shape[1], rgb.shape[0])
