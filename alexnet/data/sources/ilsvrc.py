"""The archives of ILSVRC-2012 and ILSVRC-2010, as they are distributed.

The ground truth is written in the devkit's own ids, whose order differs from that of the wnids.
The devkit's `meta.mat` translates the ids, and contains the words for the classes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from alexnet.data.sources.source import Options, Row, Source, SourceSplit, split_name, streamed
from alexnet.data.sources.tars import members, open_tar
from alexnet.errors import DataError

# ILSVRC2012_img_train.tar and ILSVRC2010_images_train.tar, in upper or lower case.
TRAIN_TAR = r"(?i)ilsvrc20\d\d_(img|images)_train\.tar"


def ilsvrc(folder: Path, options: Options | None = None) -> Source:
    """Read a folder with the archives of one year.

    These are a training tar of 1000 tars, a flat validation tar, and the devkit; 2010 has a test
    tar, too. Devkits may be tars or unpacked folders.

    Raises:
        DataError: If an archive is missing, if the wnids of the training tar are not those of the
            devkit, or if an archive does not have as many images as the ground truth has labels.
    """
    options = options or Options()
    train = _one(folder, TRAIN_TAR)
    year = "2010" if "2010" in train.name else "2012"
    devkit = find_devkit(folder, year)
    if devkit is None:
        raise DataError(_no_devkit(folder, year))
    wnids = devkit.wnids
    splits = [_train_split(train, wnids, devkit.train_count)]
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
        archive, truth = _one(folder, pattern), devkit.truth(split)
        splits.append(_flat_split(split, archive, [wnids.index(wnid) for wnid in truth]))
    return Source(
        f"ILSVRC-{year} {folder}",
        wnids,
        tuple(splits),
        words=devkit.words,
        notes=tuple(notes),
    )


def _one(folder: Path, pattern: str) -> Path:
    """Return the only file whose name matches. Raises DataError for none, and for several."""
    matching = [path for path in sorted(folder.iterdir()) if re.fullmatch(pattern, path.name)]
    if len(matching) != 1:
        raise DataError(
            f"{folder} has {len(matching)} files named like {pattern}; exactly one is needed"
        )
    return matching[0]


@dataclass(frozen=True)
class Devkit:
    """The contents of a devkit.

    Attributes:
        wnid_of: The wnid of each devkit id, for the classes: the synsets without children.
        words_of: The words of the same ids.
        train_count: Number of training images according to meta.mat, if it states one.
        ground_truth: Devkit ids of the images of each split.
    """

    wnid_of: dict[int, str]
    words_of: dict[int, str]
    train_count: int | None
    ground_truth: dict[str, list[int]]

    @property
    def wnids(self) -> tuple[str, ...]:
        """The classes, in alphabetical order."""
        # Alphabetical, as in every other form of ImageNet; the devkit's ids have another order.
        return tuple(sorted(self.wnid_of.values()))

    @property
    def words(self) -> tuple[str, ...]:
        """The words for the classes, in the order of `wnids`; empty if meta.mat has none."""
        by_wnid = {wnid: self.words_of.get(number, "") for number, wnid in self.wnid_of.items()}
        return tuple(by_wnid[wnid] for wnid in self.wnids) if any(by_wnid.values()) else ()

    @property
    def splits(self) -> set[str]:
        """The splits whose ground truth the devkit has."""
        return {split_name(which) for which in self.ground_truth}

    def truth(self, split: str) -> list[str]:
        """Return the wnids of a split's images, in the order of their numbers.

        Raises:
            DataError: If the devkit has no ground truth for the split.
        """
        which = "validation" if split == "val" else split
        if which not in self.ground_truth:
            raise DataError(
                f"the devkit has no {which} ground truth (ILSVRC*_{which}_ground_truth.txt); "
                f"put it beside the archives, or leave the split {split!r} out with --splits"
            )
        return [self.wnid_of[number] for number in self.ground_truth[which]]


def find_devkit(folder: Path, year: str = "") -> Devkit | None:
    """Return the classification devkit in a folder, or None if there is none.

    That is the devkit of tasks 1 and 2 of 2012, or version 1.0 of 2010. The devkit of task 3
    contains a meta.mat of the same name for 120 breeds of dogs, so it is never looked at.
    """
    named = [path for path in sorted(folder.iterdir()) if "devkit" in path.name.lower()]
    fit = [path for path in named if not re.search(r"(?i)_t3\b|_t3\.", path.name)]
    # A devkit whose name has no year, such as a renamed folder, fits every year.
    fit = [path for path in fit if year in (re.findall(r"20\d\d", path.name) or [year])[0]]
    # Where several are left (a tar and the folder unpacked from it), their contents are the same.
    for path in sorted(fit, key=lambda path: not re.search(r"(?i)t12|devkit-1\.0", path.name)):
        files = _devkit_files(path)
        if "meta.mat" in files:
            for beside in folder.glob(f"ILSVRC{year}*_ground_truth.txt"):
                files[beside.name] = beside.read_bytes()  # the test labels of 2010 came later
            return _read_devkit(files)
    return None


def _no_devkit(folder: Path, year: str) -> str:
    """Return the message for a folder without a devkit, which names the missing file."""
    name = f"ILSVRC{year}_devkit{'_t12' if year == '2012' else '-1.0'}.tar.gz"
    return (
        f"{folder} has no devkit with a meta.mat of tasks 1 and 2, which defines the labels; "
        f"put {name} there"
    )


def _devkit_files(path: Path) -> dict[str, bytes]:
    """Return meta.mat and the ground truth files by name, from a devkit's tar or folder."""
    wanted = re.compile(r"meta\.mat|ILSVRC\d+_(validation|test)_ground_truth\.txt")
    if path.is_dir():
        return {p.name: p.read_bytes() for p in path.rglob("*") if wanted.fullmatch(p.name)}
    with open_tar(path) as tar:
        return {
            Path(member.name).name: read()
            for member, read in members(tar)
            if wanted.fullmatch(Path(member.name).name)
        }


