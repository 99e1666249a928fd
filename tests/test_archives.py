"""Sources in archives: miniature ImageNet archives, class tars, WebDataset and CIFAR-10."""

from __future__ import annotations

import errno
import gzip
import io
import lzma
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from alexnet.config import StoreSettings
from alexnet.data.image import decode
from alexnet.data.prepare import prepare
from alexnet.data.sources import Source, find
from alexnet.data.sources.class_tars import class_tars
from alexnet.data.sources.ilsvrc import ilsvrc
from alexnet.data.sources.source import Options
from alexnet.data.sources.tars import MAX_PADDING_BYTES, open_tar
from alexnet.data.sources.webdataset import webdataset
from alexnet.errors import DataError
from tests import layouts
from tests.layouts import WNIDS, check_labels, class_tar, devkit, image, meta, tar


@pytest.fixture
def ilsvrc2012(tmp_path: Path) -> Path:
    return layouts.archives(tmp_path / "ilsvrc2012")


def test_ilsvrc_2012_labels_are_wnids_in_order(ilsvrc2012: Path) -> None:
    source = ilsvrc(ilsvrc2012)
    assert source.classes == tuple(WNIDS)
    assert not source.upright
    assert [split.count for split in source.splits] == [24, 12]
    assert [check_labels(split) for split in source.splits] == [24, 12]


def test_ilsvrc_2012_becomes_a_store(ilsvrc2012: Path, tmp_path: Path) -> None:
    manifest = prepare(
        find(str(ilsvrc2012)), tmp_path / "store", StoreSettings(size_px=16, encoding="jpeg")
    )
    assert manifest["splits"]["train"]["per_class"] == [4] * 6
    assert manifest["splits"]["val"]["per_class"] == [2] * 6


