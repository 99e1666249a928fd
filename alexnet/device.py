"""Device and precision of this machine, determinism, TF32, and memory use."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from alexnet.config import Config
from alexnet.cores import available_cores
from alexnet.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; auto stands for CUDA, or else Apple's MPS, or else the CPU.

    Raises:
        ConfigError: If this machine or this build of PyTorch does not have the device.
    """
    if name == "auto":
        name = device_type(name)
    follow_cpu_limit()
    # PyTorch accepts the name of a missing device; only a tensor on it shows that it is missing.
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"--device {name} cannot be used here: {str(error).splitlines()[0]}"
        ) from None


def device_type(name: str) -> str:
    """The kind of device that a name means here, without an index: cpu, cuda or mps."""
    if name != "auto":
        return name.partition(":")[0]
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def device_here(saved: str) -> str:
    """The device on which a saved run goes on: its own, or "auto" where this machine has none."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return saved if available.get(device_type(saved), True) else "auto"


def follow_cpu_limit() -> None:
    """Use no more threads than cores, unless the user has set a number (OMP_NUM_THREADS).

    PyTorch starts a thread for each core, also where a container may use only some of them.
    """
    if "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > available_cores():
        torch.set_num_threads(available_cores())


def resolve(config: Config) -> Config:
    """Return the config with "auto" replaced in device and precision, to be saved with the run.

    The device has no index: which of its GPUs a process takes is not a property of the run, and
    each rank takes another.

    Raises:
        ConfigError: As `resolve_device`, and for float64 on MPS.
    """
    device = resolve_device(config.device).type
    precision = config.precision
    if precision == "float64" and device == "mps":
        raise ConfigError("precision float64 needs a CPU or CUDA; Apple's MPS has no float64")
    if precision == "auto":
        precision = auto_precision(device)
    return replace(config, device=device, precision=precision)


def auto_precision(device: str) -> Literal["bfloat16", "float32"]:
    """The precision that `auto` means on a kind of device: bfloat16 on CUDA, float32 elsewhere.

    Many CPUs are not faster in bfloat16, and float32 gives nearly the same numbers on all of them.
    """
    return "bfloat16" if device == "cuda" else "float32"


def only_deterministic(wanted: bool) -> None:
    """Let PyTorch use only kernels that give the same bits every time, or all kernels.

    An operation without such a kernel then raises an error that names it. Otherwise cuDNN measures
    which of its algorithms is the fastest for each shape of a convolution, and may choose another
    one in the next process.
    """
    torch.backends.cudnn.benchmark = not wanted
    if wanted:
        # cuBLAS is deterministic only with a workspace of fixed size, and PyTorch insists on it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)


def dtype_of(precision: str) -> torch.dtype:
    """The dtype of the network's activations for a resolved precision."""
    # tf32 changes only how float32 products are computed.
    return {"float64": torch.float64, "bfloat16": torch.bfloat16}.get(precision, torch.float32)


def allow_tf32(precision: str) -> None:
    """Let CUDA's float32 products use TF32 for precision "tf32" alone.

    PyTorch lets cuDNN's convolutions use TF32 unless told otherwise, so float32 would not be what
    its name says. It also lets cuBLAS round parts of a sum over bfloat16 products to bfloat16;
    here they are added in float32, as on a CPU.
    """
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    # Without TF32 the line above leaves convolutions to `torch.backends.fp32_precision`, which the
    # caller may have set to "tf32"; and PyTorch would then raise if it is asked for the switch.
    backends: Any = torch.backends
    for part in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
        part.fp32_precision = "tf32" if precision == "tf32" else "ieee"


@contextmanager
def switched(config: Config) -> Iterator[None]:
    """Set PyTorch's switches for a training, and give the caller's back at the end.

    They hold for the whole process, where other networks may be computed before and after. Only
    `CUBLAS_WORKSPACE_CONFIG` stays: PyTorch asks for it once in a process. After a training on
    CUDA, PyTorch's default for convolutions (TF32) counts as the caller's own choice, which
    `torch.backends.fp32_precision` no longer changes. The other way round, a part's own precision
    that equals this switch follows it after any training. Other devices leave CUDA's precision
    alone.
    """
    backends: Any = torch.backends  # not all of what follows has a type
    benchmark = backends.cudnn.benchmark
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        only_deterministic(config.deterministic)
        with _cuda_precision(config) if config.device == "cuda" else _cpu_precision():
            yield
    finally:
        backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)


@contextmanager
def _cpu_precision() -> Iterator[None]:
    """Let a CPU round no float32 product to TF32 or bfloat16, which some can."""
    mkldnn: Any = torch.backends.mkldnn
    with _given_back(mkldnn.matmul, mkldnn.conv):
        mkldnn.matmul.fp32_precision = mkldnn.conv.fp32_precision = "ieee"
        yield


@contextmanager
def _cuda_precision(config: Config) -> Iterator[None]:
    """Set the switches of `allow_tf32`, and give the caller's back at the end."""
    backends: Any = torch.backends
    matmul, cudnn = backends.cuda.matmul, backends.cudnn
    reductions = (
        matmul.allow_bf16_reduced_precision_reduction,
        matmul.allow_bf16_reduced_precision_reduction_split_k,
    )
    # TF32 has older switches and newer ones, which PyTorch sets with the older ones; they are given
    # back last. The older switch of products is also that of the CPU.
    parts = matmul, cudnn.conv, cudnn.rnn, backends.mkldnn.matmul
    with _given_back(*parts):
        # PyTorch raises if it is asked for an older switch that a newer one contradicts. "ieee"
        # contradicts none of those of products, and of convolutions only the one that allows TF32.
        for part in parts:
            part.fp32_precision = "ieee"
        older_matmul = torch.get_float32_matmul_precision()
        older_cudnn = True
        with suppress(RuntimeError):
            older_cudnn = cudnn.allow_tf32
        try:
            allow_tf32(config.precision)
            yield
        finally:
            matmul.allow_bf16_reduced_precision_reduction = reductions
            torch.set_float32_matmul_precision(older_matmul)
            cudnn.allow_tf32 = older_cudnn


@contextmanager
def _given_back(*parts: Any) -> Iterator[None]:
    """Give parts of PyTorch their `fp32_precision` back at the end."""
    before = [part.fp32_precision for part in parts]
    try:
        yield
    finally:
        for part, precision in zip(parts, before, strict=True):
            # PyTorch does not say whether a part had a precision of its own or, with "none", that
            # of `torch.backends.fp32_precision`. Where both are the same, the part follows it.
            part.fp32_precision = "none"
            if part.fp32_precision != precision:
                part.fp32_precision = precision


def peak_memory_bytes(device: torch.device) -> int:
    """The peak memory of this process: the GPU's memory on CUDA, resident memory elsewhere."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    # Not getrusage on Linux: its peak survives exec, so it may be that of the program that started
    # this one.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    # Sandboxes such as gVisor do not say it there. In bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
