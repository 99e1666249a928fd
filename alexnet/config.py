"""Every setting of the system, as frozen dataclasses.

An experiment is one `dataclasses.replace` of a recipe (`recipes.py`). Section numbers are the
paper's; "original" marks what the authors' own published configuration (net 145) has instead.
The values are checked in `config_checks.py`. This module imports the standard library only, so
that `--help` does not wait for torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from alexnet.errors import ConfigError

Activation = Literal["relu", "tanh", "logistic"]
OpName = Literal[
    "activation", "lrn", "spatial_norm", "batch_norm", "max_pool", "avg_pool", "dropout"
]


@dataclass(frozen=True)
class Conv:
    """A convolution and the operations that follow it, in order (section 3.5)."""

    name: str
    kernels: int
    """Number of filters in all columns together."""
    size_px: int
    stride: int = 1
    # Two numbers, because the authors' code pads conv1 on one side only.
    pad: tuple[int, int] = (0, 0)
    """Zero padding in pixels: (left and top, right and bottom)."""
    linked: bool = False
    """Sees the maps of all columns instead of only those of its own."""
    std: float | None = 0.01
    """Standard deviation of the Gaussian initialization (section 5). None: PyTorch's default
    uniform initialization, of the biases too."""
    bias: float = 0.0
    then: tuple[OpName, ...] = ("activation",)
    """Operations that follow it, in order; batch normalization (later than the paper) is one."""


@dataclass(frozen=True)
class Local:
    """A locally connected layer: different filters at every position (the CIFAR-10 nets)."""

    name: str
    kernels: int
    size_px: int
    pad: tuple[int, int] = (0, 0)
    std: float | None = 0.01
    bias: float = 0.0
    then: tuple[OpName, ...] = ("activation",)
    """Operations that follow it, in order; batch normalization (later than the paper) is one."""


@dataclass(frozen=True)
class FullyConnected:
    """A fully connected layer and the operations that follow it, in order."""

    name: str
    units: int
    std: float | None = 0.01
    bias: float = 0.0
    then: tuple[OpName, ...] = ()
    """Operations that follow it, in order; batch normalization (later than the paper) is one."""


Layer = Conv | Local | FullyConnected


@dataclass(frozen=True)
class Lrn:
    """Local response normalization (section 3.3).

    b = a / (k + alpha * sum of squares of n adjacent maps) ** beta
    """

    # The defaults of this class are the numbers of section 3.3.

    n: int = 5
    """Maps in the sum: n // 2 on either side and the map itself, so that 4 and 5 are the same."""
    k: float = 2.0
    alpha: float = 1e-4
    """Factor of the sum. PyTorch, Caffe and ONNX apply theirs to the mean: it is n times this."""
    beta: float = 0.75

    @property
    def num_maps(self) -> int:
        """Number of maps in the sum, an odd number."""
        return 2 * (self.n // 2) + 1


@dataclass(frozen=True)
class SpatialNorm:
    """The second normalization of the original, over a square inside each map."""

    size_px: int = 5
    k: float = 1.0
    # The authors' files divide alpha by the number of pixels in the square, 5x5.
    alpha: float = 0.001 / 25
    """Factor of the sum over the square, not of its mean."""
    beta: float = 0.75


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalization (Ioffe and Szegedy 2015), later than the paper.

    In training a map is normalized by its mean and variance in the batch, at test time by running
    ones. Only a single process can train it.
    """

    epsilon: float = 1e-5
    """Added to the variance."""
    momentum: float = 0.1
    """Share of the present batch in the running mean and variance."""


@dataclass(frozen=True)
class Pool:
    """Overlapping pooling (section 3.4); the paper compares it with size 2 and stride 2."""

    # z = 3 and s = 2 in the paper.
    size_px: int = 3
    stride: int = 2
    partial: bool = False
    """Windows may extend beyond the right and bottom border (the CIFAR-10 nets)."""


@dataclass(frozen=True)
class Dropout:
    """Dropout (section 4.2)."""

    rate: float = 0.5
    form: Literal["2012", "inverted"] = "2012"
    """2012: no rescaling in training, outputs times (1 - rate) at test time. inverted: outputs are
    divided by (1 - rate) in training."""
    masks: bool = True
    """False: no unit is set to zero, in training as at test time. With form 2012 outputs are still
    multiplied by (1 - rate), as in the authors' code with `enable=false`, so that the layers behind
    see values of the same size."""


@dataclass(frozen=True)
class Architecture:
    """A network as a value: a table of layers, and the fields that ablations change."""

    layers: tuple[Layer, ...]
    input_px: int = 224
    classes: int | None = None
    """Number of units of the last layer. None: the number of classes in the store."""
    columns: int = 1
    """Number of columns: groups of filters that see only each other's maps, except in linked and
    fully connected layers (section 3.2). 1 keeps all filters, which then see all maps: this is not
    the paper's network with one column, which has fewer (recipe one_column)."""
    links: bool = True
    """False: the columns are separate up to the last layer."""
    activation: Activation = "relu"
    normalise: bool = True
    """False removes every lrn and spatial_norm operation."""
    lrn: Lrn = Lrn()
    lrn_across_columns: bool = False
    """The sum of the response normalization crosses from one column to the next, as in Caffe, whose
    groups exist in convolutions alone. False: it stays inside its column, as in the paper."""
    spatial_norm: SpatialNorm = SpatialNorm()
    batch_norm: BatchNorm = BatchNorm()
    pool: Pool = Pool()
    dropout: Dropout = Dropout()
    width: float = 1.0
    """Factor of the number of filters and hidden units of every layer."""
    scale_std: bool = False
    """Divide the standard deviation of the initial weights of all layers but the first by the
    square root of `width`, so that a narrower network passes the signal on as the full one does.
    False, as in version 0.2: the deviations do not depend on the width."""
    without: tuple[str, ...] = ()
    """Convolutions to remove (not the first); their normalization and pooling stay."""
    bias: float | None = None
    """Initial value of every bias whose initial value would not be 0."""

    @property
    def lrn_columns(self) -> int:
        """Number of groups of maps inside which response normalization sums."""
        return 1 if self.lrn_across_columns else self.columns


@dataclass(frozen=True)
class Augment:
    """How stored uint8 images become the input of the network (sections 2 and 4.1)."""

    crops: bool = True
    """Random crops in training. False: the center crop."""
    last_offset: bool = True
    """Random crops include the last offset: 33x33 positions of 224 pixels in 256, as in the
    authors' code. False: 32x32, which with reflections makes the paper's factor of 2048
    (section 4.1)."""
    zoom: float = 1.0
    """Smallest area of a random crop, as a share of the input's. Below 1 the area is drawn between
    this and zoom_to and the aspect ratio between 3/4 and 4/3, and the crop is rescaled to the
    input. Later than the paper (Szegedy et al. 2014), for small sets."""
    zoom_to: float = 1.0
    """Largest area of a random crop, as a share of the input's. Above 1 crops are zoomed even where
    zoom is 1; a side ends at the border of the stored image. The published random resized crop, 8 %
    to 100 % of the stored image, is zoom 0.105 and zoom_to 1.306 for 224 of 256 pixels."""
    mixup: float = 0.0
    """Parameter of the beta distribution of the share of the next image of the batch that is added
    to each training image and its target (Zhang et al. 2017); 0: none. The training error is
    counted against the label with the larger share."""
    cutmix: float = 0.0
    """The same for a square that is pasted from the next image (Yun et al. 2019). With both, half
    of the images have either."""
    flips: bool = True
    """Horizontal reflections in training, with probability 1/2."""
    chunk: int = 1
    """Number of images that share one crop position and one flip (original: 32)."""
    mean: Literal["pixel", "centre", "channel"] = "pixel"
    """The mean to subtract. pixel: the mean image, at the position of the crop. centre: the center
    crop of the mean image, for every crop (original). channel: torchvision's mean of each channel,
    after which each channel is divided by torchvision's deviation."""
    colour: Literal["none", "paper", "original"] = "paper"
    """Color noise. paper: sum of p_i * a_i * l_i, with RGB in 0..1. original: a_i * sqrt(l_i) for
    RGB in 0..255, after which the image is divided by 1 + colour_std, in training only."""
    # "A Gaussian with mean zero and standard deviation 0.1" (section 4.1).
    colour_std: float = 0.1
    """Standard deviation of each a_i; 0: no noise and no division."""
    pca: Literal["store", "ilsvrc2012"] = "store"
    """Source of the eigenvalues and eigenvectors. store: the training set. ilsvrc2012: the values
    that the authors published for ILSVRC-2012 (make-data/input_meta of cuda-convnet2, 2014; the
    release of 2012 has no such file)."""
    test_patches: Literal["ten", "nine", "centre"] = "ten"
    """ten: the corners, the center and their reflections (section 4.1). nine: a 3x3 grid (the
    CIFAR-10 nets). centre: the center crop."""
    test_px: int = 0
    """Side of the test crops, in pixels of the stored image; 0: that of the input. A larger crop is
    rescaled to the input, whose size the fully connected layers fix: the test sees more of each
    image, at a smaller scale (later than the paper)."""


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent (section 5).

    v <- momentum * v - weight_decay * lr * w - lr * dL/dw
    w <- w + v
    """

    # The defaults are the numbers of section 5.
    batch: int = 128
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0005
    weight_decay_of: tuple[tuple[str, float], ...] = ()
    """(layer, weight_decay) for layers whose weight decay differs."""
    bias_lr: float | None = None
    """Learning rate of the biases, which `lr` does not change. None: that of the weights."""
    bias_lr_of: tuple[tuple[str, float], ...] = ()
    """(layer, bias_lr) for layers whose bias learning rate differs."""
    bias_lr_follows: bool = True
    """bias_lr drops together with the learning rate of the weights (original: no)."""
    bias_decay: bool = True
    """Weight decay applies to biases too, and to the gains of batch normalization (original:
    no)."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the weights per step, which is validated, tested
    and exported in place of the weights (later than the paper); 0: none. In step t, counted from 0,
    it is at most (1 + t) / (10 + t), so that the first weights are soon forgotten. The average
    takes the memory of the weights once more, 244 MB for `paper`, and so it does in a
    checkpoint."""


@dataclass(frozen=True)
class LayerLr:
    """From `epoch` on, the layer learns at `lr` instead of the schedule's rate; 0 freezes it."""

    layer: str
    epoch: int
    lr: float
    weights_only: bool = False
    """The bias keeps its learning rate."""


@dataclass(frozen=True)
class Plateau:
    """Divide the learning rate by 10 when the validation error stops improving (section 5).

    After `drops` drops the next stop ends the training.
    """

    epochs: int = 90
    """Maximum number of epochs."""
    # The paper says only "when the validation error rate stopped improving"; the two numbers are
    # ours.
    patience: int = 5
    """Number of epochs without an improvement before the learning rate drops."""
    min_delta: float = 0.002
    """Smallest decrease of the validation error, a fraction, that counts as an improvement."""
    # "Reduced three times prior to termination" (section 5).
    drops: int = 3


@dataclass(frozen=True)
class StepSchedule:
    """Divide the learning rate by 10 at the beginning of each epoch of `drops`, counted from 0."""

    epochs: int
    """Number of epochs, unless `until_error` ends the training before."""
    drops: tuple[int, ...] = ()
    """Epochs at whose beginning the learning rate falls."""
    layer_lrs: tuple[LayerLr, ...] = ()
    colour_until: int | None = None
    """Epoch at whose beginning the color noise ends (original: 67)."""
    until_error: float | None = None
    """Training ends once the validation error, a fraction, is at most this."""


@dataclass(frozen=True)
class SmoothSchedule:
    """Lower the learning rate in every step, from `sgd.lr` to nearly 0 (later than the paper).

    The rate of a step is the value of the curve at the middle of the step.
    """

    epochs: int
    """Number of epochs, the warm-up included."""
    form: Literal["cosine", "linear"] = "cosine"
    """The curve after the warm-up. cosine: half a period (Loshchilov and Hutter 2016). linear: a
    straight line."""
    warmup_epochs: float = 0.0
    """Epochs at the beginning in which the learning rate rises linearly from 0 to sgd.lr."""


Schedule = Plateau | StepSchedule | SmoothSchedule


def scaled(schedule: Schedule, epochs: int) -> Schedule:
    """Stretch or shorten a schedule in proportion to `epochs`.

    Between two drops at least one epoch is left, as long as there are enough epochs. Other changes,
    those of single layers among them, may fall into one epoch; those that would come after the last
    epoch are removed.

    Raises:
        ConfigError: `epochs` is less than 1.
    """
    if epochs < 1:
        raise ConfigError(f"epochs is {epochs}; a schedule needs at least 1")
    if isinstance(schedule, Plateau):
        # At least 1, which is the smallest patience that `check` accepts.
        patience = max(1, round(schedule.patience * epochs / schedule.epochs))
        return replace(schedule, epochs=epochs, patience=patience)
    if isinstance(schedule, SmoothSchedule):
        warmup = schedule.warmup_epochs * epochs / schedule.epochs
        return replace(schedule, epochs=epochs, warmup_epochs=warmup)

    def at(epoch: int) -> int:
        return round(epoch * epochs / schedule.epochs)

    # From the last drop to the first: each lies before the one that follows, and the n-th not
    # before epoch n, so that rounding never merges two drops.
    drops: list[int] = []
    within = [epoch for epoch in schedule.drops if epoch < schedule.epochs]
    for least, epoch in reversed(list(enumerate(within, 1))):
        drops.insert(0, max(least, min(at(epoch), (drops or [epochs])[0] - 1)))
    return replace(
        schedule,
        epochs=epochs,
        drops=tuple(epoch for epoch in drops if epoch < epochs),
        layer_lrs=tuple(
            replace(r, epoch=at(r.epoch)) for r in schedule.layer_lrs if at(r.epoch) < epochs
        ),
        colour_until=None if schedule.colour_until is None else at(schedule.colour_until),
    )


@dataclass(frozen=True)
class Parallel:
    """How several processes, started by torchrun, share one network.

    A single process ignores the first two, except to reject invalid ones.
    """

    columns: int = 1
    """Number of ranks that share the columns of one network, one column each (section 3.2); 1: each
    rank holds all columns. The batch is divided among the ranks that hold the same columns."""
    hybrid: bool = False
    """Shard the fully connected layers among all ranks, each shard for the full batch, while the
    convolutions are data parallel (Krizhevsky 2014). The gradients of the fully connected layers,
    58.6 of 61 million, are then never sent."""
    timeout_s: float = 60.0
    """Timeout of a collective operation, in seconds. Half of it is how long a store may be silent,
    also in a single process."""


@dataclass(frozen=True)
class Config:
    """All settings of a training run; `run/config.json` stores them and suffices to repeat it."""

    recipe: str
    architecture: Architecture
    augment: Augment = Augment()
    sgd: Sgd = Sgd()
    schedule: Schedule = field(default_factory=Plateau)
    label_smoothing: float = 0.0
    """Share of each target that is spread evenly over all classes, in training only (Szegedy et al.
    2015). The training loss that is printed and logged is then that of the smoothed targets; the
    validation loss never is."""
    data: str = ""
    """The store of prepared images: a folder, or a URL such as s3://bucket/store."""
    train_split: str = "train"
    val_split: str = "val"
    order: Literal["shuffled", "fixed"] = "shuffled"
    """Order of the training images. shuffled: a new order in each epoch. fixed: drawn once, so that
    the images of a batch stay together, as in the batch files of the authors' code."""
    seed: int = 0
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    precision: Literal["auto", "float64", "float32", "tf32", "bfloat16"] = "auto"
    """Precision of activations and products. Weights, velocity and loss are float32. With float64
    everything is float64, and products, normalizations and pools are operations of PyTorch alone,
    with which compiled code and kernels are compared. On CUDA float32 is true float32, tf32 lets
    products use tensor cores with 10 bits of mantissa, and auto is bfloat16."""
    deterministic: bool = False
    """On CUDA, use only kernels that give the same bits every time."""
    workers: int | None = None
    """Number of threads that decode images. 0: the training thread decodes. None: on CUDA the cores
    of the process but one, at most 40; elsewhere 2, because the device is the cores."""
    resident: bool = False
    """Decode all training images once, into the memory of the device: 197 KB for an image of 256
    pixels. Where they do not fit, they are decoded in every epoch, with a warning."""
    gpu_decoding: bool = False
    """Decode the JPEGs of the training split on the CUDA GPU, by torchcodec (the extra `gpu`).
    Their pixels differ from those that a CPU decodes: in rounding, and more at colored edges."""
    checkpoint_minutes: float = 10.0
    """Time between two checkpoints, in minutes; one more is written after each epoch."""
    snapshots: int = 0
    """Number of times during training that the filters of the first layer are saved to
    RUN/snapshots, in addition to the initial ones; `alexnet explore` shows them as they grow."""
    init: str = ""
    """A run from which to take the initial weights, where names and shapes agree. The last layer is
    taken only if that run was trained on the same classes."""
    init_layers: tuple[str, ...] = ()
    """Layers to take from `init`; empty: all."""
    parallel: Parallel = Parallel()


# Images up to this side are stored without loss by default: CIFAR-10 must stay exact, and small
# images take little space anyway.
LOSSLESS_PX = 64

# Memory for all images that `prepare` decodes at one time: enough for fifty threads with
# photographs of 12 million pixels. The largest accepted image takes 1.2 GiB as PNG, and 3.3 GiB in
# the most expensive format.
MEMORY_GIB = 4.0


@dataclass(frozen=True)
class StoreSettings:
    """Settings of a store. A preparation that began with other settings is not continued."""

    size_px: int = 0
    """Side of the stored square images. 0: 256 (section 2), or the side of the source images if
    that is at most 64 pixels (CIFAR-10)."""
    encoding: Literal["auto", "jpeg", "png", "ppm"] = "auto"
    """auto: lossless PNG for sides up to 64 pixels, JPEG above. auto and jpeg keep JPEG files that
    have the stored size byte for byte. ppm: uncompressed pixels, eight times as large as JPEG and
    several times as fast to read if the disk or memory keeps up."""
    quality: int = 95
    """JPEG quality, 1 to 100; files that are kept as they are have their own."""
    chroma: Literal["420", "444"] = "420"
    """JPEG chroma subsampling: 420 halves the resolution of color, 444 keeps it."""
    most_skipped: float = 0.01
    """Largest fraction of unreadable images in a split before the preparation stops."""
    shard_images: int = 2048
    """Number of images in a file of the store."""

    def settled_encoding(self) -> Literal["jpeg", "png", "ppm"]:
        """The encoding, with auto resolved for `size_px`."""
        if self.encoding != "auto":
            return self.encoding
        return "png" if self.size_px <= LOSSLESS_PX else "jpeg"
