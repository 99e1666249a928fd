"""Sources in archives: miniature ImageNet archives, class tars, WebDataset and CIFAR-10."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from alexnet.config import StoreSettings
from alexnet.data.image import decode, encode
from alexnet.data.prepare import prepare
from alexnet.data.sources import Source, find
from alexnet.data.sources.class_tars import class_tars
from alexnet.data.sources.ilsvrc import ilsvrc
from alexnet.data.sources.webdataset import webdataset

# As in the real devkit, the order of the ids is not that of the wnids.
WNID_OF_ID = {1: "n03000000", 2: "n01000000", 3: "n02000000"}
VAL_IDS = [3, 1, 1, 2, 3, 2]


def level_of(label: int, number: int) -> int:
    return 60 * label + 5 * number


def grey_jpeg(level: int) -> bytes:
    return encode(np.full((20, 30, 3), level, np.uint8), "jpeg")


def tar(path: Path | io.BytesIO, files: dict[str, bytes], mode: str = "w") -> None:
    target = {"name": path} if isinstance(path, Path) else {"fileobj": path}
    with tarfile.open(mode=mode, **target) as out:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


def class_tar(wnid: str, label: int) -> bytes:
    buffer = io.BytesIO()
    tar(
        buffer, {f"{wnid}_{number}.JPEG": grey_jpeg(level_of(label, number)) for number in range(4)}
    )
    return buffer.getvalue()


def meta(year: str) -> bytes:
    """meta.mat: the classes, and a synset above them that is not a class."""
    number = f"ILSVRC{year}_ID"
    fields = [
        (number, "i4"),
        ("WNID", "O"),
        ("words", "O"),
        ("num_children", "i4"),
        ("num_train_images", "i4"),
    ]
    rows = [(i, wnid, "words", 0, 4) for i, wnid in WNID_OF_ID.items()] + [
        (1001, "n00001740", "entity", 3, 0)
    ]
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": np.array(rows, dtype=fields).reshape(-1, 1)})
    return buffer.getvalue()


@pytest.fixture
def ilsvrc2012(tmp_path: Path) -> Path:
    folder = tmp_path / "ilsvrc2012"
    folder.mkdir()
    labels = {wnid: label for label, wnid in enumerate(sorted(WNID_OF_ID.values()))}
    tar(
        folder / "ILSVRC2012_img_train.tar",
        {f"{wnid}.tar": class_tar(wnid, labels[wnid]) for wnid in labels},
    )
    val = {
        f"ILSVRC2012_val_{i + 1:08d}.JPEG": grey_jpeg(level_of(labels[WNID_OF_ID[n]], i))
        for i, n in enumerate(VAL_IDS)
    }
    # The members of the real archive are not in order either.
    tar(folder / "ILSVRC2012_img_val.tar", dict(reversed(val.items())))
    truth = "\n".join(map(str, VAL_IDS)).encode()
    devkit = {
        "devkit/data/meta.mat": meta("2012"),
        "devkit/data/ILSVRC2012_validation_ground_truth.txt": truth,
    }
    tar(folder / "ILSVRC2012_devkit_t12.tar.gz", devkit, "w:gz")
    return folder


def check_labels(source: Source, split: int) -> None:
    """Check that each image has the label that its grey level gives, from any start."""
    items = list(source.splits[split].items(0))
    for item in items:
        assert int(decode(item.read()).mean()) // 60 == item.label
    for start in range(len(items) + 1):
        assert [item.name for item in source.splits[split].items(start)] == [
            item.name for item in items[start:]
        ]


def test_ilsvrc_2012_labels_are_wnids_in_order(ilsvrc2012: Path) -> None:
    source = ilsvrc(ilsvrc2012)
    assert source.classes == ("n01000000", "n02000000", "n03000000")
    assert not source.upright
    assert [split.count for split in source.splits] == [12, 6]
    check_labels(source, 0)
    check_labels(source, 1)


def test_ilsvrc_2012_becomes_a_store(ilsvrc2012: Path, tmp_path: Path) -> None:
    manifest = prepare(
        find(str(ilsvrc2012)), tmp_path / "store", StoreSettings(size_px=16, encoding="jpeg")
    )
    assert manifest["splits"]["train"]["per_class"] == [4, 4, 4]
    assert manifest["splits"]["val"]["per_class"] == [2, 2, 2]


def test_ilsvrc_2010_has_a_test_split(ilsvrc2012: Path) -> None:
    folder = ilsvrc2012
    (folder / "ILSVRC2012_img_train.tar").rename(folder / "ILSVRC2010_images_train.tar")
    (folder / "ILSVRC2012_img_val.tar").rename(folder / "ILSVRC2010_images_val.tar")
    shutil.copy(folder / "ILSVRC2010_images_val.tar", folder / "ILSVRC2010_images_test.tar")
    (folder / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    truth = "\n".join(map(str, VAL_IDS)).encode()
    files = {
        "devkit/data/meta.mat": meta("2010"),
        "devkit/data/ILSVRC2010_validation_ground_truth.txt": truth,
    }
    tar(folder / "ILSVRC2010_devkit-1.0.tar.gz", files, "w:gz")
    with pytest.raises(ValueError, match="no test ground truth"):
        ilsvrc(folder)
    (folder / "ILSVRC2010_test_ground_truth.txt").write_bytes(truth)
    source = ilsvrc(folder)
    assert [split.name for split in source.splits] == ["train", "val", "test"]
    check_labels(source, 2)


def test_incomplete_or_contradictory_archives_are_refused(ilsvrc2012: Path) -> None:
    val = ilsvrc2012 / "ILSVRC2012_img_val.tar"
    tar(val, {"ILSVRC2012_val_00000001.JPEG": grey_jpeg(0)})
    with pytest.raises(ValueError, match="has 1 images, and the devkit has 6 labels"):
        ilsvrc(ilsvrc2012)
    val.write_bytes(b"no tar")
    with pytest.raises(ValueError, match="is not a tar file or is damaged"):
        ilsvrc(ilsvrc2012)
    val.unlink()
    with pytest.raises(ValueError, match="exactly one is needed"):
        ilsvrc(ilsvrc2012)
    tar(ilsvrc2012 / "ILSVRC2012_img_train.tar", {"n01000000.tar": class_tar("n01000000", 0)})
    with pytest.raises(ValueError, match="different classes: n02000000, n03000000"):
        ilsvrc(ilsvrc2012)
    (ilsvrc2012 / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(ValueError, match=r"no devkit with a meta\.mat"):
        ilsvrc(ilsvrc2012)


def test_the_real_devkit_has_the_documented_properties(pictures: Path) -> None:
    """There are 1,000 sorted wnids and 50 validation images of each devkit id."""
    facts = pictures / "ilsvrc2012"
    wnids = [line.split()[0] for line in (facts / "synset_words.txt").read_text().splitlines()]
    assert wnids == sorted(wnids)
    assert len(wnids) == 1000
    id_of = {
        line.split()[0]: int(line.split()[1])
        for line in (facts / "map_clsloc.txt").read_text().splitlines()
    }
    assert sorted(id_of.values()) == list(range(1, 1001))
    assert set(id_of) == set(wnids)
    truth = np.loadtxt(facts / "ILSVRC2012_validation_ground_truth.txt", dtype=int)
    assert (np.bincount(truth)[1:] == 50).all()
    # By the published listing, the first validation image is a sea snake: n01751748.
    assert {number: wnid for wnid, number in id_of.items()}[int(truth[0])] == "n01751748"


def test_one_tar_file_for_each_class(tmp_path: Path) -> None:
    for label, wnid in enumerate(("n00000001", "n00000002")):
        (tmp_path / f"{wnid}.tar").write_bytes(class_tar(wnid, label))
    source = find(str(tmp_path))
    assert source.classes == ("n00000001", "n00000002")
    check_labels(source, 0)
    (tmp_path / "n00000002.tar").unlink()
    with pytest.raises(ValueError, match="has 1 tar files"):
        class_tars(tmp_path)


def test_webdataset_tars(tmp_path: Path) -> None:
    samples: dict[str, bytes] = {}
    for number in range(6):
        samples[f"shard/{number:04d}.jpg"] = grey_jpeg(level_of(number % 3, number // 3))
        samples[f"shard/{number:04d}.cls"] = str(number % 3).encode()
        samples[f"shard/{number:04d}.json"] = b"{}"
    tar(tmp_path / "train-000.tar", samples)
    tar(tmp_path / "val-000.tar", dict(list(samples.items())[:6]))
    (tmp_path / "classes.txt").write_text("one\ntwo\nthree\n")
    source = find(str(tmp_path))
    assert source.classes == ("one", "two", "three")
    assert [(split.name, split.count) for split in source.splits] == [("train", 6), ("val", 2)]
    check_labels(source, 0)
    tar(tmp_path / "train-001.tar", {"x.jpg": grey_jpeg(0)})
    with pytest.raises(ValueError, match=r"x needs an image and a \.cls, a \.json"):
        webdataset(tmp_path)


def test_cifar10_binary_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (5, 4, 3073), np.uint8)
    rows[:, :, 0] = [0, 1, 2, 9]
    for number in range(5):
        rows[number].tofile(tmp_path / f"data_batch_{number + 1}.bin")
    rows[0].tofile(tmp_path / "test_batch.bin")
    source = find(str(tmp_path))
    items = list(source.splits[0].items(0))
    assert [item.label for item in items[:5]] == [0, 1, 2, 9, 0]
    assert np.array_equal(decode(items[6].read())[..., 2].ravel(), rows[1, 2, 2049:])
    assert source.classes[9] == "truck"
    (tmp_path / "test_batch.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match="is not a CIFAR-10 file"):
        find(str(tmp_path))


@pytest.mark.parametrize(
    ("source", "message"),
    [("/nowhere/at all", "does not exist"), (__file__, "is a file; give the folder")],
)
def test_missing_sources_and_single_files_are_refused(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find(source)


def test_hub_error_without_a_network_is_one_sentence() -> None:
    with pytest.raises(
        ValueError, match="not a folder here, and the Hugging Face hub does not provide it"
    ):
        find("nobody/nothing")
