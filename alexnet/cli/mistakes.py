"""What is said of values that do not fit: one sentence, as of every other mistake.

tyro prints a box and exits. Its text is read from there, since tyro has no other way to give it.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from itertools import takewhile

from alexnet.errors import AlexNetError, nearest_name
from alexnet.program import command

TAKES = {"INT": "a whole number", "FLOAT": "a number", "STR": "a text", "PATH": "a path"}


@contextlib.contextmanager
def in_one_sentence(verb: str) -> Iterator[None]:
    """Raise AlexNetError in place of tyro's box.

    Args:
        verb: What was asked for, such as `train paper`.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            yield
    except SystemExit as stop:
        if stop.code != 2:
            raise
        listed = command(*verb.split(), "--help")
        raise AlexNetError(f"{sentence(printed.getvalue())}; see {listed}") from None
    # A warning.
    sys.stderr.write(printed.getvalue())


def sentence(box: str) -> str:
    """What a box of tyro's says, without a full stop.

    Where the terminal has no UTF-8 the box is a title, a rule and lines indented by two.
    """
    title, *lines = re.sub(r"\x1b\[[\d;]*m", "", box).rstrip().splitlines()
    name = title.strip("╭╮─ ")
    if not title.startswith("╭"):
        lines = lines[1:]
    rows = [re.sub(r"^(│ |  )", "", line).removesuffix("│").rstrip() for line in lines]
    said = list(takewhile(lambda row: not row.startswith(("──", "--", "╰")), rows))
    text = " ".join(row.strip() for row in said)
    if name == "Required options":
        # The options are indented, and their help more so.
        missing = [row.strip() for row in said if re.match(r" {4}\S", row)]
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    if match := re.match(r"Unrecognized options: (.*)", text):
        return f"there is no use for {match[1]}"
    if match := re.match(r"Missing value for argument '(.*?)'", text):
        return f"{match[1]} needs a value"
    if match := re.match(
        r"invalid choice '(.*)' for argument '(.*?)'\. Expected one of (.*)", text
    ):
        choices = match[3].strip("(),. ").replace("'", "")
        meant = nearest_name(match[1], choices.split(", "))
        return (
            f"{match[2]} cannot be {match[1]}; "
            + (f"the nearest is {meant}; " if meant else "")
            + f"it is one of {choices}"
        )
    if match := re.match(r"Error parsing (\S+): (.*)", text):
        wrong = re.findall(r"'([^']*)'", match[2].split(" Got errors:")[0])
        takes = re.search(rf"^ *{match[1]} +(?:\{{None\}}\|)?(\S+)$", "\n".join(rows), re.MULTILINE)
        what = TAKES.get(takes[1], takes[1]) if takes else "another value"
        return f"{match[1]} cannot be {wrong[-1] if wrong else 'this'}; it takes {what}"
    return f"{name.lower()}: {text.rstrip('.')}"
