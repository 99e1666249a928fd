"""Classes and the words for them: wnids, where to find them, and the names to display.

A wnid is the number of a WordNet synset, `n01440764`; its words are the synset's names,
`tench, Tinca tinca`. Labels of ImageNet are positions in the alphabetical order of the wnids.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from alexnet.errors import DataError

# The "n" of a wnid stands for noun; ImageNet has nouns only.
WNID = re.compile(r"n\d{8}")
IN_A_NAME = re.compile(r"(?<![A-Za-z0-9])n\d{8}(?![A-Za-z0-9])")
MAX_CLASSES = 1_000_000
"""Most classes of a data set. The whole of ImageNet has 21,841; a label beyond this is damage, and
the list of that many names might not fit into memory."""
WORD_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")


def composed(name: str) -> str:
    """Return a name with each letter and its accents as one character, by which names compare.

    macOS writes the names of files with the accents apart, other systems and tables as one.
    """
    return unicodedata.normalize("NFC", name)


def are_wnids(names: Iterable[str]) -> bool:
    """Tell whether all names are wnids."""
    return all(WNID.fullmatch(name) for name in names)


def numbered(count: int) -> list[str]:
    """Return the names of classes that nobody has named, for the labels from 0."""
    return [f"class {number}" for number in range(count)]


def is_number(label: str) -> bool:
    """Tell whether a label is a number.

    Python's `isdigit` accepts digits that `int` does not read, and `int` refuses thousands of them.
    """
    return re.fullmatch("[0-9]{1,18}", label) is not None


def short_names(classes: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """Return the name to display for each class: its first word, or the class if it has no words.

    No two names are the same. Classes that share their first word are shown with all their words,
    and if these are the same, too (ImageNet has two cranes), with the wnid.
    """
    # Not a set of wnids: the classes are names already.
    if not words:
        return tuple(classes)
    first = [text.split(",")[0].strip() for text in words]
    # Names must differ, because a figure or a list would otherwise show two classes as one.
    shared, shared_words = Counter(first), Counter(words)

    def name(number: int) -> str:
        if shared[first[number]] == 1:
            return first[number]
        if shared_words[words[number]] == 1 and shared[words[number]] == 0:
            return words[number]
        return f"{first[number]} ({classes[number]})"

    return tuple(map(name, range(len(classes))))


@dataclass(frozen=True)
class ClassList:
    """The classes of a data set, in the order in which a store has them.

    Attributes:
        classes: The classes.
        words: The words for each class; empty if there are none.
        order: The store's label for each label 0, 1, ... of the data set; empty if they are equal.
    """

    classes: tuple[str, ...]
    words: tuple[str, ...] = ()
    order: tuple[int, ...] = ()

    def label(self, source_label: int) -> int:
        """Return the store's label for a label of the data set."""
        return self.order[source_label] if self.order else source_label


def class_list(names: Sequence[str], wnids: Sequence[str] | None = None) -> ClassList:
    """Return the classes of a data set whose labels 0, 1, ... have these names and wnids.

    With wnids, the wnids are the classes, in alphabetical order. Without, the names are the
    classes, in their order.
    """
    if are_wnids(names):
        wnids, words = names, None
    elif wnids is None:
        return ClassList(tuple(names))
    else:
        numbers = all(map(is_number, names))
        words = None if numbers else names  # "17" is not a word for a class
    # All forms of ImageNet thus get the same labels, whatever order their own labels have.
    by_wnid = sorted(range(len(wnids)), key=wnids.__getitem__)
    order = [0] * len(wnids)
    for position, label in enumerate(by_wnid):
        order[label] = position
    return ClassList(
        tuple(wnids[label] for label in by_wnid),
        tuple(words[label] for label in by_wnid) if words is not None else (),
        tuple(order),
    )


def check_count(count: int, where: object) -> None:
    """Raise DataError if the labels of the data set `where` are those of too many classes."""
    if count > MAX_CLASSES:
        raise DataError(
            f"{where} has the label {count - 1}, and at most {MAX_CLASSES:,} classes are possible; "
            "correct the label"
        )


