"""`alexnet figure`"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from alexnet.cli.arguments import Paths, parse
from alexnet.errors import AlexNetError


@dataclass(frozen=True)
class FigureArguments:
    """Draw a figure of a run.

    filters: the filters of the first layer (Fig. 3). answers: predictions for images of the run's
    store. neighbours: the nearest training images in the last hidden layer (Fig. 4). curves: error
    and loss of one or more runs. signal: the distance of two images in each layer of the untrained
    networks.
    """

    figure: Positional[Literal["filters", "answers", "neighbours", "curves", "signal"]]
    """The figure."""
    runs: Positional[Annotated[Paths, tyro.conf.arg(metavar="RUN...")]]
    """Folders of the runs; only curves and signal use more than the first."""
    out: Path | None = None
    """Image file; FIGURE.png in the folder of the first run when not given."""


def figure(arguments: list[str]) -> None:
    """Run `alexnet figure`."""
    a = parse(FigureArguments, "figure", arguments)
    from alexnet import figures, load

    if not a.runs:
        raise AlexNetError("name the run to draw")
    # By default beside the other files of the run.
    out = a.out or a.runs[0] / f"{a.figure}.png"
    match a.figure:
        case "filters":
            plot = figures.filters(load(a.runs[0]).net)
        case "answers":
            plot = figures.answers(a.runs[0])
        case "neighbours":
            plot = figures.neighbours(a.runs[0])
        case "curves":
            plot = figures.curves(a.runs)
        case _:
            plot = figures.signals(a.runs)
    figures.save(plot, out)
    print(out)
