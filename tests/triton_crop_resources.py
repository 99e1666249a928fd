"""Compile the preprocessing kernel for GPUs that need not be there; print what each build needs.

A program of its own, because Triton reads TRITON_INTERPRET once, and the tests run in its
interpreter. It prints one line of JSON for each architecture: name, registers, bytes of stack.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from alexnet.ops import triton_crop

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
PAPER = {"stored": 256, "px": 224, "before": 0, "VALUES": triton_crop.VALUES}
CROP = {"covered": 224, "side": 1, "zoomed": False, "mean_moves": True, "divides": False}
BLOCKS = CROP | {"covered": 228, "side": 4, "mean_moves": False}
ZOOMED = CROP | {"zoomed": True, "divides": True}


def resources(capability: int, dtype: str, constants: dict[str, Any]) -> tuple[int, int]:
    """Return the number of registers and of bytes of stack, which are spills."""
    kernel = triton_crop._crop
    names = kernel.arg_names
    pointers = {"images": "*u8", "mean": "*fp32", "packed": "*fp32", "deviation": "*fp32"}
    pointers["out"] = dtype
    # Without a deviation the launcher passes None, a constant.
    if not constants["divides"]:
        constants = constants | {"deviation": None}
    signature = {name: "constexpr" if name in constants else pointers[name] for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if n not in constants}
    source = ASTSource(
        kernel, signature, {(names.index(n),): value for n, value in constants.items()}, aligned
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    counts = dict(re.findall(r"(REG|STACK):(\d+)", usage))
    return int(counts["REG"]), int(counts["STACK"])


if __name__ == "__main__":
    for capability, dtype, constants in (
        (80, "*fp32", CROP),
        (90, "*bf16", BLOCKS),
        (100, "*bf16", ZOOMED),
    ):
        print(json.dumps([capability, *resources(capability, dtype, PAPER | constants)]))
