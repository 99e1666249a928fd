"""Pinned numbers: every constant of every recipe, and the first steps of its training.

`golden/RECIPE.txt` holds two parts. The constants are written down from the specification: the
paper, and the authors' configuration files. They are never copied from the program. The steps are
those of a narrow version of the recipe in float64, in which PyTorch's operations alone compute the
layers and no processor differs from another by more than 1e-9: they pin the order of images, crops,
masks and arithmetic.

A change that should not alter the arithmetic leaves these files untouched. One that should makes
the steps anew with `python -m tests.test_golden` and says why in its commit.
"""

from __future__ import annotations

import json
import math
import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from alexnet import recipes
from alexnet.architecture import Op, plan
from alexnet.config import (
    Config,
    Conv,
    FullyConnected,
    Local,
    Plateau,
    SmoothSchedule,
    StepSchedule,
    StoreSettings,
    scaled,
)
from alexnet.data.augment import ILSVRC2012_ROOTS, ILSVRC2012_VECTORS
from alexnet.data.image import encode
from alexnet.data.prepare import prepare
from alexnet.data.preprocess import TORCHVISION_MEAN, TORCHVISION_STD
from alexnet.data.sources import InHand, Item, Source, SourceSplit
from alexnet.distributed.mesh import Mesh
from alexnet.distributed.sharded import ShardedNetwork
from alexnet.model import Network
from alexnet.train import setup
from alexnet.train.sgd import PlateauState, param_hyper
from alexnet.train.start import fit

GOLDEN = Path(__file__).parent / "golden"
# The files call the operations of PyTorch the plain path. For the normalizations they are those of
# `normalise._by_pieces`, and not the formulas of `plain.py`.
STEPS = "# steps of the narrow version, plain path in float64\n"
NUMBER = r"(?<![\w.])-?\d+\.?\d*(?:e[-+]?\d+)?"
FAST = "paper", "original", "torchvision", "cifar_18", "cifar_11"
"""Recipes whose fast path is compared; at least one has each operator and pass that has one."""

KIN = (
    *("caffe_alexnet", "caffenet", "original_2010", "original_one_column", "original_six_conv"),
    *("pre_trained", "fine_tuned", "one_column", "six_conv", "modern"),
)
"""Recipes whose operations others have too; their steps are compared among the slow tests."""
STEPPED = [
    pytest.param(name, marks=pytest.mark.slow) if name in KIN else name for name in recipes.__all__
]

# The narrow version trains in seconds and is large enough for every random draw to matter. 37
# images in batches of 8 are 5 steps per epoch, the last with 5 images, so the chunk of 32 images
# of `original` ends within the epoch. In 4 epochs every change of a schedule takes place.
WIDTH, BATCH, TRAIN, VAL, EPOCHS, CLASSES = 1 / 16, 8, 37, 8, 4, 10


