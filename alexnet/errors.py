"""Errors that are not bugs: a mistake in a setting, a file, a run, or between processes.

The message of each error is one sentence that says what is wrong and what to do about it. The
command line prints the message and exits with code 2. The errors are ValueErrors, so that Python
code can catch them without importing this module.

What else ends without a traceback, such as Ctrl-C or a full disk, stands in `cli._run` and
`cli.arguments.stoppable`. Any other exception is a bug of this program and keeps its traceback.
"""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Iterable


class AlexNetError(ValueError):
    """A mistake whose message says how to correct it."""


class ConfigError(AlexNetError):
    """A setting, a recipe or an architecture that cannot work."""


class DataError(AlexNetError):
    """A source, a store or an image that cannot be used."""


class RunError(AlexNetError):
    """A run or a checkpoint that is missing, damaged, or does not fit the request."""


class MeshError(AlexNetError):
    """Processes that cannot share one network, by their number or their settings."""


class BusyError(AlexNetError):
    """A condition that may go away by itself.

    Another process writes the store or the run, other ranks have not come, or a disk does not
    answer.
    """


def nearest_name(typed: str, names: Iterable[str]) -> str | None:
    """The name that someone probably meant; None if none is similar."""
    return next(iter(difflib.get_close_matches(typed, names, n=1, cutoff=0.7)), None)


def unknown(kind: str, typed: str, names: Iterable[str]) -> str:
    """The sentence for a name that does not exist, with the nearest one, or all if none is near.

    Args:
        kind: What is named, in the singular: `recipe`.
        names: What there is.
    """
    names = list(names)
    meant = nearest_name(typed, names)
    there_is = f"the nearest is {meant}" if meant else f"the {kind}s are {', '.join(names)}"
    return f"there is no {kind} {typed!r}; {there_is}"


def not_installed(what: str, *packages: str) -> str:
    """The sentence for an optional part that is missing, with the command that installs it.

    Args:
        what: What needs the packages, as the subject of the sentence.
    """
    return f"{what} needs {' and '.join(packages)}: {install_command(*packages)}"


def install_command(*packages: str) -> str:
    """The command that installs packages where this program can import them.

    It names this Python, since the `pip` of the shell may be that of another environment, and the
    packages themselves, since `alexnet` is on no index.
    """
    return f"{shlex.quote(sys.executable or 'python3')} -m pip install {' '.join(packages)}"
