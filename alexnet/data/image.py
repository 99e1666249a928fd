"""Single images: decode a file, rescale and crop it to 256x256 RGB, and encode it (section 2)."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from alexnet.errors import DataError

try:
    import simplejpeg
except ImportError:
    # A machine on which only the network is measured, such as a rented GPU. Pillow then decodes and
    # encodes JPEGs too, several times slower.
    simplejpeg = None

Rgb = NDArray[np.uint8]  # (H, W, 3)

# The formats that are decoded, whatever the name of the file, and the suffixes by which their files
# are found in folders. Pillow knows forty more, and starts Ghostscript for one of them: an EPS file
# is a program. Formats that nobody keeps photographs in are left out too, because each decoder is
# one more parser of untrusted bytes. HEIF is decoded only where the user has installed pillow-heif.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx"),
    "AVIF": (".avif",),
    "HEIF": (".heic", ".heif", ".hif"),
}
# The first letters of the content of HEIF files, from the fourth byte on. Telephones and mail
# programs send them under names that end in .jpg, too.
HEIF_BRANDS = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"hevc", b"heim", b"mif1"))
# The command itself names a folder of this machine, which is no part of a store's manifest.
INSTALL_HEIF = "install pillow-heif (`alexnet check` prints the command)"
HEIF_MEND = f"convert it to JPEG, or {INSTALL_HEIF}"
# Pillow's own limit, which it derives from 256 MiB of memory: its two checks and ours agree, so
# that it does not depend on the decoder whether an image is accepted. It does not depend on the
# memory of the machine either, because that must not change the content of a store.
MAX_PIXELS = 2 * 89_478_485
TILE_PX = 1024  # side of the parts in which an image is converted to RGB
REASON_LETTERS = 200  # at most; a decoder may quote the damaged bytes in its message
# Memory for each pixel of an image, from the file to the stored square. Measured: 7.1 bytes for a
# PNG, 12.2 for a CMYK JPEG, 16.2 for WebP and 19.5 for JPEG 2000; 6.1 for a progressive JPEG.
PILLOW_BYTES = 20
COEFFICIENT_BYTES = 6
SQUARE_BYTES = 7  # the pixels, and the copy that Pillow rescales


class NoMemory(DataError):
    """A decoder got no memory: there is too little, or a damaged file asks for far too much."""


def decode(data: bytes, upright: bool = False, enough_px: int = 0) -> Rgb:
    """Decode an image of one of FORMATS to RGB.

    Of several frames the first is taken. 16-bit values are scaled to 8 bits, CMYK and palette
    images are converted, and transparency is dropped. Values of 32 bits, of floating point and with
    a sign are refused: nothing in the file says which of them is white.

    Args:
        upright: Whether the image is rotated as its EXIF orientation says. Pillow rotates a TIFF
            in any case.
        enough_px: A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, several times faster, as
            long as its shorter side keeps twice this many pixels. 0 decodes it at full size.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DataError: If the bytes are not an image, end too early, or claim more than MAX_PIXELS, or
            if a decoder fails in any other way. The message gives the reason. NoMemory, which is
            one, if it got no memory.
    """
    with _refusing():
        # Twice as many pixels as needed, so that the final rescaling still averages over the
        # coarse reduction of the decoder.
        rgb = _decode_jpeg(data, 2 * enough_px) if data.startswith(b"\xff\xd8") else None
        if rgb is None:
            rgb, orientation = _decode_by_pillow(data)
        else:
            orientation = _orientation(data) if upright else 1
        return _rotate(rgb, orientation) if upright else rgb


@contextmanager
def _libjpeg() -> Iterator[None]:
    """Raise MemoryError where libjpeg gets no memory; all of its errors are ValueErrors.

    NumPy allocates only the pixels. The coefficients of a progressive JPEG need as much again.
    """
    try:
        yield
    except ValueError as error:
        if "memory" not in str(error).lower():
            raise
        raise MemoryError(str(error)) from None


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn whatever a decoder raises into a DataError with the reason.

    The decoders raise nearly every kind of exception for damaged files: RuntimeError for AVIF,
    struct.error for EXIF, SyntaxError, KeyError, MemoryError, and others for files not yet seen.
    """
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        kind = NoMemory if isinstance(error, MemoryError) else DataError
        raise kind(reason(error)) from None


def reason(error: Exception) -> str:
    """Return why an image cannot be read, in one short line."""
    if isinstance(error, MemoryError):
        return "there is not enough memory for it"
    text = " ".join(str(error).split())[:REASON_LETTERS]
    if "cannot identify" in text:
        return "not an image of a known format"
    # The messages of the other kinds are seldom sentences: that of a KeyError is only the key.
    if not text or not isinstance(error, OSError | ValueError | SyntaxError):
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return text


