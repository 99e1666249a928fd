"""Compiles the C++ files of this folder on first use, and loads them.

A file is compiled where there is a C++ compiler, and the library is kept in the user's cache. Its
name can be computed by anyone, and to load it is to run it, so only a library that nobody else can
have written is loaded, from a folder that nobody else can write. Nothing is therefore built when
the package is installed, and a machine without a compiler runs the plain PyTorch versions; a
message on stderr says so once. ALEXNET_NATIVE=0 turns the compiled code off, but not that for GPUs.
Where the library of one compiler cannot be loaded, that of the next one is tried.
The libraries use the OpenMP threads of PyTorch, because a second pool of threads would compete with
the first for the cores.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch

from alexnet.files import user_cache

HERE, TORCH = Path(__file__).parent, Path(torch.__file__).parent
# Not -ffast-math: sums keep their order. -fno-math-errno and -fno-trapping-math give up only errno
# and floating-point traps, which nobody reads; without them square roots are not vectorized.
KERNEL_FLAGS = (
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-std=c++17",
    "-fPIC",
)
# The arena includes PyTorch's headers, so the library of one version must not serve another. The
# macro is not used in the source: it makes the version a part of the cache key, as all flags are.
ARENA_FLAGS = "-O2", "-std=c++17", "-fPIC", f"-I{TORCH / 'include'}", f"-DTORCH={torch.__version__}"

DIGEST_BYTES = 32  # the SHA-256 at the end of each compiled library
# The end of the name of a folder in which a library is compiled, and the age in seconds at which it
# is certain that a killed process has left it: the two commands of `_build` have 120 s each.
COMPILING, LEFT_S = ".compiling", 3600
MEND = "remove it, or make it yours alone (chown, chmod 700)"

Pointer, Size, Real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
ArgTypes = list[type]
Command = tuple[str, ...]  # a program and its first arguments


def _sizes(names: str) -> list[tuple[str, type]]:
    """Return fields of a structure, all of them int64_t."""
    return [(name, Size) for name in names.split()]


class PassSettings(ctypes.Structure):
    """Arguments of the pass between two convolutions; described in kernels.cpp."""

    _fields_ = [
        *_sizes("images height width maps relu columns half size stride rows cols relu_after"),
        ("k", Real),
        ("alpha", Real),
    ]


class Crop(ctypes.Structure):
    """Arguments of the crops; described in kernels.cpp."""

    _fields_ = [*_sizes("images stored_px input_px mean_moves"), ("scale", Real)]


class Canvas(ctypes.Structure):
    """The arrangement of images and tiles; described in winograd.cpp."""

    _fields_ = _sizes("images height width maps groups across tile_rows tile_columns")


LANES = 16  # values in a vector of winograd.cpp
# The dtypes of the kernels, and how the names of the functions for each dtype end.
SUFFIX = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
# ctypes converts and checks arguments by these lists; without them it would pass every integer as
# 32 bits, pointers included.
OPERATORS: dict[str, ArgTypes] = {
    "pass_forward": [Pointer, Pointer, Pointer, ctypes.POINTER(PassSettings)],
    "pass_backward": [Pointer, Pointer, Pointer, Pointer, ctypes.POINTER(PassSettings)],
    "spatial_forward": [Pointer, Pointer, Size, Size, Size, Size, Size, Real, Real],
    "spatial_backward": [Pointer, Pointer, Pointer, Size, Size, Size, Size, Size, Real, Real],
    "crop": [*[Pointer] * 9, ctypes.POINTER(Crop)],
    "zoomed_crop": [*[Pointer] * 7, ctypes.POINTER(Crop)],
}

# The loaded libraries by source file; None for one that could not be compiled. The lock makes
# decoding threads that need a library at the same time wait for the first one to compile it.
_LOADED: dict[str, ctypes.CDLL | None] = {}
_LOADING = threading.Lock()


@lru_cache(maxsize=1)
def kernels() -> ctypes.CDLL | None:
    """The functions of kernels.cpp.

    None if compiled code is turned off or cannot be made; a message on stderr then says so once.
    """
    functions = {
        f"{name}_{suffix}": arg_types
        for name, arg_types in OPERATORS.items()
        for suffix in SUFFIX.values()
    }
    functions["products"] = [Pointer, Size, Pointer]
    functions["update"] = [Pointer, Pointer, Pointer, Size, Real, Real, Real]
    functions["dropout_mask"] = [*[Size] * 6, Pointer]
    consequence = (
        "normalization, pooling, crops, dropout masks and the update run in plain PyTorch, several "
        "times slower"
    )
    return _library("kernels.cpp", KERNEL_FLAGS, [], functions, consequence)


@lru_cache(maxsize=1)
def winograd() -> ctypes.CDLL | None:
    """The functions of winograd.cpp; None as for `kernels`."""
    canvas = ctypes.POINTER(Canvas)
    functions: dict[str, ArgTypes] = {
        "add_transposed_products": [*[Pointer] * 3, *[Size] * 4],
        "collect": [Pointer, Pointer, Pointer, canvas],
        "products": [*[Pointer] * 3, *[Size] * 4],
        "spread_inputs": [Pointer, Pointer, canvas],
        "spread_gradients": [Pointer, Pointer, canvas],
    }
    consequence = "convolutions of 3x3 are computed directly, a third slower"
    return _library("winograd.cpp", KERNEL_FLAGS, [], functions, consequence)


@lru_cache(maxsize=1)
def arena() -> ctypes.CDLL | None:
    """The functions of arena.cpp; None as for `kernels`."""
    functions: dict[str, ArgTypes] = {"arena_begin": [], "arena_end": []}
    consequence = "training gives its memory back and takes it anew at every step, a sixth slower"
    libraries = [f"-L{TORCH / 'lib'}", "-lc10"]
    return _library("arena.cpp", ARENA_FLAGS, libraries, functions, consequence)


def _library(
    source: str,
    flags: Sequence[str],
    libraries: Sequence[str],
    functions: dict[str, ArgTypes],
    consequence: str,
) -> ctypes.CDLL | None:
    """Return a library, which the first of several threads compiles and loads.

    Args:
        source: Name of the C++ file.
        flags: Flags of the compiler.
        libraries: Flags of the linker.
        functions: The functions of the library, and the types of their arguments.
        consequence: What it means for the user if there is no library, in words.
    """
    with _LOADING:
        if source not in _LOADED:
            _LOADED[source] = _load(source, flags, libraries, functions, consequence)
        return _LOADED[source]


def _load(
    source: str,
    flags: Sequence[str],
    libraries: Sequence[str],
    functions: dict[str, ArgTypes],
    consequence: str,
) -> ctypes.CDLL | None:
    # The build below is only tested on Linux: the names of libraries and flags differ elsewhere.
    if os.environ.get("ALEXNET_NATIVE") == "0" or sys.platform != "linux":
        return None
    reasons: list[object] = []
    for compiler in _compilers():
        try:
            library = _loaded(_shared_object(compiler, source, flags, libraries))
            for name, arg_types in functions.items():
                getattr(library, name).argtypes = arg_types
            return library
        # The plain versions serve in any case, so no fault of a compiler or a cache is an error.
        except (OSError, subprocess.SubprocessError, AttributeError) as error:
            reasons.append(error)
    # The first compiler is the system's, or the one that the user has chosen.
    reason = reasons[0] if reasons else "no C++ compiler was found; install g++"
    print(f"{consequence}: {reason}", file=sys.stderr)
    return None


def _compilers() -> list[Command]:
    """The C++ compilers of this machine, in the order in which they are tried."""
    # Words, as in a Makefile: `ccache g++`, `g++ -m64`. A path with a space is one word.
    cxx = os.environ.get("CXX", "c++")
    commands = [cxx] if shutil.which(cxx) else cxx.split(), ["g++"], ["clang++"]
    found = [
        (path, *rest) for name, *rest in filter(None, commands) if (path := shutil.which(name))
    ]
    return list(dict.fromkeys(found))


def _loaded(path: Path) -> ctypes.CDLL:
    """Load a library. Raises OSError with the reason."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        # clang calls LLVM's OpenMP, and PyTorch's wheels have only GCC's.
        mend = "; install g++, whose OpenMP this PyTorch has" if "__kmpc" in str(error) else ""
        raise OSError(f"{error}{mend}") from error


