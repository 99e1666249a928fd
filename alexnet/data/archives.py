"""Archives as they are distributed: ILSVRC-2012 and -2010, a tar for each class (Fall 2011), CIFAR-10's binary files,
WebDataset tars and the Hugging Face hub.

Labels of ILSVRC are the wnids in alphabetical order, as in every later tool; the devkit's own ids, in which the
ground truth is written, follow another order and are translated by its `meta.mat`.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from alexnet.data.picture import encode
from alexnet.data.sources import (
    PICTURES,
    Item,
    Source,
    SourceSplit,
    class_folders,
    in_hand,
    parquet_files,
)

CIFAR_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def class_tars(folder: Path) -> Source:
    """A folder of one tar a class, named by wnid (the Fall 2011 release): a training split alone."""
    tars = sorted(folder.glob("*.tar"))
    if len(tars) < 2:
        raise ValueError(
            f"{folder} has {len(tars)} tar files; one for each of at least 2 classes is needed"
        )
    return Source(
        f"class tars {folder}", tuple(path.stem for path in tars), (_class_tar_split(tars),)
    )


def _class_tar_split(tars: list[Path]) -> SourceSplit:
    def items(start: int) -> Iterator[Item]:
        seen = 0
        for label, path in enumerate(tars):
            with _open(path) as tar:
                for member, read in _members(tar):
                    if seen >= start:
                        yield Item(member.name, label, in_hand(read()))
                    seen += 1

    return SourceSplit("train", None, items)


def _open(path: Path | io.IOBase) -> tarfile.TarFile:
    try:
        return tarfile.open(path) if isinstance(path, Path) else tarfile.open(fileobj=path)
    except tarfile.TarError as error:
        raise ValueError(f"{path!s} is no tar file or is damaged: {error}") from None


def _members(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
    """The files of a tar in their order, and how to read each."""
    try:
        for member in tar:
            if member.isfile():

                def read(member: tarfile.TarInfo = member) -> bytes:
                    file = tar.extractfile(member)
                    assert file is not None
                    return file.read()

                yield member, read
    except tarfile.TarError as error:
        raise ValueError(f"{tar.name!r} is damaged: {error}") from None


def ilsvrc(folder: Path) -> Source:
    """The archives of ILSVRC-2012 (train tar of 1000 tars, flat val tar, devkit) or ILSVRC-2010 (the same with a
    public test split), as distributed, in one folder. Tars may be whole or already unpacked devkit folders.

    Raises ValueError when an archive is missing, when wnids of the training tar are not the devkit's, or when the
    ground truth has another length than the archive has pictures.
    """
    train = _one(folder, r"(?i)ilsvrc20\d\d_(img|images)_train\.tar|ILSVRC2010_images_train\.tar")
    year = "2010" if "2010" in train.name else "2012"
    devkit = _devkit(folder, year)
    wnid_of, train_count = _synsets(devkit)
    wnids = sorted(wnid_of.values())
    label_of_id = {number: wnids.index(wnid) for number, wnid in wnid_of.items()}
    splits = [_train_split(train, wnids, train_count)]
    for split, pattern in (
        ("val", r"(?i)ilsvrc\d+_(img|images)_val\.tar"),
        ("test", r"(?i)ilsvrc2010_images_test\.tar"),
    ):
        try:
            archive = _one(folder, pattern)
        except ValueError:
            if split == "val":
                raise
            continue
        truth = _ground_truth(devkit, "validation" if split == "val" else "test")
        splits.append(_flat_split(split, archive, [label_of_id[number] for number in truth]))
    return Source(f"ILSVRC-{year} {folder}", tuple(wnids), tuple(splits))


def _one(folder: Path, pattern: str) -> Path:
    found = [path for path in sorted(folder.iterdir()) if re.fullmatch(pattern, path.name)]
    if len(found) != 1:
        raise ValueError(
            f"{folder} has {len(found)} files named like {pattern}; exactly one is needed"
        )
    return found[0]


def _devkit(folder: Path, year: str) -> dict[str, bytes]:
    """meta.mat and the ground truth files, by name, from the devkit's tar or its unpacked folder."""
    wanted = re.compile(r"meta\.mat|ILSVRC\d+_(validation|test)_ground_truth\.txt")
    found: dict[str, bytes] = {}
    for path in sorted(folder.iterdir()):
        if "devkit" not in path.name.lower():
            continue
        if path.is_dir():
            found |= {p.name: p.read_bytes() for p in path.rglob("*") if wanted.fullmatch(p.name)}
        else:
            with _open(path) as tar:
                found |= {
                    Path(m.name).name: read()
                    for m, read in _members(tar)
                    if wanted.fullmatch(Path(m.name).name)
                }
    for path in folder.glob(
        f"ILSVRC{year}_*_ground_truth.txt"
    ):  # 2010: the test labels came later, apart
        found[path.name] = path.read_bytes()
    if "meta.mat" not in found:
        raise ValueError(
            f"{folder} has no devkit with a meta.mat; it is ILSVRC{year}_devkit*.tar.gz"
        )
    return found


