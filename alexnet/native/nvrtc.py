"""Compiles a CUDA C++ file of this folder for the GPU that is there.

NVRTC, NVIDIA's compiler as a library, comes with the CUDA builds of PyTorch, so that neither `nvcc`
nor CUDA's headers are needed. PyTorch's own function for this asks for the headers.
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

import torch

from alexnet.native import HERE

Kernels = Mapping[str, Any]
"""Each is called with `grid`, `block`, `args` and `shared_mem`, as PyTorch's `_CudaKernel` is."""


_reported: set[str] = set()
"""Files of which stderr has been told that they do not compile."""


@lru_cache(maxsize=64)
def kernels(
    file: str,
    names: tuple[str, ...],
    macros: tuple[tuple[str, str], ...],
    shared_bytes: tuple[int, ...],
    device: int,
) -> Kernels | None:
    """Compile and load kernels; None where NVRTC is absent or refuses, or the driver does.

    A line on stderr then says why, once for each file.

    Args:
        file: Name in this folder.
        names: Of the kernels, which are `extern "C"`.
        macros: Names and values.
        shared_bytes: Shared memory of a block, for each kernel.
        device: Index of the GPU that is to run them.
    """
    try:
        # Private names of PyTorch: another version may not have them.
        from torch.cuda._utils import _cuda_load_module, _get_nvrtc_library

        major, minor = torch.cuda.get_device_capability(device)
        options = [f"--gpu-architecture=sm_{major}{minor}", *options_of(macros)]
        binary, _ = compiled(_get_nvrtc_library(), (HERE / file).read_bytes(), options)
        with torch.cuda.device(device):
            loaded = cast(Kernels, _cuda_load_module(binary, list(names)))
            for name, count in zip(names, shared_bytes, strict=True):
                loaded[name].set_shared_memory_config(count)
    except (ImportError, OSError, AttributeError, RuntimeError) as error:
        if file not in _reported:
            _reported.add(file)
            reason = f"warning: {file} is not compiled, and Triton does its work: {error}"
            print(reason, file=sys.stderr)
        return None
    return loaded


def digest(file: str) -> str:
    """The first digits of the checksum of a file, for what depends on its content."""
    return hashlib.sha256((HERE / file).read_bytes()).hexdigest()[:8]


def ensure_context(device: int) -> None:
    """Give this thread the CUDA context of a GPU if it has none.

    PyTorch's own kernels get one from CUDA's runtime. A kernel that is launched through the driver,
    as these are, fails without one, and the thread of a backward pass begins without.
    """
    from torch.cuda._utils import _check_cuda, _get_gpu_runtime_library

    driver, context, handle = _get_gpu_runtime_library(), ctypes.c_void_p(), ctypes.c_int()
    _check_cuda(driver.cuCtxGetCurrent(ctypes.byref(context)))
    if not context:
        _check_cuda(driver.cuDeviceGet(ctypes.byref(handle), device))
        _check_cuda(driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), handle))
        _check_cuda(driver.cuCtxSetCurrent(context))


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
        log = _read(library, "ProgramLog", program).rstrip(b"\0").decode(errors="replace")
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