def test_ilsvrc_2010_has_a_test_split(ilsvrc2012: Path) -> None:
    folder = ilsvrc2012
    (folder / "ILSVRC2012_img_train.tar").rename(folder / "ILSVRC2010_images_train.tar")
    (folder / "ILSVRC2012_img_val.tar").rename(folder / "ILSVRC2010_images_val.tar")
    shutil.copy(folder / "ILSVRC2010_images_val.tar", folder / "ILSVRC2010_images_test.tar")
    (folder / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    tar(folder / "ILSVRC2010_devkit-1.0.tar.gz", devkit("2010"), "w:gz")
    with pytest.raises(ValueError, match="no test ground truth"):
        ilsvrc(folder)
    (folder / "ILSVRC2010_test_ground_truth.txt").write_bytes(layouts.TRUTH)
    source = ilsvrc(folder)
    assert [split.name for split in source.splits] == ["train", "val", "test"]
    assert check_labels(source.splits[2]) == 12


def test_incomplete_or_contradictory_archives_are_refused(ilsvrc2012: Path) -> None:
    val = ilsvrc2012 / "ILSVRC2012_img_val.tar"
    tar(val, {"ILSVRC2012_val_00000001.JPEG": image(0, 0)})
    with pytest.raises(ValueError, match="has 1 images, and the devkit has 12 labels"):
        ilsvrc(ilsvrc2012)
    val.write_bytes(b"no tar")
    with pytest.raises(ValueError, match="is not a tar file or is damaged"):
        ilsvrc(ilsvrc2012)
    val.unlink()
    with pytest.raises(ValueError, match=r"has no ILSVRC2012_img_val\.tar; put it there, or leave"):
        ilsvrc(ilsvrc2012)
    four = {f"{wnid}.tar": class_tar(wnid, label) for label, wnid in enumerate(WNIDS[:4])}
    tar(ilsvrc2012 / "ILSVRC2012_img_train.tar", four)
    with pytest.raises(ValueError, match="different classes: n03995372, n07753592"):
        ilsvrc(ilsvrc2012)
    (ilsvrc2012 / "ILSVRC2012_devkit_t12.tar.gz").unlink()
    with pytest.raises(ValueError, match=r"no devkit with a meta\.mat"):
        ilsvrc(ilsvrc2012)


def test_one_tar_file_for_each_class(tmp_path: Path) -> None:
    for label, wnid in enumerate(("n00000001", "n00000002")):
        (tmp_path / f"{wnid}.tar").write_bytes(class_tar(wnid, label))
    source = find(str(tmp_path))
    assert source.classes == ("n00000001", "n00000002")
    check_labels(source.splits[0])
    (tmp_path / "n00000002.tar").unlink()
    with pytest.raises(ValueError, match="has 1 tar files"):
        class_tars(tmp_path)


def test_webdataset_tars(tmp_path: Path) -> None:
    samples: dict[str, bytes] = {}
    for number in range(6):
        samples[f"shard/{number:04d}.jpg"] = image(number % 3, number // 3)
        samples[f"shard/{number:04d}.cls"] = str(number % 3).encode()
        samples[f"shard/{number:04d}.json"] = b"{}"
    tar(tmp_path / "train-000.tar", samples)
    tar(tmp_path / "val-000.tar", dict(list(samples.items())[:6]))
    (tmp_path / "classes.txt").write_text("one\ntwo\nthree\n")
    source = find(str(tmp_path))
    assert source.classes == ("one", "two", "three")
    assert [(split.name, split.count) for split in source.splits] == [("train", 6), ("val", 2)]
    assert check_labels(source.splits[0]) == 6
    tar(tmp_path / "train-001.tar", {"x.jpg": image(0, 0)})
    with pytest.raises(ValueError, match=r"x needs an image and a \.cls, a \.json"):
        webdataset(tmp_path)


def test_members_of_hidden_folders_are_no_samples(tmp_path: Path) -> None:
    samples: dict[str, bytes] = {}
    for key in ("0", "../1", "./2", ".thumbnails/0", "a/.trash/b/0"):
        samples |= {f"{key}.jpg": image(0, 0), f"{key}.cls": key[-1:].encode()}
    tar(tmp_path / "train-000.tar", samples)
    split = find(str(tmp_path), val_fraction=0).splits[0]
    assert sorted(item.name.split(":")[1] for item in split.items(0)) == ["0", "1", "2"]


def test_members_of_hidden_folders_are_not_in_class_tars(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        names = (f"{name}0.jpg", f".thumbnails/{name}0.jpg", f"./{name}1.jpg", f"a/.b/{name}2.jpg")
        tar(tmp_path / f"{name}.tar", dict.fromkeys(names, image(0, 0)))
    split = class_tars(tmp_path, Options(val_fraction=0)).splits[0]
    assert [item.name for item in split.items(0)] == [
        "cat0.jpg",
        "./cat1.jpg",
        "dog0.jpg",
        "./dog1.jpg",
    ]


def test_label_of_a_sample_is_the_same_however_its_accents_are_written(tmp_path: Path) -> None:
    samples: dict[str, bytes] = {}
    for key, label in (("0", "B\u00e4r"), ("1", "Ba\u0308r"), ("2", "cat")):
        samples |= {f"{key}.jpg": image(0, 0), f"{key}.cls": label.encode()}
    tar(tmp_path / "train-000.tar", samples)
    source = find(str(tmp_path), val_fraction=0)
    assert source.classes == ("B\u00e4r", "cat")
    assert [item.label for item in source.splits[0].items(0)] == [0, 0, 1]


def test_images_of_shards_held_out_do_not_depend_on_the_wanted_splits(tmp_path: Path) -> None:
    samples: dict[str, bytes] = {}
    for number in range(40):
        samples[f"{number:04d}.jpg"] = image(number % 2, 0)
        samples[f"{number:04d}.cls"] = str(number % 2).encode()
    tar(tmp_path / "train-000.tar", samples)
    for labels, expected in ((b"-1", 36), (b"1", 40)):
        tar(tmp_path / "test-000.tar", {"x.jpg": image(0, 0), "x.cls": labels})
        for splits in ((), ("train",)):
            train = find(str(tmp_path), splits=splits).splits[0]
            assert len(list(train.items(0))) == expected
    # Errors of a split that is not wanted do not matter.
    tar(tmp_path / "test-000.tar", {"x.jpg": image(0, 0), "x.cls": b"-1"})
    for damaged in ("test-001.tar", "test-000.tar"):
        (tmp_path / damaged).write_bytes(b"damaged")
        assert len(list(find(str(tmp_path), splits=("train",)).splits[0].items(0))) == 40


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


def test_packed_source_is_said_to_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "flowers.ZIP").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"flowers\.ZIP is a file; unpack it and give its folder"):
        find(str(tmp_path / "flowers.ZIP"))


def test_hub_error_without_a_network_is_one_sentence() -> None:
    with pytest.raises(
        ValueError, match="not a folder here, and the Hugging Face hub does not provide it"
    ):
        find("nobody/nothing")


# Damaged and hostile archives.


def read_all(source: Source) -> int:
    """Read all items of a source; returns their number."""
    return sum(len(item.read()) > 0 for split in source.splits for item in split.items(0))


DAMAGES: dict[str, Callable[[bytes, tarfile.TarInfo], bytes]] = {
    "one bit of a header": lambda data, info: (
        data[: info.offset] + bytes([data[info.offset] ^ 1]) + data[info.offset + 1 :]
    ),
    "a header of zeros": lambda data, info: (
        data[: info.offset] + bytes(512) + data[info.offset + 512 :]
    ),
    "cut at a header": lambda data, info: data[: info.offset],
    "cut in a header": lambda data, info: data[: info.offset + 100],
    "cut in the data": lambda data, info: data[: info.offset_data + 10],
    "zeros to the end": lambda data, info: data[: info.offset] + bytes(MAX_PADDING_BYTES + 1024),
}


def damage(data: bytes, how: str, member: int) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return DAMAGES[how](data, tar.getmembers()[member])


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_class_tar_is_not_a_shorter_one(how: str, tmp_path: Path) -> None:
    wnids = ("n00000001", "n00000002")
    files = {wnid: {f"{wnid}_{n}.JPEG": image(0, n) for n in range(20)} for wnid in wnids}
    for wnid in wnids:
        tar(tmp_path / f"{wnid}.tar", files[wnid])
    assert read_all(find(str(tmp_path))) == 40
    path = tmp_path / "n00000002.tar"
    path.write_bytes(damage(path.read_bytes(), how, 6))
    with pytest.raises(DataError, match=r"n00000002\.tar is damaged .*2_[56]\.JPEG'.*fetch or"):
        read_all(find(str(tmp_path)))


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_shard_is_not_a_shorter_one(how: str, tmp_path: Path) -> None:
    samples: dict[str, bytes] = {}
    for number in range(9):
        samples |= {f"{number}.jpg": image(0, number), f"{number}.cls": b"%d" % (number % 2)}
    for split in ("train", "val"):
        tar(tmp_path / f"{split}-0.tar", samples)
    assert read_all(find(str(tmp_path))) == 18
    path = tmp_path / "train-0.tar"
    path.write_bytes(damage(path.read_bytes(), how, 6))
    with pytest.raises(DataError, match=r"train-0\.tar is damaged after '(2\.cls|3\.jpg)'"):
        read_all(find(str(tmp_path)))


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("which", ["inner", "train", "val"])
def test_damaged_archive_of_ilsvrc_is_refused(how: str, which: str, ilsvrc2012: Path) -> None:
    """Also without the number of training images, which older files lack."""
    assert read_all(find(str(ilsvrc2012))) == 36
    train = ilsvrc2012 / "ILSVRC2012_img_train.tar"
    if which == "inner":
        inner = {f"{wnid}.tar": class_tar(wnid, 0) for wnid in WNIDS}
        inner["n02012849.tar"] = damage(inner["n02012849.tar"], how, 2)
        tar(train, inner)
        where = r"n02012849\.tar in .*img_train\.tar"
    else:
        path = ilsvrc2012 / f"ILSVRC2012_img_{which}.tar"
        path.write_bytes(damage(path.read_bytes(), how, 2))
        where = rf"img_{which}\.tar"
    with pytest.raises(DataError, match=f"{where} is damaged (after|in) 'n?[0-9A-Z]"):
        read_all(find(str(ilsvrc2012)))


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_damaged_compressed_tar_is_refused(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    whole = pack(class_tar("n00000001", 0))
    (tmp_path / "n00000001.tar").write_bytes(whole)
    (tmp_path / "n00000002.tar").write_bytes(whole)
    assert read_all(find(str(tmp_path))) == 8
    middle = len(whole) // 2
    for damaged in (
        whole[:-1],
        whole[:middle],
        whole[:20],
        whole[:middle] + bytes([whole[middle] ^ 4]) + whole[middle + 1 :],
        whole[:-6] + bytes([whole[-6] ^ 4]) + whole[-5:],
    ):
        (tmp_path / "n00000001.tar").write_bytes(damaged)
        with pytest.raises(
            DataError, match=r"n00000001\.tar is .*damaged .*fetch or pack it again"
        ):
            read_all(find(str(tmp_path)))


def test_tar_may_end_with_one_block_of_zeros_or_many(tmp_path: Path) -> None:
    """GNU tar accepts a lone block, and fills up records of any size."""
    data = class_tar("n00000001", 0)
    with tarfile.open(fileobj=io.BytesIO(data)) as whole:
        end = whole.getmembers()[-1].offset_data + 512 * -(-whole.getmembers()[-1].size // 512)
    for zeros in (512, 1024, MAX_PADDING_BYTES):
        (tmp_path / "a.tar").write_bytes(data[:end] + bytes(zeros))
        with open_tar(tmp_path / "a.tar") as members:
            assert len(list(members)) == 4
    (tmp_path / "a.tar").write_bytes(bytes(10240))
    with open_tar(tmp_path / "a.tar") as members, pytest.raises(DataError, match="without files"):
        list(members)


def header(info: tarfile.TarInfo, sparse: int = 0) -> bytes:
    """A header; with `sparse` that of a GNU sparse file without data, of so many bytes."""
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    if sparse:
        block[156:157] = tarfile.GNUTYPE_SPARSE
        block[483:495] = b"%011o\0" % sparse
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def test_hostile_members_take_neither_memory_nor_time(tmp_path: Path) -> None:
    """They are images that cannot be read, and those beside them are read."""
    link, sparse, large = (tarfile.TarInfo(f"{name}.jpg") for name in ("link", "sparse", "large"))
    link.type, link.linkname, large.size = tarfile.LNKTYPE, "/etc/passwd", 300 << 20
    for name in ("cat", "dog"):
        with (tmp_path / f"{name}.tar").open("wb") as file:
            file.write(header(link) + header(sparse, 4 << 30) + header(large))
            file.seek(large.size, os.SEEK_CUR)  # a hole, which takes no space on the disk
            file.write(class_tar(name, 0))
    train, _ = find(str(tmp_path)).splits
    reasons = []
    for item in list(train.items(0))[:3]:
        with pytest.raises(ValueError, match=r"link|more than") as caught:
            item.read()
        assert not isinstance(caught.value, DataError)
        reasons.append(str(caught.value))
    assert reasons[2] == "314,572,800 bytes are more than 268,435,456"
    assert [len(item.read()) > 0 for item in list(train.items(0))[3:5]] == [True, True]


def test_headers_that_lead_backward_or_are_huge_are_refused(tmp_path: Path) -> None:
    names = tarfile.TarInfo("././@LongLink")
    names.type, names.size = tarfile.GNUTYPE_LONGNAME, 2 << 20
    back = tarfile.TarInfo("back.jpg")
    back.size = -2048
    for what, match in ((names, "extended header of 2097152"), (back, "a negative size")):
        tar(tmp_path / "a.tar", {"0.jpg": b"x", "1.jpg": b"x"})
        data = (tmp_path / "a.tar").read_bytes()
        (tmp_path / "a.tar").write_bytes(data[:2048] + header(what) + bytes(4 << 20))
        with open_tar(tmp_path / "a.tar") as members, pytest.raises(DataError, match=match):
            list(members)


def test_missing_training_images_of_ilsvrc_are_an_error(ilsvrc2012: Path) -> None:
    five = devkit(classes=meta(images=5))
    tar(ilsvrc2012 / "ILSVRC2012_devkit_t12.tar.gz", five, "w:gz")
    with pytest.raises(
        DataError, match=r"n07753592 has 4 of 5 images in .*train\.tar; fetch it again, or unpack"
    ):
        read_all(find(str(ilsvrc2012)))
    folder = ilsvrc2012 / "unpacked"  # the way to a subset
    with tarfile.open(ilsvrc2012 / "ILSVRC2012_img_train.tar") as outer:
        outer.extractall(folder, filter="data")
    assert read_all(find(str(folder))) == 24


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (b"1 2 3 4 5 6 1 2 3 4 5 9", "the validation ground truth of the devkit has the id 9"),
        (b"1 2 3 4 5 6 1 2 3 4 5 x", r"ground_truth\.txt in .* has b'x' in place of an id"),
        (b"1 2 3 4 5 6 1 2 3 4 5 \xff", r"ground_truth\.txt in .* has b'\\xff' in place of an id"),
        (b"1" * 5000, r"ground_truth\.txt in .* in place of an id"),
        (b"1 2 3 4 5", r"val\.tar has 12 images, and the devkit has 5 labels"),
    ],
)
def test_damaged_ground_truth_is_refused(truth: bytes, message: str, ilsvrc2012: Path) -> None:
    tar(ilsvrc2012 / "ILSVRC2012_devkit_t12.tar.gz", devkit(truth=truth), "w:gz")
    with pytest.raises(DataError, match=message):
        find(str(ilsvrc2012))


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"no file of MATLAB",
        meta()[:700],
        meta()[:128] + bytes(400),
        meta().replace(b"synsets", b"synsetz"),
        meta().replace(b"ILSVRC2012_ID", b"ILSVRC2012_IX"),
        meta()[:524] + meta()[520:],  # a segmentation fault in SciPy 1.17
    ],
)
def test_damaged_meta_mat_is_refused(damaged: bytes, ilsvrc2012: Path) -> None:
    tar(ilsvrc2012 / "ILSVRC2012_devkit_t12.tar.gz", {"devkit/data/meta.mat": damaged}, "w:gz")
    with pytest.raises(
        DataError, match=r"meta\.mat in .*_t12\.tar\.gz is damaged or is not .* fetch it again"
    ):
        find(str(ilsvrc2012))


