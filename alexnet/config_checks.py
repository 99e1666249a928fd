"""Which configs are refused, and which of their settings have no effect."""

from __future__ import annotations

import math
from itertools import pairwise

from alexnet.config import (
    Augment,
    BatchNorm,
    Config,
    Conv,
    Dropout,
    Lrn,
    Plateau,
    Pool,
    Schedule,
    Sgd,
    SmoothSchedule,
    SpatialNorm,
    StepSchedule,
)
from alexnet.errors import ConfigError
from alexnet.saved_config import MOST_INT, from_dict, to_dict


def check(config: Config) -> None:
    """Check the numbers and layer names of a config; `architecture.plan` checks the shapes.

    Raises:
        ConfigError: A number is out of range, or a setting names a layer that does not exist.
    """
    _check_lower_bounds(config)
    _check_saved(config)
    _check_augment(config)
    _check_learning(config)
    _check_layers(config)
    # What a run could not read again from its config.json: NaN, numbers that are too large.
    from_dict(Config, to_dict(config))


def _check_lower_bounds(config: Config) -> None:
    """Check the numbers that have a lower bound alone."""
    sgd, augment, schedule = config.sgd, config.augment, config.schedule
    bounds: list[tuple[str, float, int]] = [
        (f"sgd.{field}: that of {layer}", value, 0)
        for field in ("weight_decay_of", "bias_lr_of")
        for layer, value in getattr(sgd, field)
    ]
    if isinstance(schedule, Plateau):
        bounds += [("schedule.drops", schedule.drops, 0)]
    if isinstance(schedule, StepSchedule):
        bounds += [("schedule.drops: an epoch", epoch, 1) for epoch in schedule.drops]
        for each in schedule.layer_lrs:
            bounds += [(f"schedule.layer_lrs: that of {each.layer}", each.lr, 0)]
    for name, value, least in (
        *bounds,
        ("sgd.batch", sgd.batch, 1),
        ("schedule.epochs", config.schedule.epochs, 1),
        ("augment.chunk", augment.chunk, 1),
        ("workers", config.workers or 0, 0),
        ("sgd.lr", sgd.lr, 0),
        ("sgd.bias_lr", sgd.bias_lr or 0, 0),
        ("sgd.weight_decay", sgd.weight_decay, 0),
        ("augment.colour_std", augment.colour_std, 0),
        ("checkpoint_minutes", config.checkpoint_minutes, 0),
        ("snapshots", config.snapshots, 0),
        ("seed", config.seed, 0),
        ("parallel.timeout_s", config.parallel.timeout_s, 1),
    ):
        # Written with `not` so that a NaN is rejected too.
        if not value >= least:
            raise ConfigError(f"{name} is {value}; it must be at least {least}")


def _check_saved(config: Config) -> None:
    """Check the values that could be written into a run and not be read again."""
    if config.seed > MOST_INT:
        raise ConfigError(f"seed is {config.seed}; it must be at most {MOST_INT}")
    for name, path in (("data", config.data), ("init", config.init)):
        try:
            path.encode()
        except UnicodeEncodeError:
            raise ConfigError(
                f"{name} is {path!r}, which is not valid UTF-8; rename the folder"
            ) from None
    if not math.isfinite(config.parallel.timeout_s):
        raise ConfigError(f"parallel.timeout_s is {config.parallel.timeout_s}; it must be finite")
    if not math.isfinite(config.architecture.width):
        raise ConfigError(f"architecture.width is {config.architecture.width}; it must be finite")


def _check_augment(config: Config) -> None:
    """Check how much crops may be zoomed and images mixed."""
    augment = config.augment
    # Smaller crops than a hundredth of the input show a few pixels of the image.
    if not 0.01 <= augment.zoom <= 1:
        raise ConfigError(f"augment.zoom is {augment.zoom}; it must be between 0.01 and 1")
    # An input has at least half the side of the stored images.
    if not 1 <= augment.zoom_to <= 4:
        raise ConfigError(f"augment.zoom_to is {augment.zoom_to}; it must be between 1 and 4")
    # A smaller crop, rescaled, would have edges that `alexnet export` cannot reproduce.
    if augment.test_px and augment.test_px < config.architecture.input_px:
        raise ConfigError(
            f"augment.test_px is {augment.test_px}; it must be 0, or at least the input's "
            f"{config.architecture.input_px} pixels"
        )
    for name, value in (("mixup", augment.mixup), ("cutmix", augment.cutmix)):
        # Above, every share is nearly 1/2.
        if not 0 <= value <= 100:
            raise ConfigError(f"augment.{name} is {value}; it must be between 0 and 100")