def _synsets(devkit: dict[str, bytes]) -> tuple[dict[int, str], int | None]:
    """devkit id -> wnid of the classes, the synsets that have no children; and how many training pictures they have."""
    from scipy.io import loadmat

    synsets = loadmat(io.BytesIO(devkit["meta.mat"]), squeeze_me=True)["synsets"]
    names = synsets.dtype.names
    number = next(name for name in names if name.endswith("_ID"))
    leaves = [
        s
        for s in np.atleast_1d(synsets)
        if "num_children" not in names or int(s["num_children"]) == 0
    ]
    count = sum(int(s["num_train_images"]) for s in leaves) if "num_train_images" in names else None
    return {int(s[number]): str(s["WNID"]) for s in leaves}, count


def _ground_truth(devkit: dict[str, bytes], which: str) -> list[int]:
    name = next((name for name in devkit if name.endswith(f"_{which}_ground_truth.txt")), None)
    if name is None:
        raise ValueError(
            f"the devkit has no {which} ground truth (ILSVRC*_{which}_ground_truth.txt)"
        )
    return [int(line) for line in devkit[name].split()]


def _train_split(archive: Path, wnids: list[str], count: int | None) -> SourceSplit:
    with _open(archive) as outer:
        inside = sorted(Path(m.name).stem for m, _ in _members(outer))
    if inside != wnids:
        odd = sorted(set(inside) ^ set(wnids))
        raise ValueError(f"{archive} and the devkit have different classes: {', '.join(odd[:3])}")

    def items(start: int) -> Iterator[Item]:
        seen = 0
        with _open(archive) as outer:
            for member, _ in _members(outer):
                file = outer.extractfile(member)
                assert file is not None
                label = wnids.index(Path(member.name).stem)
                with _open(file) as inner:  # type: ignore[arg-type]
                    for picture, read in _members(inner):
                        if seen >= start:
                            yield Item(picture.name, label, in_hand(read()))
                        seen += 1

    return SourceSplit("train", count, items)


def _flat_split(name: str, archive: Path, labels: list[int]) -> SourceSplit:
    """Pictures numbered from 1 in their names, one label a number."""
    with _open(archive) as tar:
        count = sum(1 for _ in _members(tar))
    if count != len(labels):
        raise ValueError(
            f"{archive} has {count} pictures and the devkit {len(labels)} labels for them"
        )

    def items(start: int) -> Iterator[Item]:
        with _open(archive) as tar:
            for seen, (member, read) in enumerate(_members(tar)):
                number = int(re.findall(r"\d+", Path(member.name).stem)[-1])
                if seen >= start:
                    yield Item(Path(member.name).name, labels[number - 1], in_hand(read()))

    return SourceSplit(name, count, items)


