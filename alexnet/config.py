"""Every setting of the system as frozen values; standard library only, so that `--help` never waits for torch.

An experiment is one `dataclasses.replace` of a recipe (`recipes.py`). Section numbers are the paper's; "original"
marks what the authors' own published configuration (net 145) has instead.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

Unit = Literal["relu", "tanh", "logistic"]
Op = Literal["unit", "lrn", "spatial", "max_pool", "avg_pool", "dropout"]


@dataclass(frozen=True)
class Conv:
    """A convolution and what follows it, in order (section 3.5)."""

    name: str
    kernels: int
    """Kernels of all columns together."""
    size_px: int
    stride: int = 1
    pad: tuple[int, int] = (0, 0)
    """Pixels of zeros at (left and top, right and bottom)."""
    linked: bool = False
    """Sees the maps of every column, not of its own alone."""
    std: float | None = 0.01
    """Of the Gaussian the weights start from (section 5); None: PyTorch's own uniform start."""
    bias: float = 0.0
    then: tuple[Op, ...] = ("unit",)


@dataclass(frozen=True)
class Local:
    """A convolution whose kernels differ at every position (the CIFAR-10 nets)."""

    name: str
    kernels: int
    size_px: int
    pad: tuple[int, int] = (0, 0)
    std: float | None = 0.01
    bias: float = 0.0
    then: tuple[Op, ...] = ("unit",)


@dataclass(frozen=True)
class Full:
    """A fully connected layer and what follows it."""

    name: str
    units: int
    std: float | None = 0.01
    bias: float = 0.0
    then: tuple[Op, ...] = ()


Layer = Conv | Local | Full


@dataclass(frozen=True)
class Lrn:
    """b = a / (k + alpha * sum of squares of n adjacent maps) ** beta (section 3.3)."""

    n: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    """Multiplies the sum itself; PyTorch, Caffe and ONNX call n * this their alpha."""
    beta: float = 0.75


@dataclass(frozen=True)
class Spatial:
    """The original's second normalisation, over a square inside each map."""

    size_px: int = 5
    k: float = 1.0
    alpha: float = 0.001 / 25
    """Multiplies the sum itself."""
    beta: float = 0.75


@dataclass(frozen=True)
class Pool:
    """Overlapping pooling (section 3.4); 2/2 is the comparison."""

    size_px: int = 3
    stride: int = 2
    partial: bool = False
    """Windows may reach over the right and bottom border (the CIFAR-10 nets)."""


@dataclass(frozen=True)
class Dropout:
    """Section 4.2."""

    rate: float = 0.5
    form: Literal["2012", "inverted"] = "2012"
    """2012: not rescaled in training, outputs times (1 - rate) at test. inverted: rescaled in training."""
    masks: bool = True
    """False: no unit is zeroed, in training as at test. With form 2012 outputs are still multiplied by (1 - rate), as
    the authors' code does with `enable=false`, so the layers behind see values of the same size."""


@dataclass(frozen=True)
class Architecture:
    """A network as a value: a table of layers, and the fields that ablations turn."""

    layers: tuple[Layer, ...]
    input_px: int = 224
    classes: int | None = None
    """Units of the last layer; None: as many as the store has classes."""
    columns: int = 1
    """Groups of kernels that see only each other, but for linked layers (section 3.2)."""
    links: bool = True
    """False: the columns never meet before the last layer."""
    unit: Unit = "relu"
    normalise: bool = True
    """False leaves every lrn and spatial step out."""
    lrn: Lrn = Lrn()
    spatial: Spatial = Spatial()
    pool: Pool = Pool()
    dropout: Dropout = Dropout()
    width: float = 1.0
    """Multiplies the kernels and hidden units of every layer."""
    without: tuple[str, ...] = ()
    """Convolutions to leave out (not the first); their normalisation and pool stay."""
    bias: float | None = None
    """Stands in place of every bias that would start at something other than 0."""


@dataclass(frozen=True)
class Augment:
    """From stored uint8 pictures to the network's input (sections 2 and 4.1)."""

    crops: bool = True
    """Random patches in training; False: the centre patch."""
    last_offset: bool = True
    """Random crops reach the last offset too: 33x33 positions of 224 pixels in 256, as in the authors' code. False:
    32x32, which with reflections makes the paper's factor of 2048 (section 4.1)."""
    flips: bool = True
    chunk: int = 1
    """Images that share one position and one flip (original: 32)."""
    mean: Literal["pixel", "centre", "channel"] = "pixel"
    """pixel: of the mean image, at the patch's own place. centre: its centre patch for every patch (original).
    channel: torchvision's three numbers, after which RGB is divided by its three deviations."""
    colour: Literal["none", "paper", "original"] = "paper"
    """paper: sum of p_i * a_i * l_i with RGB in 0..1. original: a_i * sqrt(l_i) on 0..255, then the image is divided
    by 1 + colour_std, in training only."""
    colour_std: float = 0.1
    """Standard deviation of each a_i; 0 is no noise, and no division."""
    pca: Literal["store", "ilsvrc2012"] = "store"
    """Whose eigenvalues and eigenvectors: the training set's own, or those that the authors published for ILSVRC-2012
    (make-data/input_meta of cuda-convnet2, 2014; the release of 2012 has no such file)."""
    test_patches: Literal["ten", "nine", "centre"] = "ten"
    """ten: corners and centre, reflected too (section 4.1). nine: a 3x3 grid (the CIFAR-10 nets)."""


