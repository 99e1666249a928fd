"""`alexnet summary`"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import AvoidSubcommands, FlagConversionOff, Positional

from alexnet import recipes
from alexnet.architecture import Op, plan
from alexnet.cli.arguments import recipe
from alexnet.cli.help import help_page, names_of, option_lines, options_of, wants_help
from alexnet.cli.mistakes import in_one_sentence
from alexnet.cli.options import fields_of, understood
from alexnet.cli.short_help import SUMMARY_GROUPS, recipe_lines, short_help, with_full_help
from alexnet.config import Config
from alexnet.layer_tables import Format, dense_architecture, note, text
from alexnet.program import command
from alexnet.saved_config import read_file


@dataclass(frozen=True)
class SummaryOptions:
    """The options of the verb, which stand among the fields of the recipe."""

    format: Format = "table"
    """A table, JSON, CSV, or the layers as a simulator of accelerators reads them."""
    dense: bool = False
    """Count the network without its columns, as many published tables do."""


@dataclass(frozen=True)
class SummaryArguments:
    """Print the shape, parameters, neurons and multiply-adds of every layer.

    A recipe is counted with the classes of its table, a thousand as a rule; a run with those of its
    store.

    Each field of the recipe is an option, for example --architecture.columns 1, or --width 0.5 for
    --architecture.width. `summary RECIPE --help` lists those that people change.
    """

    recipe: Positional[Annotated[str, tyro.conf.arg(metavar="RECIPE|RUN")]]
    """Name of the recipe (`train --help` lists all of them), or a run, or its config.json."""
    options: SummaryOptions


@dataclass(frozen=True)
class _Parsed(SummaryOptions):
    """Print the layers of a recipe. Each field of the recipe is an option."""

    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=recipes.original)


def _config(name: str) -> Config:
    """The config of a run, of a file, or of a recipe. Raises AlexNetError if there is none."""
    path = Path(name)
    if path.suffix == ".json" or (path / "config.json").is_file():
        return read_file(Config, path if path.suffix == ".json" else path / "config.json")
    return recipe(name)


def summary(arguments: list[str]) -> None:
    """Run `alexnet summary`."""
    # The recipe is parsed first and alone, because it decides the defaults of all other options.
    if not arguments or arguments[0] in ("-h", "--help"):
        print(help_page(SummaryArguments, "summary", "RECIPE|RUN [--FIELD VALUE ...]"))
        print("\nRecipes:", *recipe_lines(), sep="\n")
        return
    base, rest = _config(arguments[0]), arguments[1:]
    if wants_help(rest):
        print(f"usage: {command('summary', arguments[0])} [OPTION ...] [--FIELD VALUE ...]\n")
        print(*option_lines(options_of(SummaryOptions)), sep="\n")
        print(short_help("summary", replace(base, recipe=arguments[0]), SUMMARY_GROUPS))
        return
    verb = f"summary {arguments[0]}"
    names = fields_of(base) | names_of(SummaryOptions)
    words = understood(with_full_help(rest), names, verb, values=True)
    with in_one_sentence(verb):
        a = tyro.cli(
            _Parsed,
            prog=command("summary", arguments[0]),
            args=words,
            default=_Parsed(config=base),
            # `parse_train` says why.
            config=(AvoidSubcommands, FlagConversionOff),
        )
    architecture = a.config.architecture
    if a.dense:
        architecture = dense_architecture(architecture)
    if a.format == "table":
        _print_table(plan(architecture))
        return
    name = Path(a.config.recipe).name + ("_dense" if a.dense else "")
    print(text(architecture, a.format, name))
    # Not among the lines of the file, which may have no comments.
    if about := note(a.format):
        print(about, file=sys.stderr)


def _print_table(ops: Sequence[Op]) -> None:
    from rich.console import Console
    from rich.table import Table

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
    console = Console()
    # Not to stdout directly: where the reader has closed the pipe, rich would exit with code 1.
    with console.capture() as printed:
        console.print(table)
    print(printed.get(), end="")
