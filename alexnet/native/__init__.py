"""Compiles the C++ of this folder on first use, where there is a compiler, and keeps it in the user's cache.

So nothing is built on installing, and a machine without a compiler goes on in plain PyTorch, which one line says.
ALEXNET_NATIVE=0 turns it off. The library shares PyTorch's own OpenMP threads: a second pool would fight with them.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch

from alexnet.files import user_cache

HERE, TORCH = Path(__file__).parent, Path(torch.__file__).parent
# no -ffast-math: sums keep their order; only errno and traps, which nobody reads, are given up for vector roots
KERNELS = (
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-std=c++17",
    "-fPIC",
)
# against the headers of this PyTorch, whose version belongs to the flags
ARENA = "-O2", "-std=c++17", "-fPIC", f"-I{TORCH / 'include'}", f"-DTORCH={torch.__version__}"

Pointer, Size, Real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Pass(ctypes.Structure):
    """As in kernels.cpp."""

    _fields_ = [
        *(
            (name, Size)
            for name in ("images", "height", "width", "maps", "relu", "columns", "half")
        ),
        *((name, Size) for name in ("size", "stride", "rows", "cols", "relu_after")),
        ("k", Real),
        ("alpha", Real),
    ]


class Cut(ctypes.Structure):
    """As in kernels.cpp."""

    _fields_ = [
        *((name, Size) for name in ("images", "stored_px", "input_px", "mean_moves")),
        ("scale", Real),
    ]


_LOADED: dict[str, ctypes.CDLL | None] = {}  # by source
_LOADING = threading.Lock()
LANES = 16  # of a vector in winograd.cpp


class Canvas(ctypes.Structure):
    """As in winograd.cpp."""

    _fields_ = [
        (name, Size)
        for name in (
            "images",
            "height",
            "width",
            "maps",
            "groups",
            "across",
            "tile_rows",
            "tile_columns",
        )
    ]


SUFFIX = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
OPERATORS: dict[str, list[type]] = {
    "pass_forward": [Pointer, Pointer, Pointer, ctypes.POINTER(Pass)],
    "pass_backward": [Pointer, Pointer, Pointer, Pointer, ctypes.POINTER(Pass)],
    "spatial_forward": [Pointer, Pointer, Size, Size, Size, Size, Size, Real, Real],
    "spatial_backward": [Pointer, Pointer, Pointer, Size, Size, Size, Size, Size, Real, Real],
    "cut": [*[Pointer] * 9, ctypes.POINTER(Cut)],
}


@lru_cache(maxsize=1)
def kernels() -> ctypes.CDLL | None:
    """The compiled operators; None where they are turned off or cannot be had (said once, on stderr)."""
    functions = {
        f"{name}_{suffix}": kinds for name, kinds in OPERATORS.items() for suffix in SUFFIX.values()
    }
    functions["products"] = [Pointer, Size, Pointer]
    functions["update"] = [Pointer, Pointer, Pointer, Size, Real, Real, Real]
    without = (
        "normalisation, pooling, patches and update run in plain PyTorch, several times slower"
    )
    return _library("kernels.cpp", KERNELS, [], functions, without)


@lru_cache(maxsize=1)
def winograd() -> ctypes.CDLL | None:
    """Of `winograd.cpp`; None as for `kernels`."""
    canvas = ctypes.POINTER(Canvas)
    functions: dict[str, list[type]] = {"collect": [Pointer, Pointer, Pointer, canvas]}
    functions |= {
        name: [Pointer, Pointer, canvas] for name in ("spread_inputs", "spread_gradients")
    }
    return _library(
        "winograd.cpp", KERNELS, [], functions, "convolutions of 3x3 are direct, a third slower"
    )


@lru_cache(maxsize=1)
def arena() -> ctypes.CDLL | None:
    """The allocator of `arena.cpp`; None as for `kernels`."""
    functions: dict[str, list[type]] = {"arena_begin": [], "arena_end": []}
    without = "training gives its memory back at every step and takes it anew, a sixth slower"
    return _library("arena.cpp", ARENA, [f"-L{TORCH / 'lib'}", "-lc10"], functions, without)


def _library(
    source: str,
    flags: Sequence[str],
    libraries: Sequence[str],
    functions: dict[str, list[type]],
    without: str,
) -> ctypes.CDLL | None:
    """functions: what each takes. without: what None means to the user. The first of several threads compiles."""
    with _LOADING:
        if source not in _LOADED:
            _LOADED[source] = _load(source, flags, libraries, functions, without)
        return _LOADED[source]


def _load(
    source: str,
    flags: Sequence[str],
    libraries: Sequence[str],
    functions: dict[str, list[type]],
    without: str,
) -> ctypes.CDLL | None:
    if os.environ.get("ALEXNET_NATIVE") == "0" or sys.platform != "linux":
        return None
    try:
        found = ctypes.CDLL(str(_shared_object(source, flags, libraries)))
        for name, kinds in functions.items():
            getattr(found, name).argtypes = kinds
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        print(f"{without}: {error}", file=sys.stderr)
        return None
    return found


def _shared_object(source: str, flags: Sequence[str], libraries: Sequence[str]) -> Path:
    compiler = next(
        filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None
    )
    if compiler is None:
        raise OSError("no C++ compiler was found")
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, check=True, timeout=30
    ).stdout
    key = (HERE / source).read_bytes() + version + _processor().encode() + " ".join(flags).encode()
    cache = user_cache()
    path = cache / f"{Path(source).stem}-{hashlib.sha256(key).hexdigest()[:16]}.so"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as beside:
            made = Path(beside) / path.name
            _build(compiler, HERE / source, flags, libraries, made)
            os.replace(made, path)
    return path


def _build(
    compiler: str, source: Path, flags: Sequence[str], libraries: Sequence[str], out: Path
) -> None:
    """Compiled with OpenMP but not linked with a library of it: PyTorch's is in the process already."""
    compiled = out.with_suffix(".o")
    for command in (
        [compiler, *flags, "-c", str(source), "-o", str(compiled)],
        [compiler, "-shared", str(compiled), *libraries, "-o", str(out)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise OSError(
                f"{Path(compiler).name} failed: {(done.stderr.splitlines() or ['no reason given'])[0]}"
            )


@lru_cache(maxsize=2)
def slow_in_bfloat16(device: torch.device) -> bool:
    """Whether matrix products are slower in bfloat16 than in float32: x86 processors without tiles for it."""
    return (
        device.type == "cpu"
        and platform.machine() in ("x86_64", "AMD64")
        and "amx_bf16" not in _processor()
    )


def _processor() -> str:
    """-march=native is for this processor; a home folder may be shared by several."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.machine()
