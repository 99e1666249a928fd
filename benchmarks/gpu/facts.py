"""The machine: card, versions, cores, tools, missing packages, and the speed of copies."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

from benchmarks.gpu.card import DEVICE, Row, Table, run_as_program, seconds

PACKAGES = (
    *("triton", "numpy", "pyarrow", "fsspec", "datasets", "simplejpeg", "pillow", "tyro", "rich"),
    *("safetensors", "matplotlib", "scipy", "jinja2", "pytest", "pytest-xdist", "hypothesis"),
    *("boto3", "moto", "torchvision", "jax", "tensorflow", "nvidia-dali-cuda120"),
)
TOOLS = "g++", "clang++", "nvcc", "ncu", "nsys", "compute-sanitizer", "cuobjdump", "nvidia-smi"
ASKED = "name,driver_version,clocks.max.sm,clocks.max.mem,power.limit,pcie.link.gen.max"


def facts(table: Table, out: Path, tiny: bool) -> None:
    table.add("program", lambda: {"python": sys.version.split()[0], "torch": torch.__version__})
    table.add("card", _card)
    table.add("processor", _processor)
    table.add("packages", lambda: {name: _version(name) for name in PACKAGES})
    table.add("tools", lambda: {name: shutil.which(name) or "missing" for name in TOOLS})
    size = 1 << (16 if tiny else 30)
    table.add("copy on the device", lambda: _copy(size))
    side = 64 if tiny else 8192
    table.add(f"bfloat16 product, {side}x{side}", lambda: _product(side))
    if DEVICE.type == "cuda":
        table.add("copy from the host", lambda: _copy_from_host(size // 4))
        one = torch.zeros(1, device=DEVICE)
        table.add("a launch, queued", lambda: {"us": 1e6 * seconds(lambda: one.add_(1))})


def _card() -> Row:
    if DEVICE.type == "cpu":
        return {"name": "none"}
    card = torch.cuda.get_device_properties(0)
    row = {
        "name": card.name,
        "multiprocessors": card.multi_processor_count,
        "memory GiB": card.total_memory / 2**30,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
    }
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True).stdout
        row[ASKED] = said.strip()
    return row


def _processor() -> Row:
    cpuinfo = Path("/proc/cpuinfo")  # only on Linux
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"cores": os.cpu_count(), "model": models[0] if models else "unknown"}


def _version(package: str) -> str:
    # Not imported: some packages take seconds, and some reserve the memory of the card.
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _copy(size: int) -> Row:
    source = torch.zeros(size, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return {"TB/s read and written": 2 * size / seconds(lambda: target.copy_(source)) / 1e12}


def _product(side: int) -> Row:
    x, y = (torch.randn(side, side, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    return {"TFLOP/s": 2 * side**3 / seconds(lambda: x @ y) / 1e12}


def _copy_from_host(size: int) -> Row:
    source = torch.zeros(size, dtype=torch.uint8).pin_memory()
    target = torch.empty(size, dtype=torch.uint8, device=DEVICE)
    return {"GB/s": size / seconds(lambda: target.copy_(source, non_blocking=True)) / 1e9}


if __name__ == "__main__":
    run_as_program("facts", facts)