def _check_learning(config: Config) -> None:
    """Check the shares in the update rule, the targets, and the schedule."""
    sgd, schedule = config.sgd, config.schedule
    # With 1 the average would stay at the initial weights.
    if not 0 <= sgd.ema_decay < 1:
        raise ConfigError(f"sgd.ema_decay is {sgd.ema_decay}; it must be at least 0 and below 1")
    # With 1 the label would say nothing.
    if not 0 <= config.label_smoothing < 1:
        raise ConfigError(
            f"label_smoothing is {config.label_smoothing}; it must be at least 0 and below 1"
        )
    # With a momentum of 1 the velocity would never fade.
    if not 0 <= sgd.momentum < 1:
        raise ConfigError(f"sgd.momentum is {sgd.momentum}; it must be at least 0 and below 1")
    if isinstance(schedule, Plateau) and schedule.patience < 1:
        raise ConfigError(f"schedule.patience is {schedule.patience}; it must be at least 1")
    if isinstance(schedule, StepSchedule):
        _check_order(schedule)
    if isinstance(schedule, SmoothSchedule) and not 0 <= schedule.warmup_epochs < schedule.epochs:
        raise ConfigError(
            f"schedule.warmup_epochs is {schedule.warmup_epochs}; it must be at least 0 and less "
            f"than the {schedule.epochs} epochs"
        )


def _check_order(schedule: StepSchedule) -> None:
    """Check that the epochs at which learning rates change ascend, as those who apply them expect.

    Two rates of one layer may begin in one epoch: a shortened schedule can have them.
    """
    epochs = schedule.drops
    if any(later <= earlier for earlier, later in pairwise(epochs)):
        raise ConfigError(
            f"schedule.drops is {epochs}; each epoch must be later than the one before"
        )
    for layer in dict.fromkeys(each.layer for each in schedule.layer_lrs):
        begins = [each.epoch for each in schedule.layer_lrs if each.layer == layer]
        if begins != sorted(begins):
            raise ConfigError(
                f"schedule.layer_lrs: the rates of {layer} begin in epochs {begins}; write them in "
                "the order of their epochs"
            )


def _check_layers(config: Config) -> None:
    """Check the names of the layers, and those that other settings name."""
    sgd, schedule = config.sgd, config.schedule
    layers = [layer.name for layer in config.architecture.layers]
    if config.snapshots and not isinstance(next(iter(config.architecture.layers), None), Conv):
        raise ConfigError(
            "snapshots keeps the filters of the first layer, which has none here; set it to 0"
        )
    for name in layers:
        # PyTorch separates the names of modules and parameters by dots.
        if not name or "." in name:
            raise ConfigError(f"a layer is called {name!r}; a name has letters and no dot")
        # The parameters of conv1's batch normalization are those of a module conv1_bn.
        if name.endswith("_bn"):
            raise ConfigError(f"a layer is called {name!r}; a name may not end in _bn")
        # What a checkpoint holds beside the weights has these names.
        if name in ("training", "velocity"):
            raise ConfigError(f"a layer is called {name!r}, as a part of a checkpoint; rename it")
    for name in config.init_layers:
        if name not in layers:
            raise ConfigError(f"init_layers names {name!r}; the layers are {', '.join(layers)}")
    tuned = [name for name, _ in (*sgd.weight_decay_of, *sgd.bias_lr_of)]
    if isinstance(schedule, StepSchedule):
        tuned += [layer_lr.layer for layer_lr in schedule.layer_lrs]
    for name in tuned:
        if name not in layers:
            raise ConfigError(
                f"a learning rate or weight decay is set for {name!r}; "
                f"the layers are {', '.join(layers)}"
            )


