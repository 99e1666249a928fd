"""Errors that are not bugs: a mistake in a setting, a file, a run, or between processes.

The message of each error is one sentence that says what is wrong and what to do about it. The
command line prints the message and exits with code 2. Any other exception is a bug of this program
and keeps its traceback. The errors are ValueErrors, so that Python code can catch them without
importing this module.
"""

from __future__ import annotations


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
