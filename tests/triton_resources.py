"""Compile the Triton kernels that recipes launch for GPUs that need not be there.

A program of its own, because Triton reads TRITON_INTERPRET once, and the tests run in its
interpreter:

    python -m tests.triton_resources 90 paper original

compiles what a training step of the two recipes launches for compute capability 9.0, and prints one
line of JSON for each kernel: registers of a thread, and bytes of memory for what does not fit them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton

from alexnet import model, recipes
from alexnet.ops import normalise, triton_between, triton_spatial

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
TYPES = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.uint8: "*u8", torch.int64: "*i64"}
Launch = tuple[Any, tuple[int, int], tuple[Any, ...], int, dict[str, Any]]
"""Kernel, grid, positional arguments, number of warps, and constants."""


def without_interpreter() -> dict[str, str]:
    """The environment of a process in which Triton compiles."""
    return {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


def launches(recipe: str, dtype: torch.dtype, batch: int = 128) -> list[Launch]:
    """Record what a training step of a recipe would launch on CUDA.

    The step runs on PyTorch's meta device, which computes shapes and no values.
    """
    recorded: list[Launch] = []

    def record(
        kernel: Any, grid: tuple[int, int], *args: Any, num_warps: int, **constants: Any
    ) -> None:
        recorded.append((kernel, grid, args, num_warps, constants))

    architecture = getattr(recipes, recipe)().architecture
    net = model.Network(architecture).to("meta")
    images = torch.empty(
        batch, 3, architecture.input_px, architecture.input_px, device="meta", dtype=dtype
    )
    # The meta device stands for CUDA. PyTorch knows no autocast on it, and its convolutions do not
    # keep the memory format.
    stands_for = [
        (model, "adds_bias"),
        (normalise, "_triton_takes"),
        (model.fast, "unobserved"),
    ]
    with ExitStack() as patches:
        for module, name in stands_for:
            patches.enter_context(mock.patch.object(module, name, lambda *tensors: True))
        for kernels in (triton_between, triton_spatial):
            patches.enter_context(mock.patch.object(kernels, "launch", record))
        net(images).sum().backward()
    return recorded


def resources(launch: Launch, capability: int) -> dict[str, int]:
    """Compile a launched kernel; registers, stack and local memory of a thread, shared memory."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, _, args, num_warps, constants = launch
    names = kernel.arg_names
    values = dict(zip(names, args, strict=False)) | constants
    # An absent tensor is a constant too.
    constant = {name for name in names if name in constants or values[name] is None}
    source = ASTSource(
        kernel,
        {name: "constexpr" if name in constant else _type(values[name]) for name in names},
        constexprs={(names.index(name),): values[name] for name in constant},
        # What Triton finds out at a launch: addresses and sizes that 16 divides.
        attrs={
            (names.index(name),): [["tt.divisibility", 16]]
            for name in names
            if name not in constant and _divisible(values[name])
        },
    )
    made = triton.compile(
        source,
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": num_warps, "enable_fp_fusion": True},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [CUOBJDUMP, "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    found = {
        name.lower(): int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)
    }
    return found | {"shared": made.metadata.shared}


def _type(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return TYPES[value.dtype]
    if isinstance(value, int):
        return "i32" if value < 1 << 31 else "i64"
    return "fp32"


def _divisible(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)


def _lines(capability: int, names: list[str]) -> Iterator[str]:
    done = set()
    for name in names:
        for dtype in (torch.bfloat16, torch.float32):
            for launch in launches(name, dtype):
                kernel, _, _, num_warps, constants = launch
                sizes = {"warps": num_warps, **constants}
                what = f"{kernel.fn.__module__.split('.')[-1]}.{kernel.fn.__name__}"
                key = (what, dtype, tuple(sizes.items()))
                if key not in done:
                    done.add(key)
                    used = resources(launch, capability)
                    yield json.dumps(
                        {"kernel": what, "recipe": name, "dtype": str(dtype), **used, **sizes}
                    )


if __name__ == "__main__":
    for line in _lines(int(sys.argv[1]), sys.argv[2:]):
        print(line, flush=True)