def without_effect(config: Config) -> list[str]:
    """Describe each setting that has no effect because of another setting, one sentence each."""
    sgd, augment, architecture = config.sgd, config.augment, config.architecture
    sentences = _too_late(config.schedule)
    if config.init_layers and not config.init:
        sentences.append("init_layers is set, but without init all layers begin at random weights")
    if config.precision == "tf32" and config.device in ("cpu", "mps"):
        sentences.append(f"precision is tf32, but {config.device} computes in float32")
    if config.gpu_decoding and config.device in ("cpu", "mps"):
        sentences.append(f"gpu_decoding is on, but {config.device} decodes no JPEGs")
    if config.resident and config.gpu_decoding:
        sentences.append("gpu_decoding is on, but resident images are decoded once, by the CPU")
    if augment.chunk > 1 and not (augment.crops or augment.flips):
        sentences.append("augment.chunk shares positions and flips, but both are off")
    if augment.colour == "none" and augment.pca != "store":
        sentences.append("augment.pca is set, but the color noise is off")
    if augment.colour == "none" and augment.colour_std != Augment.colour_std:
        sentences.append("augment.colour_std is set, but the color noise is off")
    if not augment.crops and augment.zoom != 1:
        sentences.append("augment.zoom is set, but crops are not random")
    if not augment.crops and augment.zoom_to != 1:
        sentences.append("augment.zoom_to is set, but crops are not random")
    if not augment.crops and not augment.last_offset:
        sentences.append("augment.last_offset is off, but crops are not random")
    if sgd.bias_lr is None and not sgd.bias_lr_of and not sgd.bias_lr_follows:
        sentences.append(
            "sgd.bias_lr_follows is off, but biases have the learning rate of the weights"
        )
    if sgd.weight_decay != Sgd.weight_decay and _decays_of_all_layers(config) - {sgd.weight_decay}:
        sentences.append("sgd.weight_decay is set, but sgd.weight_decay_of has one for every layer")
    if sgd.batch == 1 and (augment.mixup > 0 or augment.cutmix > 0):
        sentences.append("augment.mixup and augment.cutmix mix images of a batch, which has one")
    used = {op for layer in architecture.layers for op in layer.then}
    if not architecture.normalise and used.isdisjoint(("lrn", "spatial_norm")):
        sentences.append("architecture.normalise is off, but no layer has lrn or spatial_norm")
    for name, default, operations in (
        ("lrn", Lrn(), ("lrn",)),
        ("spatial_norm", SpatialNorm(), ("spatial_norm",)),
        ("batch_norm", BatchNorm(), ("batch_norm",)),
        ("pool", Pool(), ("max_pool", "avg_pool")),
        ("dropout", Dropout(), ("dropout",)),
    ):
        # Where batch normalization took their place, the constants of the others are still those
        # of the recipe before.
        replaced = "batch_norm" in used and name in ("lrn", "spatial_norm")
        if used.isdisjoint(operations) and getattr(architecture, name) != default and not replaced:
            what = " or ".join(operations)
            sentences.append(f"architecture.{name} is set, but no layer has {what}")
    if architecture.columns == 1 and architecture.lrn_across_columns:
        sentences.append("architecture.lrn_across_columns is set, but there is only one column")
    if architecture.columns == 1 and not architecture.links:
        sentences.append("architecture.links is off, but there is only one column")
    return sentences


def _decays_of_all_layers(config: Config) -> set[float]:
    """The weight decays of the layers if each has its own, and else nothing."""
    own = dict(config.sgd.weight_decay_of)
    has_all = own.keys() >= {layer.name for layer in config.architecture.layers}
    return set(own.values()) if has_all else set()


def _too_late(schedule: Schedule) -> list[str]:
    """Describe the changes that lie behind the end of the schedule.

    This is not an error, because a shortened schedule may leave changes behind its end on purpose.
    """
    if not isinstance(schedule, StepSchedule):
        return []
    late = [
        f"a drop of the learning rate at epoch {epoch}"
        for epoch in schedule.drops
        if epoch >= schedule.epochs
    ]
    late += [
        f"a learning rate of {layer_lr.layer} at epoch {layer_lr.epoch}"
        for layer_lr in schedule.layer_lrs
        if layer_lr.epoch >= schedule.epochs
    ]
    # A training of one epoch, as scaled by --epochs, has the noise in it.
    if schedule.colour_until is not None and schedule.colour_until >= max(2, schedule.epochs):
        late.append(f"the end of the color noise at epoch {schedule.colour_until}")
    return [
        f"{what} lies after the last epoch, {schedule.epochs}; --epochs shortens in proportion"
        for what in late
    ]
