"""What the HTML pages share: templates, and figures inside the page."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import jinja2
import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from alexnet.figures.save import MISSING_GLYPH


def templates(folder: Path) -> jinja2.Environment:
    """Return the templates of a folder, with the filter `svg` for figures."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        # A misspelt name in the template is an error instead of an empty place.
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["svg"] = svg
    return environment


def svg(figure: Figure) -> Markup:
    """Return a figure as an <svg> element."""
    buffer = io.StringIO()
    # No date, and a fixed salt for ids: the same figure gives the same bytes.
    same_bytes = mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "alexnet"})
    with same_bytes, warnings.catch_warnings():
        # The browser draws the letters, and has fonts for those that matplotlib's font lacks.
        warnings.filterwarnings("ignore", MISSING_GLYPH)
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    text = buffer.getvalue()
    # The XML declaration before <svg does not belong inside HTML.
    return Markup(text[text.index("<svg") :])
