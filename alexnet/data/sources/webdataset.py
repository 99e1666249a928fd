"""WebDataset shards: tar files of samples, each an image and its label under one key."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from alexnet.data.classes import (
    ClassList,
    are_wnids,
    class_list,
    in_label_order,
    wnid_in,
    words_beside,
)
from alexnet.data.sources.source import (
    SPLIT_NAMES,
    Options,
    Row,
    Source,
    is_image,
    split_name,
    streamed,
    streamed_with_val,
    without_labels,
)
from alexnet.data.sources.tars import members, open_tar

Label = int | str
Positions = dict[Label, int]
"""Each label of the samples, and its place in the list of classes."""

PEEKED = 64
"""Members of a tar that are looked at to tell what it is."""


def is_webdataset(folder: Path) -> bool:
    """Whether the tars of a folder are shards, by what lies in them; if not, each is a class.

    Shards have labels beside their images, or the names of numbered shards. The tar of a class is
    named by a wnid, or all its members begin with its name.
    """
    tars = sorted(folder.glob("*.tar"))
    looked_at = [_peek(path) for path in tars[:1] + tars[-1:]]
    if any(label for _, label in looked_at):
        return True
    if are_wnids(path.stem for path in tars):
        return False
    ends = zip(tars[:1] + tars[-1:], looked_at, strict=True)
    if all(name.startswith(path.stem) for path, (names, _) in ends for name in names):
        return False
    return all(re.search(r"\d$", path.stem) or _split_of(path) for path in tars)


def _peek(path: Path) -> tuple[list[str], bool]:
    """The names of a tar's first members, and whether a label is among them."""
    names, label = [], False
    with open_tar(path) as tar:
        for _, (member, read) in zip(range(PEEKED), members(tar), strict=False):
            names.append(Path(member.name).name)
            ext = Path(member.name).suffix.lower()
            label |= ext == ".cls" or (ext == ".json" and _json_label(read()) is not None)
    return names, label


def _split_of(path: Path) -> str | None:
    """By a word in the shard's name: imagenet1k-train-0000.tar."""
    words = [split_name(word) for word in re.findall(r"[A-Za-z]+", path.stem)]
    return next((word for word in words if word in SPLIT_NAMES), None)


def webdataset(folder: Path, options: Options | None = None) -> Source:
    """Shards whose names have a split's word; where none has, a part of the samples is held out.

    The label of a sample is its .cls, or "label" in its .json, or else the wnid in its key. Labels
    that are numbers are named by classes.txt where there is one. Where each label has a wnid of its
    own in the training keys, these are the classes. A test split without labels is left out; with
    labels it is the validation split where there is no other. Raises ValueError for images without
    labels.
    """
    options = options or Options()
    by_split = _shards(folder)
    no_val = "val" not in by_split and "test" in by_split
    if no_val:
        by_split["val"] = by_split.pop("test")
    scans = {name: _scan(tars) for name, tars in by_split.items() if options.wants(name)}
    found, positions = _classes(folder, scans["train"])
    notes = []
    for name, scan in list(scans.items()):
        own_name = "test" if no_val and name == "val" else name
        if own_name == "test" and not scan.labels & positions.keys():
            notes.append(without_labels(own_name, folder))
            del scans[name], by_split[name]
            continue
        if scan.unlabelled:
            raise ValueError(scan.unlabelled)
        if odd := scan.labels - positions.keys():
            raise ValueError(
                f"the split {own_name!r} of {folder} has the label {min(odd, key=str)!r}, "
                "which the training split lacks"
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
        found.classes,
        splits,
        words=found.words,
        notes=tuple(notes),
    )


def _shards(folder: Path) -> dict[str, list[Path]]:
    """The tars of each split, training first."""
    shards: dict[str | None, list[Path]] = {}
    for path in sorted(folder.glob("*.tar")):
        shards.setdefault(_split_of(path), []).append(path)
    if None in shards and len(shards) > 1:
        raise ValueError(
            f"{shards[None][0]} is of no split by its name and other tars beside it are; "
            "have train, val or test in each name"
        )
    if None in shards:
        return {"train": shards[None]}
    if "train" not in shards:
        raise ValueError(f"{folder} has no training tars; 'train' stands in their names")
    return {name: shards[name] for name in SPLIT_NAMES if name in shards}


@dataclass
class Scan:
    """What the samples of a split show before any image is read."""

    count: int = 0
    labels: set[Label] = field(default_factory=set)
    wnids: dict[Label, set[str]] = field(default_factory=dict)
    """Of each label, by the samples' keys."""
    unlabelled: str = ""
    """What the first sample without a label lacks."""


