"""Whole training steps on images that lie on the card, ours and plain PyTorch's, in one run.

Our steps include cropping, reflecting and shifting the stored images. Plain PyTorch's
(`benchmarks/plain.py`) begin with finished inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from alexnet import recipes
from alexnet.config import Config
from alexnet.data.augment import Augmentation, Preprocess, sample_augmentation
from alexnet.data.loader import Batch
from alexnet.data.store import Statistics
from alexnet.device import allow_tf32
from alexnet.distributed.mesh import ALONE
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.train.sgd import ParamHyper, sgd_step, zero_velocity
from benchmarks.gpu.card import DEVICE, Row, Table, run_as_program, seconds
from benchmarks.plain import PlainAlexNet

CLASSES = 1000


def steps(table: Table, out: Path, tiny: bool) -> None:
    allow_tf32("bfloat16")
    kinds: dict[str, Callable[[int, bool], Callable[[], object]]] = {
        "the loop's step": loop_step,
        "GraphStep": graph_step,
        "plain PyTorch": partial(_plain_step, compiled=False),
        "plain PyTorch, compiled": partial(_plain_step, compiled=True),
    }
    for batch in (2,) if tiny else (128, 256, 512, 1024):
        for kind, make in kinds.items():
            table.add(f"{kind}, batch {batch}", partial(_measure, make, batch, tiny))


def _measure(make: Callable[[int, bool], Callable[[], object]], batch: int, tiny: bool) -> Row:
    taken_s = seconds(make(batch, tiny), 0.2)
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
    return {"ms": 1e3 * taken_s, "images/s": batch / taken_s}


def config(batch: int, tiny: bool) -> Config:
    """`paper` at this batch size; for `--tiny` a narrow one on small images."""
    paper = recipes.paper()
    architecture = replace(paper.architecture, classes=CLASSES)
    if tiny:
        architecture = replace(architecture, classes=10, width=1 / 16, input_px=64)
    return replace(paper, architecture=architecture, sgd=replace(paper.sgd, batch=batch))


def stored_px(tiny: bool) -> int:
    """Side of the stored images."""
    return 72 if tiny else 256


def given(batch: int, tiny: bool) -> tuple[Batch, Augmentation, Preprocess]:
    """Random images on the device, their crops, and what makes them the network's input."""
    rng, settings, px = np.random.default_rng(0), config(batch, tiny), stored_px(tiny)
    mean = rng.uniform(100, 140, (px, px, 3)).astype(np.float32)
    statistics, index = Statistics(mean, 900 * np.eye(3)), np.arange(batch)
    input_px = settings.architecture.input_px
    augmentation = sample_augmentation(settings.augment, statistics, input_px, 0, 0, index, index)
    images = rng.integers(0, 256, (batch, px, px, 3), np.uint8)
    labels = rng.integers(0, settings.architecture.classes, batch)
    on_device = [torch.from_numpy(values).to(DEVICE) for values in (images, labels)]
    preprocess = Preprocess(settings.augment, statistics, input_px, DEVICE, torch.bfloat16)
    return Batch(*on_device, index, index, batch, 0.0), augmentation, preprocess


def loop_step(batch: int, tiny: bool) -> Callable[[], object]:
    """The operations of a step one by one, as `train/loop.py` does without a graph."""
    settings, (images, augmentation, preprocess) = config(batch, tiny), given(batch, tiny)
    net = ShardedNetwork(settings.architecture, 0, ALONE).to(DEVICE)
    parameters, velocity = dict(net.named_parameters()), zero_velocity(net)
    hyper = {name: ParamHyper(1e-6, 5e-4) for name in parameters}

    def step() -> None:
        x = preprocess(images.images, augmentation)
        loss, _ = net.loss(x, images.labels, batch, (0, 1))
        sgd_step(loss, parameters, velocity, hyper, settings.sgd.momentum)

    return step


def graph_step(batch: int, tiny: bool) -> Callable[[], object]:
    """The step as one CUDA graph."""
    images, augmentation, preprocess = given(batch, tiny)
    step = new_graph_step(batch, tiny, preprocess)
    return lambda: step(images, augmentation, 1)


def new_graph_step(batch: int, tiny: bool, preprocess: Preprocess) -> Callable[..., object]:
    """A `GraphStep` of a new network, with its learning rates set."""
    # Imported here: Triton is present only beside a CUDA build of PyTorch.
    from alexnet.train.graph_step import GraphStep

    settings = config(batch, tiny)
    net = ShardedNetwork(settings.architecture, 0, ALONE).to(DEVICE)
    step = GraphStep(net, preprocess, zero_velocity(net), settings)
    step.set_hyper({name: ParamHyper(1e-6, 5e-4) for name, _ in net.named_parameters()})
    return step


def _plain_step(batch: int, tiny: bool, compiled: bool) -> Callable[[], object]:
    """The step of `benchmarks/plain.py` in its fastest settings, without waiting for each one."""
    net = PlainAlexNet(CLASSES).to(DEVICE, memory_format=torch.channels_last)
    x = torch.randn(batch, 3, 224, 224, device=DEVICE).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (batch,), device=DEVICE)
    forward = torch.compile(net) if compiled else net
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-5, momentum=0.9, weight_decay=5e-4)

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            loss = F.cross_entropy(forward(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


if __name__ == "__main__":
    run_as_program("steps", steps)
