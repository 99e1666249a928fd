"""Our program, and the limits of the machine: `python -m benchmarks.ours WHAT [key=value ...]`."""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import torch.nn.functional as F

from alexnet import ops, recipes
from alexnet.config import Config, StoreSettings
from alexnet.cores import available_cores
from alexnet.data import prepare as preparation
from alexnet.data import sources
from alexnet.data.augment import sample_augmentation
from alexnet.data.loader import batches, epoch_order
from alexnet.data.preprocess import Preprocess
from alexnet.data.sources import SourceSplit
from alexnet.data.store import Store
from alexnet.device import allow_tf32, dtype_of, only_deterministic, resolve_device
from alexnet.model import Network
from alexnet.ops.arena import kept_memory
from alexnet.train.sgd import ParamHyper, sgd_step, zero_velocity
from benchmarks.image_work import work_on
from benchmarks.worker import serve

LRN_SHAPE = 96, 55, 55  # the output of conv1 for an image


def _wait() -> Callable[[], object] | None:
    """What waits for the device, for `serve`; None for a CPU."""
    return torch.cuda.synchronize if torch.cuda.is_available() else None


def network(recipe: str, normalise: bool = True, classes: int = 1000) -> tuple[Config, Network]:
    config: Config = getattr(recipes, recipe)()
    architecture = replace(config.architecture, normalise=normalise, classes=classes)
    return config, Network(architecture)


def step(
    recipe: str = "paper",
    precision: str = "float32",
    batch: int = 128,
    normalise: bool = True,
    classes: int = 1000,
) -> None:
    """Forward, loss, backward and update, on preprocessed images that are already on the device."""
    device = resolve_device("auto")
    config, net = network(recipe, normalise, classes)
    net = net.to(device)
    x = torch.randn(batch, 3, net.architecture.input_px, net.architecture.input_px, device=device)
    x = x.to(dtype_of(precision)).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, classes, (batch,), device=device)
    velocity, parameters = zero_velocity(net), dict(net.named_parameters())
    hyper = {name: ParamHyper(1e-5, config.sgd.weight_decay) for name in parameters}

    def run() -> None:
        loss = F.cross_entropy(net(x, dropout_key=(0, 0)), labels)
        sgd_step(loss, parameters, velocity, hyper, config.sgd.momentum)

    with kept_memory(device):
        serve(run, batch, "images", f"{device}, {precision}, batch {batch}", wait=_wait())


def infer(
    recipe: str = "paper", precision: str = "float32", batch: int = 100, raw: bool = False
) -> None:
    """Probabilities of a batch of crops, by default the ten crops of ten images.

    Args:
        raw: The crops are RGB values from 0 to 255 in float32 and NCHW, as an exported file takes
            them. Then subtracting the mean and changing the layout count, too. Otherwise the crops
            are preprocessed.
    """
    device = resolve_device("auto")
    net = network(recipe)[1].to(device).eval()
    px = net.architecture.input_px
    rgb = 255 * torch.rand(batch, 3, px, px, device=device)
    mean = torch.full((3, px, px), 120.0, device=device)
    x = rgb if raw else _preprocessed(rgb - mean, precision)

    @torch.no_grad()
    def run() -> None:
        F.softmax(net(_preprocessed(x - mean, precision) if raw else x), dim=1)

    with kept_memory(device):
        serve(run, batch, "images", f"{device}, {precision}, batch {batch}", wait=_wait())


def _preprocessed(x: torch.Tensor, precision: str) -> torch.Tensor:
    """The input in the precision and the layout of the network."""
    return x.to(dtype_of(precision)).contiguous(memory_format=torch.channels_last)


def lrn(kind: str = "ours", precision: str = "float32", batch: int = 128) -> None:
    """LRN forward and backward: `ours` (channels last) or `pytorch` (NCHW, its faster layout)."""
    x = torch.randn(batch, *LRN_SHAPE, device=resolve_device("auto")).to(dtype_of(precision))
    if kind == "ours":
        x = x.contiguous(memory_format=torch.channels_last)
    dy, x = torch.randn_like(x), x.requires_grad_()
    ours: Callable[[torch.Tensor], torch.Tensor] = ops.lrn
    op = ours if kind == "ours" else lambda t: F.local_response_norm(t, 5, 5e-4, 0.75, 2.0)
    with kept_memory(x.device):  # for both kinds, so that only the operator differs
        serve(
            lambda: torch.autograd.grad(op(x), x, dy),
            x.numel(),
            "values",
            f"{precision}, {tuple(x.shape)}",
            wait=_wait(),
        )


