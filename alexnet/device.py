"""Resolve "auto" for this machine: device and precision; also determinism, TF32 and memory use."""

from __future__ import annotations

import os
import resource
from dataclasses import replace
from pathlib import Path

import torch

from alexnet.config import Config
from alexnet.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """auto: CUDA, else Apple's MPS, else the CPU. Raises ConfigError for a device that is not there."""
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"--device {name} cannot be used here: {str(error).splitlines()[0]}"
        ) from None


def resolve(config: Config) -> Config:
    """device and precision settled, to be saved with the run. Raises ConfigError as `resolve_device`.

    auto precision: bfloat16 on CUDA, float32 elsewhere (a CPU without bfloat16 tiles is no faster in it).
    """
    device = str(resolve_device(config.device))
    precision = config.precision
    if precision == "float64" and device.startswith("mps"):
        raise ConfigError("precision float64 needs a CPU or CUDA; Apple's MPS has no float64")
    if precision == "auto":
        precision = "bfloat16" if device.startswith("cuda") else "float32"
    return replace(config, device=device, precision=precision)


def only_deterministic(wanted: bool) -> None:
    """CUDA: only kernels that give the same bits every time; PyTorch names one that has no such form."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    torch.use_deterministic_algorithms(wanted)


def dtype_of(precision: str) -> torch.dtype:
    """The dtype of the network's values for a resolved precision."""
    return {"float64": torch.float64, "bfloat16": torch.bfloat16}.get(precision, torch.float32)


def allow_tf32(precision: str) -> None:
    """Let CUDA's float32 products use TF32 for precision "tf32" alone.

    PyTorch lets cuDNN's convolutions use TF32 unless told otherwise, so float32 would not be what
    its name says.
    """
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def peak_memory_bytes(device: torch.device) -> int:
    """The most this process has held: the GPU's memory on CUDA, resident memory elsewhere."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    status = Path("/proc/self/status")
    if (
        status.exists()
    ):  # Linux's own mark: getrusage's also counts the program that started this one
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