def _scan(tars: list[Path]) -> Scan:
    scan = Scan()
    for path in tars:
        for sample in _samples(path):
            scan.count += 1
            if sample.label is None:
                scan.unlabelled = scan.unlabelled or (
                    f"{path}: {sample.key} needs an image and a .cls, a .json with a label, or a "
                    f"key with a wnid; it has {', '.join(sample.parts)}"
                )
                continue
            scan.labels.add(sample.label)
            scan.wnids.setdefault(sample.label, set()).add(wnid_in(sample.key) or "")
    return scan


def _classes(folder: Path, train: Scan) -> tuple[ClassList, Positions]:
    """Raises ValueError where a training sample has no label, or numbers and names are mixed."""
    if train.unlabelled:
        raise ValueError(train.unlabelled)
    numbers = [label for label in train.labels if isinstance(label, int)]
    names = sorted(label for label in train.labels if isinstance(label, str))
    if numbers and names:
        raise ValueError(
            f"{folder} has labels that are numbers and labels that are names, {numbers[0]} and "
            f"{names[0]}; use one kind"
        )
    if numbers:
        names = _names_of_numbers(folder, max(numbers))
    own: list[Label] = [*range(len(names))] if numbers else [*names]
    seen = {i: train.wnids.get(label, {""}) for i, label in enumerate(own)}
    alone = {i: next(iter(wnids)) for i, wnids in seen.items() if len(wnids) == 1}
    found = class_list(names, in_label_order({i: w for i, w in alone.items() if w}, len(names)))
    positions: Positions = {label: found.label(i) for i, label in enumerate(own)}
    if are_wnids(found.classes):
        positions |= {wnid: place for place, wnid in enumerate(found.classes)}
        if not found.words:
            words = words_beside(found.classes, (folder, folder.parent))
            found = ClassList(found.classes, words, found.order)
    return found, positions


def _names_of_numbers(folder: Path, most: int) -> list[str]:
    file = folder / "classes.txt"
    if not file.is_file():
        return [str(number) for number in range(most + 1)]
    names = [line for line in file.read_text().split("\n") if line]
    if most >= len(names):
        raise ValueError(f"{file} names {len(names)} classes, and a label is {most}; name them all")
    return names


def _rows(tars: list[Path], positions: Positions) -> Callable[[], Iterator[Row]]:
    def rows() -> Iterator[Row]:
        for path in tars:
            for sample in _samples(path):
                assert sample.label is not None  # the scan has seen that all have one
                yield f"{path.name}:{sample.key}", positions[sample.label], sample.read

    return rows


@dataclass(frozen=True)
class Sample:
    """One image. parts: the extensions that its key has; label: None where nothing tells it."""

    key: str
    parts: tuple[str, ...]
    label: Label | None
    read: Callable[[], bytes]


def _samples(path: Path) -> Iterator[Sample]:
    """The files of a sample stand together and share all of their names before the first dot.

    Raises ValueError for a sample without an image.
    """
    key, parts = "", dict[str, Callable[[], bytes]]()
    with open_tar(path) as tar:
        for member, read in members(tar):
            folder, _, file = member.name.rpartition("/")
            stem, _, ext = file.partition(".")
            if f"{folder}/{stem}" != key:
                if parts:
                    yield _sample(path, key, parts)
                key, parts = f"{folder}/{stem}", {}
            parts[ext.lower()] = read
        if parts:
            yield _sample(path, key, parts)


def _sample(path: Path, key: str, parts: dict[str, Callable[[], bytes]]) -> Sample:
    key = key.rpartition("/")[2]
    image = next((read for ext, read in parts.items() if is_image(f"x.{ext}")), None)
    if image is None:
        raise ValueError(
            f"{path}: {key} needs an image and a .cls, a .json with a label, or a key with a wnid; "
            f"it has {', '.join(parts)}"
        )
    label = None
    if "cls" in parts:
        label = _label(parts["cls"]().decode().strip())
    elif "json" in parts:
        label = _json_label(parts["json"]())
    return Sample(key, tuple(parts), wnid_in(key) if label is None else label, image)


def _json_label(data: bytes) -> Label | None:
    try:
        value = json.loads(data)
    except ValueError:
        return None
    return _label(value.get("label", value.get("cls"))) if isinstance(value, dict) else None


def _label(value: object) -> Label | None:
    """A number or a name; None for -1, which stands for none, and for anything else."""
    if isinstance(value, str) and value.removeprefix("-").isdigit():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    return None if value in ("", -1) else value
