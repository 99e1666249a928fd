"""Races between the threads of each kernel, where NVIDIA's compute-sanitizer is installed.

`python -m benchmarks.gpu.racecheck` launches each kernel once, in small sizes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import torch

from alexnet.config import Lrn, Pool
from alexnet.ops import cuda_between
from alexnet.ops.plain import Pass
from benchmarks.gpu import kernels
from benchmarks.gpu.lab import Lab
from benchmarks.interleave import environment

LIMIT_S = 130
BATCH = 2


def run(lab: Lab) -> None:
    """Launch the kernels under the tool; ends the process with status 1 if it finds a race."""
    # Where CUDA's toolkit is installed without being on the path.
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    there = Path(tool).exists() and lab.device.type == "cuda"
    if not there:
        lab.row("compute-sanitizer", found="missing: races are not looked for")
    command = [sys.executable, "-m", "benchmarks.gpu.racecheck"]
    if there:
        command = [tool, "--tool", "racecheck", "--error-exitcode", "9", *command]
    log = lab.out / "racecheck.txt"
    with log.open("w") as file:
        code = subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment(), timeout=LIMIT_S
        ).returncode
    lines = log.read_text().strip().splitlines()
    lab.row("kernels", ok=code == 0, said=(lines or ["nothing"])[-1])
    if code:
        sys.exit("\n".join(lines[-20:]))


def main() -> None:
    lab, failed = Lab(Path(), "racecheck", tiny=True), list[str]()
    for case in kernels.cases(lab, BATCH):
        print(case.name, flush=True)
        try:
            case.run()
        # Anything, as in `Lab.attempt`: the other kernels may still have races.
        except Exception as error:
            failed.append(case.name)
            print(f"failed: {error}", flush=True)
    _groups_of_maps(lab)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def _groups_of_maps(lab: Lab) -> None:
    """The pass in CUDA C++ where threads exchange sums; the small network has too few maps."""
    x = torch.randn(BATCH, 96, 15, 15, device=lab.device, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    bias = torch.zeros(96, device=lab.device, requires_grad=True)
    for window in (Pool(), None):
        between = Pass(True, Lrn(), window, columns=2)
        if not x.is_cuda or not cuda_between.takes(x, bias, between):
            print("the pass in CUDA C++ does not run here", flush=True)
            return
        y = cuda_between.norm_pool(x, bias, between)
        torch.autograd.grad(y, (x, bias), torch.ones_like(y))
        print(f"CUDA C++, {'windows' if window else 'no window'}", flush=True)


if __name__ == "__main__":
    main()
