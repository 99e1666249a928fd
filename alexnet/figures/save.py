"""Figures as image files."""

from __future__ import annotations

import io
import re
import sys
import warnings
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from PIL import Image

from alexnet.errors import RunError
from alexnet.files import check_may_write, write_whole
from alexnet.terminal import printable

MISSING_GLYPH = r"Glyph (\d+) .* missing from font"
"""Matplotlib's warning of a letter that its font does not have."""
MOST_NAMED = 10
"""Most missing letters that the sentence about them has."""
NO_IMAGES = {"pgf", "raw", "rgba"}
"""Formats of Matplotlib that no viewer opens; the first one needs TeX, too."""


def check_out(path: Path) -> None:
    """Raise an error if `save` cannot write this file: called before what takes minutes to draw.

    Raises:
        RunError: There is no such format.
        AlexNetError: The folder of the file does not exist, or may not be written.
    """
    formats = FigureCanvasBase.get_supported_filetypes().keys() - NO_IMAGES
    if path.suffix[1:].lower() not in formats:
        raise RunError(f"{path} has none of the suffixes .{', .'.join(sorted(formats))}")
    check_may_write(path)


def save(figure: Figure, path: Path, source: str = "") -> None:
    """Write a figure into an image file, atomically; its suffix selects the format.

    Args:
        source: What was drawn, which a PNG file keeps for `drawn_from`.

    Raises:
        RunError, AlexNetError: As `check_out` does.
    """
    check_out(path)
    suffix = path.suffix[1:].lower()
    content = io.BytesIO()
    about = {"Source": source} if source and suffix == "png" else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", MISSING_GLYPH)
        figure.savefig(content, format=suffix, bbox_inches="tight", metadata=about)
    write_whole(path, content.getvalue())
    missing = set[str]()
    for warning in caught:
        if glyph := re.match(MISSING_GLYPH, str(warning.message)):
            missing.add(chr(int(glyph[1])))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    # One sentence in place of a warning for each letter.
    if missing:
        some = printable(" ".join(sorted(missing)[:MOST_NAMED]))
        more = f" and {len(missing) - MOST_NAMED} more" if len(missing) > MOST_NAMED else ""
        print(
            f"{path}: boxes stand for letters that the font of figures lacks ({some}{more}); use "
            "other letters in the names of classes, files and runs",
            file=sys.stderr,
        )


def drawn_from(path: Path) -> str | None:
    """What a PNG file of `save` was drawn from; "" if it does not say so, None without a file.

    Raises:
        OSError: The path cannot be used, because its name is too long, for example.
    """
    try:
        with Image.open(path) as image:
            return str(image.info.get("Source", ""))
    except FileNotFoundError:
        return None
    except IsADirectoryError:
        return ""
    except OSError as error:
        # Pillow's own errors, of a file that is cut or not an image, have no number of the system.
        if error.errno is None:
            return ""
        raise
