"""Classes and the words for them: wnids, where they are written down, and what to show of them.

A wnid is the number of a WordNet synset, `n01440764`; its words are the synset's names,
`tench, Tinca tinca`. Labels of ImageNet are positions in the alphabetical order of the wnids.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

WNID = re.compile(r"n\d{8}")
IN_A_NAME = re.compile(r"(?<![A-Za-z0-9])n\d{8}(?![A-Za-z0-9])")
WORD_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt")


def are_wnids(names: Iterable[str]) -> bool:
    return all(WNID.fullmatch(name) for name in names)


def short_names(classes: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """What to show of each class: its first word, or the class where it has none.

    No two are the same: classes that share the first word are shown with all their words, and if
    these are the same too (ImageNet has two cranes), with the wnid.
    """
    if not words:
        return tuple(classes)
    first = [text.split(",")[0].strip() for text in words]
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
    """A set's classes in the order of a store, their words, and where each of the set's own labels is."""

    classes: tuple[str, ...]
    words: tuple[str, ...] = ()
    order: tuple[int, ...] = ()
    """The store's label of each of the set's labels 0, 1, ...; empty when they are the same."""

    def label(self, own: int) -> int:
        return self.order[own] if self.order else own


def class_list(names: Sequence[str], wnids: Sequence[str] | None = None) -> ClassList:
    """The classes of a set whose labels 0, 1, ... are called `names`, and have these wnids if known.

    With wnids they are the classes, in alphabetical order; without, the names are, as they stand.
    """
    if are_wnids(names):
        wnids, words = names, None
    elif wnids is None:
        return ClassList(tuple(names))
    else:
        numbers = all(name.isdigit() for name in names)
        words = None if numbers else names  # "17" says nothing that is not known
    by_wnid = sorted(range(len(wnids)), key=wnids.__getitem__)
    order = [0] * len(wnids)
    for place, own in enumerate(by_wnid):
        order[own] = place
    return ClassList(
        tuple(wnids[own] for own in by_wnid),
        tuple(words[own] for own in by_wnid) if words is not None else (),
        tuple(order),
    )


def wnid_in(name: str) -> str | None:
    """The wnid in the name of an image; the last of several.

    `n01440764_10026.JPEG` in the archives, `ILSVRC2012_val_00000293_n01440764.JPEG` on the hub.
    """
    found = IN_A_NAME.findall(re.split(r"[/\\]", name)[-1].replace("_", " "))
    return found[-1] if found else None


def wnids_of_labels(
    images: Iterable[tuple[str | None, int]], count: int, enough: int | None = None
) -> list[str] | None:
    """The wnid of each label 0..count - 1, by the names of (name, label) of training images.

    None where a name has no wnid, a label has two, two labels share one (classes made of several
    synsets), or a label never appears. enough: end after that many images once each label has
    shown its wnid; None: look at all of them.
    """
    found: dict[int, str] = {}
    for number, (name, label) in enumerate(images, 1):
        wnid = wnid_in(name or "")
        if wnid is None or found.setdefault(label, wnid) != wnid:
            return None
        if enough is not None and number >= enough and len(found) == count:
            break
    return in_label_order(found, count)


def in_label_order(wnid_of: Mapping[int, str], count: int) -> list[str] | None:
    """The wnids of labels 0..count - 1; None unless each has one of its own."""
    if set(wnid_of) != set(range(count)) or len(set(wnid_of.values())) != count:
        return None
    return [wnid_of[label] for label in range(count)]


def wnids_of_classes_py(path: Path, names: Sequence[str]) -> list[str] | None:
    """The wnids that the `classes.py` of a Hugging Face set has for the classes `names`, in order.

    The file is parsed, never executed. None unless its dictionary has exactly these names in this
    order: a name alone does not tell (ImageNet has two cranes).
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return None
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


def words_beside(wnids: Sequence[str], folders: Iterable[Path]) -> tuple[str, ...]:
    """The words of wnids by the first file of WORD_FILES in `folders` that has some of them.

    A line of these files is a wnid, white space and the words. A wnid that the file lacks stands
    for itself. Empty when there is no such file.
    """
    for folder in folders:
        for name in WORD_FILES:
            if (folder / name).is_file():
                lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
                pairs = (line.strip().split(None, 1) for line in lines)
                known = {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
                if any(wnid in known for wnid in wnids):
                    return tuple(known.get(wnid, wnid) for wnid in wnids)
    return ()
