"""The archives of ILSVRC-2012 and ILSVRC-2010, as they are distributed.

The ground truth is written in the devkit's own ids, whose order differs from that of the wnids.
The devkit's `meta.mat` translates the ids, and contains the words for the classes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from alexnet.data.sources.source import (
    LEAVE_OUT,
    Options,
    Source,
    SourceSplit,
    StreamedImage,
    UnreadableImage,
    check_size,
    split_name,
    streamed,
)
from alexnet.data.sources.tars import open_tar
from alexnet.errors import DataError

# ILSVRC2012_img_train.tar and ILSVRC2010_images_train.tar, in upper or lower case.
TRAIN_TAR = r"(?i)ilsvrc20\d\d_(img|images)_train\.tar"
DEVKIT_TAR = re.compile(r"(?i)[^.].*\.(tar|tar\.\w+|tgz)")
MAX_DEVKIT_BYTES = 64 << 20
"""Most bytes in a file of a devkit; the real ones have at most a few."""
READING_S = 120
"""Most seconds to read a meta.mat. It takes less than one; a damaged file could take for ever."""


def ilsvrc(folder: Path, options: Options = Options()) -> Source:
    """Read a folder with the archives of one year.

    These are a training tar of 1000 tars, a flat validation tar, and the devkit; 2010 has a test
    tar, too. Devkits may be tars or unpacked folders.

    Raises:
        DataError: If an archive is missing, if the wnids of the training tar are not those of the
            devkit, or if an archive does not have as many images as the devkit says. The images
            of a class are counted as they are read, because their headers lie all over the tar.
    """
    train = _one(folder, TRAIN_TAR, "ILSVRC2012_img_train.tar")
    year = "2010" if "2010" in train.name else "2012"
    devkit = find_devkit(folder, year)
    if devkit is None:
        raise DataError(_no_devkit(folder, year))
    wnids = devkit.wnids
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    splits = [_train_split(train, wnids, devkit.train_counts)]
    notes = []
    for split, pattern in (
        ("val", r"(?i)ilsvrc\d+_(img|images)_val\.tar"),
        ("test", r"(?i)ilsvrc\d+_(img|images)_test(_v\d+)?\.tar"),
    ):
        archives = [path for path in folder.iterdir() if re.fullmatch(pattern, path.name)]
        if not options.wants(split) or (split == "test" and not archives):
            continue
        if split == "test" and year == "2012":
            notes.append(f"{archives[0].name} is left out: its labels were never published")
            continue
        usual = f"ILSVRC{year}_{'img' if year == '2012' else 'images'}_{split}.tar"
        archive, truth = _one(folder, pattern, usual), devkit.truth(split)
        splits.append(_flat_split(split, archive, [label_of[wnid] for wnid in truth]))
    return Source(
        f"ILSVRC-{year} {folder}",
        wnids,
        tuple(splits),
        words=devkit.words,
        notes=tuple(notes),
    )


def _one(folder: Path, pattern: str, usual: str) -> Path:
    """Return the only archive of a split, whose name matches a pattern.

    Args:
        usual: The usual name of the archive, for messages.

    Raises:
        DataError: If there is none, or several.
    """
    matching = [path for path in sorted(folder.iterdir()) if re.fullmatch(pattern, path.name)]
    if not matching:
        raise DataError(f"{folder} has no {usual}; put it there, or {LEAVE_OUT}")
    if len(matching) > 1:
        names = " and ".join(path.name for path in matching)
        raise DataError(f"{folder} has {names}, which are of the same split; keep one of them")
    return matching[0]


class Synset(NamedTuple):
    """A class in meta.mat: its devkit id, its words, and the number of its training images."""

    number: int
    wnid: str
    words: str | None
    images: int | None


@dataclass(frozen=True)
class Devkit:
    """The contents of a devkit.

    Attributes:
        synsets: The classes, which are the synsets without children, in the order of their wnids.
        ground_truth: Devkit ids of the images of each split.
    """

    synsets: tuple[Synset, ...]
    ground_truth: dict[str, list[int]]

    @property
    def wnids(self) -> tuple[str, ...]:
        """The classes, in alphabetical order."""
        return tuple(synset.wnid for synset in self.synsets)

    @property
    def words(self) -> tuple[str, ...]:
        """The words for the classes, in the order of `wnids`; empty if meta.mat has none."""
        words = tuple(synset.words or "" for synset in self.synsets)
        return words if any(words) else ()

    @property
    def train_counts(self) -> dict[str, int]:
        """The number of training images of each wnid; empty if meta.mat does not state it."""
        return {synset.wnid: synset.images for synset in self.synsets if synset.images is not None}

    @property
    def splits(self) -> set[str]:
        """The splits whose ground truth the devkit has."""
        return {split_name(which) for which in self.ground_truth}

    def truth(self, split: str) -> list[str]:
        """Return the wnids of a split's images, in the order of their numbers.

        Raises:
            DataError: If the devkit has no ground truth for the split, or one with an id that is
                not a class of meta.mat.
        """
        which = "validation" if split == "val" else split
        if which not in self.ground_truth:
            raise DataError(
                f"the devkit has no {which} ground truth (ILSVRC*_{which}_ground_truth.txt); "
                f"put it beside the archives, or {LEAVE_OUT}"
            )
        truth = self.ground_truth[which]
        wnid_of = {synset.number: synset.wnid for synset in self.synsets}
        # A loop over at most one id: the first wrong one is reported.
        for wrong in [number for number in truth if number not in wnid_of][:1]:
            raise DataError(
                f"the {which} ground truth of the devkit has the id {wrong}, which is not a class "
                "of its meta.mat; fetch the devkit again"
            )
        return [wnid_of[number] for number in truth]


def find_devkit(folder: Path, year: str = "") -> Devkit | None:
    """Return the classification devkit in a folder, or None if there is none.

    That is the devkit of tasks 1 and 2 of 2012, or version 1.0 of 2010. The devkit of task 3
    contains a meta.mat of the same name for 120 breeds of dogs, so it is never looked at.
    """
    named = [
        path
        for path in sorted(folder.iterdir())
        # Not its manual, and no hidden file.
        if "devkit" in path.name.lower() and (path.is_dir() or DEVKIT_TAR.fullmatch(path.name))
    ]
    fit = [path for path in named if not re.search(r"(?i)_t3\b|_t3\.", path.name)]
    # A devkit whose name has no year, such as a renamed folder, fits every year.
    fit = [path for path in fit if year in (re.findall(r"20\d\d", path.name) or [year])[0]]
    # Where several are left (a tar and the folder unpacked from it), their contents are the same.
    for path in sorted(fit, key=lambda path: not re.search(r"(?i)t12|devkit-1\.0", path.name)):
        files = _devkit_files(path)
        if "meta.mat" in files:
            for truth in folder.glob(f"ILSVRC{year}*_ground_truth.txt"):
                files[truth.name] = _on_disk(truth)  # the test labels of 2010 came later
            return _read_devkit(files)
    return None


def _no_devkit(folder: Path, year: str) -> str:
    """Return the message for a folder without a devkit, which names the missing file."""
    name = f"ILSVRC{year}_devkit{'_t12' if year == '2012' else '-1.0'}.tar.gz"
    return (
        f"{folder} has no devkit with a meta.mat of tasks 1 and 2, which defines the labels; "
        f"put {name} there"
    )


class DevkitFile(NamedTuple):
    """A file of a devkit: where it lies, for messages, and its bytes."""

    where: str
    data: bytes


def _devkit_files(path: Path) -> dict[str, DevkitFile]:
    """Return meta.mat and the ground truth files by name, from a devkit's tar or folder."""
    wanted = re.compile(r"meta\.mat|ILSVRC\d+_(validation|test)_ground_truth\.txt")
    if path.is_dir():
        return {p.name: _on_disk(p) for p in path.rglob("*") if wanted.fullmatch(p.name)}
    files = {}
    with open_tar(path) as members:
        for member in members:
            name, where = Path(member.name).name, f"{member.name} in {path}"
            if not wanted.fullmatch(name):
                continue
            try:
                files[name] = DevkitFile(where, member.read(MAX_DEVKIT_BYTES))
            except UnreadableImage as error:
                raise DataError(f"{where} cannot be read ({error}); fetch it again") from None
    return files


