"""Whole training steps on images that are already on the card, ours and those of other programs.

Ours include the crops and all that varies from step to step; the others are given their inputs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from importlib import util

import torch
from torch import nn

from benchmarks import same_training
from benchmarks.gpu.lab import (
    CLASSES,
    Lab,
    Value,
    as_trained,
    describe_seconds,
    images_for,
    seconds_of,
    training_config,
)
from benchmarks.interleave import interleave
from benchmarks.plain import PlainAlexNet
from benchmarks.suites import peer

BATCHES, TINY_BATCHES = (512, 128, 256, 1024), (2,)
OTHER_PROGRAMS = {"JAX": ("jax", "jax_net.py"), "TensorFlow": ("tensorflow", "tensorflow_net.py")}
"""Module and script of the programs that are measured where they are installed."""
THEIR_BATCHES, THEIR_TURNS = (512, 128), 5


def run(lab: Lab) -> None:
    as_trained("bfloat16")
    kinds: dict[str, Callable[[Lab, int], Callable[[], object]]] = {
        "ours, as a CUDA graph": lambda lab, n: our_step(lab, n, same_training.graph),
        "ours, one operation after the other": lambda lab, n: our_step(lab, n, same_training.loop),
        "plain PyTorch": plain_step,
        "plain PyTorch, compiled": lambda lab, n: plain_step(lab, n, compiled=True),
    }
    if lab.device.type != "cuda":
        # The compiler needs a minute on a CPU, and shows nothing about a card.
        kinds.pop("plain PyTorch, compiled")
    for name, make in kinds.items():
        for batch in TINY_BATCHES if lab.tiny else BATCHES:
            lab.attempt(
                f"{name}, batch {batch}",
                lambda make=make, batch=batch: describe_seconds(
                    seconds_of(make(lab, batch), 0.2, 5), batch
                ),
            )

    other_programs(lab)


def other_programs(lab: Lab) -> None:
    """Measure JAX and TensorFlow, each in a process of its own, where they are installed."""
    for name, (module, script) in OTHER_PROGRAMS.items():
        if util.find_spec(module) is None:
            lab.row(name, said="not installed")
            continue
        for batch in TINY_BATCHES if lab.tiny else THEIR_BATCHES:
            lab.attempt(
                f"{name}, batch {batch}",
                lambda name=name, script=script, batch=batch: _of_program(lab, name, script, batch),
            )


def _of_program(lab: Lab, name: str, script: str, batch: int) -> dict[str, Value]:
    """Measure a script of `benchmarks`. Raises ValueError if it cannot run on this device."""
    program = peer(name, script, "step", "precision=bfloat16", f"batch={batch}")
    (result,) = interleave(program, (), THEIR_TURNS)
    assert not isinstance(result, str)
    if lab.device.type == "cuda" and result.note.startswith("cpu"):
        raise ValueError(f"{name} is installed without CUDA")
    return describe_seconds(batch / result.per_second, batch)


def our_step(
    lab: Lab,
    batch: int,
    kind: Callable[..., same_training.Step],
) -> Callable[[], object]:
    """Our training step in bfloat16."""
    config = training_config(lab, batch)
    # So small that the network stays what it is, however often the step is taken.
    config = replace(config, sgd=replace(config.sgd, lr=1e-6))
    images = images_for(lab, config)
    step, numbers = kind(config, images.preprocess), itertools.count()
    return lambda: step(images.batch, images.augmentation, next(numbers))


def plain_step(lab: Lab, batch: int, compiled: bool = False) -> Callable[[], object]:
    """The step of `benchmarks/plain.py`, in its faster layout, with autocast to bfloat16."""
    device = lab.device
    net = PlainAlexNet(CLASSES).to(device, memory_format=torch.channels_last)
    forward = torch.compile(net, dynamic=False) if compiled else net
    x = torch.randn(batch, 3, 224, 224, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (batch,), device=device)
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)
    loss_function = nn.CrossEntropyLoss()

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = loss_function(forward(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step
