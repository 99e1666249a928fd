"""WebDataset shards: tar files of samples, each an image and its label under one key."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from alexnet.data.classes import (
    ClassList,
    are_wnids,
    check_count,
    class_list,
    composed,
    in_label_order,
    is_number,
    read_class_names,
    with_words,
    wnid_in,
)
from alexnet.data.sources.source import (
    LEAVE_OUT,
    SPLIT_NAMES,
    Options,
    Source,
    StreamedImage,
    UnreadableImage,
    is_image,
    split_in_name,
    streamed,
    streamed_with_val,
    without_labels,
)
from alexnet.data.sources.tars import Member, open_tar, visible
from alexnet.errors import DataError

Label = int | str
Positions = dict[Label, int]
"""The position of each label of the samples in the list of classes."""

SAMPLE_MEMBERS = 64
"""Number of members by which the kind of a tar is recognized."""
MAX_LABEL_BYTES = 1 << 20
"""Most bytes in a .cls or .json file, which are read whole: a label and some words about it."""


def is_webdataset(folder: Path) -> bool:
    """Tell whether the tars of a folder are WebDataset shards; if not, each contains one class.

    Shards have labels beside their images, or numbered names. The tar of a class is named by a
    wnid, or the names of all its members begin with its own.
    """
    tars = sorted(folder.glob("[!.]*.tar"))
    # Only the first and the last tar are opened, because there may be thousands; where the names
    # have splits, those of the training split, which is always wanted: others may be damaged.
    opened = [path for path in tars if split_in_name(path) == "train"] or tars
    opened = opened[:1] + opened[-1:]
    samples = [_peek(path) for path in opened]
    if any(label for _, label in samples):
        return True
    if are_wnids(path.stem for path in tars):
        return False
    ends = zip(opened, samples, strict=True)
    if all(name.startswith(path.stem) for path, (names, _) in ends for name in names):
        return False
    return all(re.search(r"\d$", path.stem) or split_in_name(path) for path in tars)


def _peek(path: Path) -> tuple[list[str], bool]:
    """Return the names of a tar's first members, and whether there is a label among them."""
    names, label = [], False
    with open_tar(path) as members:
        for member in itertools.islice(visible(members), SAMPLE_MEMBERS):
            names.append(Path(member.name).name)
            ext = Path(member.name).suffix.lower()
            label |= ext == ".cls" or (
                ext == ".json" and _json_label(_read_label(member)) is not None
            )
    return names, label


def webdataset(folder: Path, options: Options = Options()) -> Source:
    """Read shards whose names contain the word for a split.

    If no name does, `val_fraction` of the samples are held out. The label of a sample is its .cls,
    or "label" or "cls" in its .json, or the wnid in its key. Labels that are numbers are named by
    classes.txt if there is one. If each label has a wnid of its own in the keys of the training
    samples, the wnids are the classes. A test split without labels is left out; with labels it is
    the validation split if there is no other.

    Raises:
        DataError: If an image has no label, or one that the training split lacks.
    """
    by_split = _shards(folder)
    # Training needs a split to validate on, for which a labeled test split serves.
    no_val = "val" not in by_split and "test" in by_split
    if no_val:
        by_split["val"] = by_split.pop("test")
    # Whether images are held out must not depend on the splits that are wanted.
    if no_val and not options.wants("val") and not _is_labelled(by_split["val"]):
        del by_split["val"]
    # A first pass over the headers and labels: the classes must be known before the first item.
    scans = {name: _scan(tars) for name, tars in by_split.items() if options.wants(name)}
    catalogue, positions = _classes(folder, scans["train"])
    notes = []
    for name, scan in list(scans.items()):
        source_name = "test" if no_val and name == "val" else name
        # As ImageNet's test split, whose labels are -1.
        if source_name == "test" and not scan.labels:
            notes.append(without_labels(source_name, folder))
            del scans[name], by_split[name]
            continue
        if scan.unlabelled:
            raise DataError(scan.unlabelled)
        if odd := scan.labels - positions.keys():
            raise DataError(
                f"the split {source_name!r} of {folder} has the label {min(odd, key=str)!r}, "
                f"which the training split lacks; correct it, or {LEAVE_OUT}"
            )
    if len(by_split) == 1:
        fraction = f", {options.val_fraction} of them val"
        splits = streamed_with_val(_rows(by_split["train"], positions), options)
    else:
        fraction = ""
        splits = tuple(
            streamed(name, scan.count, _rows(by_split[name], positions))
            for name, scan in scans.items()
        )
    return Source(
        f"webdataset {folder}{fraction}",
        catalogue.classes,
        splits,
        words=catalogue.words,
        notes=tuple(notes),
    )


