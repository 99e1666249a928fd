"""What the machine is and has, and how fast it copies, multiplies and launches."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import metadata, util

import torch

from alexnet.config import Lrn, Pool
from alexnet.ops import cuda_between
from alexnet.ops.plain import Pass
from benchmarks.gpu.lab import Lab, copy_seconds, graphed, seconds_of

NEEDED = {
    "triton": "triton",
    "numpy": "numpy",
    "pyarrow": "pyarrow",
    "PIL": "pillow",
    "rich": "rich",
    "safetensors": "safetensors",
}
"""The packages that this program needs for what is measured, by the name of their module."""
WITHOUT = {
    "simplejpeg": "Pillow decodes JPEGs, several times slower",
    "pytest": "the tests do not run",
    "xdist": "the tests run one after the other (pytest-xdist)",
    "tyro": "no command line: `python -m alexnet` does not run",
    "hypothesis": "some tests do not run; none of those of `correctness`",
    "boto3": "the tests on S3 do not run; none of those of `correctness`",
    "matplotlib": "no figures",
    "torchcodec": "no JPEGs decoded on the card; `feed` says so",
    "jax": "`steps` does not measure JAX",
    "tensorflow": "`steps` does not measure TensorFlow",
}
"""What follows if a module is missing."""
TOOLS = "c++", "nvcc", "ncu", "compute-sanitizer"


def run(lab: Lab) -> None:
    lab.row("python", version=sys.version.split()[0], cores=os.cpu_count() or 0)
    for module, package in NEEDED.items():
        lab.row(package, version=_version(package) if util.find_spec(module) else "missing: needed")
    for module, consequence in WITHOUT.items():
        lab.row(module, found="yes" if util.find_spec(module) else f"missing: {consequence}")
    for tool in TOOLS:
        lab.row(tool, found=shutil.which(tool) or "missing")
    if lab.device.type == "cuda":
        _card(lab)
    _speeds(lab)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # a build without its description
        return "unknown"


def _card(lab: Lab) -> None:
    card = torch.cuda.get_device_properties(0)
    lab.row(
        card.name,
        multiprocessors=card.multi_processor_count,
        memory_gib=card.total_memory / 2**30,
        cudnn=torch.backends.cudnn.version() or 0,
    )
    x = torch.zeros((1, 8, 5, 5), dtype=torch.bfloat16, device=lab.device)
    bias = torch.zeros(8, device=lab.device)
    compiles = cuda_between.takes(x, bias, Pass(True, Lrn(), Pool()))
    found = "yes" if compiles else "no: Triton's kernels run alone; the reason is above"
    lab.row("CUDA C++ by NVRTC", found=found)
    query = "driver_version,clocks.max.sm,power.limit,pcie.link.gen.current,pcie.link.width.current"
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()
        lab.row("driver, clock, power, PCIe", said=said)


def _speeds(lab: Lab) -> None:
    device, count = lab.device, 1 << (16 if lab.tiny else 31)
    lab.row("copy on the device", tb_per_s=count / copy_seconds(count, device) / 1e12)
    side = 256 if lab.tiny else 8192
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    product_s = seconds_of(lambda: a @ b)
    lab.row("product in bfloat16", tflops=2 * side**3 / product_s / 1e12)
    if device.type != "cuda":
        return
    size = 1 << 28
    host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(size, dtype=torch.uint8, device=device)
    copy_s = seconds_of(lambda: there.copy_(host, non_blocking=True))
    lab.row("from page-locked memory to the device", gb_per_s=size / copy_s / 1e9)
    one = torch.zeros(1, device=device)
    lab.row("a launch, queued", us=1e6 * seconds_of(lambda: one.add_(1)))
    lab.row("a launch, in a graph", us=1e6 * seconds_of(graphed(lambda: one.add_(1))))
