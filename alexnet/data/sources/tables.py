"""Flat folders of images with tables of their labels: CSV, TSV, or text with `name label`."""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from alexnet.data.classes import (
    WORD_FILES,
    ClassList,
    are_wnids,
    class_list,
    composed,
    is_number,
    read_class_names,
    with_words,
)
from alexnet.data.sources.source import (
    LEAVE_OUT,
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
    readable,
    split_in_name,
    split_name,
    without_labels,
)
from alexnet.errors import DataError

# Headings in lower case, as public data sets and Kaggle's competitions have them.
NAME_HEADINGS = {"name", "filename", "file_name", "file", "path", "filepath", "file_path"} | {
    "image", "image_name", "image_id", "imageid", "image_path", "img", "id"
}  # fmt: skip
LABEL_HEADINGS = {"label", "labels", "class", "class_name", "class_id", "category", "target"} | {
    "breed", "wnid", "synset", "predictionstring"
}  # fmt: skip
SPLIT_HEADINGS = {"split", "set", "subset", "partition"}
BOXES = re.compile(r"(n\d{8})( -?\d+){4}( n\d{8}( -?\d+){4})*")
"""A wnid and its boxes; Kaggle's LOC_val_solution.csv has several of them in one field."""
SAMPLE_ROWS = 200
"""Number of rows by which the columns of a table are recognized."""


class Images:
    """The image files of a folder, found by any ending of their path, with or without suffix.

    Attributes:
        files: The images that can be decoded here.
        left_out: Those that cannot, by their suffixes.
    """

    def __init__(self, folder: Path, below: Sequence[Path] | None = None) -> None:
        """Find the images of a folder.

        Args:
            below: The files below it; None: it is walked through.
        """
        self.folder = folder
        below = files_below(folder) if below is None else below
        self.files = [path for path in below if is_image(path)]
        self.left_out = [path for path in below if may_be_image(path) and not is_image(path)]
        self._by_name = _by_endings(folder, self.files)

    def find(self, name: str) -> Path | None:
        """Return the file that a table calls `name`; None if there is none, or several."""
        return _longest_ending(self.folder, self._by_name, name)

    def find_left_out(self, names: Iterable[str]) -> list[Path]:
        """Return the files with some of these names that are images and cannot be decoded here."""
        by_name = _by_endings(self.folder, self.left_out)
        paths = (_longest_ending(self.folder, by_name, name) for name in names)
        return [path for path in paths if path is not None]


def _by_endings(folder: Path, files: Sequence[Path]) -> dict[str, Path | None]:
    """Return files by all endings of their paths; None for an ending that two of them share.

    To search all files for each row of a table would take (rows x files) steps.
    """
    by_name: dict[str, Path | None] = {}
    for path in files:
        parts = path.relative_to(folder).parts
        for first in range(len(parts)):
            name = "/".join(parts[first:])
            # Tables name images as "a.jpg", "a", or with some of the folders above. A name that
            # two files share is of no use, so it stands for None.
            for key in (name, name.removesuffix(path.suffix)):
                key = composed(key)
                by_name[key] = None if key in by_name else path
    # Beside a/1.png, 1.png is named by its whole path, which "/" begins.
    for path in files:
        name = path.relative_to(folder).as_posix()
        for key in (composed(name), composed(name.removesuffix(path.suffix))):
            if by_name[key] is None:
                by_name[f"/{key}"] = None if f"/{key}" in by_name else path
    return by_name


def _longest_ending(folder: Path, by_name: Mapping[str, Path | None], name: str) -> Path | None:
    """Return the file that a table calls `name`, of those that `_by_endings` returned."""
    parts = ["", *(part for part in re.split(r"[/\\]", name) if part not in ("", "."))]
    # The table may also name folders above this one: the longest ending that fits counts.
    for first in range(len(parts)):
        if (path := by_name.get(composed("/".join(parts[first:])))) is not None:
            # What follows these folders is the whole path here. Otherwise the file lies in another
            # folder than the table says: a/1.png is not b/1.png.
            here = len(path.relative_to(folder).parts)
            return path if first <= 1 or here == len(parts) - first else None
    return None