def test_two_validation_images_of_one_number_are_refused(ilsvrc2012: Path) -> None:
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 12)]
    for name in ("copy/ILSVRC2012_val_00000005.JPEG", "x.JPEG"):
        tar(ilsvrc2012 / "ILSVRC2012_img_val.tar", {n: image(0, 0) for n in [*names, name]})
        with pytest.raises(DataError, match="12 images, and none of them has the number 12"):
            find(str(ilsvrc2012))


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"x.jpg": b"", "x.cls": b"\xff\xfe"}, r"train-0\.tar: x\.cls is not UTF-8 text"),
        ({"x.jpg": b"", "x.json": b"[" * 100_000}, "x needs an image and a"),
        ({"x.jpg": b"", "x.json": b"[3]"}, "x needs an image and a"),
        ({"x.jpg": b"", "x.json": b'{"label": NaN}'}, "x needs an image and a"),
        ({"x.jpg": b"", "x.json": b'{"label": {}}'}, "x needs an image and a"),
        ({"x.jpg": b"", "x.json": b'{"label": 1%s}' % (b"0" * 400)}, "at most 1,000,000 classes"),
        ({"x.jpg": b"", "x.json": b'{"label": 1%s}' % (b"0" * 9000)}, "x needs an image and a"),
        ({"x.jpg": b"", "x.cls": b"2000000000"}, "has the label 2000000000, and at most"),
        ({"x.jpg": b"", "x.cls": "\u00b2".encode()}, "numbers and labels that are names"),
        ({"x.jpg": b"", "x.cls": bytes(1 << 21)}, r"x\.cls cannot have a label \(2,097,152 bytes"),
    ],
)
def test_hostile_labels_of_shards_are_refused(
    sample: dict[str, bytes], message: str, tmp_path: Path
) -> None:
    tar(tmp_path / "train-0.tar", {"a.jpg": image(0, 0), "a.cls": b"0"} | sample)
    with pytest.raises(DataError, match=message):
        find(str(tmp_path))


