"""The claims of the paper as values: what is compared, on what, by which measure, and what the paper says.

A claim holds arms, each a change of one base configuration, and effects, each a number a seed that is positive (above
`none`) where the paper is right. Standard library alone, so that the table of them prints at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alexnet import recipes
from alexnet.config import Config, Conv, Pool, Steps
from alexnet.experiments import effects
from alexnet.experiments.claim import Arm, Claim, Effect, Kind, Part, Scale
from alexnet.experiments.effects import QUARTER

# The bases.


def five_convolutions(scale: Scale, kind: Kind) -> Config:
    """`original`; below full scale narrow, with inputs from which 3/2 and 2/2 pooling give maps of one size.

    96 of 112 pixels of a photograph, 23 of CIFAR-10's 32 with a first kernel of 5x5 at every pixel.
    """
    if scale == "full":
        return recipes.original()
    config = recipes.demo()
    layers = config.architecture.layers
    if kind == "cifar10":
        conv1 = layers[0]
        assert isinstance(conv1, Conv)
        layers = (replace(conv1, size_px=5, stride=1, pad=(2, 2), std=0.02), *layers[1:])
    architecture = replace(
        config.architecture,
        layers=layers,
        input_px=23 if kind == "cifar10" else 96,
        width=0.25 if scale == "desk" else 1 / 16,
    )
    schedule = Steps(24, (19, 22)) if scale == "desk" else Steps(1)
    return replace(config, architecture=architecture, schedule=schedule, val_split=VAL_SPLIT[kind])


def four_layers(scale: Scale, kind: Kind) -> Config:
    """The 26 % net without regularisation, at one rate, tested on the pictures it trains on, until 25 % of error."""
    config = recipes.cifar_26()
    sgd = replace(
        config.sgd, decay=0.0, decay_of=tuple((layer, 0.0) for layer, _ in config.sgd.decay_of)
    )
    epochs = 2 if scale == "smoke" else 60
    return replace(config, sgd=sgd, schedule=Steps(epochs, until_error=QUARTER), val_split="train")


def eleven(scale: Scale, kind: Kind) -> Config:
    """The 11 % net; at desk scale half as wide for 30 epochs, the last six at the two small rates.

    In proportion each would have half an epoch, too short for the velocity of the first rate to run out.
    """
    config = recipes.cifar_11()
    if scale == "full":
        return config
    narrow = replace(config.architecture, width=0.5 if scale == "desk" else 0.1)
    return replace(
        config, architecture=narrow, schedule=Steps(30, (24, 27)) if scale == "desk" else Steps(1)
    )


VAL_SPLIT: dict[Kind, str] = {"photographs": "val", "cifar10": "test", "imagenet": "val"}
WITH_CIFAR: tuple[Kind, ...] = ("photographs", "cifar10", "imagenet")
"""Of what can be asked of CIFAR-10 too, below full scale: where photographs are too few to tell."""


# Changes.


def _net(**changes: Any) -> Callable[[Config], Config]:
    return lambda config: replace(config, architecture=replace(config.architecture, **changes))


def _augment(**changes: Any) -> Callable[[Config], Config]:
    return lambda config: replace(config, augment=replace(config.augment, **changes))


def _no_dropout(config: Config) -> Config:
    layers = tuple(
        replace(layer, then=tuple(op for op in layer.then if op != "dropout"))
        for layer in config.architecture.layers
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


# What is measured besides; PyTorch is imported when it is.


def _over_masks(run: Path) -> dict[str, float]:
    from alexnet.experiments import measures

    return measures.over_masks(run)


def _alike(run: Path) -> dict[str, float]:
    from alexnet.experiments import measures

    return measures.alike(run)


def _ablation(
    id: str, statement: str, paper: str, logged: str, name: str, change: Any, claimed: str
) -> Claim:
    effect = (Effect("test error, points more without", claimed, effects.more(name)),)
    arms = Arm("base"), Arm(name, change)
    return Claim(id, statement, paper, logged, WITH_CIFAR, five_convolutions, arms, effect)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "relu",
        "a four-layer net reaches 25 % training error on CIFAR-10 six times sooner with ReLU than with tanh",
        "6x",
        kinds=("cifar10",),
        base=four_layers,
        arms=(Arm("relu"), Arm("tanh", _net(unit="tanh"))),
        effects=(Effect("epochs of tanh over epochs of ReLU", "6", effects.sooner, none=1.0),),
        rates=(0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
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
            Effect("test error, points more without", "1.7", effects.more("one column")),
            Effect(
                "seconds an image, one column over two",
                "slightly more than 1",
                effects.slower,
                none=1.0,
            ),
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
        arms=(
            Arm("base"),
            Arm("no normalisation", _net(normalise=False)),
            Arm("cifar_13", _thirteen),
        ),
        effects=(
            Effect("test error, points more without", "2", effects.more("no normalisation")),
            Effect("test error, points more of cifar_13", "2", effects.more("cifar_13")),
        ),
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
            Effect("test error, points more without", "0.4", effects.more("pooling 2/2")),
            Effect(
                "gap, points more without",
                "more than 0",
                effects.more("pooling 2/2", of=lambda d: d.gap),
            ),
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
                effects.more("no patches", of=lambda d: d.centre_error),
            ),
            Effect(
                "points more with the centre patch than with ten", "1.5", effects.by_ten_patches
            ),
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
            Effect("test error, points more without", "more than 0", effects.more("no dropout")),
            Effect(
                "gap, points more without",
                "substantial",
                effects.more("no dropout", of=lambda d: d.gap),
            ),
            Effect(
                "epochs to the same training loss, with over without",
                "2",
                effects.dropout_epochs,
                none=1.0,
            ),
            Effect(
                "points more by halving than by the mean of 64 masks",
                "halving is a fair stand-in",
                effects.of_masks,
                sided=False,
            ),
        ),
        also=_over_masks,
    ),
    Claim(
        "depth",
        "removing any middle convolutional layer costs about two points",
        "about +2 top-1",
        kinds=WITH_CIFAR,
        base=five_convolutions,
        arms=(Arm("base"), *(Arm(f"no conv{i}", _net(without=(f"conv{i}",))) for i in range(2, 6))),
        effects=tuple(
            Effect(f"test error, points more without conv{i}", "2", effects.more(f"no conv{i}"))
            for i in range(2, 6)
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
            Effect(
                "training loss of the first epoch, more without", "more than 0", effects.first_loss
            ),
            Effect("test error, points more without", "-", effects.more("biases 0"), sided=False),
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
        base=five_convolutions,
        arms=(Arm("base"),),
        effects=(
            Effect("test error, points more of a single net", "2.6", effects.together),
            Effect(
                "points more of the plain average than of a weighted one",
                "-",
                effects.plain_over_weighted,
                sided=False,
            ),
        ),
    ),
    Claim(
        "pretrain",
        "a net trained on more classes first and then on fewer errs less",
        "39.0 / 16.6 against 40.7 / 18.2",
        "38.990 / 16.622",
        ("photographs",),
        five_convolutions,
        (
            Arm("on five classes", part=Part(0, 5)),
            Arm("from scratch", part=Part(5, 5, 200)),
            Arm("pre-trained", part=Part(5, 5, 200), init="on five classes"),
        ),
        (
            Effect(
                "test error, points more from scratch",
                "1.7",
                effects.more("from scratch", "pre-trained"),
            ),
        ),
    ),
    Claim(
        "ilsvrc2010",
        "one net on the ILSVRC-2010 test set",
        "37.5 / 17.0",
        "37.473 / 16.999",
        by_hand=(
            "alexnet prepare ARCHIVES_OF_2010 STORE",
            "alexnet train original --data STORE --out runs/one",
            "alexnet evaluate runs/one --data STORE --split test",
        ),
    ),
    Claim(
        "ilsvrc2012",
        "one net on ILSVRC-2012 validation",
        "40.7 / 18.2",
        "40.664 / 18.210",
        by_hand=(
            "alexnet prepare ARCHIVES STORE",
            "alexnet train original --data STORE --out runs/one",
            "alexnet evaluate runs/one --data STORE",
        ),
    ),
    Claim(
        "seven",
        "two pre-trained nets and five others, averaged",
        "36.7 / 15.4",
        by_hand=(
            "alexnet prepare FALL_2011 ALL",
            "for n in 1 2; do alexnet train six_conv --data ALL --seed $n --out runs/all-$n; "
            "alexnet train six_conv --data STORE --seed $n --init runs/all-$n --out runs/tuned-$n; done",
            "for n in 1 2 3 4 5; do alexnet train original --data STORE --seed $n --out runs/net-$n; done",
            "alexnet evaluate runs/tuned-* runs/net-* --data STORE",
        ),
    ),
    Claim(
        "filters",
        "conv1's kernels specialise by column, one to colour, one not, in every run",
        "Fig. 3",
        kinds=("photographs", "imagenet"),
        base=five_convolutions,
        arms=(Arm("base"),),
        effects=(
            Effect(
                "columns' colour apart, more than by chance", "more than 0", effects.specialised
            ),
        ),
    ),
    Claim(
        "features",
        "the nearest pictures in the last hidden layer show the same thing, those by pixels often do not",
        "Fig. 4",
        kinds=("photographs", "imagenet"),
        base=five_convolutions,
        arms=(Arm("base"),),
        effects=(
            Effect(
                "six nearest of the same class, points more than by pixels",
                "more than 0",
                effects.nearer,
            ),
        ),
        also=_alike,
    ),
)


def chosen(ids: Sequence[str]) -> tuple[Claim, ...]:
    """The claims of these ids, all where none is named. Raises ValueError for an id that is none."""
    by_id = {claim.id: claim for claim in CLAIMS}
    for name in ids:
        if name not in by_id:
            raise ValueError(f"there is no claim {name!r}; the claims are {', '.join(by_id)}")
    return tuple(by_id[name] for name in ids) or CLAIMS