def matmul(precision: str = "float32", macs_per_image: int = 1, side: int = 2048) -> None:
    """The limit of arithmetic: one large matrix product, converted to images per second."""
    side = 4 * side if torch.cuda.is_available() else side
    a, b = (
        torch.randn(side, side, device=resolve_device("auto")).to(dtype_of(precision))
        for _ in range(2)
    )
    serve(
        lambda: a @ b,
        side**3 / macs_per_image,
        "images",
        f"{precision}, {side}x{side}",
        wait=_wait(),
    )


def copy(precision: str = "float32", times: int = 5, batch: int = 128) -> None:
    """The limit of memory for LRN: copying as many values as LRN must read and write.

    The forward pass reads one tensor and writes one; the backward pass reads two and writes one.
    These are five tensors, and one copy moves two.
    """
    shape, dtype = (batch, *LRN_SHAPE), dtype_of(precision)
    source = torch.zeros(shape, dtype=dtype, device=resolve_device("auto"))
    target = torch.empty_like(source)
    serve(
        lambda: target.copy_(source),
        2 * source.numel() / times,
        "values",
        f"{precision}, {times} moved for each",
        wait=_wait(),
    )


def loader(
    data: str, workers: int = 2, batch: int = 128, images: int = 2048, augment: bool = False
) -> None:
    """Decode batches of a store; with `augment`, also crop, reflect and shift the colours."""
    # Idle threads of PyTorch spin, and would take the cores from the workers.
    torch.set_num_threads(1)
    store = Store(data)
    split = store.split("train")
    config = recipes.paper()
    order = epoch_order(len(split), 0, 0)[:images]
    preprocess = (
        Preprocess(config.augment, store.statistics, 224, torch.device("cpu")) if augment else None
    )

    def run() -> None:
        for b in batches(split, order, batch, workers):
            if preprocess is not None:
                preprocess(
                    b.images,
                    sample_augmentation(
                        config.augment, store.statistics, 224, 0, 0, b.index, b.position
                    ),
                )

    with kept_memory(torch.device("cpu")):
        serve(
            run, len(order), "images", f"{workers} workers, {_kb_per_image(data):.0f} KB an image"
        )


def decode(data: str, images: int = 1024) -> None:
    """The limit of the feed: simplejpeg on one core, decoding into one buffer."""
    split = Store(data).split("train")
    encoded = [split.encoded(i) for i in epoch_order(len(split), 0, 0)[:images].tolist()]
    out = np.empty((split.size_px, split.size_px, 3), np.uint8)

    def run() -> None:
        for jpeg in encoded:
            simplejpeg.decode_jpeg(jpeg, "RGB", buffer=out)

    serve(run, len(encoded), "images", f"one core, {_kb_per_image(data):.0f} KB an image")


def prepare(data: str, images: int = 512, complete: bool = True) -> None:
    """Prepare a store from the last split of a source.

    With complete=False, measure the limit: only decode, resize and encode the same images, with
    the same settings.
    """
    source = sources.find(data)
    split = source.splits[-1]
    items = list(itertools.islice(split.items(0), images))
    workers = available_cores()
    first_images = replace(
        source, splits=(SourceSplit("train", len(items), lambda start: iter(items[start:])),)
    )

    settings = preparation.settled(StoreSettings(), first_images)

    def decode_resize_encode() -> None:
        work_on(items, source.upright, settings, workers)

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            preparation.prepare(first_images, Path(folder) / "store", settings, workers)

    serve(
        run if complete else decode_resize_encode,
        len(items),
        "images",
        f"{workers} threads",
        warm_up=1,
    )


def _kb_per_image(data: str) -> float:
    split = Store(data).split("train")
    sizes = [len(split.encoded(i)) for i in range(min(len(split), 500))]
    return sum(sizes) / len(sizes) / 1000


CANDIDATES: dict[str, Callable[..., None]] = {
    f.__name__: f for f in (step, infer, lrn, matmul, copy, loader, decode, prepare)
}


def main() -> None:
    """Run a candidate; each key=value becomes an argument, converted to a number or a bool."""
    what, *words = sys.argv[1:]
    literals = {"True": True, "False": False}
    pairs = (word.split("=", 1) for word in words)
    arguments = {
        key: literals.get(value, int(value) if value.isdigit() else value) for key, value in pairs
    }
    # As `alexnet train` does: PyTorch would take TF32 for float32, and not the fastest algorithms.
    only_deterministic(False)
    allow_tf32(str(arguments.get("precision", "float32")))
    CANDIDATES[what](**arguments)


if __name__ == "__main__":
    main()