def test_classes_txt_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    tar(tmp_path / "train-0.tar", {"a.jpg": image(0, 0), "a.cls": b"0"})
    (tmp_path / "classes.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"classes\.txt is not UTF-8 text \(byte 3\)"):
        find(str(tmp_path))


def test_pipes_in_place_of_archives_are_refused(ilsvrc2012: Path, tmp_path: Path) -> None:
    """To open one would wait for ever."""
    for name in ("shards/train-0.tar", "parquet/train-0.parquet"):
        path = tmp_path / name
        path.parent.mkdir()
        os.mkfifo(path)
        with pytest.raises(DataError, match="is not a regular file"):
            find(str(path.parent))
    os.mkfifo(ilsvrc2012 / "ILSVRC2012_test_ground_truth.txt")
    with pytest.raises(DataError, match="is not a regular file"):
        find(str(ilsvrc2012))


def test_short_or_damaged_cifar_files_are_refused(tmp_path: Path) -> None:
    rows = np.zeros((4, 3073), np.uint8)
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for name in names:
        rows.tofile(tmp_path / name)
    assert read_all(find(str(tmp_path))) == 24
    rows[:3].tofile(tmp_path / names[3])
    with pytest.raises(DataError, match=r"batch_4\.bin has 3 images, and data_batch_1\.bin has 4"):
        find(str(tmp_path))
    rows[2, 0] = 10
    rows.tofile(tmp_path / names[3])
    with pytest.raises(DataError, match=r"batch_4\.bin has the label 10 in record 2"):
        find(str(tmp_path))


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="only Linux has such a file")
def test_tar_that_the_disk_does_not_give_is_not_called_damaged(tmp_path: Path) -> None:
    """The memory of a process can be opened; to read its first byte is an error."""
    unread = layouts.class_tars(tmp_path / "tars") / f"{WNIDS[0]}.tar"
    unread.unlink(missing_ok=True)
    unread.symlink_to("/proc/self/mem")
    with pytest.raises(OSError, match="Input/output error"):
        find(str(tmp_path / "tars"))


def test_table_that_may_not_be_read_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permissions cannot be taken from the user of a test who may read everything."""

    def refuse(*arguments: object, **options: object) -> None:
        # As Arrow does, without the name of the file.
        raise PermissionError(errno.EACCES, "Failed to open local file 'a'. Detail: [errno 13]")

    layouts.clone(tmp_path / "parquet")
    monkeypatch.setattr("pyarrow.parquet.read_schema", refuse)
    with pytest.raises(PermissionError):
        find(str(tmp_path / "parquet"))
