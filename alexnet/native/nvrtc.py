"""Compiles a CUDA C++ file of this folder for the GPU that is there.

NVRTC, NVIDIA's compiler as a library, comes with the CUDA builds of PyTorch, so that neither `nvcc`
nor CUDA's headers are needed. PyTorch's own function for this asks for the headers.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import torch

from alexnet.native import HERE

Kernels = Mapping[str, Any]
"""Each is called with `grid`, `block`, `args` and `shared_mem`, as PyTorch's `_CudaKernel` is."""


@lru_cache(maxsize=64)
def kernels(
    file: str, names: tuple[str, ...], macros: tuple[tuple[str, str], ...], device: int
) -> Kernels | None:
    """Compile and load kernels; None where NVRTC is absent or refuses, or the driver does.

    Args:
        file: Name in this folder.
        names: Of the kernels, which are `extern "C"`.
        macros: Names and values.
        device: Index of the GPU that is to run them.
    """
    major, minor = torch.cuda.get_device_capability(device)
    options = [f"--gpu-architecture=sm_{major}{minor}", *options_of(macros)]
    try:
        # Private names of PyTorch: another version may not have them.
        from torch.cuda._utils import _cuda_load_module, _get_nvrtc_library

        binary, _ = compiled(_get_nvrtc_library(), (HERE / file).read_bytes(), options)
        with torch.cuda.device(device):
            loaded = _cuda_load_module(binary, list(names))
    except (ImportError, OSError, AttributeError, RuntimeError):
        return None
    return cast(Kernels, loaded)


def options_of(macros: Sequence[tuple[str, str]]) -> list[str]:
    """The options of a compiler that define macros; those of NVRTC and of C++ compilers alike."""
    return [f"-D{name}={value}" for name, value in macros]


def compiled(library: ctypes.CDLL, source: bytes, options: Sequence[str]) -> tuple[bytes, str]:
    """Compile CUDA C++ to machine code.

    Args:
        library: libnvrtc.

    Returns:
        The cubin, and what the compiler says.

    Raises:
        RuntimeError: It does not compile; the message is the compiler's.
    """
    program = ctypes.c_void_p()
    _check(library, library.nvrtcCreateProgram(ctypes.byref(program), source, b"", 0, None, None))
    try:
        words = [option.encode() for option in options]
        failed = library.nvrtcCompileProgram(
            program, len(words), (ctypes.c_char_p * len(words))(*words)
        )
        log = _read(library, "ProgramLog", program).rstrip(b"\0").decode()
        if failed:
            raise RuntimeError(f"NVRTC: {log}")
        return _read(library, "CUBIN", program), log
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _read(library: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    """The result of `nvrtcGet<what>`."""
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _check(library: ctypes.CDLL, result: int) -> None:
    if result:
        library.nvrtcGetErrorString.restype = ctypes.c_char_p
        raise RuntimeError(f"NVRTC: {library.nvrtcGetErrorString(result).decode()}")