def _shared_object(
    compiler: Command, source: str, flags: Sequence[str], libraries: Sequence[str]
) -> Path:
    """Return the path of the compiled library; compile it unless the cache has it undamaged.

    Raises:
        OSError: If the compiler fails, or the cache cannot be written, or somebody else can write
            to it.
    """
    version = subprocess.run(
        [*compiler, "--version"], capture_output=True, check=True, timeout=30
    ).stdout
    # Everything that decides the machine code: source, compiler, processor and flags.
    said = processor() + " ".join([*compiler[1:], *flags])
    key = (HERE / source).read_bytes() + version + said.encode()
    name = f"{Path(source).stem}-{hashlib.sha256(key).hexdigest()[:16]}.so"
    path = private_folder() / name
    if not _intact(path):
        _compile(compiler, HERE / source, flags, libraries, path)
    return path


def private_folder(make: bool = True) -> Path:
    """Return the folder of the compiled libraries and of `ops.trial`.

    Args:
        make: Make the folder if it is not there.

    The folders above it are not looked at: the cache folder of a user is often open to a group.
    Whoever may rename them cannot make a folder of another owner, and could only win a race
    between this check and the loading of a library.

    Raises:
        OSError: If somebody else owns the folder or can write to it, or there is none.
    """
    folder = user_cache() / "native"
    if make:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    # A link is not followed: it may lead to files that this user has got from somebody else.
    if reason := _unsafe(folder.lstat()):
        raise OSError(f"{folder} {reason}; {MEND}")
    return folder