def synthetic_images(count: int, size_px: int, seed: int) -> np.ndarray:
    """Blobs of color and noise, from integers alone: (count, size_px, size_px, 3) uint8."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, size_px], np.uint64)))
    coarse = rng.integers(0, 200, (count, 4, 4, 3), np.uint8)
    repeated = coarse.repeat(size_px // 4, 1).repeat(size_px // 4, 2)
    return repeated + rng.integers(0, 56, repeated.shape, np.uint8)


def synthetic_store(folder: Path, size_px: int) -> Path:
    """A lossless store with the splits that recipes ask for."""
    store = folder / f"store-{size_px}"
    if store.exists():
        return store

    def split(name: str, count: int, seed: int) -> SourceSplit:
        images = synthetic_images(count, size_px, seed)
        items = [
            Item(f"{name}-{i}", i % CLASSES, InHand(encode(image, "ppm")))
            for i, image in enumerate(images)
        ]
        return SourceSplit(name, count, lambda start: iter(items[start:]))

    splits = split("train", TRAIN, 1), split("val", VAL, 2), split("test", VAL, 3)
    source = Source("synthetic", tuple(f"class {i}" for i in range(CLASSES)), splits)
    prepare(source, store, StoreSettings(size_px=size_px, encoding="ppm"))
    return store


def narrow(config: Config, store: Path, precision: str) -> Config:
    """The recipe at a fraction of its width, for `EPOCHS` epochs of the synthetic store."""
    architecture = config.architecture
    lr = config.sgd.lr
    if any("batch_norm" in layer.then for layer in architecture.layers):
        # For the smaller batch. At the recipe's own rate, behind batch normalization, rounding
        # differences more than double in each of the steps.
        lr *= BATCH / config.sgd.batch
    return replace(
        config,
        # Without `scale_std`: RecordedNet scales the weights itself.
        architecture=replace(architecture, width=WIDTH, scale_std=False, classes=CLASSES),
        sgd=replace(config.sgd, batch=BATCH, lr=lr),
        schedule=scaled(config.schedule, EPOCHS),
        data=str(store),
        seed=7,
        device="cpu",
        precision=precision,  # type: ignore[arg-type]
        workers=0,
    )


class RecordedNet(ShardedNetwork):
    """Starts from weights drawn by NumPy, and records the loss of every training step.

    PyTorch's normal numbers differ in the last bits between processors; NumPy's do not. The weights
    are divided by the square root of the width, so that the signal reaches the last layer.
    """

    losses: list[float]

    def __init__(self, architecture: object, seed: int, mesh: Mesh) -> None:
        super().__init__(architecture, seed, mesh)  # type: ignore[arg-type]
        RecordedNet.losses = []
        rng = np.random.Generator(np.random.Philox(key=np.array([seed, 0], np.uint64)))
        for op in self.plan:
            if op.op == "linear":
                std = self._std(op)
                drawn = rng.standard_normal(op.weight_shape) * std
                layer = self.get_submodule(op.module)
                with torch.no_grad():
                    layer.weight.copy_(torch.from_numpy(drawn))
                    layer.bias.fill_(op.layer.bias)

    @staticmethod
    def _std(op: Op) -> float:
        if op.layer.std is None:  # PyTorch's own initialization depends on the width already
            return 1 / math.sqrt(3 * math.prod(op.weight_shape[1:4]))
        return op.layer.std / math.sqrt(WIDTH)

    def loss(self, *arguments: object, **named: object) -> tuple[torch.Tensor, torch.Tensor]:
        loss, wrong = super().loss(*arguments, **named)  # type: ignore[arg-type]
        self.losses.append(float(loss.detach()))
        return loss, wrong


def trajectory(
    config: Config, folder: Path, precision: str, patch: pytest.MonkeyPatch
) -> list[str]:
    """The steps and epochs of the narrow version, trained by `fit` itself."""
    stored_px = {227: 256, 224: 256, 112: 128, 32: 32, 24: 32}[config.architecture.input_px]
    store = synthetic_store(folder, stored_px)
    run = Path(tempfile.mkdtemp(dir=folder)) / "run"
    patch.setattr(setup, "ShardedNetwork", RecordedNet)
    fit(narrow(config, store, precision), run)
    lines = [f"step {i} loss {loss!r}" for i, loss in enumerate(RecordedNet.losses, 1)]
    for text in (run / "metrics.jsonl").read_text().splitlines():
        epoch = json.loads(text)
        if epoch["kind"] == "epoch":
            named = " ".join(f"{name} {epoch[name]!r}" for name in ("train_error", "val_loss"))
            lines.append(f"epoch {epoch['epoch']} {named} val_error {epoch['val_error']!r}")
    return lines


def constants(config: Config) -> list[str]:
    """Every constant of a recipe, one on a line, in words independent of the names in the code."""
    architecture, sgd, schedule = config.architecture, config.sgd, config.schedule
    used = {op for layer in architecture.layers for op in layer.then}
    lines = [
        ("input_px", architecture.input_px),
        ("columns", architecture.columns),
        ("activation", architecture.activation),
        ("width", architecture.width),
    ]
    if architecture.columns > 1:
        lines.append(("columns_meet", yes(architecture.links)))
    steps = [step for step in plan(architecture) if step.op == "linear"]
    for step in steps:
        lines += layer_constants(config, step)
    lines.append(("parameters", sum(step.parameters for step in steps)))
    if "lrn" in used:
        n = architecture.lrn
        lines += [("lrn.n", n.n), ("lrn.k", n.k), ("lrn.alpha", n.alpha), ("lrn.beta", n.beta)]
        if architecture.lrn_across_columns:
            lines += [("lrn.sum_crosses_the_columns", "yes")]
    if "spatial_norm" in used:
        s = architecture.spatial_norm
        lines += [("spatial_norm.size_px", s.size_px), ("spatial_norm.k", s.k)]
        lines += [("spatial_norm.alpha", s.alpha), ("spatial_norm.beta", s.beta)]
    if "batch_norm" in used:
        norm = architecture.batch_norm
        lines += [("batch_norm.epsilon", norm.epsilon), ("batch_norm.momentum", norm.momentum)]
    pool = architecture.pool
    lines += [("pool.size_px", pool.size_px), ("pool.stride", pool.stride)]
    lines += [("pool.windows_reach_over_the_border", yes(pool.partial))]
    if "dropout" in used:
        d = architecture.dropout
        lines += [("dropout.rate", d.rate), ("dropout.rescales_in_training", yes(d.form != "2012"))]
        lines += [("dropout.masks", yes(d.masks))]
    lines += augmentation_constants(config)
    lines += [("batch", sgd.batch), ("momentum", sgd.momentum), ("order", config.order)]
    lines += [("epochs", schedule.epochs)]
    if isinstance(schedule, Plateau):
        lines += [("plateau.patience", schedule.patience)]
        lines += [("plateau.min_delta", schedule.min_delta), ("plateau.drops", schedule.drops)]
    elif isinstance(schedule, SmoothSchedule):
        lines += [("lr.curve", schedule.form), ("lr.rises_for_epochs", schedule.warmup_epochs)]
    else:
        lines += [("stops_at_error", schedule.until_error or "never")]
    if config.label_smoothing:
        lines += [("label_smoothing", config.label_smoothing)]
    if sgd.ema_decay:
        lines += [("average_of_the_weights.decay", sgd.ema_decay)]
    lines += [("train_split", config.train_split), ("val_split", config.val_split)]
    lines += [("init_layers", " ".join(config.init_layers) or "all")]
    return [f"{name} = {number(value)}" for name, value in lines]


def layer_constants(config: Config, step: Op) -> list[tuple[str, object]]:
    """The shape and start of a layer, what follows it, and how its parameters learn."""
    layer = step.layer
    lines: list[tuple[str, object]] = []
    if isinstance(layer, FullyConnected):
        lines += [("units", layer.units)]
    else:
        lines += [("kind", "locally connected" if isinstance(layer, Local) else "convolution")]
        lines += [("kernels", layer.kernels), ("size_px", layer.size_px)]
        lines += [("stride", layer.stride if isinstance(layer, Conv) else 1)]
        lines += [("pad_left_and_top", layer.pad[0]), ("pad_right_and_bottom", layer.pad[1])]
    lines += [("sees", "all columns" if step.columns == 1 else "its own column")]
    start = "uniform within 1/sqrt(fan-in)" if layer.std is None else layer.std
    lines += [("start.weights", start)]
    lines += [("start.biases", start if layer.std is None else layer.bias)]
    lines += [("then", " ".join(layer.then) or "nothing")]
    for kind in ("weights", "biases"):
        name = f"{layer.name}.{ {'weights': 'weight', 'biases': 'bias'}[kind] }"
        lines += [(f"{kind}.lr", learning_rates(config, name))]
        lines += [(f"{kind}.decay", param_hyper(config, name, 0, PlateauState()).weight_decay)]
    return [(f"{layer.name}.{name}", value) for name, value in lines]


def learning_rates(config: Config, parameter: str) -> str:
    """The learning rates of a parameter, as in `0.01 from epoch 0, 0.001 from epoch 25`."""
    if isinstance(config.schedule, SmoothSchedule):
        highest = param_hyper(config, parameter, config.schedule.warmup_epochs, PlateauState()).lr
        return f"{number(highest)} at most"
    if isinstance(config.schedule, Plateau):
        moments = [
            (f"drop {n}", 0, PlateauState(drops=n)) for n in range(config.schedule.drops + 1)
        ]
    else:
        moments = [(f"epoch {n}", n, PlateauState()) for n in range(config.schedule.epochs)]
    changes: list[tuple[str, str]] = []
    for moment, epoch, state in moments:
        rate = number(param_hyper(config, parameter, epoch, state).lr)
        if not changes or changes[-1][0] != rate:
            changes.append((rate, moment))
    return ", ".join(f"{rate} from {moment}" for rate, moment in changes)


def augmentation_constants(config: Config) -> list[tuple[str, object]]:
    augment, schedule = config.augment, config.schedule
    lines: list[tuple[str, object]] = [("crops", "random" if augment.crops else "centre")]
    if augment.crops:
        lines += [("crops.last_offset", yes(augment.last_offset))]
        if augment.zoom != 1:
            lines += [("crops.zoom", augment.zoom)]
        if augment.zoom_to != 1:
            lines += [("crops.zoom_to", augment.zoom_to)]
    lines += [("flips", yes(augment.flips)), ("images_that_share_a_crop", augment.chunk)]
    means = {"pixel": "of each pixel", "centre": "centre crop", "channel": "of each channel"}
    lines += [("mean", means[augment.mean])]
    if augment.mean == "channel":
        lines += [("mean.rgb", " ".join(map(str, TORCHVISION_MEAN)))]
        lines += [("mean.divided_by", " ".join(map(str, TORCHVISION_STD)))]
    lines += [("color_noise", augment.colour)]
    if augment.colour != "none":
        lines += [("color_noise.std", augment.colour_std)]
        ends = schedule.colour_until if isinstance(schedule, StepSchedule) else None
        lines += [("color_noise.off_from_epoch", "never" if ends is None else ends)]
        if augment.pca == "ilsvrc2012":
            lines += [("pca.square_roots", " ".join(map(number, ILSVRC2012_ROOTS)))]
            for i, vector in enumerate(ILSVRC2012_VECTORS, 1):
                lines += [(f"pca.vector_{i}", " ".join(map(number, vector)))]
        else:
            lines += [("pca", "of the training set")]
    return [*lines, ("test_crops", augment.test_patches)]


def yes(value: bool) -> str:
    return "yes" if value else "no"


def number(value: object) -> str:
    return format(value, ".10g") if isinstance(value, int | float) else str(value)


def start(config: Config) -> list[str]:
    """The first weights of each layer of the narrow version, as the recipe's own seed draws them.

    PyTorch's normal numbers differ in the last bits between processors, so these are compared
    within 1e-6 of the largest of them, and the steps do not depend on them.
    """
    narrow_architecture = replace(
        config.architecture, width=WIDTH, scale_std=False, classes=CLASSES
    )
    net = Network(narrow_architecture, seed=7)
    lines = []
    for name, weight in net.named_parameters():
        if name.endswith(".weight"):
            first = weight.detach().contiguous().flatten()[:3].tolist()
            lines.append(f"start {name} {' '.join(f'{value:.8g}' for value in first)}")
    return lines


def read(recipe: str) -> tuple[list[str], list[str]]:
    """The constants, and the start and steps, of a golden file, without comments."""
    constants, steps = (
        [line for line in part.splitlines() if line and not line.startswith("#")]
        for part in (GOLDEN / f"{recipe}.txt").read_text().split(STEPS)
    )
    return constants, steps


def largest_difference(got: list[str], want: list[str]) -> float:
    """The largest difference between the numbers of two lists of lines.

    It is relative to numbers above 1. Apart from numbers, the lines must be equal.
    """
    assert [re.sub(NUMBER, "", line) for line in got] == [re.sub(NUMBER, "", line) for line in want]
    pairs = zip(
        re.findall(NUMBER, "\n".join(got)), re.findall(NUMBER, "\n".join(want)), strict=True
    )
    return max(abs(float(a) - float(b)) / max(1.0, abs(float(b))) for a, b in pairs)


def start_difference(got: list[str], want: list[str]) -> float:
    """The largest difference between weights of two lists of lines "start NAME WEIGHTS".

    It is relative to the largest weight of its line: weights of 1e-4 are compared as exactly as
    those of 1.
    """
    largest = 0.0
    for ours, theirs in zip(got, want, strict=True):
        assert ours.split()[:2] == theirs.split()[:2]
        weights, expected = (np.array(line.split()[2:], float) for line in (ours, theirs))
        difference = np.abs(weights - expected).max() / np.abs(expected).max()
        largest = max(largest, float(difference))
    return largest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("golden")


def test_every_recipe_has_a_golden_file() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == sorted(recipes.__all__)


@pytest.mark.parametrize("recipe", recipes.__all__)
def test_golden_constants(recipe: str) -> None:
    """Every constant of a recipe is that of the specification."""
    assert constants(getattr(recipes, recipe)()) == read(recipe)[0]


@pytest.mark.parametrize("recipe", STEPPED)
def test_golden_steps(recipe: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Order, crops, masks, learning rates and arithmetic have not changed."""
    config = getattr(recipes, recipe)()
    want = read(recipe)[1]
    begun = [line for line in want if line.startswith("start ")]
    assert start_difference(start(config), begun) < 1e-6
    got = trajectory(config, folder, "float64", monkeypatch)
    # Batch normalization divides by the deviation of as few as five values, so that the order of
    # a sum, in the last of 53 bits, reaches 2e-8 of a loss. A wrong constant changes it by 1e-3.
    normalised = any("batch_norm" in layer.then for layer in config.architecture.layers)
    assert largest_difference(got, want[len(begun) :]) < (1e-6 if normalised else 1e-9)


@pytest.mark.parametrize("recipe", FAST)
def test_golden_steps_by_the_fast_path(
    recipe: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fast path in float32 takes the same steps.

    Rounding every product to 24 bits changes a loss by a few 1e-6 over 20 steps; a wrong constant
    changes it by at least 1e-3.
    """
    got = trajectory(getattr(recipes, recipe)(), folder, "float32", monkeypatch)
    steps = [line for line in read(recipe)[1] if not line.startswith("start ")]
    assert largest_difference(got, steps) < 1e-4


def make(recipe: str) -> None:
    """Write the start and steps of a golden file anew; its constants are not changed."""
    path = GOLDEN / f"{recipe}.txt"
    kept = path.read_text().split(STEPS)[0] if path.exists() else ""
    config = getattr(recipes, recipe)()
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        lines = start(config) + trajectory(config, Path(folder), "float64", patch)
    path.write_text(kept + STEPS + "\n".join(lines) + "\n")


if __name__ == "__main__":
    for name in sys.argv[1:] or recipes.__all__:
        make(name)