@dataclass(frozen=True)
class Sgd:
    """v <- momentum v - decay rate w - rate dL/dw; w <- w + v (section 5)."""

    batch: int = 128
    rate: float = 0.01
    momentum: float = 0.9
    decay: float = 0.0005
    decay_of: tuple[tuple[str, float], ...] = ()
    """(layer, decay) where a layer's differs."""
    bias_rate: float | None = None
    """None: as the weights'."""
    bias_rate_of: tuple[tuple[str, float], ...] = ()
    """(layer, bias_rate) where a layer's differs."""
    bias_falls: bool = True
    """A bias_rate falls with the weights' rate (original: no)."""
    bias_decay: bool = True
    """Biases decay as weights do (original: no)."""


@dataclass(frozen=True)
class LayerRate:
    """From `epoch` on, the layer learns at `rate` and no longer follows the schedule; 0 freezes it."""

    layer: str
    epoch: int
    rate: float
    weights_only: bool = False
    """The bias keeps its own learning rate."""


@dataclass(frozen=True)
class Plateau:
    """The rate is divided by 10 when validation error stops improving, `drops` times, then training ends."""

    epochs: int = 90
    """The most epochs."""
    patience: int = 5
    """Epochs without a gain before the rate falls."""
    least_gain: float = 0.002
    """What counts as a gain, as a fraction of the validation pictures."""
    drops: int = 3


@dataclass(frozen=True)
class Steps:
    """The rate is divided by 10 when each epoch of `drops` begins (counted from 0)."""

    epochs: int
    drops: tuple[int, ...] = ()
    layer_rates: tuple[LayerRate, ...] = ()
    colour_until: int | None = None
    """Colour noise ends when this epoch begins (original: 67)."""
    until_error: float | None = None
    """Training ends early once the validation error, a share, is no larger."""


Schedule = Plateau | Steps


@dataclass(frozen=True)
class Parallel:
    """How several processes, started by torchrun, share one network; one process ignores all but wrong settings."""

    columns: int = 1
    """Ranks that one net's columns are put on, a column each (section 3.2); 1: each rank has all columns. The batch is
    divided among as many shards as there are ranks for each column."""
    hybrid: bool = False
    """Fully connected layers are cut among all ranks, each part sees the whole batch; convolutions are data parallel
    (Krizhevsky 2014). Their 58.6 of 61 million gradients are then never sent."""
    timeout_s: float = 60.0
    """After this long without a word from another rank one gives up."""


@dataclass(frozen=True)
class Config:
    """One training run, whole: `run/config.json` holds it and is enough to run it again."""

    recipe: str
    architecture: Architecture
    augment: Augment = Augment()
    sgd: Sgd = Sgd()
    schedule: Schedule = field(default_factory=Plateau)
    data: str = ""
    """The prepared store: a folder, or a URL such as s3://bucket/store."""
    train_split: str = "train"
    val_split: str = "val"
    order: Literal["shuffled", "fixed"] = "shuffled"
    """Order of the training images. shuffled: anew in each epoch. fixed: drawn once, so that the images of a batch stay
    together in every epoch, as in the batch files of the authors' code."""
    seed: int = 0
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    precision: Literal["auto", "float64", "float32", "tf32", "bfloat16"] = "auto"
    """Of the arithmetic. Weights, velocity and loss are float32, with float64 they are float64, which takes the plain
    path everywhere: the reference that fast paths are compared with. On CUDA float32 is true float32, tf32 lets
    products use tensor cores with 10 bits of mantissa, and auto is bfloat16."""
    deterministic: bool = False
    """CUDA: only kernels that give the same bits every time."""
    workers: int = 2
    """Threads that decode; 0: none beside the training itself."""
    checkpoint_minutes: float = 10.0
    init: str = ""
    """A run whose weights to start from, where names and shapes agree. The last layer starts anew unless the run was
    trained on the same classes."""
    init_layers: tuple[str, ...] = ()
    """Layers to take from init; empty: all."""
    parallel: Parallel = Parallel()


LOSSLESS_PX = 64  # pictures this small are kept lossless unless told otherwise