def _intact(path: Path) -> bool:
    """Tell whether a library is complete and nobody else can have written it."""
    try:
        safe, data = not _unsafe(path.lstat()), path.read_bytes()
    except OSError:
        return False
    # Compared before the file is loaded, because loading one that was cut can kill the process
    # (SIGBUS). It takes 0.1 ms for 100 KB.
    digest = hashlib.sha256(data[:-DIGEST_BYTES]).digest()
    return safe and data[-DIGEST_BYTES:] == digest


def _unsafe(status: os.stat_result) -> str | None:
    """Return why a file or folder may be the work of somebody else, or None if it cannot be."""
    if stat.S_ISLNK(status.st_mode):
        return "is a link"
    # root can do anything in any case, and may have prepared a folder for all users.
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to user {status.st_uid}"
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return "can be written by other users"
    return None


def _compile(
    compiler: Command, source: Path, flags: Sequence[str], libraries: Sequence[str], path: Path
) -> None:
    """Compile a source, and put the library at `path`.

    Raises:
        OSError: If the compiler fails, or the cache cannot be written.
    """
    for left in path.parent.glob(f"*{COMPILING}"):
        with suppress(OSError):  # another process may be removing it, too
            if time.time() - left.stat().st_mtime > LEFT_S:
                shutil.rmtree(left)
    # Compiled in a temporary folder of the cache and then renamed: several processes may compile at
    # once, and none of them may load a file that another has written in part.
    with tempfile.TemporaryDirectory(suffix=COMPILING, dir=path.parent) as folder:
        compiled = Path(folder) / path.name
        _build(compiler, source, flags, libraries, compiled)
        # The digest stands at the end of the file, where the system's loader does not look. In a
        # second file it could belong to the library of another process that compiles now.
        with compiled.open("r+b") as file:
            file.write(hashlib.sha256(file.read()).digest())
        # The linker gives it the mode that the umask says, which may let others write.
        compiled.chmod(stat.S_IMODE(compiled.stat().st_mode) & ~(stat.S_IWGRP | stat.S_IWOTH))
        os.replace(compiled, path)


def _build(
    compiler: Command, source: Path, flags: Sequence[str], libraries: Sequence[str], out: Path
) -> None:
    """Compile a source to a shared library. Raises OSError with the compiler's first message."""
    compiled = out.with_suffix(".o")
    # Two commands: -fopenmp is given to the compiler but not to the linker, which would add an
    # OpenMP library. The symbols are found in PyTorch's, which is in the process already: in its
    # wheels GCC's, so that a library of clang, which needs LLVM's, cannot be loaded beside them.
    for command in (
        [*compiler, *flags, "-c", str(source), "-o", str(compiled)],
        [*compiler, "-shared", str(compiled), *libraries, "-o", str(out)],
    ):
        # A source path or a message may have bytes that the locale does not.
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=120
        )
        if result.returncode:
            reason = (result.stderr.splitlines() or ["no reason given"])[0]
            raise OSError(f"{Path(compiler[0]).name} failed: {reason}")


def processor() -> str:
    """The features of this processor, for which -march=native compiles.

    They belong to the cache key, because different machines may share a home folder.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        # "flags" on x86, "Features" on ARM.
        return next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        return platform.machine()
