"""Files of weights, read as named arrays. No code from a file is run, and no pickle is loaded.

PyTorch's state dicts (by its own loader of plain tensors), safetensors, NumPy's .npz and .npy, ONNX
and Caffe's .caffemodel. The last two also have the operations of the network.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from safetensors import safe_open

from alexnet.errors import RunError
from alexnet.files import check_utf8, file_sha256, naming
from alexnet.weights import caffemodel, onnx_file
from alexnet.weights.operations import Array, Arrays, WeightFile
from alexnet.weights.protobuf import Malformed, Unsupported

MOST_BYTES = 2 << 30
"""Largest file, and most bytes of arrays in it: eight full-size AlexNets in float32."""
MOST_ARRAYS = 10_000
MOST_PICKLE_BYTES = 8 << 20
OLD_PICKLES = 5
"""Pickles at the beginning of a file of PyTorch before 1.6."""
GLOBALS = re.compile(
    r"collections\.(OrderedDict|Counter)|(builtins|__builtin__)\.set|_codecs\.encode"
    r"|torch\._utils\._rebuild_(tensor(_v2)?|parameter(_with_state)?)"
    # Types of storages; PyTorch's classes of untyped storages and tensors take memory when called.
    r"|torch\.(cuda\.)?\w+Storage"
    r"|torch\.(b?float|u?int|complex)\d+|torch\.(bool|Size|device)"
)
"""What the pickle of a state dict, or of a checkpoint that has one, may name."""
KNOWN = ".pth, .safetensors, .npz, .npy, .onnx or .caffemodel"
NESTED = "state_dict", "model_state_dict", "model", "net", "weights"
"""Where training scripts keep the state dict in a checkpoint, in any order of one in another."""
MOST_NESTED = 4


def read(path: str | Path) -> WeightFile:
    """Read a file of weights in any of the formats.

    Raises:
        RunError: The file is missing, damaged, too large, in another format, or could run code.
            The message names the file and says what to do.
        OSError: The disk does not give the file.
    """
    path = Path(path)
    with naming(path):
        return _read(path)


def _read(path: Path) -> WeightFile:
    if not path.is_file():
        what = "is a folder; name a file in it" if path.is_dir() else "does not exist"
        raise RunError(f"{path} {what}")
    if path.stat().st_size > MOST_BYTES:
        raise RunError(f"{path} is larger than 2 GiB, and no AlexNet is; name another file")
    read_format = _reader(path)
    try:
        file = read_format(path)
    except Unsupported as error:
        raise RunError(f"{path} cannot be read: {error}") from None
    except Malformed as error:
        raise _damaged(path, str(error)) from None
    if not file.arrays:
        raise RunError(f"{path} has no weights in it; name a file of weights: {KNOWN}")
    return file


def _damaged(path: Path, why: object) -> RunError:
    """The error that calls a file damaged. Raises OSError if the disk does not give its bytes."""
    # The libraries say of such a file that it is damaged or does not exist; Python says what it is.
    file_sha256(path)
    # Errors of the libraries span lines and can be long.
    reason = " ".join(str(why).split())[:200] or type(why).__name__
    return RunError(f"{path} is damaged or not what its name says ({reason}); get it again")


def _reader(path: Path) -> Callable[[Path], WeightFile]:
    """The function that reads this file, told by its first bytes or, for two formats, its name."""
    with path.open("rb") as file:
        start = file.read(16)
    suffix = path.suffix.lower()
    if start.startswith(b"PK"):
        return _read_npz if suffix == ".npz" or _holds_arrays(path) else _read_torch
    if start.startswith(b"\x93NUMPY"):
        return _read_npy
    if start[8:9] == b"{":
        return _read_safetensors
    # A pickle begins with \x80 and the number of its protocol.
    if start[:1] == b"\x80" and start[1:2] <= b"\x05":
        return _read_torch
    if suffix == ".onnx":
        return onnx_file.read
    if suffix == ".caffemodel":
        return caffemodel.read
    if start.startswith(b"\x89HDF"):
        raise RunError(
            f"{path} is an HDF5 file, which is not read; save its arrays with numpy.savez"
        )
    raise RunError(f"{path} is not a file of weights that can be read: {KNOWN}")


def _holds_arrays(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as opened:
            return all(name.endswith(".npy") for name in opened.namelist())
    # Anything can be raised for damaged bytes; the reader that is tried next says so.
    except Exception:
        return False


def _read_torch(path: Path) -> WeightFile:
    """Read a state dict of PyTorch, or a checkpoint that contains one."""
    _check_stored(path)
    _check_globals(path)
    try:
        with warnings.catch_warnings():
            # What the loader has to say of old formats is not for the user of the file.
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    # Hostile bytes can make the loader raise anything.
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError):
            raise _no_state_dict(path) from None
        raise _damaged(path, error) from None
    for _ in range(MOST_NESTED):
        inner = loaded if isinstance(loaded, dict) else {}
        loaded = next((inner[key] for key in NESTED if isinstance(inner.get(key), dict)), loaded)
    tensors = loaded.items() if isinstance(loaded, dict) else ()
    return WeightFile(path, "PyTorch", _from_tensors(path, dict(tensors)))


def _check_stored(path: Path) -> None:
    """Raise RunError for a zip archive with compressed members, which PyTorch never writes.

    A few kilobytes could be unpacked to all of the memory.
    """
    try:
        with zipfile.ZipFile(path) as opened:
            stored = all(member.compress_type == zipfile.ZIP_STORED for member in opened.infolist())
            total = sum(member.file_size for member in opened.infolist())
    # Not a zip archive but an older file, or damaged; the loader will say.
    except Exception:
        return
    if not stored or total > MOST_BYTES:
        raise _damaged(path, "its members are compressed or larger than the file")


def _no_state_dict(path: Path) -> RunError:
    return RunError(
        f"{path} is not a plain state dict, or it is damaged; it is not loaded, since a pickle may "
        "run code; ask for torch.save(net.state_dict(), FILE)"
    )


def _check_globals(path: Path) -> None:
    """Raise RunError if the pickles of a file name something that no state dict needs.

    PyTorch's own list has builtins.bytearray, which takes any memory that a few bytes ask for, and
    other classes that do so.
    """
    try:
        names = {name for pickled in _pickles(path) for name in _globals_of(pickled)}
    # A damaged file, of which zipfile and genops raise anything.
    except Exception as error:
        raise _damaged(path, error) from None
    if "" in names:
        raise _no_state_dict(path)
    if other := [name for name in sorted(names) if not GLOBALS.fullmatch(name)]:
        # Most of these are harmless, such as a number of NumPy; a name does not tell.
        raise RunError(
            f"{path} has more than plain tensors ({other[0]}), which could run code when it is "
            "loaded, and is not read; ask for a file of tensors alone: "
            "torch.save(net.state_dict(), FILE)"
        )


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    """The pickles that PyTorch's loader reads from a file, in the order of the file."""
    with path.open("rb") as file:
        # PyTorch tells the two formats apart in the same way.
        if file.read(4) != b"PK\x03\x04":
            file.seek(0)
            # A number, the version, the system, the content and the names of its storages.
            for _ in range(OLD_PICKLES):
                if file.peek(1):
                    yield file
            return
        with zipfile.ZipFile(file) as opened:
            for member in opened.infolist():
                if member.filename.rpartition("/")[2] != "data.pkl":
                    continue
                if member.file_size > MOST_PICKLE_BYTES:
                    raise ValueError("its description of the tensors is too long")
                yield io.BytesIO(opened.read(member))