def _on_disk(path: Path) -> DevkitFile:
    """Read a file of an unpacked devkit. Raises DataError if it is not a file of its size."""
    if not path.is_file():
        raise DataError(f"{path} is not a regular file; unpack the devkit again")
    try:
        check_size(path.stat().st_size, MAX_DEVKIT_BYTES)
    except UnreadableImage as error:
        raise DataError(f"{path} is not the file of a devkit ({error}); unpack it again") from None
    return DevkitFile(str(path), path.read_bytes())


def _read_devkit(files: dict[str, DevkitFile]) -> Devkit:
    """Parse meta.mat and the ground truth. Raises DataError for a damaged file."""
    # Alphabetical, as in every other form of ImageNet; the devkit's ids have another order.
    synsets = tuple(sorted(_synsets(files["meta.mat"]), key=lambda synset: synset.wnid))
    truths = {
        match[1]: _ground_truth(file)
        for name, file in files.items()
        if (match := re.search(r"_(validation|test)_ground_truth", name))
    }
    return Devkit(synsets, truths)


def _ground_truth(file: DevkitFile) -> list[int]:
    """Return the ids in a file of ground truth. Raises DataError if it has anything else."""
    words = file.data.split()
    # A loop over at most one word: the first wrong one is reported. Ids have four digits.
    for wrong in [word for word in words if not re.fullmatch(rb"[0-9]{1,9}", word)][:1]:
        raise DataError(f"{file.where} has {wrong[:20]!r} in place of an id; fetch it again")
    return [int(word) for word in words]


