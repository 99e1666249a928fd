"""Folders with one folder per class, as in torchvision; Kaggle's ImageNet; tiny-imagenet."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from alexnet.data.classes import are_wnids, composed, words_beside
from alexnet.data.sources.ilsvrc import check_numbers, find_devkit, number_of
from alexnet.data.sources.source import (
    SPLIT_NAMES,
    Listed,
    Options,
    Source,
    files_below,
    is_hidden,
    is_image,
    listed_splits,
    may_be_image,
    notes_on_left_out,
    split_in_name,
    walk_below,
    without_labels,
)
from alexnet.data.sources.tables import (
    Images,
    Labels,
    Table,
    candidates,
    labelled_files,
    match_images,
    note_unlisted,
    read_table,
    without_annotations,
)
from alexnet.errors import DataError

KAGGLE = Path("ILSVRC/Data/CLS-LOC")


def kaggle_root(folder: Path) -> Path | None:
    """Return the folder `Data/CLS-LOC` of Kaggle's ImageNet, or None if it is not that set.

    `folder` may be that folder, `ILSVRC`, or what the archive unpacks to.
    """
    for inside in (folder / KAGGLE, folder / "Data" / "CLS-LOC"):
        if inside.is_dir():
            return inside
    return folder if folder.resolve().parts[-2:] == ("Data", "CLS-LOC") else None


def split_folders(folder: Path) -> dict[str, Path]:
    """Return the folders train/, val/ and test/ in a folder, whatever their names, in this order.

    Capital letters do not count, unless a folder of another name lies beside them: among Bus/ and
    Car/, Train/ is a class. Beside a train/ that has folders of its own it is none.

    Raises:
        DataError: If only held-out folders lie in it, which would be taken for classes, or if two
            folders are those of one split.
    """
    children = [(child.name, child) for child in _children(folder)]
    # Some sets of Kaggle have Training/ and Testing/.
    lower = [(name.lower(), child) for name, child in children]
    trains = [child for name, child in children if name in SPLIT_NAMES["train"]]
    all_splits = {name for name, _ in lower} <= set(itertools.chain(*SPLIT_NAMES.values()))
    if all_splits or any(map(_children, trains)):
        children = lower
    of_split = {
        split: [child for name, child in children if name in names]
        for split, names in SPLIT_NAMES.items()
    }
    folders = {split: existing[0] for split, existing in of_split.items() if existing}
    if "train" in folders and _is_class(folders["train"], folders.values()):
        return {}
    for split, existing in of_split.items():
        if len(existing) > 1 and "train" in folders:
            raise DataError(
                f"{existing[0]} and {existing[1]} are both folders of the split {split!r}; keep "
                "one, or put the images of both into it"
            )
    if folders and "train" not in folders and set(_children(folder)) <= set(folders.values()):
        beside = ", ".join(f"{child.name}/" for child in folders.values())
        raise DataError(f"{folder} has no train/ beside {beside}; put it there")
    return folders


def _is_class(train: Path, splits: Collection[Path]) -> bool:
    """Tell whether a folder with the name of the training split is a class, of trains for example.

    It is one if it has no folders, there is no table of labels in it or beside it, and images lie
    in folders beside it that are no splits.
    """
    tables = [path for path in candidates([train, train.parent]) if path.suffix.lower() != ".txt"]
    if tables or _children(train):
        return False
    beside = (child for child in _children(train.parent) if child not in splits)
    return any(any(map(may_be_image, walk_below(child))) for child in beside)


def _children(folder: Path) -> list[Path]:
    """Return the folders in a folder, without hidden ones, in alphabetical order."""
    # The listing tells folders from files, which `Path.is_dir` would ask the disk for one by one.
    with os.scandir(folder) as entries:
        children = [
            Path(entry)
            for entry in entries
            if not is_hidden(entry.name)
            and (Path(entry).is_dir() if entry.is_symlink() else entry.is_dir())
        ]
    return sorted(children, key=lambda child: composed(child.name))


def has_class_folders(folder: Path) -> bool:
    """Tell whether at least two folders of this one contain images, if only undecodable ones."""
    # Two are enough to know, and a search of all would take long: ImageNet has 1000.
    full = (child for child in _children(folder) if any(map(may_be_image, walk_below(child))))
    return sum(1 for _ in itertools.islice(full, 2)) == 2


def class_folders(folder: Path, options: Options = Options()) -> Source:
    """Read train/ with one folder per class, val/ and test/; or one folder of class folders.

    val/ and test/ have class folders, too, or are flat with a table of labels or ImageNet's devkit
    beside them. A test/ without labels is left out; with labels it is the validation split if there
    is no val/. Without either, `val_fraction` of the images are held out.

    Raises:
        DataError: If a class has no training images, if val/ or test/ has a class that train/
            lacks, or if a flat val/ has no labels.
    """
    base = kaggle_root(folder)
    # Kaggle keeps its tables and words up to three folders above the images.
    around = [folder] if base is None else [base, *base.resolve().parents[:3]]
    base = base or folder
    parts = split_folders(base)
    # Without train/ the folder itself contains the class folders.
    parts = parts if "train" in parts else {"train": base}
    notes: list[str] = []
    classes, train = _class_files(parts["train"], notes)
    notes += _notes_on_rest(parts["train"], train)
    files = {"train": train}
    known = set(map(composed, classes))
    # Whether there is no validation split, neither read nor left out by --splits.
    alone = True
    for split in [split for split in parts if split != "train"]:
        # Training needs a split to validate on, for which a test split with labels serves.
        name = "val" if "val" not in parts else split
        part = parts[split]
        inside = _children(part)
        by_class = any(composed(child.name) in known for child in inside)
        above = part if by_class else _above_classes(part, inside, classes)
        if not options.wants(name):
            # Only a test/ without labels does not count as a validation split.
            alone = alone and split == "test" and above is None
            alone = alone and not _has_flat_labels(part, split, around)
            continue
        labels = None if by_class else _flat_labels(part, split, around, notes)
        if labels is not None:
            positions = {composed(label): number for number, label in enumerate(classes)}
            files[name] = labelled_files(part, dict(sorted(labels.items())), positions, name)
        elif above not in (None, part):
            raise DataError(f"the class folders of {part} lie in {above}; move them to {part}")
        # Images of test/ may lie in several folders and have no labels.
        elif above == part or (split == "val" and has_class_folders(part)):
            files[name] = _held_out_files(parts["train"], classes, part, notes)
            notes += _notes_on_loose(part)
        else:
            other = f"; {inside[0].name}/ is no class of {parts['train']}" if inside[1:] else ""
            notes.append(without_labels(split, part) + other)
    splits, fraction = listed_splits(files, options, hold_out=alone and len(files) == 1)
    wnids = are_wnids(classes)
    return Source(
        f"class folders {folder}{fraction}",
        classes,
        splits,
        # The authors took ImageNet's images as they are, and so do the set's other forms.
        upright=not wnids,
        words=_words(classes, around) if wnids else (),
        notes=tuple(notes),
    )


def _above_classes(part: Path, inside: Sequence[Path], classes: Sequence[str]) -> Path | None:
    """Return the folder of a held-out split's class folders: the split, one in it, or None.

    Capital letters, spaces and punctuation do not count, by which names are often wrong.

    Args:
        inside: The folders in the split.
    """

    def plain(name: str) -> str:
        return "".join(filter(str.isalnum, composed(name).casefold())) or name

    known = set(map(plain, classes))
    above = (part for child in inside if plain(child.name) in known)
    one_deeper = (c for c in inside if any(plain(child.name) in known for child in _children(c)))
    return next(itertools.chain(above, one_deeper), None)


def _class_files(folder: Path, notes: list[str]) -> tuple[tuple[str, ...], list[Listed]]:
    """Return the classes and the files in class folders; add notes about files that are left out.

    Raises:
        DataError: If there are fewer than two class folders, or one without images.
    """
    folders = _children(folder)
    if len(folders) < 2:
        few = (
            f"{folder} has {len(folders)} class folders; at least 2 are needed, one for each class"
        )
        undecodable = notes_on_left_out(filter(may_be_image, files_below(folder)), folder)
        raise DataError("; ".join([few, *undecodable]))
    files: list[Listed] = []
    left_out: list[Path] = []
    without_images: list[str] = []
    for label, child in enumerate(folders):
        paths = files_below(child)
        images = [path for path in paths if is_image(path)]
        if not images:
            why = "; ".join(notes_on_left_out(filter(may_be_image, paths), "it"))
            mend = f" that this program can read; {why}" if why else ""
            without_images.append(
                f"the class folder {child} has no images{mend or '; remove it or fill it'}"
            )
        left_out += [path for path in paths if not is_image(path)]
        # The name of an item does not depend on where the source lies: a store records it.
        files += [(path, path.relative_to(folder).as_posix(), label) for path in images]
    if without_images:
        raise DataError("; ".join(without_images))
    notes += notes_on_left_out(left_out, folder)
    notes += _notes_on_nested(folder, [name for _, name, _ in files])
    return tuple(child.name for child in folders), files


def _notes_on_nested(folder: Path, names: list[str]) -> list[str]:
    """Return a note about folders that lie in several class folders, as classes do in splits.

    Args:
        names: The images, relative to the folder.

    Raises:
        DataError: If they are named by wnids, so that they certainly are the classes.
    """
    outer: dict[str, set[str]] = {}
    for name in names:
        if len(parts := name.split("/")) > 2:
            outer.setdefault(parts[1], set()).add(parts[0])
    inner = sorted(name for name, outside in outer.items() if len(outside) > 1)
    if len(inner) < 2:  # tiny-imagenet has one, images/
        return []
    note = (
        f"the folders of {folder} are taken for the classes, and {inner[0]}/ and {inner[1]}/ lie "
        "in several of them; if those are the classes, move them to train/ and val/"
    )
    if are_wnids(inner):
        raise DataError(note)
    return [note]


def _held_out_files(
    train: Path, classes: tuple[str, ...], part: Path, notes: list[str]
) -> list[Listed]:
    """Return the files of another split with class folders; add notes about files left out.

    It may lack classes, which are reported when the store is finished.

    Raises:
        DataError: If it has no image, or a class that the training split lacks.
    """
    label_of = {composed(name): label for label, name in enumerate(classes)}
    folders = _children(part)
    if odd := [child.name for child in folders if composed(child.name) not in label_of]:
        # A mistake more often than an intention.
        raise DataError(
            f"{part} has class folders that {train} lacks: {', '.join(odd[:3])}; rename them or "
            "take them out"
        )
    paths = [
        (path, label_of[composed(child.name)]) for child in folders for path in files_below(child)
    ]
    files = [
        (path, path.relative_to(part).as_posix(), label) for path, label in paths if is_image(path)
    ]
    if not files:
        raise DataError(f"{part} has no images; add some or take it out of {part.parent}")
    notes += notes_on_left_out((path for path, _ in paths), part)
    return files


def _notes_on_rest(folder: Path, images: Sequence[Listed]) -> list[str]:
    """Return notes about files beside class folders that the user may have meant to be read.

    Args:
        images: Those in the class folders.

    Raises:
        DataError: If one of them is a table by which the folders are no classes.
    """
    notes = _notes_on_loose(folder)
    # Text files are READMEs, words and lists of files.
    tables = [path for path in candidates([folder]) if path.suffix.lower() != ".txt"]
    for path in tables:
        if _has_other_labels(path, folder, images):
            raise DataError(
                f"{path} gives half of the images of {folder} or more other labels than their "
                "folders; move the table away if the folders are the classes, or all images into "
                "one folder if the table has them"
            )
        notes.append(f"{path} is not read: the folders of {folder} are the classes")
    return notes


def _notes_on_loose(folder: Path) -> list[str]:
    """Return a note about images beside class folders, or nothing if there are none."""
    files = [path for path in sorted(folder.iterdir()) if not path.is_dir()]
    if not (loose := [path.name for path in files if is_image(path)]):
        return []
    return [
        f"{len(loose)} images of {folder} lie in no class folder and are left out, "
        f"{loose[0]} among them"
    ]


def _has_other_labels(path: Path, folder: Path, files: Sequence[Listed]) -> bool:
    """Tell whether a table labels half of the images or more otherwise than their folders.

    Those are the images whose label is not the commonest one of their folder, so other names of the
    classes are no reason to ask, nor are a few corrected labels. The folders then are those of
    years, cameras or films. Columns that differ from image to image, such as dates, are no labels.

    Args:
        folder: The folder of the class folders.
        files: The images in them.
    """
    # A file of too few lines can be told at once; to find images by their names takes memory.
    if 2 * len(path.read_bytes().splitlines()) < len(files):
        return False
    images = Images(folder, [file for file, _, _ in files])
    try:
        table = read_table(path, images, headed=True)
    except DataError:  # a table of something else
        return False
    labels: Labels = {}
    for row in table.rows if table else ():
        if row.label and (image := images.find(row.name)) is not None:
            labels[image] = row.label
    by_folder: dict[str, Counter[str]] = {}
    for image, label in labels.items():
        by_folder.setdefault(image.relative_to(folder).parts[0], Counter())[label] += 1
    other = sum(count.total() - max(count.values()) for count in by_folder.values())
    return 2 * len(set(labels.values())) <= len(labels) and 2 * other >= len(files)


def _flat_labels(part: Path, split: str, around: list[Path], notes: list[str]) -> Labels | None:
    """Return the labels of a flat split, or None if there are none.

    They come from a table in the split's folder, from a table of this split in a folder around it,
    or from the devkit.

    Raises:
        DataError: If there are two tables, or not as many images as labels.
    """
    images = Images(part)
    files = without_annotations(candidates([part]), images.files) + [
        path for path in candidates(around) if split_in_name(path) == split
    ]
    tables: list[Table] = []
    # A text of which few lines name images may be a table whose images are missing, unless there is
    # another one.
    for even_if_few in (False, True):
        read = (read_table(path, images, even_if_few=even_if_few) for path in files)
        tables = tables or [table for table in read if table is not None]
    if len(tables) > 1:
        raise DataError(
            f"{tables[0].path} and {tables[1].path} both name images of {part}; keep one"
        )
    if tables:
        labels = {path: row.label for row, path in match_images(tables[0], images)}
        notes += note_unlisted(images.files, labels, str(tables[0].path))
        return labels if any(labels.values()) else None
    for folder in around:
        devkit = find_devkit(folder)
        if devkit is not None and split in devkit.splits and images.files:
            # The devkit lists labels by the numbers in the names of the images, from 1.
            truth = devkit.truth(split)
            numbers = [number_of(path.name) for path in images.files]
            check_numbers(numbers, len(truth), part)
            return {p: truth[n - 1] for p, n in zip(images.files, numbers, strict=True)}
    return None


def _has_flat_labels(part: Path, split: str, around: list[Path]) -> bool:
    """Tell whether a flat split that is not wanted has labels, if only faulty ones."""
    try:
        return _flat_labels(part, split, around, notes=[]) is not None
    except DataError:
        return True


def _words(wnids: tuple[str, ...], around: list[Path]) -> tuple[str, ...]:
    """Return the words from a list in or beside the source, or from a devkit there."""
    if words := words_beside(wnids, [*around, around[-1].parent]):
        return words
    for folder in around:
        devkit = find_devkit(folder)
        if devkit is not None and devkit.words and set(wnids) <= set(devkit.wnids):
            known = dict(zip(devkit.wnids, devkit.words, strict=True))
            return tuple(known[wnid] for wnid in wnids)
    return ()
