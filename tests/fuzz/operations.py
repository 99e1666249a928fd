"""Ends a process before one of its file operations, as a kill would."""

from __future__ import annotations

import os
import sys
from pathlib import Path

KILLED = 9
"""Exit code of a process that ends itself as if it were killed."""
# What Python reports to audit hooks of operations that change files.
OPERATIONS = "open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.truncate"


def kill_before(number: int, folder: Path, torn: bool = False) -> None:
    """End this process without any cleaning up before its file operation `number` in a folder.

    Args:
        torn: A file that this operation would have begun to write is there in part.
    """
    operations = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal operations
        if event not in OPERATIONS or (isinstance(arguments[0], int) and arguments[1] == "r"):
            return  # the last are pipes of multiprocessing
        # Paths are relative where a folder is removed. Others are of the modules of Python.
        path = str(arguments[0])
        if path.startswith("/") and not path.startswith(str(folder)):
            return
        operations += 1
        if operations != number:
            return
        flags = arguments[2] if event == "open" else 0
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
        if torn and writes and path.startswith("/"):
            os.write(os.open(path, os.O_WRONLY | os.O_CREAT), b"{torn")
        os._exit(KILLED)

    sys.addaudithook(hook)
