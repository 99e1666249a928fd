"""Recognition of a source's format by the files in its folder."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from alexnet.data.classes import WORD_FILES
from alexnet.data.sources.cifar import cifar_binary
from alexnet.data.sources.class_tars import class_tars
from alexnet.data.sources.folders import (
    class_folders,
    has_class_folders,
    kaggle_root,
    split_folders,
)
from alexnet.data.sources.hub import hub
from alexnet.data.sources.ilsvrc import TRAIN_TAR, ilsvrc
from alexnet.data.sources.parquet import parquet_files, parquet_in
from alexnet.data.sources.source import (
    SPLIT_NAMES,
    Options,
    Source,
    is_hidden,
    is_image,
    split_name,
    walk_below,
)
from alexnet.data.sources.tables import candidates, table_folder
from alexnet.data.sources.webdataset import is_webdataset, webdataset
from alexnet.errors import DataError

ARCHIVE_SUFFIXES = {".tar", ".gz", ".tgz", ".parquet", ".bin"}
PACKED_SUFFIXES = {".zip", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar"}
# The lists of their labels, classes or words; any other text may be a log that still grows.
LISTS = re.compile("|".join(map(re.escape, ("classes.txt", *WORD_FILES))) + r"|.*truth\.txt")


def find(source: str, val_fraction: float = 0.1, splits: Sequence[str] = ()) -> Source:
    """Return the source at a folder, or of a name on the Hugging Face hub.

    Args:
        source: A folder, or OWNER/NAME for the hub.
        val_fraction: Fraction of the training images held out if there is no validation split.
        splits: Names of the wanted splits; empty for all that have labels.

    Raises:
        DataError: If this is not a source, or it lacks a wanted split.
    """
    # A split may be named as the source names it: `validation` is val.
    options = Options(val_fraction, tuple(split_name(split) for split in splits))
    if not options.wants("train"):
        raise DataError("--splits must name train: the mean and the covariance are taken from it")
    options.checked_fraction()
    read = _read(source, options)
    names = [split.name for split in read.splits]
    for split in options.splits:
        if split not in names:
            # A labeled test split is the validation split where there is no other.
            alone = ["a test split with labels and no val beside it is called val"]
            notes = read.notes or alone * (split == "test")
            why = "".join(f"; {note}" for note in notes)
            raise DataError(f"--splits names {split!r}, and {source} has {', '.join(names)}{why}")
    return replace(read, splits=tuple(split for split in read.splits if options.wants(split.name)))


def _read(source: str, options: Options) -> Source:
    """Read a source in whatever format it is."""
    folder = Path(source)
    # A local folder takes precedence over a data set of the same name on the hub.
    if not folder.exists():
        # OWNER/NAME; a longer path can only be a folder that does not exist.
        if re.fullmatch(r"[\w.-]+/[\w.-]+", source):
            return hub(source, options)
        raise DataError(f"{source} does not exist")
    if not folder.is_dir():
        packed = folder.suffix.lower() in PACKED_SUFFIXES
        mend = "unpack it and give its folder" if packed else "give the folder that contains it"
        raise DataError(f"{source} is a file; {mend}")
    source_read = _format(folder)(folder, options)
    if all(split.fingerprint for split in source_read.splits):
        return source_read
    return replace(source_read, archives=_archives(folder))


def image_folders(source: str) -> list[Path]:
    """The folders of a source that a store must not lie in: every image below them is read."""
    folder = Path(source)
    if not folder.is_dir() or _format(folder) not in (class_folders, table_folder):
        return []
    parts = split_folders(kaggle_root(folder) or folder)
    if "train" not in parts:
        return [folder]
    as_written = set(itertools.chain(*SPLIT_NAMES.values()))
    # Beside any other folder, those with capital letters would be classes, unless a train/ has any.
    with_classes = parts["train"].name in as_written and has_class_folders(parts["train"])
    if not with_classes and any(path.name not in as_written for path in parts.values()):
        return [folder]
    return list(parts.values())


def _archives(folder: Path) -> str:
    """Return a digest of the names, sizes and dates of a folder's archives and lists of labels."""
    digest = hashlib.sha256()
    for path in sorted([*folder.glob("[!.]*.*"), *folder.glob("data/[!.]*.*")]):
        counts = path.suffix.lower() in ARCHIVE_SUFFIXES or LISTS.fullmatch(path.name)
        if counts and path.is_file():
            about = path.stat()
            text = f"{path.relative_to(folder)}\0{about.st_size}\0{about.st_mtime_ns}\0"
            digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _format(folder: Path) -> Callable[[Path, Options], Source]:
    """Return the reader for the format of a folder.

    The order matters: the formats that are recognized by the name of a file come before those that
    only need images, which would accept almost any folder.
    """
    names = [path.name for path in folder.iterdir()]
    if any(re.fullmatch(TRAIN_TAR, name) for name in names):
        return ilsvrc
    if parquet_in(folder):
        return parquet_files
    if "data_batch_1.bin" in names:
        # No options: CIFAR-10 has a test split, so nothing is held out.
        return lambda folder, options: cifar_binary(folder)
    base = kaggle_root(folder) or folder
    train = split_folders(base).get("train", folder)
    tars = sum(name.endswith(".tar") and not is_hidden(name) for name in names)
    # A single tar beside class folders, or beside images with a table, is more likely the archive
    # that they were unpacked from.
    unpacked = has_class_folders(train) or (
        tars == 1 and candidates([folder]) and any(map(is_image, walk_below(folder)))
    )
    if tars > 1 or (tars == 1 and not unpacked):
        return webdataset if is_webdataset(folder) else class_tars
    if has_class_folders(train):
        return class_folders
    if any(map(is_image, walk_below(folder))):
        return table_folder
    return class_folders  # its error says what is missing