def _read_devkit(files: dict[str, bytes]) -> Devkit:
    """Parse meta.mat and the ground truth."""
    # Imported here, because no other source needs SciPy, whose import takes long.
    from scipy.io import loadmat

    synsets = loadmat(io.BytesIO(files["meta.mat"]), squeeze_me=True)["synsets"]
    names = synsets.dtype.names
    # The field of the ids is called ILSVRC2010_ID or ILSVRC2012_ID. Synsets with children are no
    # classes; a file without that field has classes only.
    number = next(name for name in names if name.endswith("_ID"))
    leaves = [
        s
        for s in np.atleast_1d(synsets)
        if "num_children" not in names or int(s["num_children"]) == 0
    ]
    truths = {
        match[1]: [int(line) for line in data.split()]
        for name, data in files.items()
        if (match := re.search(r"_(validation|test)_ground_truth", name))
    }
    return Devkit(
        {int(s[number]): str(s["WNID"]) for s in leaves},
        {int(s[number]): str(s["words"]) for s in leaves} if "words" in names else {},
        sum(int(s["num_train_images"]) for s in leaves) if "num_train_images" in names else None,
        truths,
    )


def _train_split(archive: Path, wnids: tuple[str, ...], count: int | None) -> SourceSplit:
    """Return the training split. Raises DataError if its classes are not the devkit's."""
    with open_tar(archive) as outer:
        inside = sorted(Path(member.name).stem for member, _ in members(outer))
    # Checked by the headers of the outer tar, before any image is read.
    if inside != list(wnids):
        odd = sorted(set(inside) ^ set(wnids))
        raise DataError(f"{archive} and the devkit have different classes: {', '.join(odd[:3])}")

    def rows() -> Iterator[Row]:
        with open_tar(archive) as outer:
            for member, _ in members(outer):
                # The inner tars are read where they lie: unpacked they would take another 138 GB.
                file = outer.extractfile(member)
                assert file is not None
                label = wnids.index(Path(member.name).stem)
                with open_tar(file) as inner:  # type: ignore[arg-type]
                    for image, read in members(inner):
                        yield image.name, label, read

    return streamed("train", count, rows)


def _flat_split(name: str, archive: Path, labels: list[int]) -> SourceSplit:
    """Return a split of images whose names have numbers, counted from 1.

    Raises:
        DataError: If there are not as many images as labels.
    """
    with open_tar(archive) as tar:
        # Counting reads the headers of the tar and none of the images.
        count = sum(1 for _ in members(tar))
    if count != len(labels):
        raise DataError(
            f"{archive} has {count} images, and the devkit has {len(labels)} labels for them"
        )

    def rows() -> Iterator[Row]:
        with open_tar(archive) as tar:
            for member, read in members(tar):
                # The archive need not be in the order of the numbers.
                file = Path(member.name).name
                yield file, labels[number_of(file) - 1], read

    return streamed(name, count, rows)


def number_of(file: str) -> int:
    """Return the number of a validation or test image: 1 for ILSVRC2012_val_00000001.JPEG."""
    # The last number of the name, because the first one is the year.
    return int(re.findall(r"\d+", Path(file).stem)[-1])
