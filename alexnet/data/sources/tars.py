"""Tar files, read one member after the other."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from alexnet.errors import DataError

Member = tuple[tarfile.TarInfo, Callable[[], bytes]]
"""A file in a tar, and its reader."""


def open_tar(path: Path | io.IOBase) -> tarfile.TarFile:
    """Open a tar file, compressed or not. Raises DataError if it is not one."""
    try:
        # No mode is given: tarfile recognizes the compression itself.
        return tarfile.open(path) if isinstance(path, Path) else tarfile.open(fileobj=path)
    except tarfile.TarError as error:
        raise DataError(f"{path!s} is not a tar file or is damaged: {error}") from None


def members(tar: tarfile.TarFile) -> Iterator[Member]:
    """Yield the files in a tar in their order, with their readers.

    Raises:
        DataError: If the tar is damaged.
    """
    try:
        for member in tar:
            if member.isfile():
                # The default argument binds this member; a closure would see the latest one.
                def read(member: tarfile.TarInfo = member) -> bytes:
                    file = tar.extractfile(member)
                    assert file is not None
                    return file.read()

                yield member, read
    except tarfile.TarError as error:
        raise DataError(f"{tar.name!r} is damaged: {error}") from None