@cache
def _formats() -> tuple[str, ...]:
    """Return those of FORMATS that can be decoded here.

    AVIF came with Pillow 11.3, and HEIF needs a package on which this program does not depend.
    """
    Image.init()
    with suppress(ImportError):
        importlib.import_module("pillow_heif").register_heif_opener()
    return tuple(format for format in FORMATS if format in Image.OPEN)


def defect_of_head(file: Path) -> str:
    """Say why a file cannot be an image of one of FORMATS, by its head; empty if it can.

    No more than the head is read, so damage behind it is not found.
    """
    try:
        with _refusing(), file.open("rb") as stream, _open(stream):
            return ""
    except DataError as error:
        return str(error)


@cache
def suffixes() -> frozenset[str]:
    """Return the suffixes of files that can be decoded here, in lower case."""
    return frozenset(suffix for format in _formats() for suffix in FORMATS[format])


def _open(stream: BinaryIO) -> Image.Image:
    """Open an image without decoding its pixels.

    Raises:
        DataError: If there are too many of them, or if it is a HEIF image that cannot be decoded.
        UnidentifiedImageError: If it is of no known format.
    """
    try:
        image = Image.open(stream, formats=_formats())
    except UnidentifiedImageError:
        # Only now: an AVIF image may begin with one of these brands, too.
        stream.seek(4)
        if stream.read(max(map(len, HEIF_BRANDS))).startswith(HEIF_BRANDS):
            raise DataError(f"a HEIC image; {HEIF_MEND}") from None
        raise
    # Pillow looks at the size before we can, and speaks of an attack.
    except Image.DecompressionBombError:
        raise DataError(f"it has more than {MAX_PIXELS:,} pixels") from None
    _check_size(*image.size)
    return image


def decoding_bytes(data: bytes, enough_px: int = 0) -> int:
    """Estimate from the header how much memory `decode` and `centre_square` need.

    Args:
        enough_px: As in `decode`.

    Returns:
        A number of bytes, rather too large than too small; 0 for a file that `decode` refuses.
    """
    try:
        if data.startswith(b"\xff\xd8") and simplejpeg is not None:
            height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=False)
            if space not in ("CMYK", "YCCK"):
                reduced = 1
                while enough_px and reduced < 8 and min(height, width) >= 4 * enough_px * reduced:
                    reduced *= 2
                # A decoder keeps the coefficients of a progressive JPEG at the full size.
                bytes_per_pixel = COEFFICIENT_BYTES + SQUARE_BYTES / reduced**2
                return int(height * width * bytes_per_pixel)
        with _open(io.BytesIO(data)) as image:
            return image.width * image.height * PILLOW_BYTES
    except Exception:  # `decode` meets the same error, and names it
        return 0


def _decode_by_pillow(data: bytes) -> tuple[Rgb, int]:
    """Decode an image. Return its pixels as they lie in the file, and the EXIF orientation."""
    with _open(io.BytesIO(data)) as image:
        image.load()
        # After `load`, which rotates a TIFF by itself and removes its orientation.
        return _to_rgb(image), _orientation_of(image)


def upright_pixels(image: Image.Image) -> Rgb:
    """Return the pixels of an image that Pillow has opened, RGB and upright: (H, W, 3) uint8.

    Raises:
        DataError: As `decode` does.
    """
    with _refusing():
        _check_size(*image.size)
        image.load()
        return _rotate(_to_rgb(image), _orientation_of(image))


def _to_rgb(image: Image.Image) -> Rgb:
    """Convert a decoded image to RGB.

    It is converted part by part, because the conversions need up to 28 bytes for each pixel: a PNG
    of 344 KB took 4.7 GB.
    """
    # Pillow represents 16 bits of other formats by the mode `I`, too.
    if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
        raise DataError(
            "its values have 32 bits, a sign or floating point; convert it to 8 or 16 bits"
        )
    # Of a TIFF Pillow gives 12 bits as they are, and does not invert 16 bits whose white is zero.
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(258, (16,))[0]  # BitsPerSample
    inverted = image.mode == "I;16" and tags.get(262) == 0  # PhotometricInterpretation
    width, height = image.size
    rgb = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, TILE_PX):
        for left in range(0, width, TILE_PX):
            right, bottom = min(left + TILE_PX, width), min(top + TILE_PX, height)
            part = _eight_bits(image.crop((left, top, right, bottom)), bits)
            rgb[top:bottom, left:right] = np.asarray(part.convert("RGB"))
    return 255 - rgb if inverted else rgb