@dataclass(frozen=True)
class StoreSettings:
    """What a store is made with; one begun with others is not taken up again."""

    size_px: int = 0
    """The side of the stored square. 0: 256 (section 2), or what pictures up to 64 pixels have (CIFAR-10)."""
    encoding: Literal["auto", "jpeg", "png", "ppm"] = "auto"
    """auto: lossless PNG up to 64 pixels a side, JPEG above. auto and jpeg keep JPEGs of the stored
    size as they are, byte for byte. ppm: the pixels as they are, eight times as large as JPEG and
    read several times as fast, where the disk or memory keeps up."""
    quality: int = 95
    """Of JPEG, 1 to 100; files that are kept have their own."""
    chroma: Literal["420", "444"] = "420"
    """Colour at half or at full resolution in JPEG."""
    most_skipped: float = 0.01
    """Stop when more than this share of a split cannot be read."""
    shard_images: int = 2048
    """Pictures in a file of the store."""

    def settled_encoding(self) -> Literal["jpeg", "png", "ppm"]:
        if self.encoding != "auto":
            return self.encoding
        return "png" if self.size_px <= LOSSLESS_PX else "jpeg"


def scaled(schedule: Schedule, epochs: int) -> Schedule:
    """The same schedule, stretched or shortened in proportion.

    Of every rate at least one epoch is left, as far as there are epochs; other changes after the last are left out.
    """
    if epochs < 1:
        raise ValueError(f"epochs is {epochs}; a schedule needs at least 1")
    if isinstance(schedule, Plateau):
        patience = max(1, round(schedule.patience * epochs / schedule.epochs))
        return dataclasses.replace(schedule, epochs=epochs, patience=patience)

    def at(epoch: int) -> int:
        return round(epoch * epochs / schedule.epochs)

    drops: list[int] = []
    for least, epoch in reversed(list(enumerate(schedule.drops, 1))):
        drops.insert(0, max(least, min(at(epoch), (drops or [epochs])[0] - 1)))
    return dataclasses.replace(
        schedule,
        epochs=epochs,
        drops=tuple(epoch for epoch in drops if epoch < epochs),
        layer_rates=tuple(
            dataclasses.replace(r, epoch=at(r.epoch))
            for r in schedule.layer_rates
            if at(r.epoch) < epochs
        ),
        colour_until=None if schedule.colour_until is None else at(schedule.colour_until),
    )


def without_effect(config: Config) -> list[str]:
    """A sentence for each setting that changes nothing because of another."""
    sgd, schedule, augment, architecture = (
        config.sgd,
        config.schedule,
        config.augment,
        config.architecture,
    )
    late = []
    if isinstance(schedule, Steps):
        late = [
            f"a drop of the rate at epoch {at}" for at in schedule.drops if at >= schedule.epochs
        ]
        late += [
            f"a rate of {r.layer} at epoch {r.epoch}"
            for r in schedule.layer_rates
            if r.epoch >= schedule.epochs
        ]
    found = [
        f"{what} lies after the last epoch, {schedule.epochs}; --epochs shortens in proportion"
        for what in late
    ]
    if augment.chunk > 1 and not (augment.crops or augment.flips):
        found.append("augment.chunk shares positions and flips, and both are off")
    if augment.colour == "none" and augment.pca != "store":
        found.append("augment.pca is set and the colour noise is off")
    if augment.colour == "none" and augment.colour_std != Augment.colour_std:
        found.append("augment.colour_std is set and the colour noise is off")
    if not augment.crops and not augment.last_offset:
        found.append("augment.last_offset is off and crops are not random")
    if sgd.bias_rate is None and not sgd.bias_falls:
        found.append("sgd.bias_falls is set and biases learn at the weights' rate")
    if architecture.columns == 1 and not architecture.links:
        found.append("architecture.links is off and there is one column")
    return found


def check(config: Config) -> None:
    """Raises ValueError for a number no run can have; shapes are `model.plan`'s to check."""
    sgd, schedule, augment = config.sgd, config.schedule, config.augment
    for name, value, least in (
        ("sgd.batch", sgd.batch, 1),
        ("schedule.epochs", schedule.epochs, 1),
        ("augment.chunk", augment.chunk, 1),
        ("workers", config.workers, 0),
        ("sgd.rate", sgd.rate, 0),
        ("sgd.decay", sgd.decay, 0),
        ("augment.colour_std", augment.colour_std, 0),
        ("checkpoint_minutes", config.checkpoint_minutes, 0),
        ("seed", config.seed, 0),
        ("parallel.timeout_s", config.parallel.timeout_s, 1),
    ):
        if not value >= least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
    if not 0 <= sgd.momentum < 1:
        raise ValueError(f"sgd.momentum is {sgd.momentum}; it must be at least 0 and below 1")
    if isinstance(schedule, Plateau) and schedule.patience < 1:
        raise ValueError(f"schedule.patience is {schedule.patience}; it must be at least 1")
    layers = [layer.name for layer in config.architecture.layers]
    named = [name for name, _ in (*sgd.decay_of, *sgd.bias_rate_of)]
    named += [rate.layer for rate in schedule.layer_rates] if isinstance(schedule, Steps) else []
    for name in config.init_layers:
        if name not in layers:
            raise ValueError(f"init_layers names {name!r}; the layers are {', '.join(layers)}")
    for name in named:
        if name not in layers:
            raise ValueError(
                f"a rate or decay is set for {name!r}; the layers are {', '.join(layers)}"
            )
