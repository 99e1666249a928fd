"""Tar files, read one member after the other.

Python's `tarfile` takes any header that it cannot read for the end of the archive, so it reads a
damaged or cut tar as a shorter one. Here the end is what the format says it is: blocks of zeros
after the last member, and nothing else up to the end of the file. A tar that just stops after a
member, as a download does that was cut there, is refused. GNU tar writes two such blocks and more
up to its record size; it accepts a single one, and so does this module.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self

from alexnet.data.sources.source import (
    MAX_IMAGE_BYTES,
    UnreadableImage,
    check_size,
    is_hidden,
    is_refusal,
)
from alexnet.errors import DataError

MAX_HEADER_BYTES = 1 << 20
"""Most bytes in the data of an extended header, which are names and times of the next member."""
MAX_PADDING_BYTES = 64 << 10
"""Most zeros at the end of a tar, which fill up a record. The records of all programs have 10 KiB
unless told otherwise. More zeros are a part of the file that was allocated and never written."""
EXTENDED_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class _Header(tarfile.TarInfo):
    """A header whose damage is an error; `tarfile` would take it for the end of the archive."""

    __slots__ = ()

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        if not buf:
            raise tarfile.ReadError("the blocks of zeros that end a tar are missing")
        if len(buf) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends within a header")
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if not any(buf):  # a block of zeros, which is the end
                raise
            raise tarfile.ReadError(f"a header is damaged: {error}") from None
        # `tarfile` reads these whole; in a compressed tar they may have any length.
        if header.type in EXTENDED_HEADERS and header.size > MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"an extended header of {header.size} bytes")
        return header


@dataclass(frozen=True)
class Member:
    """Anything in a tar but a folder.

    Attributes:
        info: Its header.
        tar: The tar, which must still be open when the member is read.
        where: The path of the tar, for messages.
    """

    info: tarfile.TarInfo
    tar: tarfile.TarFile
    where: str

    @property
    def name(self) -> str:
        return self.info.name

    def read(self, limit_bytes: int = MAX_IMAGE_BYTES) -> bytes:
        """Return the bytes of the member.

        Raises:
            UnreadableImage: If it has more than `limit_bytes`, or is not a plain file. `tarfile`
                makes gigabytes of a small sparse file, and never returns from some.
            DataError: If the tar is damaged here.
        """
        if not self.info.isreg() or self.info.sparse is not None:
            raise UnreadableImage("a link, a device or a sparse file in a tar, not a plain file")
        check_size(self.info.size, limit_bytes)
        try:
            with self._open() as file:
                return file.read()
        # Decompressors raise errors of many kinds for damaged bytes.
        except Exception as error:
            if is_refusal(error):
                raise
            raise damaged(self.where, f"in {self.name!r}", error) from None

    @contextmanager
    def open_tar(self) -> Iterator[Iterator[Member]]:
        """Open a tar inside the tar, as the function `open_tar` does."""
        where = f"{self.name} in {self.where}"
        if not self.info.isreg() or self.info.sparse is not None:
            raise DataError(f"{where} is not a plain file; pack the tar again")
        with self._open() as file, _open(file, where) as tar:
            yield _walk(tar, where)

    def _open(self) -> IO[bytes]:
        file = self.tar.extractfile(self.info)
        assert file is not None  # it is None for members without data, such as folders
        return file


def damaged(where: str, place: str, error: Exception) -> DataError:
    """Return the error for a damaged tar.

    Args:
        where: The path of the tar.
        place: The place of the damage, such as "after 'a.jpg'".
        error: What the library says about it.
    """
    # The messages of `tarfile` may have several lines, a list of what it tried.
    reason = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{where} is damaged {place} ({reason}); fetch or pack it again")


@contextmanager
def open_tar(path: Path) -> Iterator[Iterator[Member]]:
    """Open a tar file, compressed or not; yield an iterator over its members in their order.

    Folders are left out. The members can be read while the tar is open.

    Raises:
        DataError: If the file is not a tar, or is damaged or cut. The end is checked when the
            iterator comes to it.
    """
    # To open a pipe with this name would wait for its writer for ever.
    if not path.is_file():
        raise DataError(f"{path} is not a regular file; remove it or put the tar there")
    with path.open("rb") as file, _open(file, str(path)) as tar:
        yield _walk(tar, str(path))


def visible(members: Iterable[Member]) -> Iterator[Member]:
    """Yield the members that are neither hidden nor in hidden folders (see `walk_below`)."""
    for member in members:
        parts = (part for part in member.name.split("/") if part not in (".", ".."))
        if not any(map(is_hidden, parts)):
            yield member


def _open(file: IO[bytes], where: str) -> tarfile.TarFile:
    """Open a tar file. Raises DataError if it is not one."""
    try:
        # No mode is given: tarfile recognizes the compression itself.
        return tarfile.open(fileobj=file, tarinfo=_Header)
    # `tarfile` and the decompressors raise errors of many kinds for damaged bytes.
    except Exception as error:
        if is_refusal(error):
            raise
        raise DataError(
            f"{where} is not a tar file or is damaged at its beginning; fetch or pack it again"
        ) from None


def _walk(tar: tarfile.TarFile, where: str) -> Iterator[Member]:
    """Yield the members of an open tar. Raises DataError as `open_tar` does."""
    place = "at its beginning"
    while True:
        try:
            info = tar.next()
            _check_progress(tar, info)
        except Exception as error:  # as in `_open`
            if is_refusal(error):
                raise
            raise damaged(where, place, error) from None
        if info is None:
            if place == "at its beginning":
                raise DataError(f"{where} is a tar without files; fetch it again or remove it")
            return
        place = f"after {info.name!r}"
        if not info.isdir():
            yield Member(info, tar, where)


def _check_progress(tar: tarfile.TarFile, info: tarfile.TarInfo | None) -> None:
    """Check the step to the next member, or the end if there is none.

    Raises:
        tarfile.ReadError: If a header leads backward, or if the end is not made of zeros.
    """
    if info is None:
        # The first block of zeros has just been read. The rest is read where the file stands:
        # going back in a compressed file would mean decompressing it again. Reading up to the end
        # also compares the checksum of a compressed file.
        assert tar.fileobj is not None
        if any(tar.fileobj.read(MAX_PADDING_BYTES)) or tar.fileobj.read(1):
            raise tarfile.ReadError("zeros in place of a header, and data after them")
    # A negative size would make `tarfile` read the same headers for ever.
    elif info.size < 0 or tar.offset <= info.offset:
        raise tarfile.ReadError("a negative size")
