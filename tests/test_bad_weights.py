"""Files of weights that are damaged, too large or malicious end in one sentence."""

from __future__ import annotations

import argparse
import collections
import errno
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from alexnet.errors import AlexNetError, RunError
from alexnet.weights import caffemodel, files
from alexnet.weights.files import MOST_BYTES, read, read_mean
from alexnet.weights.importing import import_weights
from alexnet.weights.protobuf import Budget, Malformed, Message, field
from tests import frameworks
from tests.commands import refused
from tests.weight_files import (
    CLASSES,
    WIDTH,
    caffe_file,
)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="only Linux has such a file")
def test_weights_that_the_disk_does_not_give_are_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of a process can be opened; to map it or to read its first byte is an error."""
    path = tmp_path / "net.safetensors"

    def lost(file: Path, framework: str) -> Any:
        file.unlink()
        file.symlink_to("/proc/self/mem")
        return safe_open(file, framework)

    save_file({"weight": torch.zeros(2)}, path)
    monkeypatch.setattr(files, "safe_open", lost)
    # The disk is lost after the first bytes, and then before them.
    for _ in range(2):
        with pytest.raises(OSError, match="Input/output error") as error:
            read(path)
        assert (error.value.errno, error.value.filename) == (errno.EIO, str(path))


class Evil:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        import os

        return os.system, (self.command,)


def half(path: Path) -> None:
    state = frameworks.torchvision_alexnet(WIDTH, CLASSES).state_dict()
    torch.save({name: t for name, t in state.items() if name.startswith("features")}, path)


def wrong_shape(path: Path) -> None:
    state = dict(frameworks.torchvision_alexnet(WIDTH, CLASSES).state_dict())
    state["features.3.weight"] = state["features.3.weight"][:, :, :3, :3].clone()
    torch.save(state, path)


def another_net(path: Path) -> None:
    torch.save(torch.nn.LSTM(4, 4).state_dict(), path)


def vgg(path: Path) -> None:
    """torchvision's vgg11, of which some names are those of its alexnet."""
    names = [f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)]
    names += [f"classifier.{i}" for i in (0, 3, 6)]
    torch.save({f"{name}.weight": torch.zeros(4, 4) for name in names}, path)


def not_finite(path: Path) -> None:
    state = dict(frameworks.torchvision_alexnet(WIDTH, CLASSES).state_dict())
    state["classifier.1.bias"][3] = float("nan")
    torch.save(state, path)


def view_of_one_number(path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}, path)


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("archive/data.pkl", bytes(1 << 20))
        out.writestr("archive/data/0", bytes(1 << 20))