def _synsets(file: DevkitFile) -> list[Synset]:
    """Return the classes in meta.mat. Raises DataError if it is damaged."""
    # A process of its own, which a damaged file may crash. -P keeps the modules beside the program
    # from being taken for those that it imports.
    program = [sys.executable, "-P", str(Path(__file__).with_name("meta_mat.py"))]
    try:
        run = subprocess.run(
            program, input=file.data, capture_output=True, timeout=READING_S, check=True
        )
    except subprocess.SubprocessError as error:
        lines = (error.stderr or b"").decode(errors="replace").split("\n")  # type: ignore[attr-defined]
        reason = next((line for line in reversed(lines) if line), "SciPy crashes or hangs on it")
        raise DataError(
            f"{file.where} is damaged or is not the list of synsets of a devkit ({reason}); "
            "fetch it again"
        ) from None
    synsets = [Synset(*values) for values in json.loads(run.stdout)]
    # An id or a wnid that occurs twice would take the labels of another class.
    for what in ({s.number for s in synsets}, {s.wnid for s in synsets}):
        if not synsets or len(what) < len(synsets):
            raise DataError(f"{file.where} has no classes, or one of them twice; fetch it again")
    return synsets


def _train_split(archive: Path, wnids: tuple[str, ...], counts: dict[str, int]) -> SourceSplit:
    """Return the training split. Raises DataError if its classes are not the devkit's."""
    with open_tar(archive) as members:
        inside = sorted(Path(member.name).stem for member in members)
    # Checked by the headers of the outer tar, before any image is read.
    if inside != list(wnids):
        odd = sorted(set(inside) ^ set(wnids))
        raise DataError(
            f"{archive} and the devkit have different classes: {', '.join(odd[:3])}; fetch both "
            "again, of one year"
        )

    def rows() -> Iterator[StreamedImage]:
        with open_tar(archive) as members:
            for member in members:
                wnid = Path(member.name).stem
                label, count = wnids.index(wnid), 0
                # The inner tars are read where they lie: unpacked they would take another 138 GB.
                with member.open_tar() as images:
                    for image in images:
                        count += 1
                        yield image.name, label, image.read
                if count != counts.get(wnid, count):
                    raise DataError(
                        f"{wnid} has {count} of {counts[wnid]} images in {archive}; fetch it "
                        "again, or unpack it into folders named by wnid to prepare a subset"
                    )

    return streamed("train", sum(counts.values()) or None, rows)


def _flat_split(name: str, archive: Path, labels: list[int]) -> SourceSplit:
    """Return a split of images whose names have numbers, counted from 1.

    Raises:
        DataError: If there is not one image for each label.
    """
    # This reads the headers of the tar and none of the images.
    with open_tar(archive) as members:
        numbers = [number_of(Path(member.name).name) for member in members]
    check_numbers(numbers, len(labels), archive)

    def rows() -> Iterator[StreamedImage]:
        with open_tar(archive) as members:
            for member in members:
                # The archive need not be in the order of the numbers.
                file = Path(member.name).name
                yield file, labels[number_of(file) - 1], member.read

    return streamed(name, len(labels), rows)


def number_of(file: str) -> int:
    """Return the number of a validation or test image: 1 for ILSVRC2012_val_00000001.JPEG.

    It is 0, which no image has, for a name without a number.
    """
    # The last number of the name, because the first one is the year.
    numbers: list[str] = re.findall(r"[0-9]{1,18}", Path(file).stem)
    return int(numbers[-1]) if numbers else 0


def check_numbers(numbers: list[int], labels: int, where: Path) -> None:
    """Raise DataError unless each label belongs to one of the images with these numbers."""
    if len(numbers) != labels:
        raise DataError(
            f"{where} has {len(numbers)} images, and the devkit has {labels} labels for them; "
            f"fetch what is missing, or {LEAVE_OUT}"
        )
    # Every number must occur once, or a label would go to the wrong image unnoticed.
    for wrong in sorted(set(range(1, labels + 1)) - set(numbers))[:1]:
        raise DataError(
            f"{where} has {labels} images, and none of them has the number {wrong} in its name; "
            "fetch it again"
        )
