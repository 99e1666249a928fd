"""`alexnet figure`"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, assert_never, get_args

import tyro
from tyro.conf import Positional

from alexnet import recipes
from alexnet.cli.arguments import Names, Paths, on_disk, parse, recipe
from alexnet.errors import AlexNetError
from alexnet.program import command

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal[
    "network",
    "filters",
    "answers",
    "neighbours",
    "units",
    "confusion",
    "mistakes",
    "curves",
    "training-error",
    "signal",
]
SEVERAL_RUNS = "curves", "training-error", "signal"
"""The figures that compare runs; `neighbours` takes images after its run, the others nothing."""

OPTIONS_OF: dict[str, tuple[Kind, ...]] = {
    "layer": ("units",),
    "unit": ("units",),
    "data": ("units", "neighbours"),
    "split": ("units", "neighbours"),
}
"""The figures that have an option; all have `--out`."""


@dataclass(frozen=True)
class FigureArguments:
    """Draw a figure of a run.

    - network: the layers of a run or a recipe (Fig. 2).
    - filters: the filters of the first layer (Fig. 3).
    - answers: predictions for eight images of the run's store (Fig. 4, left).
    - neighbours: the nearest images of a store in the last hidden layer, of validation images or
      of the image files after the run (Fig. 4, right).
    - units: the image that maximizes each unit of a layer, and its strongest patches of a store.
    - confusion: which classes are predicted for which.
    - mistakes: the validation images on which the run was surest of a wrong class.
    - curves: error and loss by epoch.
    - training-error: the training error by epoch, and when it reaches 25 % (Fig. 1).
    - signal: the distance of two images in each layer of the untrained network.
    """

    figure: Positional[Kind]
    """The figure."""
    runs: Positional[Annotated[Paths, tyro.conf.arg(metavar="RUN|RECIPE...")]]
    """Folder of the run; of several runs for curves, training-error and signal; or, for network,
    the name of a recipe."""
    out: Path | None = None
    """Image file; when not given, FIGURE.png in the folder of the first run, or in the current
    folder for a file of weights."""
    layer: str = ""
    """For `units`: the layer; the last convolution when not given."""
    unit: Annotated[Names, tyro.conf.arg(metavar="NUMBER...")] = ()
    """For `units`: the numbers of the units in the layer; eight units when not given."""
    data: Annotated[str, tyro.conf.arg(metavar="STORE")] = ""
    """For `units` and `neighbours`: store to search; the run's own when not given."""
    split: str = ""
    """For `units` and `neighbours`: split to search; when not given, the run's validation split
    for `units` and its training split for `neighbours`."""


def figure(arguments: list[str]) -> None:
    """Run `alexnet figure`."""
    if not arguments:
        example = command("figure", "filters", "RUN")
        raise AlexNetError(
            f"name a figure and a run, for example: {example}; the figures are "
            f"{', '.join(get_args(Kind))}"
        )
    a = parse(FigureArguments, "figure", arguments)
    if not a.runs:
        what, whose = ("run or recipe", "RUN|RECIPE") if a.figure == "network" else ("run", "RUN")
        raise AlexNetError(f"name the {what} to draw: {command('figure', a.figure)} {whose}")
    run, *others = a.runs
    if others and a.figure not in (*SEVERAL_RUNS, "neighbours"):
        raise AlexNetError(
            f"`alexnet figure {a.figure}` draws one run and has no use for {others[0]}"
        )
    for option in fields(a):
        if option.name in ("figure", "runs", "out"):
            continue
        # An option that is missing there fails here, and is not ignored.
        having = OPTIONS_OF[option.name]
        if getattr(a, option.name) and a.figure not in having:
            figures_of = " and ".join(command("figure", kind) for kind in having)
            raise AlexNetError(f"--{option.name} is an option of {figures_of} alone")
    # By default beside the other files of the run; a recipe has no folder, and an exported file may
    # lie anywhere.
    named_recipe = a.figure == "network" and str(run) in recipes.__all__ and not run.exists()
    beside = Path() if run.is_file() else run
    default_out = Path(f"{run}-network.png") if named_recipe else beside / f"{a.figure}.png"
    out = on_disk(a.out or default_out)
    from alexnet import figures

    # Of a run that does not exist, the error of reading it says more.
    if a.out is not None or out.parent.is_dir():
        figures.check_out(out)
    figures.save(_draw(a, named_recipe), out)
    print(out)


def _draw(a: FigureArguments, named_recipe: bool) -> Figure:
    """Draw a figure. `named_recipe`: the only entry of `a.runs` is the name of a recipe."""
    from alexnet import evaluation, figures, load
    from alexnet.checkpoint import read_config

    run = a.runs[0]
    match a.figure:
        case "network":
            config = recipe(str(run)) if named_recipe else read_config(run)
            return figures.network(config.architecture)
        case "filters":
            return figures.filters(load(run).net)
        case "answers":
            return figures.answers(run)
        case "neighbours":
            return figures.neighbours(run, a.runs[1:], a.data, a.split)
        case "units":
            return _draw_units(a)
        case "confusion":
            test = evaluation.own_test(run)
            return figures.confusion(test.results[-1], test.trained.names)
        case "mistakes":
            return figures.mistakes(evaluation.own_test(run))
        case "curves":
            return figures.curves(a.runs)
        case "training-error":
            return figures.training_error(a.runs)
        case "signal":
            return figures.signals(a.runs)
        case _:
            assert_never(a.figure)


def _draw_units(a: FigureArguments) -> Figure:
    """Draw the units of a layer."""
    from alexnet import figures, load
    from alexnet.inference import split_for

    for number in a.unit:
        if not number.isdecimal():
            raise AlexNetError(f"--unit {number}: units have numbers, from 0")
    trained = load(a.runs[0])
    split = split_for(trained, a.data, a.split)
    return figures.units(trained, split, a.layer, [int(number) for number in a.unit])
