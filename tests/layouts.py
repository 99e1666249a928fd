"""A tiny ImageNet of six classes, written in each form in which ImageNet is distributed.

It has 24 training and 12 validation images of 40 pixels a side. Each image is of one grey level,
which gives the class independently of the form: `level // 40`.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from scipy.io import savemat

from alexnet.data.image import decode, encode
from alexnet.data.sources import Source, SourceSplit, find

WORDS = {
    "n01440764": "tench, Tinca tinca",
    "n02012849": "crane",
    "n02099601": "golden retriever",
    "n03126707": "crane, derrick",
    "n03995372": "power drill",
    "n07753592": "banana",
}
WNIDS = sorted(WORDS)
# As in the real devkit, the order of the ids is not that of the wnids.
ID_OF = dict(zip(WNIDS, (4, 1, 6, 2, 3, 5), strict=True))
TRAIN = [
    (f"{wnid}_{number}.JPEG", label, number)
    for label, wnid in enumerate(WNIDS)
    for number in range(4)
]
VAL = [(f"ILSVRC2012_val_{i + 1:08d}.JPEG", (5 * i + 2) % 6, 4 + i // 6) for i in range(12)]


def image(label: int, number: int) -> bytes:
    return encode(np.full((40, 40, 3), 40 * label + 5 * number, np.uint8), "jpeg")


def tar(path: Path | io.BytesIO, files: dict[str, bytes], mode: str = "w") -> None:
    target = {"name": path} if isinstance(path, Path) else {"fileobj": path}
    if isinstance(path, Path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(mode=mode, **target) as out:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


def write(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else data.encode())


def meta(year: str = "2012", id_of: dict[str, int] = ID_OF, images: int = 4) -> bytes:
    """meta.mat: the classes, each with so many images, and a synset above them."""
    fields = [(f"ILSVRC{year}_ID", "i4"), ("WNID", "O"), ("words", "O"), ("num_children", "i4")]
    fields.append(("num_train_images", "i4"))
    # In the order of the ids, as in the real one.
    by_id = sorted((number, wnid) for wnid, number in id_of.items())
    rows = [(number, wnid, WORDS.get(wnid, "a dog"), 0, images) for number, wnid in by_id]
    buffer = io.BytesIO()
    table = np.array([*rows, (1001, "n00001740", "entity", 3, 0)], dtype=fields)
    savemat(buffer, {"synsets": table.reshape(-1, 1)})
    return buffer.getvalue()


TRUTH = "\n".join(str(ID_OF[WNIDS[label]]) for _, label, _ in VAL).encode()


def devkit(
    year: str = "2012", classes: bytes | None = None, truth: bytes = TRUTH
) -> dict[str, bytes]:
    """The files of a devkit; `classes` is its meta.mat."""
    return {
        "devkit/data/meta.mat": meta(year) if classes is None else classes,
        f"devkit/data/ILSVRC{year}_validation_ground_truth.txt": truth,
    }


def class_tar(wnid: str, label: int) -> bytes:
    """The four training images of a class, as they lie in the archive of the training images."""
    buffer = io.BytesIO()
    tar(buffer, {f"{wnid}_{number}.JPEG": image(label, number) for number in range(4)})
    return buffer.getvalue()


DOGS = {"n02085620": 1, "n02085782": 2}


def archives(folder: Path, dogs_first: bool = False) -> Path:
    """The 2012 folder, with the devkit of task 3 beside that of tasks 1 and 2."""
    classes = [(f"{wnid}.tar", class_tar(wnid, label)) for label, wnid in enumerate(WNIDS)]
    tar(folder / "ILSVRC2012_img_train.tar", dict(reversed(classes)))
    tar(folder / "ILSVRC2012_img_val.tar", {name: image(*args) for name, *args in reversed(VAL)})
    tar(folder / "ILSVRC2012_devkit_t12.tar.gz", devkit(), "w:gz")
    name = "A_ILSVRC2012_devkit_t3.tar.gz" if dogs_first else "ILSVRC2012_devkit_t3.tar.gz"
    tar(folder / name, devkit(classes=meta(id_of=DOGS)), "w:gz")
    return folder


def by_class(folder: Path, files: Iterable[tuple[str, int, int]], inside: str = "") -> None:
    for name, label, number in files:
        write(folder / WNIDS[label] / inside / name, image(label, number))


def flat(folder: Path, files: Iterable[tuple[str, int, int]]) -> None:
    for name, label, number in files:
        write(folder / name, image(label, number))


def class_folders(folder: Path) -> Path:
    by_class(folder / "train", TRAIN)
    by_class(folder / "val", VAL)
    write(folder / "synset_words.txt", "".join(f"{w} {words}\n" for w, words in WORDS.items()))
    return folder


def flat_val_with_devkit(folder: Path) -> Path:
    """The archives, unpacked and not changed otherwise."""
    by_class(folder / "train", TRAIN)
    flat(folder / "val", VAL)
    for name, data in devkit().items():
        write(folder / "ILSVRC2012_devkit_t12" / name, data)
    return folder


def rows(
    files: list[tuple[str, int, int]], wnids: bool = True, labels: list[int] | None = None
) -> Any:
    """A Dataset of images and labels. With `wnids`, file names end in the wnid, as on the hub."""
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(WORDS.values()))}
    )
    cells = [
        {
            "bytes": image(label, number),
            "path": f"{name.split('.')[0]}_{WNIDS[label]}.JPEG" if wnids else f"{index}.jpg",
        }
        for index, (name, label, number) in enumerate(files)
    ]
    labels = labels or [label for _, label, _ in files]
    return datasets.Dataset.from_dict({"image": cells, "label": labels}, features=features)


def clone(folder: Path, wnids: bool = True) -> Path:
    """A clone of Hugging Face's imagenet-1k, whose test split has no labels."""
    (folder / "data").mkdir(parents=True)
    backwards = TRAIN[::-1]
    for name, files in (
        ("train-00000-of-00002", rows(backwards[:15], wnids)),
        ("train-00001-of-00002", rows(backwards[15:], wnids)),
        ("validation-00000-of-00001", rows(VAL, wnids)),
        ("test-00000-of-00001", rows(VAL[:5], False, [-1] * 5)),
    ):
        files.to_parquet(folder / "data" / f"{name}.parquet")
    return folder