def _globals_of(pickled: IO[bytes]) -> Iterator[str]:
    """The names that a pickle imports, such as `collections.OrderedDict`; empty: it computes one.

    PyTorch writes names as they are.
    """
    for operation, value, _ in pickletools.genops(pickled):
        if operation.name == "GLOBAL":
            yield str(value).replace(" ", ".")
        elif operation.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4"):
            yield ""


def _from_tensors(path: Path, tensors: dict[Any, Any]) -> Arrays:
    """Convert tensors of floating point numbers to arrays; others, such as counters, are left out.

    Raises:
        RunError: A tensor is larger than the file, or there are too many.
    """
    if len(tensors) > MOST_ARRAYS:
        raise _damaged(path, f"it has more than {MOST_ARRAYS} entries")
    size, total, numbers = path.stat().st_size, 0, 0
    result: Arrays = {}
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            continue
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise _damaged(path, f"{name} is not a plain tensor")
        total += tensor.numel() * tensor.element_size()
        # A view can repeat a few bytes to any size; a state dict holds each number once.
        if total > size:
            raise _damaged(path, f"{name} is larger than the file")
        numbers += tensor.numel()
        _check_widened(path, numbers)
        if (plain := _plain(str(name))) in result:
            raise RunError(
                f"{path} has two tensors for {plain}, one of them as {name}; save the state dict "
                "that is meant, alone"
            )
        result[plain] = tensor.detach().float().contiguous().numpy()
    return result


def _check_widened(path: Path, numbers: int) -> None:
    """Raise RunError if so many numbers are too large as float32, to which shorter ones grow."""
    if 4 * numbers > MOST_BYTES:
        raise _damaged(path, "its arrays are larger than 2 GiB as float32")