def read_class_names(path: Path) -> list[str]:
    """Return the names in a classes.txt, one on a line, for the labels from 0.

    Raises:
        DataError: If the file is not UTF-8, or has an empty line before its last name.
    """
    try:
        names = path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 text (byte {error.start}); save it in that encoding"
        ) from None
    for number, name in enumerate(names, 1):
        # To skip it would give each later class the name of the one after it.
        if not name.strip():
            raise DataError(
                f"{path}, line {number}, is empty; write the name of the class with the label "
                f"{number - 1} there, or remove the line"
            )
    return names


def wnid_in(name: str) -> str | None:
    """Return the wnid in the name of an image, the last one if there are several.

    The archives have `n01440764_10026.JPEG`, the hub `ILSVRC2012_val_00000293_n01440764.JPEG`.
    """
    # Underscores and folders delimit the parts of a name, as in the two examples above.
    wnids = IN_A_NAME.findall(re.split(r"[/\\]", name)[-1].replace("_", " "))
    return wnids[-1] if wnids else None


def wnids_of_labels(
    images: Iterable[tuple[str | None, int]], count: int, enough: int | None = None
) -> list[str] | None:
    """Return the wnid of each label 0..count - 1, from the names of training images.

    Args:
        images: Name and label of each image.
        count: Number of labels.
        enough: Number of images after which the search ends, once each label has shown its wnid;
            None looks at all images.

    Returns:
        The wnids, or None if a name has no wnid, a label has two, two labels share one (classes
        made of several synsets), or a label never appears.
    """
    wnid_of: dict[int, str] = {}
    for number, (name, label) in enumerate(images, 1):
        wnid = wnid_in(name or "")
        if wnid is None or wnid_of.setdefault(label, wnid) != wnid:
            return None
        if enough is not None and number >= enough and len(wnid_of) == count:
            break
    return in_label_order(wnid_of, count)


def in_label_order(wnid_of: Mapping[int, str], count: int) -> list[str] | None:
    """Return the wnids of labels 0..count - 1; None unless each label has one of its own."""
    # Two labels of one wnid would make two classes of one.
    if set(wnid_of) != set(range(count)) or len(set(wnid_of.values())) != count:
        return None
    return [wnid_of[label] for label in range(count)]


def wnids_of_classes_py(path: Path, names: Sequence[str]) -> list[str] | None:
    """Return the wnids that the `classes.py` of a Hugging Face set lists for `names`, in order.

    The file is parsed, never executed. The result is None unless its dictionary has exactly these
    names in this order: a single name is ambiguous (ImageNet has two cranes).
    """
    if not path.is_file():
        return None
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    # The parser raises the last two for text that is nested too deeply.
    except (OSError, SyntaxError, ValueError, MemoryError, RecursionError):
        return None
    # Downloaded code is not trusted: a dictionary of constants can be read without running it.
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            pairs = [
                (key.value, value.value)
                for key, value in zip(node.keys, node.values, strict=True)
                if isinstance(key, ast.Constant) and isinstance(value, ast.Constant)
            ]
            if [word for _, word in pairs] == list(names) and are_wnids(str(w) for w, _ in pairs):
                return [str(wnid) for wnid, _ in pairs]
    return None


def with_words(catalogue: ClassList, folder: Path) -> ClassList:
    """Return classes with the words for their wnids, from a file in `folder` or the one above it.

    Classes that have words already, or are not wnids, are returned unchanged.
    """
    if catalogue.words or not are_wnids(catalogue.classes):
        return catalogue
    return replace(catalogue, words=words_beside(catalogue.classes, (folder, folder.parent)))


def words_beside(wnids: Sequence[str], folders: Iterable[Path]) -> tuple[str, ...]:
    """Return the words for wnids from the first file of WORD_FILES in `folders` that has some.

    A line of these files is a wnid, white space and the words. A wnid that the file lacks stands
    for itself. The result is empty if there is no such file.
    """
    for folder in folders:
        for name in WORD_FILES:
            if (folder / name).is_file():
                lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
                pairs = (line.strip().split(None, 1) for line in lines)
                # words.txt lists all 82,000 synsets of WordNet; only the given wnids are kept.
                known = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
                if any(wnid in known for wnid in wnids):
                    return tuple(known.get(wnid, wnid) for wnid in wnids)
    return ()
