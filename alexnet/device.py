"""Device and precision of this machine, determinism, TF32, and memory use."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import replace
from pathlib import Path

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

    The precision is bfloat16 on CUDA and float32 elsewhere: many CPUs are not faster in bfloat16,
    and float32 gives nearly the same numbers on all of them. The device has no index: which of its
    GPUs a process takes is not a property of the run, and each rank takes another.

    Raises:
        ConfigError: As `resolve_device`, and for float64 on MPS.
    """
    device = resolve_device(config.device).type
    precision = config.precision
    if precision == "float64" and device == "mps":
        raise ConfigError("precision float64 needs a CPU or CUDA; Apple's MPS has no float64")
    if precision == "auto":
        precision = "bfloat16" if device == "cuda" else "float32"
    return replace(config, device=device, precision=precision)


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