@dataclass(frozen=True)
class LabelRow:
    """One line of a table.

    Attributes:
        line: Number of the line, from 1.
        name: The image, as the table calls it.
        label: The label; "" if there is none, for which some tables write -1.
        split: The split; None if the table has no column for it.
    """

    line: int
    name: str
    label: str
    split: str | None


@dataclass(frozen=True)
class Table:
    """A table of labels, and the file that contains it."""

    path: Path
    rows: tuple[LabelRow, ...]


def candidates(folders: Iterable[Path]) -> list[Path]:
    """Return the files of these folders that may be tables of labels."""
    return [
        path
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in (".csv", ".tsv", ".txt")
        and path.is_file()
        and "submission" not in path.stem.lower()  # Kaggle's sample submissions: invented labels
        and path.name not in ("classes.txt", *WORD_FILES)
    ]


def without_annotations(tables: Sequence[Path], images: Iterable[Path]) -> list[Path]:
    """Leave out the files that describe one image each, such as 7.txt beside 7.jpg.

    Darknet's boxes and captions are kept so. Their numbers and words could name other images.
    """
    stems = {path.with_suffix("") for path in images}
    beside = {path for path in tables if path.with_suffix("") in stems}
    # A single one may be a table that happens to have the name of an image.
    return [path for path in tables if len(beside) == 1 or path not in beside]


def read_table(
    path: Path, images: Images, headed: bool = False, even_if_few: bool = True
) -> Table | None:
    """Read a table of labels from a file; return None if no column names images.

    Columns are separated by tabs, commas, semicolons or white space. If the first line is a heading
    they are recognized by their names; otherwise the label follows the name of the image.

    Args:
        headed: Whether a heading must call the only other column a label; it may be anything else.
        even_if_few: Whether a text is a table, too, of which half of the lines or less name images
            and the others begin alike. Some lines of a README or a log may name images by chance.

    Raises:
        DataError: If it is not clear which column has the label, if a label is not UTF-8, or if
            the file has a zero byte.
    """
    text = _decoded(path)
    # Every separator is tried, and the one by which most lines name an image is taken.
    best, parsed = (0, 0), None
    for separator in ("\t", ",", ";", None):
        lines = [(number, fields) for number, fields in _lines(text, separator) if any(fields)]
        sample = [fields for _, fields in lines[:SAMPLE_ROWS]]
        name, named = _name_column(sample, images)
        few = path.suffix.lower() == ".txt" and 2 * named <= len(sample)
        if few and not (even_if_few and _alike(sample, name, images)):
            continue
        # A whole line may end in "/c.png" and thus name an image, too; several columns are better.
        several = named and max(len(fields) for _, fields in lines) > 1
        if named and (named, several) > best:
            best, parsed = (named, several), (lines, name)
    if parsed is None:
        return None
    if "\0" in text:  # what a disk leaves of a block that was lost
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{path}, line {line}, has a zero byte and is damaged; fetch it again")
    return Table(path, tuple(_table_rows(path, *parsed, images, headed)))


def _decoded(path: Path) -> str:
    """Return the text of a table."""
    content = path.read_bytes()
    # Windows also writes UTF-16, which begins with a mark of its own.
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    # Spreadsheet programs begin a CSV with a byte order mark, which `utf-8-sig` removes. Bytes that
    # are not UTF-8 become what they are in Python's names of files, so that they name images.
    return content.decode("utf-8-sig", "surrogateescape")


