"""A training step on a CUDA card that is not there: which operations it would launch.

PyTorch's CPU build traces CUDA code with fake tensors once `fake_cuda.cpp`, a device guard and
hooks that do nothing, is loaded before it. Run as a process of its own, because nothing else may
use such a PyTorch:

    python -m tests.cuda_trace LIBRARY RECIPE...

It prints one JSON object for each recipe.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_cuda.cpp")

# Operations that only look at memory in another way, or take some without writing to it.
WITHOUT_LAUNCH = frozenset(
    [
        "view",
        "_unsafe_view",
        "permute",
        "transpose",
        "t",
        "expand",
        "slice",
        "select",
        "unsqueeze",
        "squeeze",
        "detach",
        "alias",
        "split",
        "split_with_sizes",
        "unbind",
        "as_strided",
        "reshape",
        "lift_fresh",
        "chunk",
        "unfold",
        "_reshape_alias",
        "empty",
        "empty_like",
        "empty_strided",
        "new_empty",
        "new_empty_strided",
        "record_stream",
        "resize_",
        "is_pinned",
        "device",
        "_local_scalar_dense",
    ]
)


def build(library: Path) -> None:
    """Compile `fake_cuda.cpp` against the PyTorch of this environment."""
    import torch

    home = Path(torch.__file__).parent
    subprocess.run(
        [
            *("c++", "-O0", "-std=c++20", "-fPIC", "-shared", f"-I{home / 'include'}", str(SOURCE)),
            *(f"-L{home / 'lib'}", f"-Wl,-rpath,{home / 'lib'}", "-Wl,--no-as-needed"),
            *("-lc10", "-ltorch_cpu", "-o", str(library)),
        ],
        check=True,
    )


@dataclass
class Trace:
    """What a step does.

    Attributes:
        launches: Names of the operations that launch a kernel or a copy, in order. A convolution
            counts once, whatever cuDNN makes of it.
        bytes: Bytes that they read and write.
        copies_to_device: Copies from the host.
        copies_to_host: Copies to the host.
        waits: Operations for which the host waits: copies from or to memory that is not pinned,
            and reading a value.
        layouts: Names of operations that read or write an image or maps that are not channels-last.
    """

    launches: list[str] = field(default_factory=list)
    bytes: int = 0
    copies_to_device: int = 0
    copies_to_host: int = 0
    waits: list[str] = field(default_factory=list)
    layouts: list[str] = field(default_factory=list)
