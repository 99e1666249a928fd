"""The parts of every source: items, splits, and how a validation split is held out."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np

from alexnet.data.classes import composed
from alexnet.data.image import FORMATS, INSTALL_HEIF, suffixes
from alexnet.errors import DataError

# Suffixes of photographs that this program cannot decode, or not everywhere (`image.FORMATS`).
# Files of these names are reported with what can be done, those of other names are only counted.
OTHER_IMAGE_SUFFIXES = {
    *(".heic", ".heif", ".hif", ".avif", ".jxl", ".tga", ".psd", ".dng", ".raw"),
    *(".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"),
}
# What can be installed in order to read some of them.
_INSTALL = dict.fromkeys(FORMATS["HEIF"], f", or {INSTALL_HEIF}") | {
    ".avif": ", or install Pillow 11.3 or later"
}
TEXT_SUFFIXES = {".txt", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml", ".md", ".html", ".pdf"}
SYSTEM_SUFFIXES = {".db", ".ini"}  # Thumbs.db and desktop.ini of Windows
MOST_KINDS = 5  # of other files, which a note counts apart
# Our names of the splits, in the order of a store, and the words that sources have for them.
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid"),
    "test": ("test", "testing"),
}
# `alexnet train FOLDER` has no such option, so the command is named.
LEAVE_OUT = "leave the split out with --splits of alexnet prepare"
MAX_IMAGE_BYTES = 256 << 20
"""Most bytes in the file of one image. The largest images that `decode` accepts have 179 million
pixels, which are some 90 MB as a JPEG of the best quality. Uncompressed, with three bytes a pixel,
89 million pixels have this size; larger files are refused before they take memory."""


class UnreadableImage(ValueError):
    """An image of a source that cannot be read. It is skipped; a DataError would end the rest."""


def is_refusal(error: Exception) -> bool:
    """Tell whether the system refuses to read a file, which says nothing of its content.

    The user has no permission, or the process has too many open files, for example. The errors of
    decompressors and of Arrow for damaged bytes are OSErrors without a number.
    """
    return isinstance(error, OSError) and error.errno is not None


def check_size(size: int, limit_bytes: int = MAX_IMAGE_BYTES) -> None:
    """Raise UnreadableImage for a file of too many bytes, before memory is allocated for them."""
    if size > limit_bytes:
        raise UnreadableImage(f"{size:,} bytes are more than {limit_bytes:,}")


def readable(name: str) -> str:
    """Return a name with its surrogates written as \\udcNN, where NN is a byte.

    Python represents the bytes of a file name that are not UTF-8 by surrogates, which neither Arrow
    nor a terminal can write.
    """
    return name.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class Item:
    """One labeled image in the encoding of its file.

    `read` is called by the worker that decodes the image, so that files are read in parallel. It
    raises DataError if the archive is damaged; any other error concerns this image alone.
    """

    name: str
    label: int
    read: Callable[[], bytes]

    def __post_init__(self) -> None:
        # Here, so that no source can forget it.
        object.__setattr__(self, "name", readable(self.name))

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that the item holds before it is read."""
        return len(self.read.data) if isinstance(self.read, InHand) else 0


@dataclass(frozen=True)
class InHand:
    """A reader for bytes already read, for sources that are read from front to back.

    The bytes are kept until the worker asks for them: the archive has moved on by then.
    """

    data: bytes

    def __call__(self) -> bytes:
        return self.data


def in_hand(data: bytes) -> Callable[[], bytes]:
    """Return a reader for bytes already read, or for the error that there are too many of them."""
    try:
        check_size(len(data))
    except UnreadableImage as error:
        return unreadable(str(error))
    return InHand(data)


def unreadable(reason: str) -> Callable[[], bytes]:
    """Return a reader that raises UnreadableImage, for an image known to be unreadable."""

    def read() -> bytes:
        raise UnreadableImage(reason)

    return read


def read_file(path: Path) -> bytes:
    """Return the bytes of an image file.

    Raises:
        UnreadableImage: If the file is too large, or is a pipe or a device. To open a pipe would
            wait for its writer for ever.
        OSError: If it cannot be read.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise UnreadableImage("not a regular file")
    check_size(about.st_size)
    return path.read_bytes()


def files_below(folder: Path) -> list[Path]:
    """Return the paths that `walk_below` yields, in order.

    Raises:
        DataError: If a folder cannot be read; its images would be missing without a word.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}); "
            "change its permissions or take it out of the source"
        )

    return sorted(walk_below(folder, refuse))