def _lines(text: str, separator: str | None) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the fields of each line.

    White space separates only the name from the rest, because a label may be several words.
    """
    if separator is None:
        for number, line in enumerate(text.splitlines(), 1):
            yield number, line.split(None, 1)
        return
    # With their ends, so that a field of several lines can be told.
    reader = csv.reader(text.splitlines(keepends=True), delimiter=separator)
    try:
        rows = [(reader.line_num, fields) for fields in reader]
    except csv.Error:  # a text file that is not a table
        return
    for number, fields in rows:
        yield number, [field.strip() for field in fields]


def _name_column(lines: list[list[str]], images: Images) -> tuple[int, int]:
    """Return the column that names images, and in how many lines it does.

    Labels that are numbers may name images by chance; fields that end in .jpg do not.
    """

    def score(column: int) -> tuple[int, bool, int, int]:
        fields = [fields[column] for fields in lines if column < len(fields)]
        matching = [field for field in fields if images.find(field) is not None]
        headed = fields[0].lower() in NAME_HEADINGS
        return sum(map(is_image, matching)), headed, len(matching), -column

    best = max(map(score, range(max(map(len, lines), default=0))), default=(0, False, 0, 0))
    return -best[-1], best[2]


def _alike(lines: list[list[str]], column: int, images: Images) -> bool:
    """Whether more than half of the lines have a name in the form of those that name an image.

    The form is the suffix of an image, or the name with a 0 for each number.
    """

    def form(name: str) -> str:
        return Path(name).suffix.lower() if is_image(name) else re.sub(r"\d+", "0", name)

    names = [fields[column] for fields in lines if column < len(fields)]
    forms = {form(name) for name in names if images.find(name) is not None}
    return 2 * sum(form(name) in forms for name in names) > len(lines)


def _table_rows(
    path: Path, lines: list[tuple[int, list[str]]], name: int, images: Images, headed: bool
) -> Iterator[LabelRow]:
    """Yield the rows of a table whose column `name` names images.

    Args:
        headed: As in `read_table`.
    """
    width = max(len(fields) for _, fields in lines)
    # Short lines are filled up, so that every row has every column.
    lines = [(line, [*fields, *[""] * (width - len(fields))]) for line, fields in lines]
    first = [field.lower() for field in lines[0][1]]
    others = [column for column in range(width) if column != name]
    label, split = None, None
    headings = LABEL_HEADINGS | SPLIT_HEADINGS
    names_image = images.find(lines[0][1][name]) is not None
    # A heading names no image, and at least one of its words is known.
    if not names_image and (
        first[name] in NAME_HEADINGS or any(field in headings for field in first)
    ):
        lines, heading = lines[1:], dict(enumerate(first))
        split = next((c for c in others if heading.get(c) in SPLIT_HEADINGS), None)
        others = [c for c in others if c != split]
        labels = [c for c in others if heading.get(c) in LABEL_HEADINGS]
        # Numbers and names of the same classes may stand side by side, and either will do.
        label = labels[0] if labels else None
        for other in labels[1:]:
            if not _same_classes(lines, labels[0], other):
                raise DataError(
                    f"{path} has the columns {first[labels[0]]!r} and {first[other]!r}, which "
                    "divide the images into different classes; give the one that is not the label "
                    "another heading"
                )
    # Without a heading, boxes may follow a wnid; the meaning of any other columns is unknown.
    elif len(others) > 1:
        follows = name + 1 < width and are_wnids(fields[name + 1] for _, fields in lines)
        label = name + 1 if follows else None
    # A single other column is the label, whatever its heading is.
    if label is None and len(others) == 1 and (names_image or not headed):
        label = others[0]
    if label is None and others:
        raise DataError(
            f"{path} has {width} columns and it is not clear which of them is the label; "
            "begin it with a line of headings, among them name and label"
        )
    for line, fields in lines:
        text = "" if label is None or fields[label] == "-1" else fields[label]
        # Of a wnid with boxes only the wnid is the label.
        boxes = BOXES.fullmatch(text)
        if "\n" in text:
            raise DataError(
                f"{path}, line {line}, ends a label of several lines; close its quotation mark"
            )
        if text != readable(text):
            raise DataError(
                f"{path}, line {line}, has a label that is not UTF-8; save the table as UTF-8"
            )
        row_split = None if split is None else _split(path, line, fields[split])
        # As `Source` writes the names of classes.
        text = composed(boxes[1] if boxes else text)
        yield LabelRow(line, fields[name], text, row_split)


def _same_classes(lines: list[tuple[int, list[str]]], one: int, other: int) -> bool:
    """Whether two columns divide the lines of a table into the same classes."""
    both = {(fields[one], fields[other]) for _, fields in lines}
    return len(both) == len({a for a, _ in both}) == len({b for _, b in both})


def _split(path: Path, line: int, word: str) -> str:
    """Return our name for a split in a table. Raises DataError for an unknown one."""
    if (name := split_name(word)) not in SPLIT_NAMES:
        raise DataError(
            f"{path}, line {line}, has the split {word!r}; the splits are {', '.join(SPLIT_NAMES)}"
        )
    return name


Labels = dict[Path, str]
"""The label of each image, "" if it has none."""


def match_images(table: Table, images: Images) -> list[tuple[LabelRow, Path]]:
    """Return the rows of a table with their images.

    Raises:
        DataError: If rows do not name an image, or an image has two labels.
    """
    matched: list[tuple[LabelRow, Path]] = []
    lost: list[LabelRow] = []
    labels: Labels = {}
    for row in table.rows:
        path = images.find(row.name)
        if path is None:
            lost.append(row)
            continue
        # A row that occurs twice does no harm, unless its labels differ.
        if labels.setdefault(path, row.label) != row.label:
            raise DataError(
                f"{table.path}, line {row.line}, calls {row.name} {row.label!r}, and a line before "
                f"calls it {labels[path]!r}; keep one of them"
            )
        matched.append((row, path))
    if left_out := images.find_left_out(row.name for row in lost):
        raise DataError(
            f"{table.path} names images that are left out, {left_out[0]} among them; "
            + "; ".join(notes_on_left_out(left_out, images.folder))
        )
    if odd := [row for row in lost if row.name != readable(row.name)]:
        raise DataError(
            f"{table.path}, line {odd[0].line}, names an image in letters that are not UTF-8; save "
            'the table as UTF-8 (in Excel as "CSV UTF-8")'
        )
    if lost:
        # The most common cause: a first line with headings that are not recognized.
        hint = "; if it is a heading, call its columns name and label" if lost[0].line == 1 else ""
        raise DataError(
            f"{len(lost)} rows of {table.path} name no image of {images.folder}, or more than one; "
            f"the first is {lost[0].name!r} in line {lost[0].line}: "
            f"put the images there or take the rows out{hint}"
        )
    return matched


def labelled_files(
    folder: Path, labels: Labels, positions: dict[str, int], split: str
) -> list[Listed]:
    """Return the files of a split, named relative to `folder`, in the order of `labels`.

    Args:
        positions: The number of each class.

    Raises:
        DataError: A label is not among the classes of the training split.
    """
    for path, label in labels.items():
        if label not in positions:
            raise DataError(
                f"{path} of the split {split!r} has the label {label!r}, "
                f"which no training image has; correct it, or {LEAVE_OUT}"
            )
    return [
        (path, path.relative_to(folder).as_posix(), positions[label])
        for path, label in labels.items()
    ]


def note_unlisted(images: Sequence[Path], listed_images: Iterable[Path], table: str) -> list[str]:
    """Return a note about images that are in no row of a table, or nothing if all are.

    Args:
        table: The table or tables, for the note.
    """
    rest = sorted(set(images) - set(listed_images))
    if not rest:
        return []
    return [f"{len(rest)} images are in no row of {table} and are left out, {rest[0]} among them"]


def table_folder(folder: Path, options: Options = Options()) -> Source:
    """Read a flat folder of images with its tables of labels.

    The splits are a column of the only table, or there are tables with the word for a split in
    their names (train.csv, val.csv, test.csv) or in the folder of a split. Otherwise `val_fraction`
    of the images are held out. Labels are names, or numbers that classes.txt may name.

    Raises:
        DataError: If no table names the images, or several do without a sign of their splits;
            also as `match_images`.
    """
    # Walked through once each, however many tables name images of them.
    images_in = cache(Images)
    images = images_in(folder)
    # Errors of a split that is not wanted do not matter, and then it may have labels.
    faulty: dict[str, DataError] = {}
    tables = _tables(folder, images_in, faulty)
    by_split: dict[str, Labels] = {split: {} for split in faulty}
    for table in tables:
        table_split = _split_of(table.path, folder)
        inside = _images_of(table.path, folder, images_in)
        if all(inside.find(row.name) is None for row in table.rows[:SAMPLE_ROWS]):
            inside = images
        by_row: dict[str, list[LabelRow]] = {}
        for row in table.rows:
            by_row.setdefault(row.split or table_split or "train", []).append(row)
        for split, rows in by_row.items():
            labels = by_split.setdefault(split, {})
            try:
                matched = match_images(Table(table.path, tuple(rows)), inside)
                labels.update((path, row.label) for row, path in matched)
            except DataError as error:
                faulty.setdefault(split, error)
    # An image in two splits would be trained on and tested on.
    counts = Counter(path for labels in by_split.values() for path in labels)
    for path, count in counts.most_common(1):
        if count > 1:
            raise DataError(f"{path} is in {count} splits by the tables; leave it in one")
    named = str(tables[0].path) if len(tables) == 1 else f"the tables of {folder}"
    # A table with an error may name any image.
    notes = [] if faulty else note_unlisted(images.files, counts, named)
    notes += notes_on_left_out(images.left_out, folder)
    for split, labels in list(by_split.items()):
        if split not in faulty and not any(labels.values()):
            if options.wants(split):
                notes.append(without_labels(split, folder))
            del by_split[split]
        elif options.wants(split) and (empty := [path for path in labels if not labels[path]]):
            raise DataError(f"the row of {empty[0]} has no label; write one or take the row out")
    # A run needs a split to validate on; a test split with labels serves.
    if "val" not in by_split and "test" in by_split:
        by_split["val"] = by_split.pop("test")
        faulty |= {"val": faulty.pop("test")} if "test" in faulty else {}
    for split, fault in faulty.items():
        if options.wants(split):
            raise fault
    if "train" not in by_split:
        raise DataError(f"no row of {named} is in the training split; name it train")
    catalogue, positions = _classes(folder, set(by_split["train"].values()))
    # The authors took ImageNet's images as they are, and so do its other forms.
    upright = not are_wnids(catalogue.classes)
    files = {
        split: labelled_files(folder, labels, positions, split)
        for split, labels in by_split.items()
        if options.wants(split)
    }
    splits, fraction = listed_splits(files, options, hold_out=len(by_split) == 1)
    return Source(
        f"table {tables[0].path}{fraction}",
        catalogue.classes,
        splits,
        upright=upright,
        words=catalogue.words,
        notes=tuple(notes),
    )


def _tables(
    folder: Path, images_in: Callable[[Path], Images], faulty: dict[str, DataError]
) -> list[Table]:
    """Return the tables that name images. Raises DataError for none, and for unclear splits.

    Args:
        faulty: Gets the errors of the tables of other splits than the training split.
    """
    # Tables may lie beside the images, in the folders of the splits, or above both.
    images = images_in(folder)
    folders = {folder} | {folder / name for names in SPLIT_NAMES.values() for name in names}
    folders |= {path.parent for path in images.files} if len(images.files) else set()
    found = candidates(sorted(folders))
    files = without_annotations(found, images.files)
    tables: list[Table] = []
    # A text of which few lines name images may be a table whose images are missing, unless there is
    # another one for its split. One without a split in its name is for all of them.
    for even_if_few in (False, True):
        known = {_split_of(table.path, folder) for table in tables}
        for path in files:
            split = _split_of(path, folder)
            if None in known or split in known or (split is None and "train" in known):
                continue
            try:
                inside = _images_of(path, folder, images_in)
                table = read_table(path, inside, even_if_few=even_if_few)
                table = table or read_table(path, images, even_if_few=even_if_few)
            except DataError as error:
                if split is None or split == "train":
                    raise
                faulty.setdefault(split, error)
                continue
            tables += [table] if table is not None else []
    if not tables:
        for fault in faulty.values():
            raise fault
        tried = ""
        if files:
            tried = f"; no line of {', '.join(path.name for path in files[:3])} names one of them"
            # Rather a .csv than a README; and the first line may be a heading.
            likely = min(files, key=lambda path: path.suffix.lower() == ".txt")
            for line in _decoded(likely).splitlines()[1:2] if images.files else ():
                tried += f"; line 2 of {likely.name} is {readable(line)[:80]!r}, and the first "
                tried += f"image is {images.files[0].name}"
        if left_out := sorted(set(found) - set(files)):
            tried += f"; files of single images are not read, such as {left_out[0]}"
        # Archives often unpack to a folder in a folder.
        inner = [child for child in folder.iterdir() if child.is_dir() and not is_hidden(child)]
        if len(inner) == 1 and any(child.is_dir() for child in inner[0].iterdir()):
            tried += f"; if the classes are the folders of {inner[0]}, give that one"
        where, count = "lie in no class folder", len(images.files)
        # Someone who begins with the images of one class has made its folder.
        if len(inner) == 1 and count and all(path.parent == inner[0] for path in images.files):
            where = f"lie in one folder, {inner[0].name}/, and a network tells classes apart"
        raise DataError(
            f"{count} images of {folder} {where}; put them into "
            "folders, one for each class (at least 2), or add a table of labels (labels.csv with "
            f"rows NAME,LABEL){tried}"
        )
    # Tables without a split.
    loose = [
        table
        for table in tables
        if table.rows and table.rows[0].split is None and _split_of(table.path, folder) is None
    ]
    if len(tables) > 1 and loose:
        raise DataError(
            f"{tables[0].path} and {tables[1].path} both name images; keep one, "
            "or have one for each split: train.csv, val.csv, test.csv"
        )
    return tables


def _images_of(table: Path, folder: Path, images_in: Callable[[Path], Images]) -> Images:
    """Return the images of a table's split, or all where it has no folder.

    The table of a split may name images relative to the split's folder, in which or beside which it
    lies.
    """
    if table.parent != folder:
        return images_in(table.parent)
    split = _split_of(table, folder)
    existing = [folder / name for name in SPLIT_NAMES.get(split or "", ())]
    inside = [child for child in existing if child.is_dir()]
    return images_in(inside[0] if inside else folder)


def _split_of(table: Path, folder: Path) -> str | None:
    """Return the split of a table, by its own name or by that of its folder."""
    split = split_in_name(table)
    if split is None and table.parent != folder:
        split = split_name(table.parent.name)
    return split if split in SPLIT_NAMES else None


def _classes(folder: Path, labels: set[str]) -> tuple[ClassList, dict[str, int]]:
    """Return the classes, and the position of each label among them.

    Raises:
        DataError: If there are fewer than two labels, or classes.txt does not name all numbers.
    """
    if len(labels) < 2:
        raise DataError(f"the table of {folder} has {len(labels)} labels; at least 2 are needed")
    # Pandas writes 0 as 0.0 in a column that had a gap.
    numbers = {label.removesuffix(".0") for label in labels}
    if all(map(is_number, numbers)) and len(numbers) == len(labels):
        ordered = sorted(numbers, key=int)  # "10" comes after "9"
        file = folder / "classes.txt"
        if not file.is_file():
            catalogue = ClassList(tuple(ordered))
            positions = {number: i for i, number in enumerate(ordered)}
        else:
            names = read_class_names(file)
            if int(ordered[-1]) >= len(names):
                raise DataError(
                    f"{file} names {len(names)} classes, counted from 0, and a label is "
                    f"{ordered[-1]}; name them all"
                )
            catalogue = class_list(names)
            positions = {number: catalogue.label(int(number)) for number in ordered}
        # The table of another split may have had no gap.
        return catalogue, positions | {f"{n}.0": label for n, label in positions.items()}
    ordered = sorted(labels)
    catalogue = with_words(ClassList(tuple(ordered)), folder)
    return catalogue, {label: i for i, label in enumerate(ordered)}
