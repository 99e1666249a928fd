"""The configurations that the claims compare: bases, and changes of a base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from alexnet import recipes
from alexnet.config import Config, Conv, LayerLr, Pool, StepSchedule, scaled
from alexnet.evaluation import QUARTER
from alexnet.experiments.claim import Scale
from alexnet.experiments.data_sets import DATA, Kind
from alexnet.ladder import climb, kept

# The bases.


def five_convolutions(scale: Scale, kind: Kind) -> Config:
    """`original`; below full scale a net of `demo`'s settings with the original's end game.

    Below full scale it differs from `original` in:
    - width: a quarter of the kernels and units (a sixteenth at smoke scale);
    - input: 96 of 112 pixels of a photograph, 23 of CIFAR-10's 32 with a first kernel of 5x5 at
      every pixel. With 96 and 23 pixels 3/2 pooling sees every row and column of each map;
    - batch 64, learning rate 0.003, and biases at the same 0.003 (there 128, 0.01 and 0.02);
    - larger standard deviations of the initial weights, since each layer has fewer inputs;
    - crops and reflections drawn for each image (there for 32 images together), in an order that
      is drawn anew in each epoch (there fixed);
    - the PCA of the store's own training images (there of ImageNet 2012's);
    - 24 epochs with falls of the rate at 19 and 22 (there 91, with falls at 25, 51 and 79).

    On tiny-imagenet and mini-ImageNet it sees 56 of 64 pixels through a first kernel of 7x7 at
    every second pixel: maps of 27, 13 and 6, of which the last pool's windows see five rows and
    columns. It is trained for 1.2 million presentations of an image (`DATA`). Of
    tiny-imagenet it trains on the first 50 classes (`DATA`): with all 200 as many
    presentations leave it underfitted, with a training error above its validation error
    (docs/log.md, 2026-11-29).

    The end game is the original's in proportion, 67 and 72 of 91 epochs: at epoch 18 the color
    noise ends and conv1's weights learn at a tenth of the rate, at 19 conv1 is frozen. Smoke scale
    has one epoch, at one rate.
    """
    if scale == "full":
        return recipes.original()
    config = recipes.demo()
    layers = config.architecture.layers
    conv1 = layers[0]
    assert isinstance(conv1, Conv)
    if kind == "cifar10":
        layers = (replace(conv1, size_px=5, stride=1, pad=(2, 2), std=0.02), *layers[1:])
    data = DATA[kind]
    if data.size_px == 64:
        # Padded on one side, as in `original`: 27 = (56 + 3 - 7) / 2 + 1.
        layers = (replace(conv1, size_px=7, stride=2, std=0.015), *layers[1:])
    architecture = replace(
        config.architecture,
        layers=layers,
        input_px=data.input_px,
        width=0.25 if scale == "desk" else 1 / 16,
    )
    slow = LayerLr("conv1", 18, config.sgd.lr / 10, weights_only=True)
    frozen = LayerLr("conv1", 19, 0.0)
    desk = StepSchedule(24, (19, 22), layer_lrs=(slow, frozen), colour_until=18)
    schedule = StepSchedule(1) if scale == "smoke" else scaled(desk, data.desk_epochs)
    return replace(config, architecture=architecture, schedule=schedule, val_split=data.val_split)


def one_column_below(scale: Scale, kind: Kind) -> Config:
    """Where the ladder stands: `five_convolutions` in one column."""
    return one_column(five_convolutions(scale, kind))


def six_convolutions(scale: Scale, kind: Kind) -> Config:
    """`five_convolutions` with the sixth of section 6; the net of `recipes.original_six_conv`."""
    config = five_convolutions(scale, kind)
    # Its deviation is that of the other convolutions of 3x3, here as there.
    std = next(layer.std for layer in config.architecture.layers if layer.name == "conv5")
    at = [layer.name for layer in config.architecture.layers].index("fc6")
    before, after = config.architecture.layers[:at], config.architecture.layers[at:]
    return net(layers=(*before, replace(recipes.CONV6, std=std), *after))(config)


def four_layers(scale: Scale, kind: Kind) -> Config:
    """The 26 % net without regularization, at one rate, tested on the images it trains on, until
    their error is 25 %.
    """
    config = recipes.cifar_26()
    sgd = replace(
        config.sgd,
        weight_decay=0.0,
        # The recipe has a weight decay for each layer, which `weight_decay` alone would not turn
        # off.
        weight_decay_of=tuple((layer, 0.0) for layer, _ in config.sgd.weight_decay_of),
    )
    epochs = 2 if scale == "smoke" else 60
    return replace(
        config, sgd=sgd, schedule=StepSchedule(epochs, until_error=QUARTER), val_split="train"
    )


def eleven(scale: Scale, kind: Kind) -> Config:
    """The 11 % net; at desk scale half as wide for 30 epochs, the last six at the two small rates.

    In proportion each would have half an epoch, too short for the velocity of the first rate to run
    out.
    """
    config = recipes.cifar_11()
    if scale == "full":
        return config
    narrow = replace(config.architecture, width=0.5 if scale == "desk" else 0.1)
    return replace(
        config,
        architecture=narrow,
        schedule=StepSchedule(30, (24, 27)) if scale == "desk" else StepSchedule(1),
    )


# Changes.


def net(**changes: Any) -> Callable[[Config], Config]:
    """A change of fields of the architecture."""
    return lambda config: replace(config, architecture=replace(config.architecture, **changes))


def operation(name: str, **changes: Any) -> Callable[[Config], Config]:
    """A change of single settings of an operation, such as `operation("lrn", n=3)`.

    `net(lrn=Lrn(n=3))` would also set the others to the paper's values, which the base need not
    have.
    """

    def changed(config: Config) -> Config:
        settings = replace(getattr(config.architecture, name), **changes)
        return net(**{name: settings})(config)

    return changed


def augment(**changes: Any) -> Callable[[Config], Config]:
    """A change of fields of the augmentation."""
    return lambda config: replace(config, augment=replace(config.augment, **changes))


def as_many_presentations(
    share: float, change: Callable[[Config], Config] = lambda config: config
) -> Callable[[Config], Config]:
    """A change, and as many presentations of an image as in the base.

    Args:
        share: Training images of the arm, divided by those of the base.
    """

    def changed(config: Config) -> Config:
        # Smoke scale has one epoch.
        schedule = scaled(config.schedule, max(1, round(config.schedule.epochs / share)))
        return change(replace(config, schedule=schedule))

    return changed


def with_rates(config: Config, factor: float) -> Config:
    """The configuration with this factor of all learning rates, which so keep their ratios."""
    sgd, schedule = config.sgd, config.schedule
    sgd = replace(
        sgd,
        lr=factor * sgd.lr,
        bias_lr=None if sgd.bias_lr is None else factor * sgd.bias_lr,
        bias_lr_of=tuple((layer, factor * lr) for layer, lr in sgd.bias_lr_of),
    )
    if isinstance(schedule, StepSchedule):
        lrs = tuple(replace(each, lr=factor * each.lr) for each in schedule.layer_lrs)
        schedule = replace(schedule, layer_lrs=lrs)
    return replace(config, sgd=sgd, schedule=schedule)


def pooling_2_2(config: Config) -> Config:
    """Windows of 2/2 that reach over the border, as in the authors' net 147.

    Maps of odd size would otherwise lose their last row and column. The maps that are one larger
    then fit the layers behind with a padding of 1 in conv2 and of 0 in conv5.
    """
    padding = {"conv2": (1, 1), "conv5": (0, 0)}
    layers = tuple(
        replace(layer, pad=padding[layer.name])
        if isinstance(layer, Conv) and layer.name in padding
        else layer
        for layer in config.architecture.layers
    )
    return net(layers=layers, pool=Pool(2, 2, partial=True))(config)


def one_column(config: Config) -> Config:
    """As `recipes.original_one_column`: conv1 to conv4 as wide as one column, the rest as both."""
    return net(layers=recipes.one_column_layers(config.architecture.layers), columns=1)(config)


def modern(config: Config) -> Config:
    """What the ladder keeps, in the base's own columns, with the initial weights and the learning
    rate of `recipes.modern`, and less dropout.

    The weight decay is 25 times that of `recipes.modern`, because the training is short: 19,000
    steps here, and 900,000 of 90 epochs of ImageNet there (docs/log.md, 2026-11-30).
    """
    config = climb(config, kept())
    architecture = replace(
        config.architecture,
        layers=recipes.by_fan_in(config.architecture),
        dropout=replace(config.architecture.dropout, rate=0.3),
    )
    sgd = replace(config.sgd, lr=recipes.modern().sgd.lr, weight_decay=0.05)
    return replace(config, architecture=architecture, sgd=sgd)


def thirteen(config: Config) -> Config:
    """`recipes.cifar_13`'s net and learning rates, as wide as the base."""
    other = recipes.cifar_13()
    architecture = replace(other.architecture, width=config.architecture.width)
    return replace(config, architecture=architecture, sgd=other.sgd)


def fine_tuned(config: Config) -> Config:
    """The rates and layers of `recipes.fine_tuned`, in proportion to the base's rate and length."""
    there, trained = recipes.fine_tuned(), recipes.original()
    assert isinstance(config.schedule, StepSchedule) and isinstance(there.schedule, StepSchedule)
    share = config.sgd.lr / trained.sgd.lr
    length = there.schedule.epochs / trained.schedule.epochs
    schedule = scaled(there.schedule, max(1, round(length * config.schedule.epochs)))
    assert isinstance(schedule, StepSchedule)
    assert config.sgd.bias_lr is not None and trained.sgd.bias_lr is not None
    of_biases = config.sgd.bias_lr / trained.sgd.bias_lr
    rates = tuple(replace(each, lr=share * each.lr) for each in schedule.layer_lrs)
    return replace(
        config,
        sgd=replace(
            config.sgd,
            lr=share * there.sgd.lr,
            bias_lr_of=tuple((layer, of_biases * lr) for layer, lr in there.sgd.bias_lr_of),
        ),
        schedule=replace(schedule, layer_lrs=rates),
        init_layers=there.init_layers,
    )
