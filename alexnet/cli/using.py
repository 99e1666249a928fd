"""Verbs that take a run, or a recipe: evaluate, predict, features, figure, summary, export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import AvoidSubcommands, FlagConversionOff, Positional

from alexnet.cli.making import recipe
from alexnet.cli.parsing import parse
from alexnet.config import Config


@dataclass(frozen=True)
class EvaluateArguments:
    """Test errors of a run, or of the ensemble of several: centre patch, and ten (the recipe's own test)."""

    runs: Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]]
    data: str
    """A store: a folder, or a URL."""
    split: str = ""
    """The run's validation split when not given."""
    device: str = "auto"
    json: bool = False


def evaluate(arguments: list[str]) -> None:
    a = parse(EvaluateArguments, "evaluate", arguments)
    from alexnet import evaluation
    from alexnet.data.classes import short_names
    from alexnet.data.store import Store

    results = evaluation.evaluate(a.runs, a.data, a.split, a.device)
    if a.json:
        print(json.dumps([result.to_dict() for result in results]))
        return
    for r in results:
        top5 = "" if r.top5_error is None else f", top-5 {r.top5_error:.2%}"
        name = "centre patch" if r.patches == 1 else f"{r.patches} patches"
        print(
            f"{name}: top-1 error {r.top1_error:.2%}{top5}, loss {r.loss:.4f} ({r.images} pictures)"
        )
    store = Store(a.data)
    if len(store.classes) <= 20:
        names = short_names(store.classes, store.words)
        print(confusion_table(results[-1].confusion, names, results[-1].class_errors))


def confusion_table(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], errors: Sequence[float | None]
) -> str:
    """Rows: what they are; columns: what they are taken for."""
    width = max(map(len, classes))
    lines = [
        "",
        " " * width + "   error  taken for " + " ".join(f"{i:>4}" for i in range(len(classes))),
    ]
    for i, (name, row, error) in enumerate(zip(classes, confusion, errors, strict=True)):
        share = "     -" if error is None else f"{error:6.1%}"
        lines.append(f"{name:>{width}}  {share}  {i:>9} " + " ".join(f"{n or '.':>4}" for n in row))
    return "\n".join(lines)


@dataclass(frozen=True)
class PredictArguments:
    """The best classes of picture files, or of all in a folder, with their probabilities.

    Classes that are wnids are shown by their first word; --json has both."""

    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    pictures: Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PICTURE...")]]
    most: int = 5
    """Classes to name for each."""
    device: str = "auto"
    json: bool = False


def predict(arguments: list[str]) -> None:
    a = parse(PredictArguments, "predict", arguments)
    from alexnet import inference, weights

    unread = 0
    trained = weights.load(a.run, device=a.device)
    names = dict(zip(trained.classes, trained.names, strict=True))
    words = dict(zip(trained.classes, trained.words, strict=False))  # none, or one for each
    for p in inference.predict(trained, a.pictures, a.most):
        unread += p.error is not None
        if a.json:
            own = {name: words[name] for name, _ in p.classes if words}
            line = {"picture": p.picture, "classes": dict(p.classes), "words": own}
            print(json.dumps(line | {"error": p.error}), flush=True)
        else:
            best = p.error or "  ".join(f"{names[name]} {share:.1%}" for name, share in p.classes)
            print(f"{p.picture}: {best}", flush=True)
    if unread:
        raise ValueError(f"{unread} of the files could not be read as pictures")


@dataclass(frozen=True)
class FeaturesArguments:
    """A layer's values for every picture of a store or folder: LAYER.npy and names.txt."""

    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    data: str
    """A store, or a folder of pictures."""
    out: Path
    """A new folder."""
    layer: str = "fc7"
    split: str = "val"
    device: str = "auto"


def features(arguments: list[str]) -> None:
    a = parse(FeaturesArguments, "features", arguments)
    from alexnet import inference, weights

    count = inference.features(
        weights.load(a.run, device=a.device), a.layer, a.data, a.out, a.split
    )
    print(f"{a.out}/{a.layer}.npy: {count} pictures")


@dataclass(frozen=True)
class FigureArguments:
    """filters: the first layer's kernels (Fig. 3). answers, neighbours: what the run says of pictures of its store, and
    which training pictures lie nearest in its last hidden layer (Fig. 4). curves: error and loss of runs. signal: what
    they began with."""

    kind: Positional[Literal["filters", "answers", "neighbours", "curves", "signal"]]
    runs: Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN...")]]
    out: Path | None = None
    """KIND.png beside the first run's files when not given."""


def figure(arguments: list[str]) -> None:
    a = parse(FigureArguments, "figure", arguments)
    from alexnet import figures, gallery, weights

    if not a.runs:
        raise ValueError("name the run to draw")
    out = a.out or a.runs[0] / f"{a.kind}.png"
    match a.kind:
        case "filters":
            drawn = figures.filters(weights.load(a.runs[0]).net)
        case "answers":
            drawn = gallery.answers(a.runs[0])
        case "neighbours":
            drawn = gallery.neighbours(a.runs[0])
        case "curves":
            drawn = gallery.curves(a.runs)
        case _:
            drawn = gallery.signals(a.runs)
    drawn.savefig(out, bbox_inches="tight")
    print(out)


@dataclass(frozen=True)
class SummaryArguments:
    """Shapes, parameters, neurons and multiply-adds of every layer."""

    recipe: Positional[Annotated[str, tyro.conf.arg(metavar="RECIPE")]]


def summary(arguments: list[str]) -> None:
    a = parse(SummaryArguments, "summary", arguments[:1])
    config = tyro.cli(
        Config,
        prog=f"alexnet summary {a.recipe}",
        args=arguments[1:],
        default=recipe(a.recipe)(),
        config=(AvoidSubcommands, FlagConversionOff),
    )
    from rich.console import Console
    from rich.table import Table

    from alexnet.model import plan

    steps = plan(config.architecture)
    table = Table("layer", "output", "columns", "parameters", "neurons", "multiply-adds", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for s in steps:
        shape = " x ".join(map(str, s.shape if s.shape[1] > 1 else s.shape[:1]))
        counts = [f"{n:,}" if n else "" for n in (s.parameters, s.neurons, s.multiply_adds)]
        table.add_row(s.name, shape, str(s.columns) if s.op == "linear" else "", *counts)
    totals = [
        f"{sum(getattr(s, what) for s in steps):,}"
        for what in ("parameters", "neurons", "multiply_adds")
    ]
    table.add_row("all", "", "", *totals, style="bold")
    Console().print(table)


@dataclass(frozen=True)
class ExportArguments:
    """Write a run's weights as plain safetensors, or the whole network as ONNX (RGB 0..255 -> probabilities)."""

    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    file: Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    which: Literal["last", "best"] = "last"


def export(arguments: list[str]) -> None:
    a = parse(ExportArguments, "export", arguments)
    from alexnet import onnx_export, weights

    if a.file.exists():
        raise ValueError(f"{a.file} exists; choose another name")
    if a.file.suffix == ".onnx":
        onnx_export.write_onnx(weights.load(a.run, a.which), a.file)
    elif a.file.suffix == ".safetensors":
        saved = weights.read(a.run, a.which)
        weights.write(a.file, saved.weights, {}, saved.mean, saved.about)
    else:
        raise ValueError(f"{a.file} ends in neither .onnx nor .safetensors")
    print(a.file)
