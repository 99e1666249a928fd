"""Errors that are not bugs: a mistake in a setting, a file, a run, or between processes.

The message of each error is one sentence that says what is wrong and what to do about it. The
command line prints the message and exits with code 2. Any other exception is a bug of this program
and keeps its traceback. The errors are ValueErrors, so that Python code can catch them without
importing this module.
"""

from __future__ import annotations

import shlex
import sys


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
    """A store or a run that another process is writing."""


def not_installed(what: str, *packages: str) -> str:
    """The sentence for an optional part that is missing, with the command that installs it.

    The command names this Python, since the `pip` of the shell may be that of another environment,
    and the packages themselves, since `alexnet` is on no index.

    Args:
        what: What needs the packages, as the subject of the sentence.
    """
    python = shlex.quote(sys.executable or "python3")
    return f"{what} needs {' and '.join(packages)}: {python} -m pip install {' '.join(packages)}"
