"""The claims of the paper as values: what is compared, on what, by which measure, and what the paper says.

A claim holds arms, each a change of one base configuration, and effects, each a number a seed that is positive (above
`none`) where the paper is right. Standard library alone, so that the table of them prints at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from statistics import mean
from typing import Any, Literal

from alexnet import recipes
from alexnet.config import Config, Conv, Pool, Steps, scaled

Scale = Literal["smoke", "desk", "full"]
Kind = Literal["photographs", "cifar10", "imagenet"]


@dataclass(frozen=True)
class Done:
    """What one run gave. Errors are shares of the pictures."""

    test_error: float
    """By the recipe's own test: ten patches, say."""
    centre_error: float
    train_error: float
    """Of up to 2,000 training pictures, tested as the validation pictures are: centre patch, no dropout."""
    images_per_s: float
    rate: float
    """The learning rate it began with."""
    colour: tuple[tuple[float, ...], ...]
    """Of each column, of each kernel of the first layer: how much of it is colour (`figures.colourfulness`)."""
    epochs: tuple[dict[str, Any], ...]
    """The run's own metrics of each epoch."""
    probabilities: Any = field(default=None, repr=False)
    """(N, classes) float32 of the validation pictures by the recipe's own test, and their labels."""
    labels: Any = field(default=None, repr=False)

    @property
    def gap(self) -> float:
        """How much worse on new pictures than on those it was trained on."""
        return self.centre_error - self.train_error


Results = Mapping[str, Sequence[Done]]  # the runs of each arm, by seed


@dataclass(frozen=True)
class Part:
    """Some of a store's classes and some pictures of each; the same for every seed. 0: all."""

    first_class: int = 0
    classes: int = 0
    train_of_each: int = 0


@dataclass(frozen=True)
class Arm:
    """One side of a comparison."""

    name: str
    change: Callable[[Config], Config] = lambda config: config
    part: Part | None = None
    """Of the store; None: as the scale has it."""
    init: str = ""
    """The arm whose network of the same seed it starts from."""


@dataclass(frozen=True)
class Effect:
    """One number a seed; above `none` is the claimed side."""

    name: str
    paper: str
    """What the paper, or the authors' log, says of this number."""
    values: Callable[[Results], list[float]]
    none: float = 0.0


@dataclass(frozen=True)
class Claim:
    """An entry of the table."""

    id: str
    statement: str
    paper: str
    logged: str = "-"
    kinds: tuple[Kind, ...] = ("imagenet",)
    base: Callable[[Scale], Config] = lambda scale: recipes.original()
    arms: tuple[Arm, ...] = ()
    effects: tuple[Effect, ...] = ()
    rates: tuple[float, ...] = ()
    """Times the base's rate: each arm's best one after a few epochs of seed 0 is used; empty: the base's own."""
    desk: Part = Part()
    """What of the store the desk scale trains on."""


# The bases.


def photographs(scale: Scale) -> Config:
    """`original`; at desk scale a quarter as wide, at 96 pixels, where 3/2 and 2/2 pooling give maps of one size."""
    if scale == "full":
        return recipes.original()
    config = recipes.demo()
    architecture = replace(config.architecture, input_px=96, width=0.25 if scale == "desk" else 1 / 16)
    schedule = Steps(24, (19, 22)) if scale == "desk" else Steps(1)
    return replace(config, architecture=architecture, schedule=schedule)


def four_layers(scale: Scale) -> Config:
    """The 26 % net without regularisation, at one rate, tested on the pictures it trains on, until 25 % of error."""
    config = recipes.cifar_26()
    sgd = replace(config.sgd, decay=0.0, decay_of=tuple((layer, 0.0) for layer, _ in config.sgd.decay_of))
    epochs = 2 if scale == "smoke" else 60
    return replace(config, sgd=sgd, schedule=Steps(epochs, until_error=QUARTER), val_split="train")