def cifar_binary(folder: Path) -> Source:
    """CIFAR-10's own binary files: data_batch_1.bin to 5, test_batch.bin; a label byte and 3072 of pixels each."""
    record = 1 + 3072

    def split(name: str, files: list[Path]) -> SourceSplit:
        for path in files:
            if not path.is_file() or path.stat().st_size % record:
                raise ValueError(
                    f"{path} is missing or is no CIFAR-10 file: its records have {record} bytes"
                )
        count = sum(path.stat().st_size // record for path in files)

        def items(start: int) -> Iterator[Item]:
            seen = 0
            for path in files:
                rows = np.memmap(path, np.uint8, "r").reshape(-1, record)
                for row in rows:
                    if seen >= start:
                        rgb = row[1:].reshape(3, 32, 32).transpose(1, 2, 0)
                        yield Item(
                            f"{path.name}:{seen}",
                            int(row[0]),
                            partial(encode, np.ascontiguousarray(rgb), "png"),
                        )
                    seen += 1

        return SourceSplit(name, count, items)

    train = [folder / f"data_batch_{number}.bin" for number in range(1, 6)]
    splits = (split("train", train), split("test", [folder / "test_batch.bin"]))
    return Source(f"CIFAR-10 {folder}", CIFAR_CLASSES, splits)


def webdataset(folder: Path) -> Source:
    """WebDataset tars: a picture and a .cls for each key. Tars named train-* and val-*; classes.txt, where there is
    one, names the classes. Raises ValueError for a picture without a label.
    """
    splits = []
    most = 0
    for name, words in (("train", ("train",)), ("val", ("val", "validation", "test"))):
        tars = sorted(path for path in folder.glob("*.tar") if path.name.startswith(words))
        if not tars:
            continue
        count = 0
        for path in tars:
            for _, label, _ in _samples(path, read_pictures=False):
                most, count = max(most, label), count + 1
        splits.append(SourceSplit(name, count, _sample_items(tars)))
    if not splits or splits[0].name != "train":
        raise ValueError(f"{folder} has no training tars; their names begin with 'train'")
    names = folder / "classes.txt"
    classes = (
        tuple(names.read_text().split("\n"))
        if names.is_file()
        else tuple(map(str, range(most + 1)))
    )
    return Source(f"webdataset {folder}", tuple(c for c in classes if c), tuple(splits))


def _sample_items(tars: list[Path]) -> Callable[[int], Iterator[Item]]:
    def items(start: int) -> Iterator[Item]:
        seen = 0
        for path in tars:
            for key, label, data in _samples(path, read_pictures=True):
                if seen >= start:
                    yield Item(f"{path.name}:{key}", label, in_hand(data))
                seen += 1

    return items


def _samples(path: Path, read_pictures: bool) -> Iterator[tuple[str, int, bytes]]:
    """(key, label, picture): the files of a sample stand together and share all before their first dot."""

    def whole(key: str, sample: dict[str, bytes]) -> tuple[str, int, bytes]:
        picture = next((data for ext, data in sample.items() if f".{ext}" in PICTURES), None)
        if picture is None or "cls" not in sample:
            raise ValueError(
                f"{path}: {key} needs a picture and a .cls; it has {', '.join(sample)}"
            )
        return key, int(sample["cls"]), picture

    key, sample = "", dict[str, bytes]()
    with _open(path) as tar:
        for member, read in _members(tar):
            own, _, ext = member.name.rpartition("/")[2].partition(".")
            if own != key:
                if sample:
                    yield whole(key, sample)
                key, sample = own, {}
            sample[ext.lower()] = read() if read_pictures or ext == "cls" else b""
    if sample:
        yield whole(key, sample)


def hub(name: str) -> Source:
    """A data set of the Hugging Face hub, read as it streams. Raises ValueError when it cannot be reached."""
    import datasets

    try:
        streams: Any = datasets.load_dataset(name, streaming=True)
    except (
        Exception
    ) as error:  # the library raises many kinds: no network, no such name, no permission
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"{name} is no folder here, and the Hugging Face hub does not give it: {reason}"
        ) from None
    kinds = next(iter(streams.values())).features or {}
    images = [key for key, kind in kinds.items() if isinstance(kind, datasets.Image)]
    labels = [key for key, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    if not images or not labels:
        raise ValueError(f"{name} has no picture or class column; it has {', '.join(kinds)}")
    image, label = images[0], labels[0]

    def split(key: str, stream: Any) -> SourceSplit:
        raw = stream.cast_column(image, datasets.Image(decode=False))

        def items(start: int) -> Iterator[Item]:
            for number, row in enumerate(raw.skip(start), start):
                yield Item(
                    row[image]["path"] or f"{key}:{number}",
                    int(row[label]),
                    in_hand(row[image]["bytes"]),
                )

        return SourceSplit("val" if key in ("validation", "valid") else key, None, items)

    ordered = sorted(streams.items(), key=lambda pair: pair[0] != "train")
    return Source(f"hub {name}", tuple(kinds[label].names), tuple(split(*pair) for pair in ordered))


def find(source: str, val_fraction: float = 0.1) -> Source:
    """What kind of source this is, by what lies in the folder. Raises ValueError when it is none."""
    folder = Path(source)
    if not folder.exists():
        if re.fullmatch(r"[\w.-]+/[\w.-]+", source):
            return hub(source)
        raise ValueError(f"{source} does not exist")
    if not folder.is_dir():
        raise ValueError(f"{source} is a file; give the folder it lies in")
    names = [path.name for path in folder.iterdir()]
    if any(re.match(r"(?i)ilsvrc20\d\d_.*train.*\.tar$", name) for name in names):
        return ilsvrc(folder)
    if any(name.endswith(".parquet") for name in names):
        return parquet_files(folder)
    if "data_batch_1.bin" in names:
        return cifar_binary(folder)
    tars = [name for name in names if name.endswith(".tar")]
    if tars:
        return (
            webdataset(folder)
            if any(name.startswith(("train", "val")) for name in tars)
            else class_tars(folder)
        )
    return class_folders(folder, val_fraction)