def walk_below(folder: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Yield all paths below a folder that are not folders, and all links to folders.

    No folder is entered through a link, which may lead above this one, and no hidden folder is
    entered: programs keep earlier versions and thumbnails of photographs in them, and the trash.

    Links that lead nowhere, pipes and the like are among the paths. To read them as images fails,
    so that they are counted and reported as all unreadable images are.

    Args:
        on_error: Called for a folder that cannot be read; None: it is passed over.
    """
    for above, folders, names in os.walk(folder, onerror=on_error):
        # In place: `walk` enters the folders that this list then has.
        folders[:] = [name for name in folders if not is_hidden(name)]
        links = (name for name in folders if os.path.islink(os.path.join(above, name)))
        for name in itertools.chain(names, links):
            yield Path(above, name)


def notes_on_left_out(files: Iterable[Path], where: object) -> list[str]:
    """Return notes about files of `where` that are not read because of their suffixes.

    Files that are read may be among `files`. Images in formats that cannot be decoded have a note
    for each suffix. Other files, such as videos, share one, apart from those that often accompany
    images: they are neither mentioned nor counted.
    """
    left_out = [path for path in files if not (is_image(path) or _accompanies(path))]
    links = [path for path in left_out if path.is_dir()]
    kinds = Counter(
        path.suffix.lower() or "without a suffix" for path in left_out if path not in links
    )
    notes = []
    if links:
        noun, verb = ("link", "is") if len(links) == 1 else ("links", "are")
        notes.append(
            f"{len(links)} {noun} to folders {verb} not followed, {links[0]} among them; put the "
            "images themselves there"
        )
    for suffix in sorted(kinds.keys() & OTHER_IMAGE_SUFFIXES):
        count = kinds.pop(suffix)
        noun, verb, them = ("file", "is", "it") if count == 1 else ("files", "are", "them")
        notes.append(
            f"{count} {noun} of {where} with the suffix {suffix} {verb} left out: this program "
            f"cannot read {them}; convert {them} to JPEG{_INSTALL.get(suffix, '')}"
        )
    if kinds:
        commonest = kinds.most_common(MOST_KINDS)
        parts = [f"{count} {kind}" for kind, count in commonest]
        if rest := kinds.total() - sum(count for _, count in commonest):
            parts.append(f"{rest} of other kinds")
        noun, verb = ("file", "is") if kinds.total() == 1 else ("files", "are")
        notes.append(f"{kinds.total()} other {noun} of {where} {verb} left out: {', '.join(parts)}")
    return notes


def _accompanies(path: Path) -> bool:
    """Tell whether a file is a text about images, or one that a system leaves in any folder."""
    return is_hidden(path) or path.suffix.lower() in TEXT_SUFFIXES | SYSTEM_SUFFIXES


@dataclass(frozen=True)
class SourceSplit:
    """A split of a source.

    Attributes:
        name: "train", "val" or "test".
        count: Number of items; None if unknown before the source has been read.
        items: Yields the items in a fixed order, beginning with the given item number.
        fingerprint: Digest of the names and labels of all items in their order; "" if they are
            unknown before the source has been read.
    """

    name: str
    count: int | None
    items: Callable[[int], Iterator[Item]]
    fingerprint: str = ""


@dataclass(frozen=True)
class Source:
    """A set of labeled images. The first split is the training split, which gives the statistics.

    Attributes:
        description: Kind and name of the source; a preparation resumes only if it is the same.
        classes: The classes, in the order of the labels.
        splits: The splits, training split first.
    """

    description: str
    classes: tuple[str, ...]
    splits: tuple[SourceSplit, ...]
    upright: bool = False
    """Whether images are rotated as their EXIF orientation says."""
    words: tuple[str, ...] = ()
    """The words for each class, where `classes` are wnids; empty if the source has none."""
    notes: tuple[str, ...] = ()
    """What is left out of the source and why, one sentence each."""
    archives: str = ""
    """Digest of the names, sizes and dates of the archives that the items come from; "" if the
    fingerprints of the splits tell all, or if there is no such folder."""

    def __post_init__(self) -> None:
        # A class has one name, on whatever system its folder was made and its labels were written.
        classes = tuple(composed(readable(name)) for name in self.classes)
        for name, count in Counter(classes).most_common(1):
            if count > 1:
                raise DataError(
                    f"{self.description} has {count} classes named {name!r} (bytes that are not "
                    "UTF-8 are written in letters, and a letter with an accent is the same in one "
                    "part or in two); rename all but one"
                )
        object.__setattr__(self, "classes", classes)
        object.__setattr__(self, "description", readable(self.description))
        object.__setattr__(self, "words", tuple(map(readable, self.words)))
        object.__setattr__(self, "notes", tuple(map(readable, self.notes)))


@dataclass(frozen=True)
class Options:
    """What is wanted of a source.

    Attributes:
        val_fraction: Fraction of the training images held out where there is no validation split.
        splits: Names of the wanted splits; empty for all that have labels.
        seed: Seed of the choice of the images held out.
    """

    val_fraction: float = 0.1
    splits: tuple[str, ...] = ()
    seed: int = 0

    def wants(self, split: str) -> bool:
        """Tell whether a split is wanted."""
        return not self.splits or split in self.splits

    def checked_fraction(self) -> float:
        """Return `val_fraction`. Raises DataError if it leaves nothing to train on."""
        if not 0 <= self.val_fraction < 1:
            raise DataError(
                f"--val-fraction is {self.val_fraction}; it must be at least 0 and below 1"
            )
        return self.val_fraction


def split_name(word: str) -> str:
    """Return our name for a split that a source calls `word`; an unknown word is unchanged."""
    # Unknown words are kept, so that a message can name the split as the source does.
    return next((name for name, words in SPLIT_NAMES.items() if word.lower() in words), word)


def split_in_name(path: Path) -> str | None:
    """Return the split that a word in a file's name means; None if there is none.

    Tables are called LOC_val_solution.csv, for example, and shards imagenet1k-train-0000.tar.
    """
    words = [split_name(word) for word in re.findall(r"[A-Za-z]+", path.stem)]
    return next((word for word in words if word in SPLIT_NAMES), None)


def is_image(name: str | Path) -> bool:
    """Tell by its name whether a file is an image that can be decoded here.

    The contents are looked at only when an image is decoded.
    """
    return _suffix(name) in suffixes()


def may_be_image(name: str | Path) -> bool:
    """Tell by its name whether a file is an image, decodable or not."""
    return is_image(name) or _suffix(name) in OTHER_IMAGE_SUFFIXES


def is_hidden(name: str | Path) -> bool:
    """Tell whether a file or a folder is hidden.

    Beside IMG_1.jpg, macOS writes ._IMG_1.jpg with what its own file systems know of the file, and
    Synology's disks @eaDir/IMG_1.jpg/ with thumbnails of it.
    """
    name = Path(name).name
    return name.startswith(".") or name == "@eaDir"


def _suffix(name: str | Path) -> str:
    """Return the suffix of a file in lower case; "" for a hidden file."""
    return "" if is_hidden(name) else Path(name).suffix.lower()


def without_labels(split: str, where: object) -> str:
    """Return the note about a test split without labels, which many data sets have.

    Raises:
        DataError: For any other split, because a run needs its labels.
    """
    if split != "test":
        raise DataError(f"the split {split!r} of {where} has no labels; add them, or {LEAVE_OUT}")
    return f"the split 'test' of {where} has no labels and is left out"


Listed = tuple[Path, str, int]
"""The path of a file, the name of its item, and its label."""


def listed(name: str, files: Sequence[Listed]) -> SourceSplit:
    """Return a split that consists of single files."""

    def items(start: int) -> Iterator[Item]:
        # The function is passed and not called: the worker reads the file.
        for path, item_name, label in files[start:]:
            yield Item(item_name, label, partial(read_file, path))

    digest = hashlib.sha256()
    for _, item_name, label in files:
        # "\0" occurs in no name of a file, so no two lists have the same text. Names need not be
        # UTF-8.
        digest.update(f"{item_name}\0{label}\0".encode("utf-8", "surrogatepass"))
    return SourceSplit(name, len(files), items, digest.hexdigest())


def listed_splits(
    files: Mapping[str, Sequence[Listed]], options: Options, hold_out: bool
) -> tuple[tuple[SourceSplit, ...], str]:
    """Return the splits that consist of single files, and the end of the source's description.

    Args:
        files: The files of each split.
        hold_out: Whether a validation split is taken out of the training files.
    """
    if hold_out:
        # The fraction is in the description, so that a preparation resumes only with the same.
        return listed_with_val(files["train"], options), f", {options.val_fraction} of them val"
    return tuple(listed(name, files[name]) for name in SPLIT_NAMES if name in files), ""


def listed_with_val(files: Sequence[Listed], options: Options) -> tuple[SourceSplit, ...]:
    """Return a training split, and a validation split of `val_fraction` of the files of each class.

    The number of files of a class is rounded. A class of two files or more gives at least one, so
    that its errors can be counted, and no class gives all of them, since it could not be learned.
    Both splits keep the order of the files.

    The first files of a class in the order of `_held_out_rank` are held out, so the choice does not
    depend on the other classes, and little on the other files of the class: where k files are added
    to it, at most `val_fraction` * k + 1 of its training files are held out then. The one more is
    due to the rounding: a tenth of 14 files is one, and of 15 two. A network that was trained on a
    folder can therefore go on with more of its photographs and still be tested on new ones, nearly
    all of them where the classes are not small.
    """
    fraction = options.checked_fraction()
    by_class: dict[int, list[int]] = {}
    for i, (_, _, label) in enumerate(files):
        by_class.setdefault(label, []).append(i)
    chosen: set[int] = set()
    for members in by_class.values():
        if fraction:
            count = min(max(1, round(fraction * len(members))), len(members) - 1)
            ranked = sorted(members, key=lambda i: _held_out_rank(options.seed, files[i][1]))
            chosen.update(ranked[:count])
    train = listed("train", [file for i, file in enumerate(files) if i not in chosen])
    if not chosen:
        return (train,)
    return train, listed("val", [file for i, file in enumerate(files) if i in chosen])


def _held_out_rank(seed: int, name: str) -> bytes:
    """Return a pseudorandom rank of an image, which depends on the seed and on its name alone.

    Args:
        name: Path of the image relative to its source; in class folders it begins with the class.
    """
    # Names need not be UTF-8; a copy on macOS has its accents apart.
    text = f"{seed}\0{composed(name)}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


StreamedImage = tuple[str, int, Callable[[], bytes]]
"""Name and label of an image, and its reader, which is valid only until the next row is taken."""


def streamed(
    name: str, count: int | None, rows: Callable[[], Iterator[StreamedImage]]
) -> SourceSplit:
    """Return a split of an archive that is read from front to back.

    The images are read by the thread that walks through the rows, because a tar file has only one
    position. Of rows before `start` only the headers are read.
    """

    def items(start: int) -> Iterator[Item]:
        # `islice` passes over the rows before `start` without calling their readers.
        for item_name, label, read in itertools.islice(rows(), start, None):
            yield Item(item_name, label, _read_now(read))

    return SourceSplit(name, count, items)


def _read_now(read: Callable[[], bytes]) -> Callable[[], bytes]:
    """Read an image; return a reader for its bytes, or for the error that concerns it alone."""
    try:
        return InHand(read())
    except UnreadableImage as error:
        return unreadable(str(error))


def streamed_with_val(
    rows: Callable[[], Iterator[StreamedImage]], options: Options
) -> tuple[SourceSplit, ...]:
    """Return a training split, and a validation split of `val_fraction` of each class.

    The number of images is unknown beforehand, and to count 14 million of them would mean reading
    all headers once more. So the images of a class are held out at even distances, beginning at a
    position that depends on the seed and the class: of the first n images of a class,
    `val_fraction` * n are held out, give or take one. The first of them is never held out, so that
    each class has a training image.
    """
    fraction = options.checked_fraction()

    # A position of its own for each class. With one for all, either all small classes of a size
    # would lose an image, or none of them would.
    @cache
    def begin(label: int) -> float:
        # Below 1 - `fraction`: one step further is not beyond the next whole number yet.
        return (1 - fraction) * float(np.random.default_rng([options.seed, label]).random())

    def part(held_out: bool) -> Callable[[], Iterator[StreamedImage]]:
        def chosen() -> Iterator[StreamedImage]:
            count: Counter[int] = Counter()
            for row in rows():
                number = count[row[1]]
                count[row[1]] += 1
                # An image is held out when its step of `fraction` passes a whole number.
                position = begin(row[1]) + fraction * number
                if (math.floor(position + fraction) > math.floor(position)) == held_out:
                    yield row

        return chosen

    # Both splits walk through the whole archive, and each skips the images of the other.
    train = streamed("train", None, part(False))
    return (train, streamed("val", None, part(True))) if fraction else (train,)