def eleven(scale: Scale) -> Config:
    """The 11 % net; at desk scale half as wide for 30 epochs."""
    config = recipes.cifar_11()
    if scale == "full":
        return config
    narrow = replace(config.architecture, width=0.5 if scale == "desk" else 0.1)
    return replace(config, architecture=narrow, schedule=scaled(config.schedule, 30 if scale == "desk" else 1))


STORED_PX: dict[Scale, int] = {"smoke": 112, "desk": 112, "full": 0}
"""What photographs are reduced to; 112 / 96 is about 256 / 224."""
QUARTER = 0.25


# Changes.


def _net(**changes: Any) -> Callable[[Config], Config]:
    return lambda config: replace(config, architecture=replace(config.architecture, **changes))


def _augment(**changes: Any) -> Callable[[Config], Config]:
    return lambda config: replace(config, augment=replace(config.augment, **changes))


def _no_dropout(config: Config) -> Config:
    layers = tuple(
        replace(layer, then=tuple(op for op in layer.then if op != "dropout")) for layer in config.architecture.layers
    )
    return _net(layers=layers)(config)


def _one_column(config: Config) -> Config:
    """As `recipes.one_column`: conv1 to conv4 as wide as one column, the rest as both."""
    layers = tuple(
        replace(layer, kernels=layer.kernels // 2)
        if isinstance(layer, Conv) and layer.name in ("conv1", "conv2", "conv3", "conv4")
        else layer
        for layer in config.architecture.layers
    )
    return _net(layers=layers, columns=1)(config)


def _thirteen(config: Config) -> Config:
    other = recipes.cifar_13()
    architecture = replace(other.architecture, width=config.architecture.width)
    return replace(config, architecture=architecture, sgd=other.sgd)


# Effects.


def _more(arm: str, than: str = "base", of: Callable[[Done], float] = lambda d: d.test_error) -> Callable[..., Any]:
    """In percentage points, seed by seed."""
    return lambda results: [100 * (of(a) - of(b)) for a, b in zip(results[arm], results[than], strict=True)]


def _patches(results: Results) -> list[float]:
    return [100 * (done.centre_error - done.test_error) for done in results["base"]]


def _slower(results: Results) -> list[float]:
    """Seconds an image of the one column over those of the two."""
    return [b.images_per_s / a.images_per_s for a, b in zip(results["one column"], results["base"], strict=True)]


def _first_loss(results: Results) -> list[float]:
    pairs = zip(results["biases 0"], results["base"], strict=True)
    return [a.epochs[0]["train_loss"] - b.epochs[0]["train_loss"] for a, b in pairs]


def epochs_to(error: float, done: Done) -> float:
    """Epochs until the validation error is `error`, between two epochs by a line; all of them where it never is."""
    before = 1.0
    for number, epoch in enumerate(done.epochs):
        if epoch["val_error"] <= error:
            return float(number + (before - error) / (before - epoch["val_error"]))
        before = epoch["val_error"]
    return float(len(done.epochs))


def _sooner(results: Results) -> list[float]:
    pairs = zip(results["tanh"], results["relu"], strict=True)
    return [epochs_to(QUARTER, a) / epochs_to(QUARTER, b) for a, b in pairs]


def _dropout_epochs(results: Results) -> list[float]:
    """Epochs to the training loss that the net with dropout ends with, as a ratio."""
    ratios = []
    for without, base in zip(results["no dropout"], results["base"], strict=True):
        goal = base.epochs[-1]["train_loss"]
        reached = [i for i, epoch in enumerate(without.epochs, 1) if epoch["train_loss"] <= goal]
        ratios.append(len(base.epochs) / (reached[0] if reached else len(without.epochs)))
    return ratios


def _ensemble(results: Results) -> list[float]:
    """How much worse each net is than the plain average of all."""
    nets = results["base"]
    average = sum(net.probabilities for net in nets) / len(nets)
    together = float((average.argmax(1) != nets[0].labels).mean())
    return [100 * (net.test_error - together) for net in nets]


def apart(columns: Sequence[Sequence[float]], shuffles: int = 1000) -> float:
    """How far two columns' mean colour lies apart, less what chance puts between two halves of the same kernels."""
    one, two = columns
    every, rng = [*one, *two], Random(0)

    def distance() -> float:
        return abs(mean(every[: len(one)]) - mean(every[len(one) :]))

    seen, by_chance = distance(), []
    for _ in range(shuffles):
        rng.shuffle(every)
        by_chance.append(distance())
    return seen - mean(by_chance)


def _specialised(results: Results) -> list[float]:
    return [apart(done.colour) for done in results["base"]]


def _ablation(id: str, statement: str, paper: str, logged: str, name: str, change: Any, claimed: str) -> Claim:
    effects = (Effect("test error, points more without", claimed, _more(name)),)
    arms = Arm("base"), Arm(name, change)
    return Claim(id, statement, paper, logged, ("photographs", "imagenet"), photographs, arms, effects)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "relu",
        "a four-layer net reaches 25 % training error on CIFAR-10 six times sooner with ReLU than with tanh",
        "6x",
        kinds=("cifar10",),
        base=four_layers,
        arms=(Arm("relu"), Arm("tanh", _net(unit="tanh"))),
        effects=(Effect("epochs of tanh over epochs of ReLU", "6", _sooner, none=1.0),),
        rates=(0.5, 1.0, 2.0, 4.0),
        desk=Part(train_of_each=1000),
    ),
    replace(
        _ablation(
            "columns",
            "two columns err less than one column with half of the kernels in each convolution, and take less time",
            "-1.7 / -1.2",
            "39.168 / 18.229 against 37.473 / 16.999",
            "one column",
            _one_column,
            "1.7",
        ),
        effects=(
            Effect("test error, points more without", "1.7", _more("one column")),
            Effect("seconds an image, one column over two", "slightly more than 1", _slower, none=1.0),
        ),
    ),
    _ablation(
        "lrn",
        "response normalisation lowers the error",
        "-1.4 / -1.2",
        "42.034 / 19.362 without (both normalisations), 40.664 / 18.210 with",
        "no normalisation",
        _net(normalise=False),
        "1.4",
    ),
    Claim(
        "lrn-cifar",
        "response normalisation lowers the four-layer CIFAR-10 net's test error",
        "13 -> 11",
        kinds=("cifar10",),
        base=eleven,
        arms=(Arm("base"), Arm("no normalisation", _net(normalise=False)), Arm("cifar_13", _thirteen)),
        effects=(
            Effect("test error, points more without", "2", _more("no normalisation")),
            Effect("test error, points more of cifar_13", "2", _more("cifar_13")),
        ),
        desk=Part(train_of_each=1000),
    ),
    replace(
        _ablation(
            "overlap",
            "overlapping pooling errs less than 2/2 pooling and is harder to overfit",
            "-0.4 / -0.3",
            "41.058 / 18.510 against 40.664 / 18.210",
            "pooling 2/2",
            _net(pool=Pool(2, 2)),
            "0.4",
        ),
        effects=(
            Effect("test error, points more without", "0.4", _more("pooling 2/2")),
            Effect("gap, points more without", "more than 0", _more("pooling 2/2", of=lambda d: d.gap)),
        ),
    ),
    replace(
        _ablation(
            "crops",
            "random patches and reflections lower the error, and so do ten patches at test",
            "39.0 / 18.3 -> 37.5 / 17.0 by ten patches",
            "39.025 / 18.295 -> 37.473 / 16.999 by ten patches",
            "no patches",
            _augment(crops=False, flips=False),
            "substantial overfitting without",
        ),
        effects=(
            Effect(
                "centre patch, points more without random patches",
                "more than 0",
                _more("no patches", of=lambda d: d.centre_error),
            ),
            Effect("points more with the centre patch than with ten", "1.5", _patches),
        ),
    ),
    _ablation(
        "colour",
        "shifting the colours of training pictures along their principal components lowers the error",
        "more than -1 top-1",
        "-",
        "no colour noise",
        _augment(colour="none"),
        "1",
    ),
    replace(
        _ablation(
            "dropout",
            "without dropout the net overfits substantially; with it, training takes about twice the iterations",
            "substantial; 2x",
            "-",
            "no dropout",
            _no_dropout,
            "more than 0",
        ),
        effects=(
            Effect("test error, points more without", "more than 0", _more("no dropout")),
            Effect("gap, points more without", "substantial", _more("no dropout", of=lambda d: d.gap)),
            Effect("epochs to the same training loss, with over without", "2", _dropout_epochs, none=1.0),
        ),
    ),
    Claim(
        "depth",
        "removing any middle convolutional layer costs about two points",
        "about +2 top-1",
        kinds=("photographs", "imagenet"),
        base=photographs,
        arms=(Arm("base"), *(Arm(f"no conv{i}", _net(without=(f"conv{i}",))) for i in range(2, 6))),
        effects=tuple(
            Effect(f"test error, points more without conv{i}", "2", _more(f"no conv{i}")) for i in range(2, 6)
        ),
    ),
    replace(
        _ablation(
            "bias",
            "biases of 1 speed up early learning by giving the ReLUs positive input",
            "-",
            "-",
            "biases 0",
            _net(bias=0.0),
            "more than 0",
        ),
        effects=(
            Effect("training loss of the first epoch, more without", "more than 0", _first_loss),
            Effect("test error, points more without", "-", _more("biases 0")),
        ),
    ),
    _ablation(
        "links",
        "columns that exchange their maps err less than columns that never meet (not in the paper)",
        "-",
        "41.828 / 19.330 without",
        "no links",
        _net(links=False),
        "1.2 in the log, of another width",
    ),
    Claim(
        "ensemble",
        "the averaged predictions of five nets err less than one",
        "38.1 / 16.4 against 40.7 / 18.2",
        kinds=("photographs", "imagenet"),
        base=photographs,
        arms=(Arm("base"),),
        effects=(Effect("test error, points more of a single net", "2.6", _ensemble),),
    ),
    Claim(
        "pretrain",
        "a net trained on more classes first and then on fewer errs less",
        "39.0 / 16.6 against 40.7 / 18.2",
        "38.990 / 16.622",
        ("photographs",),
        photographs,
        (
            Arm("on five classes", part=Part(0, 5)),
            Arm("from scratch", part=Part(5, 5, 200)),
            Arm("pre-trained", part=Part(5, 5, 200), init="on five classes"),
        ),
        (Effect("test error, points more from scratch", "1.7", _more("from scratch", "pre-trained")),),
    ),
    Claim("ilsvrc2010", "one net on the ILSVRC-2010 test set", "37.5 / 17.0", "37.473 / 16.999"),
    Claim("ilsvrc2012", "one net on ILSVRC-2012 validation", "40.7 / 18.2", "40.664 / 18.210"),
    Claim("seven", "two pre-trained nets and five others, averaged", "36.7 / 15.4"),
    Claim(
        "filters",
        "conv1's kernels specialise by column, one to colour, one not, in every run",
        "Fig. 3",
        kinds=("photographs", "imagenet"),
        base=photographs,
        arms=(Arm("base"),),
        effects=(Effect("columns' colour apart, more than by chance", "more than 0", _specialised),),
    ),
    Claim("features", "the nearest pictures in the last hidden layer look alike to people", "Fig. 4"),
)


def chosen(ids: Sequence[str]) -> tuple[Claim, ...]:
    """The claims of these ids, all where none is named. Raises ValueError for an id that is none."""
    by_id = {claim.id: claim for claim in CLAIMS}
    for name in ids:
        if name not in by_id:
            raise ValueError(f"there is no claim {name!r}; the claims are {', '.join(by_id)}")
    return tuple(by_id[name] for name in ids) or CLAIMS
