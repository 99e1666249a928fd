"""Folders with a folder for each class, as torchvision reads them; Kaggle's ImageNet; tiny-imagenet."""

from __future__ import annotations

import itertools
from pathlib import Path

from alexnet.data.classes import are_wnids, words_beside
from alexnet.data.sources.ilsvrc import find_devkit, number_of
from alexnet.data.sources.source import (
    SPLIT_NAMES,
    Listed,
    Options,
    Source,
    is_image,
    listed,
    listed_with_val,
    without_labels,
)
from alexnet.data.sources.tables import (
    Images,
    Labels,
    candidates,
    looked_up,
    read_table,
    split_in_name,
    unnamed,
)

KAGGLE = Path("ILSVRC/Data/CLS-LOC")


def kaggle_root(folder: Path) -> Path | None:
    """`Data/CLS-LOC` of Kaggle's ImageNet, given that, `ILSVRC`, or what the archive unpacks to."""
    for inside in (folder / KAGGLE, folder / "Data" / "CLS-LOC"):
        if inside.is_dir():
            return inside
    return folder if folder.resolve().parts[-2:] == ("Data", "CLS-LOC") else None


def split_folders(folder: Path) -> dict[str, Path]:
    """train/, val/ and test/ in a folder, by whichever of their names, in this order.

    Raises ValueError where only held-out folders lie in it: they would be taken for classes.
    """
    found = {}
    for split, names in SPLIT_NAMES.items():
        there = [folder / name for name in names if (folder / name).is_dir()]
        if there:
            found[split] = there[0]
    if found and "train" not in found and set(_children(folder)) <= set(found.values()):
        raise ValueError(f"{folder} has no train/ beside {', '.join(found)}/; put it there")
    return found


def _children(folder: Path) -> list[Path]:
    return sorted(
        child for child in folder.iterdir() if child.is_dir() and not child.name.startswith(".")
    )


def has_class_folders(folder: Path) -> bool:
    """Whether images lie in at least two folders of this one."""
    full = (child for child in _children(folder) if any(map(is_image, child.rglob("*"))))
    return sum(1 for _ in itertools.islice(full, 2)) == 2


def class_folders(folder: Path, options: Options | None = None) -> Source:
    """train/ with a folder for each class, val/ and test/; or one folder of classes.

    val/ and test/ are by class too, or flat with a table of labels or ImageNet's devkit beside
    them. A test/ without labels is left out; with labels it is the validation split where there is
    no val/. Without either, `val_fraction` of the images are held out. Raises ValueError for a
    class without images, for classes that one split has and another lacks, and for a flat val/
    without labels.
    """
    options = options or Options()
    base = kaggle_root(folder)
    around = [folder] if base is None else [base, *base.resolve().parents[:3]]
    base = base or folder
    parts = split_folders(base)
    parts = parts if "train" in parts else {"train": base}
    classes, train = _class_files(parts["train"])
    notes = _passed_over(parts["train"])
    files = {"train": train}
    alone = True
    for split in [split for split in parts if split != "train"]:
        name = "val" if "val" not in parts else split
        by_class = any((parts[split] / child).is_dir() for child in classes)
        if not options.wants(name):
            alone = alone and split == "test" and not by_class
        elif by_class:
            files[name] = _same_classes(parts["train"], classes, parts[split])
        elif (labels := _flat_labels(parts[split], split, around, notes)) is not None:
            files[name] = _flat_files(parts[split], labels, classes)
        else:
            notes.append(without_labels(split, parts[split]))
    if alone and len(files) == 1:
        fraction = f", {options.val_fraction} of them val"
        splits = listed_with_val(train, options)
    else:
        fraction = ""
        splits = tuple(listed(name, files[name]) for name in SPLIT_NAMES if name in files)
    wnids = are_wnids(classes)
    return Source(
        f"class folders {folder}{fraction}",
        classes,
        splits,
        upright=not wnids,  # the authors took ImageNet's as they are, and so do its other forms
        words=_words(classes, around) if wnids else (),
        notes=tuple(notes),
    )