def clone_with_classes_py(folder: Path) -> Path:
    """A clone whose file names have no wnids, with the dictionary in classes.py."""
    pairs = "".join(f"        {wnid!r}: {words!r},\n" for wnid, words in WORDS.items())
    text = (
        f"from collections import OrderedDict\nraise SystemExit\nC = OrderedDict({{\n{pairs}}})\n"
    )
    write(folder / "classes.py", text)
    return clone(folder, wnids=False)


def streams(wnids: bool = True) -> dict[str, Any]:
    """What `load_dataset(..., streaming=True)` returns."""
    sets = {
        "test": rows(VAL[:5], False, [-1] * 5),
        "train": rows(TRAIN[::-1], wnids),
        "validation": rows(VAL, wnids),
    }
    return {name: split.to_iterable_dataset() for name, split in sets.items()}


def kaggle(folder: Path) -> Path:
    base = folder / "ILSVRC" / "Data" / "CLS-LOC"
    by_class(base / "train", TRAIN)
    flat(base / "val", VAL)
    flat(base / "test", [(f"ILSVRC2012_test_{i + 1:08d}.JPEG", 0, i) for i in range(5)])
    boxes = "".join(
        f"{name[:-5]},{WNIDS[label]} 85 1 499 272{f' {WNIDS[label]} 3 4 5 6' * (label % 2)} \n"
        for name, label, _ in VAL
    )
    write(folder / "LOC_val_solution.csv", "ImageId,PredictionString\n" + boxes)
    form = "".join(f"ILSVRC2012_test_{i + 1:08d},n01440764 1 1 2 2\n" for i in range(5))
    write(folder / "LOC_sample_submission.csv", "ImageId,PredictionString\n" + form)
    lines = "".join(f"{wnid} {words}\n" for wnid, words in WORDS.items())
    write(folder / "LOC_synset_mapping.txt", lines)
    return folder


def tiny_imagenet(folder: Path) -> Path:
    by_class(folder / "train", TRAIN, "images")
    for wnid in WNIDS:
        write(folder / "train" / wnid / f"{wnid}_boxes.txt", f"{wnid}_0.JPEG\t0\t0\t62\t62\n")
    flat(folder / "val" / "images", VAL)
    flat(folder / "test" / "images", [(f"test_{i}.JPEG", 0, i) for i in range(5)])
    lines = "".join(f"{name}\t{WNIDS[label]}\t0\t32\t44\t62\n" for name, label, _ in VAL)
    write(folder / "val" / "val_annotations.txt", lines)
    write(folder / "wnids.txt", "".join(f"{wnid}\n" for wnid in reversed(WNIDS)))
    lines = "".join(f"{wnid}\t{words}\n" for wnid, words in WORDS.items())
    write(folder / "words.txt", "n00001740\tentity\n" + lines)
    return folder