def _shards(folder: Path) -> dict[str, list[Path]]:
    """Return the tars of each split, training first. Raises DataError for unclear names."""
    shards: dict[str | None, list[Path]] = {}
    for path in sorted(folder.glob("[!.]*.tar")):
        shards.setdefault(split_in_name(path), []).append(path)
    if None in shards and len(shards) > 1:
        raise DataError(
            f"the name of {shards[None][0]} contains no split, and those of other tars do; "
            "have train, val or test in each name"
        )
    if None in shards:
        # No name contains the word for a split: all shards are training shards.
        return {"train": shards[None]}
    if "train" not in shards:
        raise DataError(f"{folder} has no training tars; their names contain 'train'")
    return {name: shards[name] for name in SPLIT_NAMES if name in shards}


@dataclass
class Scan:
    """What is known of the samples of a split before any image is read."""

    count: int = 0
    labels: set[Label] = field(default_factory=set)
    wnids: dict[Label, set[str]] = field(default_factory=dict)
    """The wnids of each label, from the keys of its samples."""
    unlabelled: str = ""
    """Message about the first sample without a label."""


def _scan(tars: list[Path]) -> Scan:
    """Read the keys and labels of all samples."""
    scan = Scan()
    for path in tars:
        for sample in _samples(path):
            scan.count += 1
            if sample.label is None:
                scan.unlabelled = scan.unlabelled or _incomplete(path, sample.key, sample.parts)
                continue
            scan.labels.add(sample.label)
            # The empty name stands for a key without a wnid, which rules out wnids for this label.
            scan.wnids.setdefault(sample.label, set()).add(wnid_in(sample.key) or "")
    return scan


def _is_labelled(tars: list[Path]) -> bool:
    """Tell whether a split that is not wanted has a label; a damaged one may have some."""
    try:
        return any(sample.label is not None for path in tars for sample in _samples(path))
    except DataError:
        return True


def _classes(folder: Path, train: Scan) -> tuple[ClassList, Positions]:
    """Return the classes, and the position of each label among them.

    Raises:
        DataError: If a training sample has no label or a negative one, or if numbers and names are
            mixed.
    """
    if train.unlabelled:
        raise DataError(train.unlabelled)
    numbers = [label for label in train.labels if isinstance(label, int)]
    names = sorted(label for label in train.labels if isinstance(label, str))
    if numbers and names:
        raise DataError(
            f"{folder} has labels that are numbers and labels that are names, {numbers[0]} and "
            f"{names[0]}; use one kind"
        )
    if numbers and min(numbers) < 0:
        raise DataError(
            f"{folder} has the label {min(numbers)}, and labels are numbers from 0; correct it"
        )
    if numbers:
        names = _names_of_numbers(folder, max(numbers))
    labels: list[Label] = [*range(len(names))] if numbers else [*names]
    wnids_of = {i: train.wnids.get(label, {""}) for i, label in enumerate(labels)}
    # A label with several wnids is a class made of several synsets, which has no wnid of its own.
    single = {i: next(iter(wnids)) for i, wnids in wnids_of.items() if len(wnids) == 1}
    wnids = in_label_order({i: wnid for i, wnid in single.items() if wnid}, len(names))
    catalogue = class_list(names, wnids)
    positions: Positions = {label: catalogue.label(i) for i, label in enumerate(labels)}
    if are_wnids(catalogue.classes):
        # Other splits may have the wnids themselves for labels.
        positions |= {wnid: position for position, wnid in enumerate(catalogue.classes)}
    return with_words(catalogue, folder), positions


def _names_of_numbers(folder: Path, largest: int) -> list[str]:
    """Return the names of labels 0 to `largest`: lines of classes.txt, or the numbers."""
    file = folder / "classes.txt"
    if not file.is_file():
        check_count(largest + 1, folder)
        return [str(number) for number in range(largest + 1)]
    names = read_class_names(file)
    if largest >= len(names):
        raise DataError(
            f"{file} names {len(names)} classes, and a label is {largest}; name them all"
        )
    return names