def _decode_jpeg(data: bytes, least_px: int) -> Rgb | None:
    """Decode a JPEG, at reduced size if its shorter side keeps `least_px` pixels.

    Returns None where Pillow should decode instead: for CMYK, which libjpeg-turbo does not convert
    to RGB, and for files with errors, because Pillow tells a harmless error from a truncated file.
    """
    if simplejpeg is None:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        _check_size(width, height)
        if space in ("CMYK", "YCCK"):
            return None
        with _libjpeg():
            if min(height, width) < 2 * least_px or least_px == 0:
                rgb: Rgb = simplejpeg.decode_jpeg(data, "RGB")
            else:
                rgb = simplejpeg.decode_jpeg(
                    data, "RGB", min_height=least_px, min_width=least_px, min_factor=2
                )
    except DataError:  # from `_check_size`; Pillow would fail for the same reason
        raise
    except (ValueError, KeyError):  # simplejpeg raises KeyError for a truncated header
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
    if not data.startswith(b"\xff\xd8") or simplejpeg is None:
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data, strict=False)
        if (height, width) != (size_px, size_px) or space in ("CMYK", "YCCK"):
            return None
        with _libjpeg():
            rgb: Rgb = simplejpeg.decode_jpeg(data, "RGB")
        return rgb if _orientation(data) == 1 else None
    except MemoryError:
        raise
    # Any failure of a decoder; the file is not kept, and `decode` finds out what is wrong with it.
    except Exception:
        return None


def _orientation(data: bytes) -> int:
    """Return the EXIF orientation of an image file; 1 is upright."""
    with _open(io.BytesIO(data)) as image:
        return _orientation_of(image)


def _orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image; 1 is upright, and so is an unknown one."""
    orientation = image.getexif().get(0x0112, 1)
    return orientation if orientation in range(2, 9) else 1


def _rotate(rgb: Rgb, orientation: int) -> Rgb:
    """Rotate or mirror decoded pixels as an EXIF orientation says."""
    # How often the image is turned by 90 degrees to the left, and whether it is mirrored then.
    turns, mirrored = {
        1: (0, False),
        2: (0, True),
        3: (2, False),
        4: (2, True),
        5: (3, True),
        6: (3, False),
        7: (1, True),
        8: (1, False),
    }[orientation]
    rotated = np.rot90(rgb, turns)
    return np.ascontiguousarray(rotated[:, ::-1] if mirrored else rotated)


def _eight_bits(image: Image.Image, bits: int) -> Image.Image:
    """Return an image with values of so many bits, if of more than 8, as an 8-bit image."""
    if image.mode.startswith("I"):  # Pillow's own conversion would clip them at 255
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((values >> (bits - 8)).clip(0, 255).astype(np.uint8))
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
    buffer = io.BytesIO()
    if encoding == "jpeg" and simplejpeg is None:
        subsampling = {"420": "4:2:0", "444": "4:4:4"}[chroma]
        Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
        return buffer.getvalue()
    if encoding == "jpeg":
        data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(rgb), quality, "RGB", chroma)
        return data
    if encoding == "ppm":
        return ppm_header(rgb) + rgb.tobytes()
    # The lowest compression level: higher ones are much slower and gain little on photographs.
    Image.fromarray(rgb).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def pixels_of_jpeg(data: bytes, out: Rgb) -> None:
    """Decode a JPEG into `out`.

    Args:
        out: (H, W, 3) uint8.

    Raises:
        ValueError: If the file is damaged; DataError, which is one, if it has another size.
    """
    if simplejpeg is None:
        pixels_of_other(data, out)
        return
    # Straight into the batch, which saves a copy of each image. simplejpeg refuses an image larger
    # than the buffer, and accepts a smaller one.
    _check_same_size(simplejpeg.decode_jpeg(data, "RGB", buffer=out), out)


def _check_same_size(rgb: Rgb, out: Rgb) -> None:
    (height, width, _), (wanted_height, wanted_width, _) = rgb.shape, out.shape
    if (height, width) != (wanted_height, wanted_width):
        raise DataError(f"{width}x{height} pixels in place of {wanted_width}x{wanted_height}")


def pixels_of_other(data: bytes, out: Rgb) -> None:
    """Decode an image of any format into `out`.

    Args:
        out: (H, W, 3) uint8.

    Raises:
        DataError: If the file is damaged or has another size. NumPy would spread an image of one
            pixel over all of `out`.
    """
    rgb = decode(data)
    _check_same_size(rgb, out)
    out[:] = rgb


def pixels_of_ppm(data: bytes, out: Rgb) -> None:
    """Copy the pixels of a PPM file into `out`.

    Args:
        out: (H, W, 3) uint8.

    Raises:
        DataError: If `data` is not a PPM of this size.
    """
    # Only the header that `encode` writes is accepted, so no parser is needed.
    header = ppm_header(out)
    if not data.startswith(header) or len(data) != len(header) + out.nbytes:
        raise DataError(f"not a PPM of {out.shape[1]}x{out.shape[0]} pixels")
    out[:] = np.frombuffer(data, np.uint8, offset=len(header)).reshape(out.shape)


def ppm_header(rgb: Rgb) -> bytes:
    """Return the header of a binary PPM with 8 bits per channel."""
    return b"P6\n%d %d\n255\n" % (rgb.shape[1], rgb.shape[0])