def shards(folder: Path, kind: str) -> Path:
    """WebDataset shards; the label of a sample is in its .cls, its .json or its key."""
    write(folder / "words.txt", "".join(f"{wnid}\t{words}\n" for wnid, words in WORDS.items()))
    for shard, files in (
        ("imagenet1k-train-0000", TRAIN[10:]),
        ("imagenet1k-train-0001", TRAIN[:10]),
        ("imagenet1k-validation-00", VAL),
    ):
        out: dict[str, bytes] = {}
        for name, label, number in files:
            key = name.split(".")[0]
            if kind == "key" and key.startswith("ILSVRC"):
                key = f"{WNIDS[label]}_{key}"
            out[f"{key}.jpg"] = image(label, number)
            if kind == "cls":
                out[f"{key}.cls"] = str(label).encode()
            if kind in ("cls", "json"):
                about = {"filename": name, "width": 40} | (
                    {"label": label} if kind == "json" else {}
                )
                out[f"{key}.json"] = json.dumps(about).encode()
        tar(folder / f"{shard}.tar", out)
    return folder


def table(folder: Path, column: bool = True) -> Path:
    """A flat folder, with a table for each split or one table with a column of splits."""
    flat(folder / "images", TRAIN + VAL)
    write(folder / "words.txt", "".join(f"{wnid}\t{words}\n" for wnid, words in WORDS.items()))
    parts = (("train", TRAIN), ("val", VAL))
    if column:
        lines = [f"{label},{s},{name}" for s, files in parts for name, label, _ in files]
        lines = [f"{WNIDS[int(line[0])]}{line[1:]}" for line in lines]
        write(folder / "labels.csv", "\n".join(["class,split,filename", *lines]))
    else:
        for split, files in parts:
            lines = [f"{name[:-5]} {WNIDS[label]}" for name, label, _ in files]
            write(folder / f"{split}.txt", "\n".join(lines))
    return folder


def class_tars(folder: Path) -> Path:
    for label, wnid in enumerate(WNIDS):
        write(folder / f"{wnid}.tar", class_tar(wnid, label))
    write(folder / "words.txt", "".join(f"{wnid}\t{words}\n" for wnid, words in WORDS.items()))
    return folder


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "archives, dogs last": archives,
    "archives, dogs first": lambda folder: archives(folder, dogs_first=True),
    "class folders": class_folders,
    "unpacked archives": flat_val_with_devkit,
    "clone": clone,
    "clone with classes.py": clone_with_classes_py,
    "kaggle": kaggle,
    "kaggle, ILSVRC": lambda folder: kaggle(folder) / "ILSVRC",
    "kaggle, CLS-LOC": lambda folder: kaggle(folder) / "ILSVRC" / "Data" / "CLS-LOC",
    "tiny-imagenet": tiny_imagenet,
    "shards with .cls": lambda folder: shards(folder, "cls"),
    "shards with .json": lambda folder: shards(folder, "json"),
    "shards with wnids": lambda folder: shards(folder, "key"),
    "table with splits": table,
    "tables": lambda folder: table(folder, column=False),
}
"""Writers of the forms with all 24 and 12 images; the form of the hub is `streams`."""


def check_labels(split: SourceSplit) -> int:
    """Check that grey levels and labels of all images agree; returns the number of images."""
    items = list(split.items(0))
    for item in items:
        assert int(decode(item.read()).mean() + 0.5) // 40 == item.label, item.name
    for start in range(len(items) + 1):
        assert [item.name for item in split.items(start)] == [i.name for i in items[start:]]
    return len(items)


def names_of_images(folder: Path) -> list[str]:
    """The names in a source of one split, in its order."""
    (split,) = find(str(folder), val_fraction=0).splits
    return [item.name for item in split.items(0)]


PETS = [("a b.jpg", "golden retriever", 0), ("c.png", "cat", 1), ("d.JPG", "cat", 1)]


def pets(folder: Path, text: str, file: str = "labels.csv", inside: str = "") -> Source:
    """A flat folder of three images beside a table of labels with this text."""
    for number, (name, _, label) in enumerate(PETS):
        # The labels of a source follow the alphabetical order of its classes, so cat is 0.
        write(folder / inside / name, image(1 - label, number))
    write(folder / file, text)
    return find(str(folder), val_fraction=0)
