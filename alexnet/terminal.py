"""Text for a terminal: in columns that fit it, and without what it would obey."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Iterable
from typing import TextIO

WIDEST = 100
"""Longer lines are hard to read on a wide terminal."""
NARROWEST = 30
"""Width that a column of text needs, in characters."""
NO_BREAK = "\N{NO-BREAK SPACE}"
JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"


def terminal_width() -> int:
    """The number of columns to write: those of the terminal, at most `WIDEST`."""
    return min(WIDEST, shutil.get_terminal_size().columns)


def discard(stream: TextIO) -> None:
    """Discard what is printed from now on, where the reader of a stream has closed the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_if_read(text: str, err: bool = False) -> None:
    """Print a line; where its reader has closed the pipe, the work goes on without it.

    Args:
        err: Print it to stderr, and not to stdout.
    """
    stream = sys.stderr if err else sys.stdout
    if stream is None:  # closed by `2>&-`; `print` would take stdout
        return
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        discard(stream)


def wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    """The lines of a paragraph, after `first` on the first line and `rest` on the others.

    Words are never broken.
    """
    lines = textwrap.wrap(
        # A default stays on one line: (default: 0.1).
        text.replace("(default: ", f"(default:{NO_BREAK}"),
        terminal_width(),
        initial_indent=first,
        subsequent_indent=rest,
        # A flag such as --weight-decay or a path is one word.
        break_on_hyphens=False,
        break_long_words=False,
    )
    return [line.replace(NO_BREAK, " ") for line in lines]


def together(phrases: Iterable[str]) -> str:
    """Phrases with spaces between them, none of which `wrapped` divides: `[--out RUN]`."""
    return " ".join(phrase.replace(" ", NO_BREAK) for phrase in phrases)


def paragraphs(text: str) -> list[str]:
    """The lines of a docstring: its paragraphs with empty lines between them.

    An item of a list, which begins with `- `, begins on a line of its own.
    """
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        lines.append("")
        for part in re.split(r"\n(?=- )", paragraph):
            rest = "  " if part.startswith("- ") else ""
            lines += wrapped(" ".join(part.split()), rest=rest)
    return lines[1:]


def entry(term: str, text: str, indent: int) -> list[str]:
    """A term with its explanation in a second column that begins after `indent` characters."""
    left = f"  {term}"
    if terminal_width() - indent < NARROWEST:
        return [left, *wrapped(text, " " * 6, " " * 6)]
    if len(left) > indent - 2:
        return [left, *wrapped(text, " " * indent, " " * indent)]
    return wrapped(text, f"{left:<{indent}}", " " * indent)


def printable(text: str) -> str:
    """A line of text with a question mark for each character that a terminal obeys or hides.

    Names of files and classes may come from someone else. Spaces of all widths stay, such as that
    in the names of screenshots on macOS, and so do the joiners that combine emoji and letters.
    """
    return "".join(
        letter
        if letter.isprintable() or letter in JOINERS or unicodedata.category(letter) == "Zs"
        else "?"
        for letter in text
    )
