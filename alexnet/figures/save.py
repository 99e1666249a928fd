"""Figures as image files."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.figure import Figure
from PIL import Image

from alexnet.errors import RunError
from alexnet.files import check_folder_of, write_whole

NO_IMAGES = {"pgf", "raw", "rgba"}
"""Formats of Matplotlib that no viewer opens; the first one needs TeX, too."""


def check_out(path: Path) -> None:
    """Raise an error if `save` cannot write this file: called before what takes minutes to draw.

    Raises:
        RunError: There is no such format.
        AlexNetError: The folder of the file does not exist.
    """
    formats = FigureCanvasBase.get_supported_filetypes().keys() - NO_IMAGES
    if path.suffix[1:].lower() not in formats:
        raise RunError(f"{path} has none of the suffixes .{', .'.join(sorted(formats))}")
    check_folder_of(path)


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
    figure.savefig(content, format=suffix, bbox_inches="tight", metadata=about)
    write_whole(path, content.getvalue())


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
        # Pillow's own errors, of a file that is no image or is cut, have no number of the system.
        if error.errno is None:
            return ""
        raise
