"""Compiles `kernels.cpp` on first use, where there is a C++ compiler, and keeps the result in the user's cache.

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
from functools import lru_cache
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("kernels.cpp")
# no -ffast-math: sums keep their order; only errno and traps, which nobody reads, are given up for vector roots
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-std=c++17", "-fPIC"]

Pointer, Size, Real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class Pass(ctypes.Structure):
    """As in kernels.cpp."""

    _fields_ = [
        *((name, Size) for name in ("images", "height", "width", "maps", "relu", "columns", "half")),
        *((name, Size) for name in ("size", "stride", "rows", "cols", "relu_after")),
        ("k", Real),
        ("alpha", Real),
    ]


SIGNATURES: dict[str, list[type]] = {
    "pass_forward": [Pointer, Pointer, Pointer, ctypes.POINTER(Pass)],
    "pass_backward": [Pointer, Pointer, Pointer, Pointer, ctypes.POINTER(Pass)],
    "spatial_forward": [Pointer, Pointer, Size, Size, Size, Size, Size, Real, Real],
    "spatial_backward": [Pointer, Pointer, Pointer, Size, Size, Size, Size, Size, Real, Real],
}
SUFFIX = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


@lru_cache(maxsize=1)
def compiled() -> ctypes.CDLL | None:
    """The compiled operators; None where they are turned off or cannot be had (said once, on stderr)."""
    if os.environ.get("ALEXNET_NATIVE") == "0" or sys.platform != "linux":
        return None
    try:
        found = ctypes.CDLL(str(_shared_object()))
        for name, kinds in SIGNATURES.items():
            for suffix in SUFFIX.values():
                function = getattr(found, f"{name}_{suffix}")
                function.argtypes, function.restype = kinds, None
        found.update.argtypes = [Pointer, Pointer, Pointer, Size, Real, Real, Real]
        found.update.restype = None
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        print(f"normalisation, pooling and update run in plain PyTorch, several times slower: {error}", file=sys.stderr)
        return None
    return found


def _shared_object() -> Path:
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)
    if compiler is None:
        raise OSError("no C++ compiler was found")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=30).stdout
    key = SOURCE.read_bytes() + version + _processor().encode() + " ".join(FLAGS).encode()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alexnet"
    path = cache / f"kernels-{hashlib.sha256(key).hexdigest()[:16]}.so"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as beside:
            made = Path(beside) / path.name
            _build(compiler, made)
            os.replace(made, path)
    return path


def _build(compiler: str, out: Path) -> None:
    """Compiled with OpenMP but not linked with a library of it: PyTorch's is in the process already."""
    compiled = out.with_suffix(".o")
    for command in (
        [compiler, *FLAGS, "-c", str(SOURCE), "-o", str(compiled)],
        [compiler, "-shared", str(compiled), "-o", str(out)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise OSError(f"{Path(compiler).name} failed: {(done.stderr.splitlines() or ['no reason given'])[0]}")


def _processor() -> str:
    """-march=native is for this processor; a home folder may be shared by several."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.machine()