def huge_npz(path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1073741824, 1024), }"
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("conv1.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header)


def objects(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.array({"conv1": [np.zeros(3)]}, object), allow_pickle=True)


def damaged_caffemodel(path: Path) -> None:
    caffe_file(path, frameworks.caffe_blobs(1, WIDTH, CLASSES), False)
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.parametrize(
    ("name", "write", "says"),
    [
        ("a.txt", lambda p: p.write_text("hello"), "is not a file of weights that can be read"),
        ("a.pth", lambda p: p.write_bytes(b""), "is not a file of weights that can be read"),
        ("a.pth", lambda p: p.write_bytes(b"PK\x03\x04" + bytes(50)), "is damaged"),
        ("a.pth", half, r"of the 16 arrays of torchvision's alexnet it lacks 6: fc6\.weight"),
        ("a.pth", wrong_shape, r"conv2\.weight has the shape \(12, 4, 3, 3\), and"),
        (
            "a.pth",
            another_net,
            "is not an AlexNet that is known: it has 4 arrays, the first of them",
        ),
        (
            "a.pth",
            vgg,
            r"'features\.0\.weight' of shape \(4, 4\), and too few with the names of an AlexNet",
        ),
        ("a.pth", not_finite, r"has numbers in fc6\.bias that are not finite"),
        ("a.pth", view_of_one_number, "is larger than the file"),
        ("a.pth", zip_bomb, "its members are compressed"),
        ("a.pth", lambda p: torch.save([1, 2], p), "has no weights in it"),
        ("a.npz", huge_npz, "an array is larger than 2 GiB"),
        ("a.npy", objects, "holds Python objects, which may run code"),
        ("a.npy", lambda p: np.save(p, np.zeros(3, int)), "has no weights in it"),
        ("a.h5", lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "is an HDF5 file"),
        ("a.caffemodel", damaged_caffemodel, "a field reaches beyond its end"),
        ("a.caffemodel", lambda p: p.write_bytes(b"\x0a\x00"), "it has no layers"),
        ("a.caffemodel", lambda p: p.write_bytes(b"\x0b" * 9), "a field of the unknown type 3"),
        ("a.onnx", lambda p: p.write_bytes(b"\x08\x0a"), "it has no graph"),
        ("a.safetensors", lambda p: p.write_bytes(b"\x08" + bytes(7) + b"{nonsense"), "is damaged"),
    ],
)
def test_bad_files_end_in_one_sentence(
    name: str,
    write: Callable[[Path], Any],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / name
    write(path)
    assert name in refused(capsys, "import", path, tmp_path / "run")
    with pytest.raises(AlexNetError, match=says):
        import_weights(path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_pickle_that_wants_to_run_code_is_refused(form: str, tmp_path: Path) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "was-here"
    content = {"features.0.weight": Evil(f"touch {trace}")}
    if form == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    says = r"\(\w+\.system\), which could run code when it is loaded|since a pickle may run code"
    with pytest.raises(RunError, match=says):
        read(path)
    assert not trace.exists()


@pytest.mark.parametrize(
    "extra",
    [np.float64(0.5), argparse.Namespace(lr=0.01), collections.defaultdict(list)],
    ids=["scalar", "arguments", "dictionary"],
)
def test_what_is_harmless_beside_weights_is_not_called_code(extra: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save({"state_dict": {"features.0.weight": torch.zeros(2)}, "extra": extra}, path)
    with pytest.raises(RunError, match=r"has more than plain tensors \([\w.]+\), which could"):
        read(path)


def test_intact_file_in_another_form_is_not_called_damaged(tmp_path: Path) -> None:
    tensor = field(1, 2) + field(2, 1) + field(8, "w") + field(13, b"") + field(14, 1)
    (tmp_path / "a.onnx").write_bytes(field(7, field(5, tensor)))
    with pytest.raises(RunError) as refusal:
        read(tmp_path / "a.onnx")
    says = "cannot be read: its weights are in another file; save the model as one file"
    assert str(refusal.value) == f"{tmp_path / 'a.onnx'} {says}"


def test_a_message_is_read_in_bounded_time(tmp_path: Path) -> None:
    with pytest.raises(Malformed, match="more than a million fields"):
        Message(memoryview(field(1, 1) * 1001), Budget(1000))
    with pytest.raises(Malformed, match="more than a million fields"):
        Message(memoryview(field(1, bytes(1001))), Budget(1000)).integers(1)
    nested = b""
    for _ in range(3000):
        nested = field(100, nested)
    # Levels are read one at a time, and only where they are known.
    (tmp_path / "nested").write_bytes(nested)
    assert caffemodel.read(tmp_path / "nested").arrays == {}


def test_a_too_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.caffemodel"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(RunError, match="is larger than 2 GiB"):
        read(path)


def bytearray_of(size: int) -> bytes:
    return b"\x80\x02cbuiltins\nbytearray\nJ" + struct.pack("<i", size) + b"\x85R."


def zipped(pickled: bytes) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as out:
        out.writestr("archive/data.pkl", pickled)
        out.writestr("archive/version", "3\n")
    return content.getvalue()


@pytest.mark.parametrize("form", ["zip", "old"])
def test_a_pickle_takes_no_memory_before_it_is_checked(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pth"
    if form == "zip":
        path.write_bytes(zipped(bytearray_of(2**30)))
    else:
        start = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))
        path.write_bytes(start + bytearray_of(2**30))

    def never(*_: Any, **__: Any) -> None:
        pytest.fail("the file was loaded")

    monkeypatch.setattr(torch, "load", never)
    with pytest.raises(RunError, match=r"has more than plain tensors \(builtins\.bytearray\)"):
        read(path)


@pytest.mark.parametrize(
    "name", ["torch\nTensor", "torch\nFloatTensor", "torch.storage\nUntypedStorage"]
)
def test_classes_that_take_memory_are_no_part_of_a_state_dict(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(zipped(bytearray_of(9).replace(b"builtins\nbytearray", name.encode())))
    with pytest.raises(RunError, match="has more than plain tensors"):
        read(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".npy"])
def test_numbers_count_as_they_grow(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    array = np.zeros(1000, np.float16)
    if suffix == ".safetensors":
        save_file({"a": torch.from_numpy(array)}, path)
    elif suffix == ".npz":
        np.savez(path, a=array[:500], b=array[500:])
    else:
        np.save(path, array)
    assert read(path).arrays
    monkeypatch.setattr("alexnet.weights.files.MOST_BYTES", 3000)
    with pytest.raises(RunError, match="larger than 2 GiB as float32"):
        read(path)


def test_numbers_of_a_message_count_as_they_grow() -> None:
    message = Message(memoryview(field(9, bytes(200))), Budget(numbers=150))
    assert len(message.floats(9, "<f2")) == 100
    with pytest.raises(Malformed, match="larger than 2 GiB as float32"):
        message.floats(9, "<f2")


def onnx_tensor(*sides: int) -> bytes:
    tensor = (
        b"".join(field(1, side) for side in sides) + field(2, 1) + field(8, "w") + field(9, b"")
    )
    return field(7, field(5, tensor))


def caffe_tensor(*sides: int) -> bytes:
    blob = field(7, b"".join(field(1, side) for side in sides))
    return field(100, field(1, "conv1") + field(2, "Convolution") + field(7, blob))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.onnx", onnx_tensor(0, 2**63)),
        ("a.onnx", onnx_tensor(0, 2**64 - 1)),
        ("a.caffemodel", caffe_tensor(0, 2**63)),
    ],
)
def test_hostile_sides_end_in_one_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RunError, match="an array of 0 numbers has another shape"):
        read(tmp_path / name)


def test_means_of_other_shapes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mean.npy"
    for shape in ((2, 3, 8, 8), (0, 3, 8, 8), (3, 8, 9), (3, 0, 0), (), (4,)):
        np.save(path, np.zeros(shape, np.float32))
        with pytest.raises(RunError, match="is not a mean of three channels"):
            read_mean(path)
    np.save(path, np.zeros((1, 3, 8, 8), np.float32))
    assert read_mean(path).shape == (3, 8, 8)
    np.save(path, np.array([104, 117, 123]))
    assert read_mean(path).tolist() == [104, 117, 123]
    blobs = frameworks.caffe_blobs(7, WIDTH, CLASSES)
    for shape in ((3, 256, 200), (3, 2, 256, 256), (3, 0, 0)):
        np.savez(tmp_path / "a.npz", **blobs, data_mean=np.zeros(shape, np.float32))
        with pytest.raises(RunError, match=r"has a mean of shape .*, which fits no image"):
            import_weights(tmp_path / "a.npz", tmp_path / "run", "caffenet")
        assert not (tmp_path / "run").exists()