def _class_files(folder: Path) -> tuple[tuple[str, ...], list[Listed]]:
    folders = _children(folder)
    if len(folders) < 2:
        raise ValueError(
            f"{folder} has {len(folders)} class folders; at least 2 are needed, one for each class"
        )
    files: list[Listed] = []
    for label, child in enumerate(folders):
        own = sorted(path for path in child.rglob("*") if is_image(path) and path.is_file())
        if not own:
            raise ValueError(f"the class folder {child} has no pictures; remove it or fill it")
        files += [(path, path.relative_to(folder).as_posix(), label) for path in own]
    return tuple(child.name for child in folders), files


def _same_classes(train: Path, classes: tuple[str, ...], part: Path) -> list[Listed]:
    own, files = _class_files(part)
    if own != classes:
        odd = sorted(set(classes) ^ set(own))
        raise ValueError(f"{train} and {part} have different classes: {', '.join(odd[:3])}")
    return files


def _passed_over(folder: Path) -> list[str]:
    """Notes about what lies beside class folders and might have been meant."""
    notes = []
    if loose := [path.name for path in sorted(folder.iterdir()) if is_image(path)]:
        notes.append(
            f"{len(loose)} images of {folder} lie in no class folder and are left out, "
            f"{loose[0]} among them"
        )
    notes += [
        f"{path} is not read: the folders of {folder} are the classes"
        for path in candidates([folder])
        if path.suffix.lower() != ".txt"  # a README, words, file lists
    ]
    return notes


def _flat_labels(part: Path, split: str, around: list[Path], notes: list[str]) -> Labels | None:
    """The labels of a flat split, by a table in its folder or one of this split around, or by the
    devkit; None where there is neither. Raises ValueError for two tables."""
    images = Images(part)
    files = candidates([part]) + [
        path for path in candidates(around) if split_in_name(path) == split
    ]
    tables = [table for path in files if (table := read_table(path, images)) is not None]
    if len(tables) > 1:
        raise ValueError(
            f"{tables[0].path} and {tables[1].path} both name images of {part}; keep one"
        )
    if tables:
        labels = {path: row.label for row, path in looked_up(tables[0], images)}
        notes += unnamed(images.files, labels, tables[0].path)
        return labels if any(labels.values()) else None
    for folder in around:
        devkit = find_devkit(folder)
        if devkit is not None and split in devkit.splits and images.files:
            truth = devkit.truth(split)
            numbers = [number_of(path.name) for path in images.files]
            if sorted(numbers) != list(range(1, len(truth) + 1)):
                raise ValueError(
                    f"{part} has {len(numbers)} pictures and the devkit {len(truth)} labels for them"
                )
            return {p: truth[n - 1] for p, n in zip(images.files, numbers, strict=True)}
    return None


def _flat_files(part: Path, labels: Labels, classes: tuple[str, ...]) -> list[Listed]:
    place = {name: number for number, name in enumerate(classes)}
    for path, label in labels.items():
        if label not in place:
            raise ValueError(
                f"{path} has the label {label!r}, and the training folder has no such class"
            )
    return [
        (path, path.relative_to(part).as_posix(), place[label])
        for path, label in sorted(labels.items())
    ]


def _words(wnids: tuple[str, ...], around: list[Path]) -> tuple[str, ...]:
    """By a list of words in or beside the source, or by a devkit there."""
    if words := words_beside(wnids, [*around, around[-1].parent]):
        return words
    for folder in around:
        devkit = find_devkit(folder)
        if devkit is not None and devkit.words and set(wnids) <= set(devkit.wnids):
            known = dict(zip(devkit.wnids, devkit.words, strict=True))
            return tuple(known[wnid] for wnid in wnids)
    return ()
