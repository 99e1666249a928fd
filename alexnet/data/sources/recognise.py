"""Which format a source is in, by what lies in the folder."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

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
from alexnet.data.sources.source import Options, Source, is_image, split_name
from alexnet.data.sources.tables import table_folder
from alexnet.data.sources.webdataset import is_webdataset, webdataset


def find(source: str, val_fraction: float = 0.1, splits: Sequence[str] = ()) -> Source:
    """A folder, or the name of a set on the Hugging Face hub, as a source.

    val_fraction: the share that is held out where the source has no validation split. splits: the
    ones to take, all that have labels when empty. Raises ValueError when it is no source, and for
    a split that it has not.
    """
    options = Options(val_fraction, tuple(split_name(split) for split in splits))
    if not options.wants("train"):
        raise ValueError("--splits must name train: the mean and the covariance are taken from it")
    options.checked_fraction()
    found = _read(source, options)
    names = [split.name for split in found.splits]
    for split in options.splits:
        if split not in names:
            why = "".join(f"; {note}" for note in found.notes)
            raise ValueError(f"--splits names {split!r}, and {source} has {', '.join(names)}{why}")
    return replace(
        found, splits=tuple(split for split in found.splits if options.wants(split.name))
    )


def _read(source: str, options: Options) -> Source:
    folder = Path(source)
    if not folder.exists():
        if re.fullmatch(r"[\w.-]+/[\w.-]+", source):
            return hub(source, options)
        raise ValueError(f"{source} does not exist")
    if not folder.is_dir():
        raise ValueError(f"{source} is a file; give the folder it lies in")
    return _format(folder)(folder, options)


def _format(folder: Path) -> Callable[[Path, Options], Source]:
    names = [path.name for path in folder.iterdir()]
    if any(re.fullmatch(TRAIN_TAR, name) for name in names):
        return ilsvrc
    if parquet_in(folder):
        return parquet_files
    if "data_batch_1.bin" in names:
        return lambda folder, options: cifar_binary(folder)
    if any(name.endswith(".tar") for name in names):
        return webdataset if is_webdataset(folder) else class_tars
    train = split_folders(kaggle_root(folder) or folder).get("train", folder)
    if has_class_folders(train):
        return class_folders
    if any(is_image(path) for path in folder.rglob("*")):
        return table_folder
    return class_folders  # it says what is missing