def _rows(tars: list[Path], positions: Positions) -> Callable[[], Iterator[StreamedImage]]:
    """Return a function that walks through the samples of tars."""

    def rows() -> Iterator[StreamedImage]:
        for path in tars:
            for sample in _samples(path):
                assert sample.label is not None  # the scan has checked that all have one
                # With the name of the tar, because keys need to differ only within a tar.
                yield f"{path.name}:{sample.key}", positions[sample.label], sample.read

    return rows


@dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
        key: The name that its files share.
        parts: The extensions of its files.
        label: Its label; None if there is none.
        read: Reads the image.
    """

    key: str
    parts: tuple[str, ...]
    label: Label | None
    read: Callable[[], bytes]


def _samples(path: Path) -> Iterator[Sample]:
    """Yield the samples of a tar.

    The files of a sample follow each other, and share their names up to the first dot.

    Raises:
        DataError: If a sample has no image, several, or two files with one extension.
    """
    key, parts = "", dict[str, Member]()
    with open_tar(path) as members:
        for member in visible(members):
            folder, _, file = member.name.rpartition("/")
            # At the first dot, as the format demands: `a.seg.png` belongs to the key `a`.
            stem, _, ext = file.partition(".")
            if f"{folder}/{stem}" != key:
                if parts:
                    yield _sample(path, key, parts)
                key, parts = f"{folder}/{stem}", {}
            if ext.lower() in parts:
                raise DataError(
                    f"{path}: {stem} has two files .{ext.lower()}; take one of them out of the tar"
                )
            parts[ext.lower()] = member
        if parts:
            yield _sample(path, key, parts)


def _sample(path: Path, key: str, parts: dict[str, Member]) -> Sample:
    """Make a sample of its files, given by extension."""
    key = key.rpartition("/")[2]
    # The key may have further files, such as a .txt with a caption, or the mask `a.seg.png`.
    images = [ext for ext in parts if "." not in ext and is_image(f"x.{ext}")]
    if len(images) > 1:
        raise DataError(
            f"{path}: {key} has several images, {', '.join(images)}; "
            "take all but one out of the tar"
        )
    if not images:
        raise DataError(_incomplete(path, key, parts))
    label: Label | None = None
    if "cls" in parts:
        try:
            label = _label(_read_label(parts["cls"]).decode().strip())
        except UnicodeDecodeError:
            raise DataError(f"{path}: {key}.cls is not UTF-8 text; write the label again") from None
    elif "json" in parts:
        label = _json_label(_read_label(parts["json"]))
    label = wnid_in(key) if label is None else label
    return Sample(key, tuple(parts), label, parts[images[0]].read)


def _incomplete(path: Path, key: str, parts: Collection[str]) -> str:
    """Return the message about a sample without an image or without a label."""
    mend = "add what is missing"
    if dotted := [ext for ext in parts if "." in ext and is_image(f"x.{ext}")]:
        # Such as an image.jpg, which may as well be a mask.
        mend += f" (if {dotted[0]} is the image, rename it to {dotted[0].rpartition('.')[2]})"
    return (
        f"{path}: {key} needs an image and a .cls, a .json with a label, or a key with a wnid; it "
        f"has {', '.join(parts)}; {mend}, or take it out of the tar"
    )


def _read_label(member: Member) -> bytes:
    """Return the bytes of a .cls or .json file. Raises DataError if it is not a small file."""
    try:
        return member.read(MAX_LABEL_BYTES)
    except UnreadableImage as error:
        raise DataError(
            f"{member.where}: {member.name} cannot have a label ({error}); mend it or take it out"
        ) from None


def _json_label(data: bytes) -> Label | None:
    """Return the label in a .json file; None if it has none."""
    try:
        value = json.loads(data)
    # It raises RecursionError for ten thousand brackets.
    except (ValueError, RecursionError):
        return None
    return _label(value.get("label", value.get("cls"))) if isinstance(value, dict) else None


def _label(value: object) -> Label | None:
    """Return a label as a number or a name; None for -1, the sign of no label, and for the rest."""
    # A .cls file contains text, a .json file may contain a number.
    if isinstance(value, str) and is_number(value.removeprefix("-")):
        value = int(value)
    # bool is a subclass of int in Python.
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    if value in ("", -1):
        return None
    # As `Source` writes the names of classes.
    return composed(value) if isinstance(value, str) else value
