"""Flat folders of images and tables that say what is on each: CSV, TSV or text, `name label`."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from alexnet.data.classes import ClassList, are_wnids, class_list, words_beside
from alexnet.data.sources.source import (
    SPLIT_NAMES,
    Listed,
    Options,
    Source,
    is_image,
    listed,
    listed_with_val,
    split_name,
    without_labels,
)

NAME_HEADINGS = {"name", "filename", "file_name", "file", "path", "filepath", "file_path"} | {
    "image", "image_name", "image_id", "imageid", "image_path", "img", "id"
}  # fmt: skip
LABEL_HEADINGS = {"label", "labels", "class", "class_name", "class_id", "category", "target"} | {
    "breed", "wnid", "synset", "predictionstring"
}  # fmt: skip
SPLIT_HEADINGS = {"split", "set", "subset", "partition"}
BOXES = re.compile(r"(n\d{8})( -?\d+){4}( n\d{8}( -?\d+){4})*")
"""A wnid and its boxes, as Kaggle's LOC_val_solution.csv has them in one field."""
LOOKED_AT = 200
"""Rows of a table by which its columns are recognised."""


class Images:
    """The image files of a folder, found by any ending of their path, with or without suffix."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = sorted(p for p in folder.rglob("*") if is_image(p) and p.is_file())
        self._by_name: dict[str, Path | None] = {}
        for path in self.files:
            parts = path.relative_to(folder).parts
            for first in range(len(parts)):
                name = "/".join(parts[first:])
                for key in (name, name.removesuffix(path.suffix)):
                    self._by_name[key] = None if key in self._by_name else path

    def find(self, name: str) -> Path | None:
        """The file that a table calls `name`; None where there is none, or more than one."""
        parts = [part for part in re.split(r"[/\\]", name) if part not in ("", ".")]
        for first in range(len(parts)):
            if (found := self._by_name.get("/".join(parts[first:]))) is not None:
                return found
        return None


@dataclass(frozen=True)
class TableRow:
    """What a line of a table says of an image.

    label: "" for none, which some write as -1; split: None without a column.
    """

    line: int
    name: str
    label: str
    split: str | None


@dataclass(frozen=True)
class Table:
    path: Path
    rows: tuple[TableRow, ...]


def candidates(folders: Iterable[Path]) -> list[Path]:
    """The files of these folders that may be tables of labels."""
    return [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in (".csv", ".tsv", ".txt")
        and path.is_file()
        and "submission" not in path.stem.lower()  # Kaggle's forms, whose labels are made up
    ]


def split_in_name(path: Path) -> str | None:
    """The split that a table is of, by a word in its name: LOC_val_solution.csv."""
    words = [split_name(word) for word in re.findall(r"[A-Za-z]+", path.stem)]
    return next((word for word in words if word in SPLIT_NAMES), None)


def read_table(path: Path, images: Images) -> Table | None:
    """The table in a file; None where no column names an image.

    Columns are separated by tabs, commas, semicolons or white space. With a heading they are found
    by their names; without, the label follows the image's name. Raises ValueError where it is not
    clear which column has the label.
    """
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    best, found = (0, 0), None
    for separator in ("\t", ",", ";", None):
        lines = [(number, fields) for number, fields in _lines(text, separator) if any(fields)]
        name, named = _name_column([fields for _, fields in lines[:LOOKED_AT]], images)
        # A whole line may end in "/c.png" and so name an image too: more columns are more likely.
        several = named and max(len(fields) for _, fields in lines) > 1
        if named and (named, several) > best:
            best, found = (named, several), (lines, name)
    return None if found is None else Table(path, tuple(_table_rows(path, *found, images)))


def _lines(text: str, separator: str | None) -> Iterator[tuple[int, list[str]]]:
    """(line, fields). White space separates a name from the rest, which may be several words."""
    if separator is None:
        for number, line in enumerate(text.splitlines(), 1):
            yield number, line.split(None, 1)
        return
    reader = csv.reader(text.splitlines(), delimiter=separator)
    try:
        rows = [(reader.line_num, fields) for fields in reader]
    except csv.Error:  # a text that is no table
        return
    for number, fields in rows:
        yield number, [field.strip() for field in fields]


def _name_column(lines: list[list[str]], images: Images) -> tuple[int, int]:
    """The column that names images, and in how many lines it does.

    Numbers may name images by chance; fields that end in .jpg do not.
    """

    def score(column: int) -> tuple[int, bool, int, int]:
        fields = [fields[column] for fields in lines if column < len(fields)]
        found = [field for field in fields if images.find(field) is not None]
        headed = fields[0].lower() in NAME_HEADINGS
        return sum(map(is_image, found)), headed, len(found), -column

    best = max(map(score, range(max(map(len, lines), default=0))), default=(0, False, 0, 0))
    return -best[-1], best[2]


def _table_rows(
    path: Path, lines: list[tuple[int, list[str]]], name: int, images: Images
) -> Iterator[TableRow]:
    width = max(len(fields) for _, fields in lines)
    lines = [(line, [*fields, *[""] * (width - len(fields))]) for line, fields in lines]
    first = [field.lower() for field in lines[0][1]]
    others = [column for column in range(width) if column != name]
    label, split = None, None
    headings = LABEL_HEADINGS | SPLIT_HEADINGS
    if images.find(first[name]) is None and (
        first[name] in NAME_HEADINGS or any(field in headings for field in first)
    ):
        lines, heading = lines[1:], dict(enumerate(first))
        split = next((c for c in others if heading.get(c) in SPLIT_HEADINGS), None)
        others = [c for c in others if c != split]
        label = next((c for c in others if heading.get(c) in LABEL_HEADINGS), None)
    elif len(others) > 1:  # boxes may follow a wnid; of anything else nobody knows what it is
        follows = name + 1 < width and are_wnids(fields[name + 1] for _, fields in lines)
        label = name + 1 if follows else None
    if label is None and len(others) == 1:
        label = others[0]
    if label is None and others:
        raise ValueError(
            f"{path} has {width} columns and it is not clear which of them is the label; "
            "begin it with a line of headings, among them name and label"
        )
    for line, fields in lines:
        text = "" if label is None or fields[label] == "-1" else fields[label]
        boxes = BOXES.fullmatch(text)
        own = None if split is None else _split(path, line, fields[split])
        yield TableRow(line, fields[name], boxes[1] if boxes else text, own)


def _split(path: Path, line: int, word: str) -> str:
    if (name := split_name(word)) not in SPLIT_NAMES:
        raise ValueError(
            f"{path}, line {line}, has the split {word!r}; the splits are {', '.join(SPLIT_NAMES)}"
        )
    return name


Labels = dict[Path, str]
"""The label of each image, "" where it has none."""


def looked_up(table: Table, images: Images) -> list[tuple[TableRow, Path]]:
    """The rows and their images.

    Raises ValueError for rows that name no image, and for an image with two labels.
    """
    found: list[tuple[TableRow, Path]] = []
    lost: list[TableRow] = []
    labels: Labels = {}
    for row in table.rows:
        path = images.find(row.name)
        if path is None:
            lost.append(row)
            continue
        if labels.setdefault(path, row.label) != row.label:
            raise ValueError(
                f"{table.path}, line {row.line}, calls {row.name} {row.label!r}, and a line before "
                f"calls it {labels[path]!r}; keep one of them"
            )
        found.append((row, path))
    if lost:
        hint = "; if it is a heading, call its columns name and label" if lost[0].line == 1 else ""
        raise ValueError(
            f"{len(lost)} rows of {table.path} name no image of {images.folder}, or more than one; "
            f"the first is {lost[0].name!r} in line {lost[0].line}: "
            f"put the images there or take the rows out{hint}"
        )
    return found


def unnamed(images: Sequence[Path], named: Iterable[Path], table: Path) -> list[str]:
    """The note about images that are in no row; none when all are."""
    rest = sorted(set(images) - set(named))
    if not rest:
        return []
    return [f"{len(rest)} images are in no row of {table} and are left out, {rest[0]} among them"]


def table_folder(folder: Path, options: Options | None = None) -> Source:
    """A flat folder of images and its tables.

    Splits are a column of the one table, or tables with a split's word in their names (train.csv,
    val.csv, test.csv) or in a split's folder; otherwise `val_fraction` of the images are held out.
    Labels are names, or numbers that classes.txt may name. Raises ValueError when no table names
    the images, when several do and nothing says of which split, and as `looked_up`.
    """
    options = options or Options()
    images = Images(folder)
    tables = _tables(folder, images)
    by_split: dict[str, Labels] = {}
    for table in tables:
        of_table = _split_of(table.path, folder)
        inside = Images(folder / of_table) if of_table and (folder / of_table).is_dir() else images
        if all(inside.find(row.name) is None for row in table.rows[:LOOKED_AT]):
            inside = images
        for row, path in looked_up(table, inside):
            by_split.setdefault(row.split or of_table or "train", {})[path] = row.label
    counts = Counter(path for labels in by_split.values() for path in labels)
    for path, count in counts.most_common(1):
        if count > 1:
            raise ValueError(f"{path} is in {count} splits by the tables; leave it in one")
    notes = unnamed(images.files, counts, tables[0].path)
    for split, labels in list(by_split.items()):
        if not any(labels.values()):
            if options.wants(split):
                notes.append(without_labels(split, folder))
            del by_split[split]
        elif empty := [path for path, label in labels.items() if not label]:
            raise ValueError(f"the row of {empty[0]} has no label; write one or take the row out")
    if "val" not in by_split and "test" in by_split:
        by_split["val"] = by_split.pop("test")
    if "train" not in by_split:
        raise ValueError(f"no row of {tables[0].path} is of the training split; name it train")
    found, positions = _classes(folder, set(by_split["train"].values()))
    upright = not are_wnids(found.classes)
    files = {split: _files(folder, labels, positions, split) for split, labels in by_split.items()}
    if len(files) == 1:
        splits = listed_with_val(files["train"], options)
        fraction = f", {options.val_fraction} of them val"
    else:
        splits = tuple(listed(name, files[name]) for name in SPLIT_NAMES if name in files)
        fraction = ""
    return Source(
        f"table {tables[0].path}{fraction}",
        found.classes,
        splits,
        upright=upright,
        words=found.words,
        notes=tuple(notes),
    )


def _tables(folder: Path, images: Images) -> list[Table]:
    """All that name images. Raises ValueError for none, and for several of unknown splits."""
    places = {folder} | {folder / name for names in SPLIT_NAMES.values() for name in names}
    places |= {path.parent for path in images.files} if len(images.files) else set()
    files = candidates(sorted(places))
    tables = [table for path in files if (table := read_table(path, images)) is not None]
    if not tables:
        tried = f", and {files[0]} names none of them" if files else ""
        raise ValueError(
            f"{folder} has {len(images.files)} images in no class folders; at least 2 are needed, "
            f"or a table that says what is on them (labels.csv with rows NAME,LABEL){tried}"
        )
    loose = [
        table
        for table in tables
        if table.rows and table.rows[0].split is None and _split_of(table.path, folder) is None
    ]
    if len(tables) > 1 and loose:
        raise ValueError(
            f"{tables[0].path} and {tables[1].path} both name images; keep one, "
            "or have one for each split: train.csv, val.csv, test.csv"
        )
    return tables


def _split_of(table: Path, folder: Path) -> str | None:
    own = split_in_name(table)
    if own is None and table.parent != folder:
        own = split_name(table.parent.name)
    return own if own in SPLIT_NAMES else None


def _files(folder: Path, labels: Labels, positions: dict[str, int], split: str) -> list[Listed]:
    for path, label in labels.items():
        if label not in positions:
            raise ValueError(
                f"{path} of the split {split!r} has the label {label!r}, which no training row has"
            )
    return [
        (path, path.relative_to(folder).as_posix(), positions[label])
        for path, label in labels.items()
    ]


def _classes(folder: Path, labels: set[str]) -> tuple[ClassList, dict[str, int]]:
    """The classes, and the place of each label among them. Raises ValueError for fewer than two."""
    if len(labels) < 2:
        raise ValueError(f"the table of {folder} has {len(labels)} labels; at least 2 are needed")
    if all(label.isdigit() for label in labels):
        ordered = sorted(labels, key=int)
        file = folder / "classes.txt"
        if not file.is_file():
            return ClassList(tuple(ordered)), {label: i for i, label in enumerate(ordered)}
        names = [line for line in file.read_text().split("\n") if line]
        if int(ordered[-1]) >= len(names):
            raise ValueError(
                f"{file} names {len(names)} classes, counted from 0, and a label is {ordered[-1]}; "
                "name them all"
            )
        found = class_list(names)
        return found, {label: found.label(int(label)) for label in ordered}
    ordered = sorted(labels)
    words = words_beside(ordered, (folder, folder.parent)) if are_wnids(ordered) else ()
    return ClassList(tuple(ordered), words), {label: i for i, label in enumerate(ordered)}
