"""What this machine has of the things that the program can use, and what it costs to lack one.

`alexnet check` prints it, so that a bug report can contain it. Nothing here raises an error: a
broken part of an environment is what the lines are there to show.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import torch

from alexnet import native, requirements
from alexnet.cores import cpu_limit, memory_limit, physical_memory
from alexnet.device import follow_cpu_limit
from alexnet.errors import install_command
from alexnet.files import user_cache
from alexnet.ops import cuda_trial, trial
from alexnet.provenance import code_version, describe, machine

LEAST_FREE_GIB = 2.0  # less is reported: a run of `original` keeps two checkpoints of 0.5 GiB


@dataclass(frozen=True)
class Component:
    """A component of this environment: a program, a device or a folder.

    Attributes:
        name: What it is.
        ok: Whether it is there.
        text: Its version or size; of a missing part what that costs, and how to add it.
    """

    name: str
    ok: bool
    text: str


def components() -> list[Component]:
    """Return the components of this environment, and compile the C++ files if they were not yet."""
    return [
        Component("alexnet", True, describe(code_version())),
        Component("Python", True, f"{platform.python_version()} on {platform.platform()}"),
        Component(
            "PyTorch", True, f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
        ),
        _cores(),
        _memory(),
        _compiled(),
        _products(),
        _gpu(),
        _kernels(),
        _decoder(),
        _packages(),
        _option("pillow_heif", "pillow-heif", "HEIC images are left out"),
        _option("s3fs", "s3fs", "stores at s3:// cannot be read"),
        _option("onnx", "onnx onnxruntime", "`export` writes no ONNX"),
        _option("tensorboard", "tensorboard", "runs have no files for TensorBoard"),
        _disk("disk here", Path()),
        _disk("disk of the cache", user_cache()),
    ]


def _cores() -> Component:
    """Return the cores that this process may use, and what limits them."""
    limit = cpu_limit()
    limited = f", limited to {limit:g} by a control group" if limit != float("inf") else ""
    text = f"{machine()} of {os.cpu_count()}{limited}; {torch.get_num_threads()} threads"
    wanted = os.environ.get("OMP_NUM_THREADS")
    return Component("cores", True, f"{text} (OMP_NUM_THREADS={wanted})" if wanted else text)


def _memory() -> Component:
    """Return the memory of the machine, or the lowest limit on it."""
    total, limit = physical_memory(), memory_limit()
    limited = f", limited to {limit / 2**30:.1f} GiB" if limit < total else ""
    return Component("memory", True, f"{total / 2**30:.1f} GiB{limited}")


def _compiled() -> Component:
    """Tell whether the C++ files can be compiled and loaded; the reason is on stderr if not."""
    if os.environ.get("ALEXNET_NATIVE") == "0":
        why = "turned off by ALEXNET_NATIVE=0"
    elif sys.platform != "linux":
        why = "made on Linux only"
    elif all((native.kernels(), native.winograd(), native.arena())):
        return Component("compiled code", True, f"kept in {user_cache() / 'native'}")
    else:
        why = "not made (see the message above); install g++"
    # docs/performance.md, "Normalization on two cores".
    return Component(
        "compiled code", False, f"{why}: normalization takes 2.9 times as long on a CPU"
    )


def _products() -> Component:
    """Tell how the layers that were ever timed here multiply on this CPU."""
    # The times are those of a number of threads, and a run uses no more than the limit of the CPU.
    follow_cpu_limit()
    kept = trial.choices_on_file()
    text = f"{len(kept)} timed on this CPU: {trial.in_words(kept)}"
    return Component(
        "products", True, text if kept else "none timed yet: training on this CPU does it"
    )


def _gpu() -> Component:
    """Return the GPU that `--device auto` chooses, and Triton's version on CUDA."""
    if torch.backends.mps.is_available():
        return Component("GPU", True, "Apple MPS")
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"PyTorch is built for CUDA {built} and finds no GPU" if built else "none"
        return Component("GPU", False, f"{why}; the CPU is used")
    try:
        name = torch.cuda.get_device_name(0)
        gib = torch.cuda.get_device_properties(0).total_memory / 2**30
    except RuntimeError as error:  # a driver that fails, or a GPU that another process holds
        return Component("GPU", False, f"cannot be used: {str(error).splitlines()[0]}")
    text = f"{torch.cuda.device_count()} x {name}, {gib:.0f} GiB, CUDA {torch.version.cuda}"
    if util.find_spec("triton") is None:
        return Component("GPU", False, f"{text}; no Triton: normalization runs in plain PyTorch")
    return Component("GPU", True, f"{text}, Triton {_version('triton')}")


def _kernels() -> Component:
    """Tell which kernels were the fastest for the shapes that were ever timed on this CUDA card."""
    if not torch.cuda.is_available():
        return Component("kernels", True, "none timed: training on a CUDA card does it")
    try:
        kept = cuda_trial.choices_on_file()
    except RuntimeError:  # as in `_gpu`, which says why
        return Component("kernels", False, "the GPU cannot be asked for its name")
    text = f"{len(kept)} timed on this card: {cuda_trial.in_words(kept)}"
    none = "none timed on this card yet: training on it does so"
    return Component("kernels", True, text if kept else none)


def _decoder() -> Component:
    """Return the versions of the decoders of images."""
    names = " and ".join(f"{name} {_version(name)}" for name in ("simplejpeg", "pillow"))
    return Component("decoders", True, names)


def _packages() -> Component:
    """Name the packages that are too old for the program, or missing."""
    wrong = requirements.unmet()
    if wrong:
        return Component("packages", False, f"too old or missing: {requirements.mend(wrong)}")
    return Component("packages", True, "all in the versions that are needed")


def _option(module: str, packages: str, cost: str) -> Component:
    """Tell whether an optional package is installed; only its version is read, nothing imported."""
    name = packages.split()[0]
    if util.find_spec(module) is None:
        return Component(name, False, f"{cost}; {install_command(*packages.split())}")
    return Component(name, True, _version(name))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # unpacked by hand, or a module with another origin
        return "of unknown version"


def _disk(name: str, folder: Path) -> Component:
    """Return the free space on the disk of a folder, which need not exist yet."""
    try:
        # Up to Python 3.11 `exists` raises the error of a folder that may not be entered.
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        free = shutil.disk_usage(folder).free / 2**30
    except OSError as error:
        return Component(name, False, f"{folder} cannot be read ({error.strerror})")
    if not os.access(folder, os.W_OK):
        return Component(name, False, f"{folder} cannot be written")
    return Component(name, free >= LEAST_FREE_GIB, f"{free:.1f} GiB free in {folder}")
