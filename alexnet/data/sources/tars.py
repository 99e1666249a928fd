"""Tar files, read member by member."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

Member = tuple[tarfile.TarInfo, Callable[[], bytes]]


def open_tar(path: Path | io.IOBase) -> tarfile.TarFile:
    """Raises ValueError when it is not a tar file."""
    try:
        return tarfile.open(path) if isinstance(path, Path) else tarfile.open(fileobj=path)
    except tarfile.TarError as error:
        raise ValueError(f"{path!s} is no tar file or is damaged: {error}") from None


def members(tar: tarfile.TarFile) -> Iterator[Member]:
    """The files of a tar in their order, and how to read each. Raises ValueError for a damaged one."""
    try:
        for member in tar:
            if member.isfile():

                def read(member: tarfile.TarInfo = member) -> bytes:
                    file = tar.extractfile(member)
                    assert file is not None
                    return file.read()

                yield member, read
    except tarfile.TarError as error:
        raise ValueError(f"{tar.name!r} is damaged: {error}") from None
