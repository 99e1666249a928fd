"""`alexnet summary`"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import AvoidSubcommands, FlagConversionOff, Positional

from alexnet.cli.arguments import parse, recipe
from alexnet.cli.options import fields_of, help_page, understood, wants_help
from alexnet.cli.settings import SUMMARY_GROUPS, recipe_lines, short_help, with_full_help
from alexnet.config import Config
from alexnet.program import command
from alexnet.saved_config import read_file


@dataclass(frozen=True)
class SummaryArguments:
    """Print the shape, parameters, neurons and multiply-adds of every layer.

    Each field of the recipe is an option, for example --architecture.columns 1, or --width 0.5 for
    --architecture.width. `summary RECIPE --help` lists those that people change.
    """

    recipe: Positional[Annotated[str, tyro.conf.arg(metavar="RECIPE|RUN")]]
    """Name of the recipe (`train --help` lists all of them), or a run, or its config.json."""


def _config(name: str) -> Config:
    """The config of a run, of a file, or of a recipe. Raises AlexNetError if there is none."""
    path = Path(name)
    if path.suffix == ".json" or (path / "config.json").is_file():
        return read_file(Config, path if path.suffix == ".json" else path / "config.json")
    return recipe(name)()


def summary(arguments: list[str]) -> None:
    """Run `alexnet summary`."""
    # The recipe is parsed first and alone, because it decides the defaults of all other options.
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_page(SummaryArguments, "summary", "RECIPE|RUN [--FIELD VALUE ...]"))
        print("\nRecipes:", *recipe_lines(), sep="\n")
        return
    a = parse(SummaryArguments, "summary", arguments[:1])
    base, rest = _config(a.recipe), arguments[1:]
    if wants_help(rest):
        print(f"usage: {command('summary', a.recipe)} [--FIELD VALUE ...]")
        print(short_help("summary", replace(base, recipe=a.recipe), SUMMARY_GROUPS))
        return
    config = tyro.cli(
        Config,
        prog=command("summary", a.recipe),
        args=understood(with_full_help(rest), fields_of(base), f"summary {a.recipe}", values=True),
        default=base,
        config=(AvoidSubcommands, FlagConversionOff),
    )
    from rich.console import Console
    from rich.table import Table

    from alexnet.architecture import plan

    ops = plan(config.architecture)
    table = Table(
        "layer",
        "output",
        "columns",
        "parameters",
        "neurons",
        "multiply-adds",
        box=None,
        pad_edge=False,
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for op in ops:
        # A fully connected layer has a shape of (units, 1, 1); the ones say nothing.
        shape = " x ".join(map(str, op.shape if op.shape[1] > 1 else op.shape[:1]))
        counts = [f"{n:,}" if n else "" for n in (op.parameters, op.neurons, op.multiply_adds)]
        table.add_row(op.name, shape, str(op.columns) if op.op == "linear" else "", *counts)
    totals = [
        f"{sum(getattr(op, count) for op in ops):,}"
        for count in ("parameters", "neurons", "multiply_adds")
    ]
    table.add_row("all", "", "", *totals, style="bold")
    Console().print(table)
