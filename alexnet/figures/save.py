"""Figures as image files."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from alexnet.errors import RunError
from alexnet.files import write_whole


def save(figure: Figure, path: Path) -> None:
    """Write a figure into an image file, atomically; its suffix selects the format.

    Raises:
        RunError: If there is no such format.
        AlexNetError: If the folder of the file does not exist.
    """
    formats = figure.canvas.get_supported_filetypes()
    suffix = path.suffix[1:].lower()
    if suffix not in formats:
        raise RunError(f"{path} has none of the suffixes .{', .'.join(sorted(formats))}")
    content = io.BytesIO()
    figure.savefig(content, format=suffix, bbox_inches="tight")
    write_whole(path, content.getvalue())
