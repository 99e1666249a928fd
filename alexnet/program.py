"""How this program was started, so that the commands in its messages work when they are copied."""

from __future__ import annotations

import shlex
import shutil
import sys
from os.path import abspath
from pathlib import Path

NAME = "alexnet"


def program() -> str:
    """The command that starts this program, as the user has typed it.

    Returns:
        `alexnet` where the shell finds that; `.venv/bin/alexnet` for a script of another folder;
        `python -m alexnet` with the interpreter that was called; `alexnet` inside another program.
    """
    script = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path(NAME)
    if script.name == "__main__.py" and script.parent.name == NAME:
        return f"{_typed(sys.orig_argv[0])} -m {NAME}"
    # The stem, since the script is called alexnet.exe on Windows.
    return _typed(str(script)) if script.stem == NAME else NAME


def command(*arguments: object) -> str:
    """A command of this program that can be copied into a shell: `command("predict", run)`."""
    return " ".join([program(), *(shlex.quote(str(argument)) for argument in arguments)])


def _typed(path: str) -> str:
    """The path of an executable, or its name alone where the shell finds the same file by it.

    The shell replaces a name by the absolute path that it has found; what was typed is not kept.
    """
    name = Path(path).name
    on_path = shutil.which(name)
    # Not resolved: the interpreter of a virtual environment is a link to one outside of it.
    same = on_path is not None and abspath(on_path) == abspath(path)
    return shlex.quote(name if same or "/" not in path.replace("\\", "/") else path)
