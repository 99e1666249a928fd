"""`alexnet train`"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import AvoidSubcommands, FlagConversionOff

from alexnet import recipes
from alexnet.cli.arguments import on_disk, recipe, stoppable
from alexnet.cli.settings import TRAIN_GROUPS, short_help, wants_short_help, with_full_help
from alexnet.config import Config, scaled
from alexnet.errors import AlexNetError

USAGE = """usage: alexnet train {recipe} --data STORE [--out RUN] [--epochs N] [--FIELD VALUE ...]
       alexnet train --resume RUN     continue an interrupted run
"""


@dataclass(frozen=True)
class TrainArguments:
    """Train a recipe. Each field of the recipe is an option."""

    out: Path | None = None
    """Folder of the new run; runs/RECIPE when not given."""
    epochs: int | None = None
    """Number of epochs; the whole schedule is scaled in proportion."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=recipes.original)


@dataclass(frozen=True)
class ResumeArguments:
    """Continue a run that was interrupted, or lengthen one that is finished.

    Without other options the result has the same bits as an uninterrupted run. With another number
    of ranks than before, it is the same within rounding.
    """

    resume: Path
    """Folder of the run."""
    columns: int | None = None
    """New value of parallel.columns; unchanged when not given."""
    hybrid: bool | None = None
    """New value of parallel.hybrid; unchanged when not given."""
    epochs: int | None = None
    """New number of epochs in all. The schedule is scaled in proportion, and training goes on from
    the saved epoch; unchanged when not given."""
    lr: Annotated[float | None, tyro.conf.arg(aliases=("--sgd.lr",))] = None
    """New value of sgd.lr, which the schedule divides; unchanged when not given."""


def train(arguments: list[str]) -> None:
    """Run `alexnet train`: start a run of a recipe, resume a run, or list the recipes."""
    if any(argument.split("=")[0] == "--resume" for argument in arguments):
        _resume(arguments)
        return
    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] not in ("-h", "--help"):
            raise AlexNetError(f"name the recipe first: {', '.join(recipes.__all__)}")
        print(USAGE.format(recipe="RECIPE"))
        for name in recipes.__all__:
            print(f"{name}\n    {' '.join((recipe(name).__doc__ or '').split())}")
        print("\nOptions: alexnet train RECIPE --help")
        return
    name, *rest = arguments
    if wants_short_help(rest):
        config = replace(recipe(name)(), recipe=name)
        print(USAGE.format(recipe=name) + short_help("train", config, TRAIN_GROUPS))
        return
    a = parse_train(name, with_full_help(rest))
    if not a.config.data:
        raise AlexNetError(
            "name the prepared store: --data STORE (made by: alexnet prepare SOURCE STORE)"
        )
    from alexnet.train import loop

    with stoppable():
        loop.fit(a.config, on_disk(a.out or Path("runs") / name))


def _resume(arguments: list[str]) -> None:
    r = tyro.cli(ResumeArguments, prog="alexnet train", args=arguments, config=(FlagConversionOff,))
    from alexnet.checkpoint import read_config
    from alexnet.train import loop

    changes = {
        name: value for name in ("columns", "hybrid") if (value := getattr(r, name)) is not None
    }
    with stoppable():
        # None is not the same as the saved layout: with None, a single process resumes a run that
        # was saved by several ranks.
        parallel = replace(read_config(r.resume).parallel, **changes) if changes else None
        loop.resume(r.resume, parallel, r.epochs, r.lr)


def parse_train(name: str, arguments: list[str]) -> TrainArguments:
    """Parse the arguments of `alexnet train NAME` into the complete configuration of a run.

    Raises AlexNetError for an unknown recipe.
    """
    a = tyro.cli(
        TrainArguments,
        prog=f"alexnet train {name}",
        args=arguments,
        default=TrainArguments(config=recipe(name)()),
        # AvoidSubcommands: the schedule and the layers are unions, which tyro would otherwise turn
        # into subcommands. FlagConversionOff: `--augment.crops False` reads as the field does.
        config=(AvoidSubcommands, FlagConversionOff),
    )
    # Every field is an option: with --recipe a run would bear a false name.
    config = replace(a.config, recipe=name)
    # After parsing, so that --epochs also scales a schedule whose fields were set by hand.
    if a.epochs is not None:
        config = replace(config, schedule=scaled(config.schedule, a.epochs))
    return replace(a, config=config)
