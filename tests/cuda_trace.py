"""A training step on a CUDA card that is not there: the operations that it would launch.

PyTorch's CPU build traces CUDA code with fake tensors once `fake_cuda.cpp`, a device guard and
hooks that do nothing, is loaded before it. This is a program of its own, because nothing else may
use such a PyTorch:

    python -m tests.cuda_trace LIBRARY RECIPE[:RANKS[:blocks]]...

It prints one JSON object for each recipe: the `Trace` of each of the `PARTS`.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

SOURCE = Path(__file__).with_name("fake_cuda.cpp")
BATCH = 128

PARTS = "step", "metrics", "loop", "evaluation"
"""What is traced: the step that is launched as a graph, the reading of its loss, the step of the
loop, and the recipe's own test, of as many crops as it has."""

# Operations that look at memory in another way, or take some without writing to it.
WITHOUT_LAUNCH = frozenset(
    [
        *("_local_scalar_dense", "_reshape_alias", "_unsafe_view", "alias", "as_strided", "chunk"),
        *("detach", "device", "empty", "empty_like", "empty_strided", "expand", "is_pinned"),
        *("lift_fresh", "new_empty", "new_empty_strided", "permute", "record_stream", "reshape"),
        *("resize_", "select", "slice", "split", "split_with_sizes", "squeeze", "t", "transpose"),
        *("unbind", "unfold", "unsqueeze", "view"),
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
        launches: How often each operation launches a kernel or a copy. A convolution counts once,
            whatever cuDNN makes of it.
        bytes: Bytes that they read and write.
        from_host, to_host: Copies between host and device.
        waits: Copies for which the host waits, because its memory is not page-locked.
        unlike: Maps that are not channels-last, and gradients laid out unlike their weights.
    """

    launches: dict[str, int] = field(default_factory=dict)
    bytes: int = 0
    from_host: list[str] = field(default_factory=list)
    to_host: list[str] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    unlike: list[str] = field(default_factory=list)


def main(library: str, *recipes_: str) -> None:
    # The launches of the compiled kernels are recorded, not those of the interpreter.
    os.environ.pop("TRITON_INTERPRET", None)
    # Before PyTorch, which looks for a CUDA when it is loaded.
    ctypes.CDLL(library)
    for recipe in recipes_:
        name, ranks, blocks = (*recipe.split(":"), "1", "")[:3]
        traces = trace(name, int(ranks), blocks == "blocks")
        found = {part: asdict(of_part) for part, of_part in zip(PARTS, traces, strict=True)}
        print(json.dumps({"recipe": recipe} | found), flush=True)


def trace(recipe: str, ranks: int = 1, in_blocks: bool = False) -> list[Trace]:
    """Trace the `PARTS` for a batch in bfloat16.

    Args:
        ranks: Each of them has a batch of 128. The others are not there.
        in_blocks: The crops of the first part are in the blocks of the first convolution.
    """
    import numpy as np
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from alexnet import recipes
    from alexnet.data.augment import sample_augmentation
    from alexnet.data.loader import Batch
    from alexnet.data.preprocess import Preprocess
    from alexnet.data.store import Statistics
    from alexnet.distributed.mesh import Group, Mesh
    from alexnet.distributed.sharded import ShardedNetwork
    from alexnet.inference import probabilities
    from alexnet.train.graph_step import GraphStep
    from alexnet.train.loop import _forward
    from alexnet.train.metrics import StepMetrics
    from alexnet.train.sgd import PlateauState, param_hyper, sgd_step, zero_velocity
    from alexnet.train.state import TrainState

    config = getattr(recipes, recipe)()
    architecture = config.architecture
    architecture = replace(architecture, classes=10 if architecture.input_px < 32 else 1000)
    config = replace(
        config, architecture=architecture, sgd=replace(config.sgd, batch=ranks * BATCH), seed=0
    )
    every = Group(tuple(range(ranks)))
    mesh = Mesh(every, data=every)
    if ranks > 1:
        _join_absent_ranks(ranks)
    px = architecture.input_px
    stored = px if not config.augment.crops else round(px * 256 / 224)
    statistics = Statistics(np.full((stored, stored, 3), 120, np.float32), 1000 * np.eye(3))
    index = np.arange(BATCH)
    with FakeTensorMode(allow_non_fake_inputs=True), _pretended(in_blocks):
        net = ShardedNetwork(architecture, 0, mesh)
        # `net.to` cannot exchange fake tensors.
        for module in net.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, torch.nn.Parameter(parameter.detach().to("cuda")))
            for name, buffer in list(module.named_buffers(recurse=False)):
                module.register_buffer(name, buffer.to("cuda"))
        preprocess = Preprocess(
            config.augment, statistics, px, torch.device("cuda"), torch.bfloat16
        )
        velocity = zero_velocity(net)
        step = GraphStep(net, preprocess, velocity, config)
        batch = Batch(
            # As the feed hands them over (`loader.batches` with `pin`).
            torch.empty((BATCH, stored, stored, 3), dtype=torch.uint8).pin_memory(),
            torch.empty(BATCH, dtype=torch.int64).pin_memory(),
            index,
            index,
            ranks * BATCH,
            0.0,
        )
        drawn = sample_augmentation(config.augment, statistics, px, 0, 0, index, index)
        # The first step also tells the update where the gradients are.
        with _recording():
            step(batch, drawn, 0)
        with _recording() as graph:
            loss, wrong = step(batch, drawn, 1)
        with _recording() as metrics:
            StepMetrics(net, TrainState(), late=1).add(
                step.x, loss, wrong, batch.global_size, stop=False, save=False
            )
        with _recording() as loop:
            _, loss, _ = _forward(net, preprocess, config, batch, drawn, TrainState())
            parameters = dict(net.named_parameters())
            hyper = {name: param_hyper(config, name, 0, PlateauState()) for name in parameters}
            sgd_step(loss, parameters, velocity, hyper, 0.9, net.reduce_gradients)
        net.eval()
        there = batch.images.to("cuda")
        with _recording() as evaluation:
            probabilities(net, preprocess, there, config.augment)
    return [graph, metrics, loop, evaluation]


def _join_absent_ranks(ranks: int) -> None:
    """Make a process group whose collective operations do nothing."""
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)


def _page_locked(tensor: Any) -> Any:
    tensor.page_locked = True
    return tensor


@contextmanager
def _pretended(in_blocks: bool) -> Iterator[None]:
    """Let the fast paths take fake tensors, and kernels be launched without a card."""
    import torch

    from alexnet.ops import cuda_trial, fast
    from alexnet.train.graph_step import GraphStep

    patched: list[tuple[Any, str, Any]] = [
        (fast, "unobserved", lambda *tensors: True),
        # Without a card there is nothing to measure.
        (cuda_trial, "possible", lambda x: False),
        (torch.Tensor, "data_ptr", lambda self: 0),
        (torch.Tensor, "pin_memory", _page_locked),
        (torch.cuda, "device_of", lambda tensor: nullcontext()),
        (torch.cuda, "get_device_capability", lambda device: (9, 0)),
        (torch.cuda, "Event", Mock),
    ]
    if in_blocks:
        patched.append((GraphStep, "_conv_in_blocks", lambda self, first: first.layer))
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patched]
    for owner, name, value in patched:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@contextmanager
def _recording() -> Iterator[Trace]:
    """Record all operations of the block."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves
    from triton.runtime.jit import JITFunction

    found = Trace()

    def tensors(values: Any) -> list[torch.Tensor]:
        return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]

    def note(name: str, read: list[torch.Tensor], written: list[torch.Tensor]) -> None:
        every = {id(tensor): tensor for tensor in (*read, *written)}.values()
        found.launches[name] = found.launches.get(name, 0) + 1
        found.bytes += sum(tensor.numel() * tensor.element_size() for tensor in every)
        devices = {tensor.device.type for tensor in every}
        if devices == {"cpu", "cuda"}:
            to_host = written and written[0].device.type == "cpu"
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in written)
            (found.to_host if to_host else found.from_host).append(f"{name} {shapes}")
            if any(t.device.type == "cpu" and not hasattr(t, "page_locked") for t in every):
                found.waits.append(f"{name} {shapes}")
        for tensor in every:
            last = tensor.is_contiguous(memory_format=torch.channels_last)
            if tensor.dim() == 4 and tensor.dtype != torch.uint8 and not last:
                found.unlike.append(f"{name} {tuple(tensor.shape)} {tensor.stride()}")

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            out = func(*args, **(kwargs or {}))
            name = func._schema.name.split("::")[1]
            if name not in WITHOUT_LAUNCH and any(t.is_cuda for t in tensors((args, kwargs, out))):
                note(name, tensors((args, kwargs)), tensors(out))
            return out

    def launched(kernel: Any, *args: Any, **kwargs: Any) -> None:
        note(kernel.fn.__name__, tensors(args), [])

    run: Callable[..., Any] = JITFunction.run
    JITFunction.run = launched
    try:
        with Recorder():
            yield found
    finally:
        JITFunction.run = run


if __name__ == "__main__":
    main(*sys.argv[1:])