def _plain(name: str) -> str:
    """The name of a parameter without what nn.DataParallel and torch.compile add."""
    return re.sub(r"(^|\.)((module|_orig_mod)\.)+", r"\1", name)


def _read_safetensors(path: Path) -> WeightFile:
    check_utf8(path)
    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
            names = list(opened.keys())
            tensors = {name: opened.get_tensor(name) for name in names[: MOST_ARRAYS + 1]}
    # Every error of the parser is damage, such as a dtype that PyTorch has no name for.
    except Exception as error:
        raise _damaged(path, error) from None
    return WeightFile(path, "safetensors", _from_tensors(path, tensors), metadata=metadata)


def _read_npz(path: Path) -> WeightFile:
    arrays: Arrays = {}
    left, numbers = MOST_BYTES, 0
    try:
        with zipfile.ZipFile(path) as opened:
            for member in opened.infolist()[: MOST_ARRAYS + 1]:
                left -= member.file_size
                if left < 0 or len(arrays) == MOST_ARRAYS:
                    raise _damaged(path, "it has too many or too large arrays")
                with opened.open(member) as file:
                    from_member = _npy(path, file, member.filename.removesuffix(".npy"))
                numbers += sum(array.size for array in from_member.values())
                _check_widened(path, numbers)
                arrays |= from_member
    except RunError:
        raise
    # Hostile bytes can make zipfile and NumPy raise anything.
    except Exception as error:
        raise _damaged(path, error) from None
    return WeightFile(path, "NumPy", arrays)


def _read_npy(path: Path, kinds: str = "f") -> WeightFile:
    try:
        with path.open("rb") as file:
            arrays = _npy(path, file, path.stem, kinds)
    except RunError:
        raise
    # As above.
    except Exception as error:
        raise _damaged(path, error) from None
    return WeightFile(path, "NumPy", arrays)


def _npy(path: Path, file: IO[bytes], name: str, kinds: str = "f") -> Arrays:
    """Read one array, or the fields of a structured one, without its pickles.

    Not `numpy.load`: it takes the memory that the header asks for before it reads.

    Args:
        kinds: Letters of `numpy.dtype.kind`; arrays of other kinds are left out.
    """
    version = np.lib.format.read_magic(file)
    header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
        raise RunError(
            f"{path} holds Python objects, which may run code when they are read; where you trust "
            "it, save its arrays by name: numpy.savez(FILE, **arrays)"
        )
    size = math.prod(shape) * dtype.itemsize
    if size > MOST_BYTES or any(side > MOST_BYTES for side in shape):
        raise _damaged(path, "an array is larger than 2 GiB")
    parts_of_one = len(dtype.names or ()) or 1
    _check_widened(path, size // dtype.itemsize * parts_of_one if dtype.itemsize else 0)
    data = file.read(size)
    array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    parts = {name: array} if dtype.names is None else {key: array[key] for key in dtype.names}
    return {
        key: np.ascontiguousarray(part, np.float32)
        for key, part in parts.items()
        if part.dtype.kind in kinds
    }


def read_mean(path: Path) -> Array:
    """Read a mean: Caffe's .binaryproto, or a .npy of shape (3,), (3, H, W) or (H, W, 3).

    Returns:
        (3,) or (3, H, W), with the channels in the order of the file.

    Raises:
        RunError: The file is missing, damaged, or has another shape.
    """
    if not path.is_file():
        raise RunError(f"{path} does not exist")
    if path.stat().st_size > MOST_BYTES:
        raise RunError(f"{path} is larger than 2 GiB, and no mean is; name another file")
    if path.suffix == ".binaryproto":
        try:
            mean = caffemodel.parse_blob(path.read_bytes())
        except Malformed as error:
            raise _damaged(path, error) from None
    else:
        with path.open("rb") as file:
            if not file.read(6).startswith(b"\x93NUMPY"):
                raise RunError(f"{path} is not a mean; name a .binaryproto or a .npy file")
        # Means that were written by hand are often whole numbers.
        arrays = _read_npy(path, kinds="iuf").arrays
        mean = next(iter(arrays.values()), np.zeros(0, np.float32))
    sides = mean.shape
    while mean.ndim > 3 and len(mean) == 1:
        mean = mean[0]
    if mean.ndim == 3 and mean.shape[0] != 3 and mean.shape[2] == 3:
        mean = np.ascontiguousarray(np.moveaxis(mean, 2, 0))
    square = mean.ndim == 1 or (mean.ndim == 3 and len(set(mean.shape[1:])) == 1)
    if mean.shape[:1] != (3,) or not (square and mean.size) or not np.isfinite(mean).all():
        raise RunError(f"{path} is not a mean of three channels: its shape is {sides}")
    return mean
