"""The command line: a function for each verb. Only here are arguments parsed; torch is imported once one is known."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, cast

import tyro
from tyro.conf import AvoidSubcommands, FlagConversionOff, Positional

from alexnet import __version__, recipes
from alexnet.config import Config, StoreSettings, scaled
from alexnet.data.places import StoreLost

HELP = """usage: alexnet VERB ...      (alexnet VERB --help tells more)

AlexNet as a working system: the 2012 paper, from image archives to figures.

  demo                                  the whole system in minutes on a built-in set
  prepare SOURCE STORE                  folder, ImageNet archives, Parquet, WebDataset or hub name -> store
  train RECIPE --data STORE --out RUN   {recipes}
  train --resume RUN                    go on with an interrupted run
  evaluate RUN... --data STORE          centre and ten patches, top-1 and top-5; several runs: their ensemble
  predict RUN PICTURE...                classes and probabilities of picture files and folders
  features RUN --layer fc7 --data STORE --out FOLDER
  figure filters|curves|signal RUN...   pictures of a run
  summary RECIPE                        shapes, parameters and multiply-adds of every layer
  export RUN FILE.onnx|FILE.safetensors
  bench ops|step|loader|prepare|infer|scale  this machine's speeds, beside its limits and other programs
  reproduce [CLAIM...] [--data STORE]   the paper's claims as experiments; without arguments, their table
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The program `alexnet`. Exit code 2 and one sentence for a user's mistake; 128 + signal when stopped."""
    verb, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(HELP.format(recipes=", ".join(recipes.__all__)), end="")
        return
    if verb == "--version":
        print(f"alexnet {__version__}")
        return
    if verb not in VERBS:
        _fail(f"there is no verb {verb!r}; the verbs are {', '.join(VERBS)}")
    try:
        VERBS[verb](rest)
    except (ValueError, FileNotFoundError, PermissionError) as error:
        _fail(str(error))
    except StoreLost as error:
        print(f"alexnet: {error}", file=sys.stderr, flush=True)
        os._exit(2)  # threads may wait for the store for ever
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # the reader, `head` say, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(sentence: str) -> NoReturn:
    print(f"alexnet: {sentence}", file=sys.stderr)
    sys.exit(2)


def _parse(kind: Any, verb: str, arguments: list[str]) -> Any:
    return tyro.cli(kind, prog=f"alexnet {verb}", args=arguments, config=(tyro.conf.OmitArgPrefixes,))


@dataclass(frozen=True)
class DemoArguments:
    """The whole system in minutes on the built-in set: make, prepare, train, test, draw."""

    out: Path = Path("demo")
    """Folder for everything it makes."""
    train: int = 3000
    """Pictures to train on."""
    val: int = 500
    """Pictures to test on."""
    epochs: int = 0
    """0: as the recipe has it."""


def demo(arguments: list[str]) -> None:
    a = _parse(DemoArguments, "demo", arguments)
    from alexnet import demo as made

    with _stoppable():
        print(made.report(made.demo(a.out, a.train, a.val, a.epochs), a.out))


@dataclass(frozen=True)
class PrepareArguments:
    """Make a store: the shorter side rescaled, the central square cut out, statistics taken on the way.

    SOURCE: a folder of classes (train/ and val/, or one folder), of Parquet files, of WebDataset tars, of one tar a
    class, of the ILSVRC-2012 or -2010 archives, of CIFAR-10's binary files; or a Hugging Face hub name.
    """

    source: Positional[Annotated[str, tyro.conf.arg(metavar="SOURCE")]]
    store: Positional[Annotated[Path, tyro.conf.arg(metavar="STORE")]]
    val_fraction: float = 0.1
    """Of one folder of classes, how much is held out."""
    settings: Annotated[StoreSettings, tyro.conf.arg(name="")] = field(default_factory=StoreSettings)
    workers: int = 0
    """Threads; 0: one a core."""
    force: bool = False
    """Replace a store that exists."""


def prepare(arguments: list[str]) -> None:
    a = _parse(PrepareArguments, "prepare", arguments)
    from alexnet.data import archives
    from alexnet.data import prepare as making

    manifest = making.prepare(archives.find(a.source, a.val_fraction), a.store, a.settings, a.workers, a.force)
    print(f"{a.store}: {len(manifest['classes'])} classes")
    for name, split in manifest["splits"].items():
        print(f"  {name}: {split['images']} pictures, {len(split['skipped'])} skipped")
        for picture, reason in split["skipped"][:20]:
            print(f"    skipped {picture}: {reason}")


@dataclass(frozen=True)
class TrainArguments:
    """Train a recipe; every field of it can be set."""

    out: Path | None = None
    """Folder of the new run; runs/RECIPE when not given."""
    epochs: int | None = None
    """Stretch or shorten the whole schedule in proportion."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=recipes.original)


@dataclass(frozen=True)
class ResumeArguments:
    """Go on with an interrupted run, bit for bit; on other ranks than before within rounding."""

    resume: Path
    columns: int | None = None
    """parallel.columns from here on; as it was when not given."""
    hybrid: bool | None = None
    """parallel.hybrid from here on; as it was when not given."""


def train(arguments: list[str]) -> None:
    if any(a.split("=")[0] == "--resume" for a in arguments):
        r = tyro.cli(ResumeArguments, prog="alexnet train", args=arguments, config=(FlagConversionOff,))
        from alexnet.train import loop
        from alexnet.train.checkpoint import read_config

        given = {name: value for name in ("columns", "hybrid") if (value := getattr(r, name)) is not None}
        with _stoppable():
            loop.resume(r.resume, replace(read_config(r.resume).parallel, **given) if given else None)
        return
    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] not in ("-h", "--help"):
            raise ValueError(f"name the recipe first: {', '.join(recipes.__all__)}")
        print("usage: alexnet train RECIPE --data STORE [--out RUN] [--epochs N] [--FIELD VALUE ...]")
        print("       alexnet train --resume RUN\n")
        for name in recipes.__all__:
            print(f"{name}\n    {' '.join((recipe(name).__doc__ or '').split())}")
        print("\nAll fields of a recipe: alexnet train RECIPE --help")
        return
    name, *rest = arguments
    a = parse_train(name, rest)
    if not a.config.data:
        raise ValueError("name the prepared store: --data STORE (made by: alexnet prepare SOURCE STORE)")
    from alexnet.train import loop

    with _stoppable():
        loop.fit(a.config, a.out or Path("runs") / name)


def parse_train(name: str, arguments: list[str]) -> TrainArguments:
    """The arguments of `alexnet train NAME`, the whole config resolved from them."""
    a = tyro.cli(
        TrainArguments,
        prog=f"alexnet train {name}",
        args=arguments,
        default=TrainArguments(config=recipe(name)()),
        config=(AvoidSubcommands, FlagConversionOff),
    )
    config = replace(a.config, recipe=name)
    if a.epochs is not None:
        config = replace(config, schedule=scaled(config.schedule, a.epochs))
    return replace(a, config=config)


def recipe(name: str) -> Callable[[], Config]:
    """Raises ValueError for a name that is no recipe."""
    if name not in recipes.__all__:
        raise ValueError(f"there is no recipe {name!r}; the recipes are {', '.join(recipes.__all__)}")
    return cast(Callable[[], Config], getattr(recipes, name))


class _stoppable:
    """Ends the program as training asks: 128 + the signal when stopped, 1 for a NaN. Of several ranks one speaks."""

    def __enter__(self) -> None:
        from alexnet.parallel.launch import one_speaks

        one_speaks()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from alexnet.parallel.watch import PeerLost
        from alexnet.train.loop import Interrupted
        from alexnet.train.readings import NotFinite

        if isinstance(error, PeerLost):
            if error.speaks:
                print(f"alexnet: {error}", file=sys.__stderr__, flush=True)
            os._exit(1)  # what waits for the lost rank would wait on
        if isinstance(error, Interrupted | NotFinite):
            print(f"alexnet: {error}", file=sys.stderr)
            sys.exit(128 + error.number if isinstance(error, Interrupted) else 1)


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
    a = _parse(EvaluateArguments, "evaluate", arguments)
    from alexnet import evaluation
    from alexnet.data.store import Store

    results = evaluation.evaluate(a.runs, a.data, a.split, a.device)
    if a.json:
        print(json.dumps([result.to_dict() for result in results]))
        return
    for r in results:
        top5 = "" if r.top5_error is None else f", top-5 {r.top5_error:.2%}"
        name = "centre patch" if r.patches == 1 else f"{r.patches} patches"
        print(f"{name}: top-1 error {r.top1_error:.2%}{top5}, loss {r.loss:.4f} ({r.images} pictures)")
    classes = Store(a.data).classes
    if len(classes) <= 20:
        print(confusion_table(results[-1].confusion, classes, results[-1].class_errors))


def confusion_table(confusion: Sequence[Sequence[int]], classes: Sequence[str], errors: Sequence[float | None]) -> str:
    """Rows: what they are; columns: what they are taken for."""
    width = max(map(len, classes))
    lines = ["", " " * width + "   error  taken for " + " ".join(f"{i:>4}" for i in range(len(classes)))]
    for i, (name, row, error) in enumerate(zip(classes, confusion, errors, strict=True)):
        share = "     -" if error is None else f"{error:6.1%}"
        lines.append(f"{name:>{width}}  {share}  {i:>9} " + " ".join(f"{n or '.':>4}" for n in row))
    return "\n".join(lines)


@dataclass(frozen=True)
class PredictArguments:
    """The best classes of picture files, or of all in a folder, with their probabilities."""

    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    pictures: Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PICTURE...")]]
    most: int = 5
    """Classes to name for each."""
    device: str = "auto"
    json: bool = False


def predict(arguments: list[str]) -> None:
    a = _parse(PredictArguments, "predict", arguments)
    from alexnet import inference, weights

    unread = 0
    for p in inference.predict(weights.load(a.run, device=a.device), a.pictures, a.most):
        unread += p.error is not None
        if a.json:
            print(json.dumps({"picture": p.picture, "classes": dict(p.classes), "error": p.error}), flush=True)
        else:
            best = p.error or "  ".join(f"{name} {share:.1%}" for name, share in p.classes)
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
    a = _parse(FeaturesArguments, "features", arguments)
    from alexnet import inference, weights

    count = inference.features(weights.load(a.run, device=a.device), a.layer, a.data, a.out, a.split)
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
    a = _parse(FigureArguments, "figure", arguments)
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
    a = _parse(SummaryArguments, "summary", arguments[:1])
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
    totals = [f"{sum(getattr(s, what) for s in steps):,}" for what in ("parameters", "neurons", "multiply_adds")]
    table.add_row("all", "", "", *totals, style="bold")
    Console().print(table)


@dataclass(frozen=True)
class ExportArguments:
    """Write a run's weights as plain safetensors, or the whole network as ONNX (RGB 0..255 -> probabilities)."""

    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    file: Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    which: Literal["last", "best"] = "last"


def export(arguments: list[str]) -> None:
    a = _parse(ExportArguments, "export", arguments)
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


@dataclass(frozen=True)
class BenchArguments:
    """Speeds of this machine: ours, its own limits, and in a checkout the programs of benchmarks/, taking turns."""

    what: Positional[Literal["ops", "step", "loader", "prepare", "infer", "scale"]]
    precision: Literal["float32", "bfloat16"] = "float32"
    batch: int = 128
    """Images of a training step."""
    data: str = ""
    """loader: a store (the built-in set when not given); prepare: what alexnet prepare takes."""
    rounds: int = 5
    """Turns of each."""
    python: str = sys.executable
    """The interpreter whose environment has the other frameworks."""
    json: bool = False


def bench(arguments: list[str]) -> None:
    a = _parse(BenchArguments, "bench", arguments)
    if min(a.rounds, a.batch) < 1:
        raise ValueError("--rounds and --batch must be at least 1")
    from alexnet.bench import lists, scale

    terms = lists.Terms(a.precision, a.batch, a.data, a.python)
    lines = scale.scale if a.what == "scale" else partial(lists.bench, a.what)
    for line in lines(terms, a.rounds, a.json):
        print(line, flush=True)


@dataclass(frozen=True)
class ReproduceArguments:
    """The paper's claims as experiments. Without arguments: their table, with the best result recorded so far."""

    claims: Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="[CLAIM...]")]] = ()
    """By their ids; none named: all that the store is fit for."""
    data: str | None = None
    """A prepared store: photographs of 112 pixels or more, or CIFAR-10."""
    scale: Literal["smoke", "desk", "full"] = "desk"
    """smoke: seconds a run, shows nothing. desk: minutes a run. full: the paper's own setting."""
    seeds: int = 5
    jobs: int = 1
    """Runs side by side; they share the cores."""
    out: Path = Path("runs/reproduce")
    """Runs, kept to be used again, and reduced stores."""
    records: Path = Path("records/claims")
    """Folder of the results."""
    document: Path | None = None
    """Write the table of all records into this Markdown file, and do nothing else."""
    report: Path | None = None
    """Write all records as one HTML page, figures in it, and do nothing else."""
    runs: tuple[Path, ...] = ()
    """With --report: trained runs for the page, the first with its kernels, answers and neighbours."""


def reproduce(arguments: list[str]) -> None:
    a = _parse(ReproduceArguments, "reproduce", arguments)
    if min(a.seeds, a.jobs) < 1:
        raise ValueError("--seeds and --jobs must be at least 1")
    from alexnet.experiments import runner, table
    from alexnet.experiments.claims import chosen

    if a.document is not None:
        a.document.write_text(table.document(table.read(a.records)))
        print(a.document)
        return
    if a.report is not None:
        from alexnet.experiments import report

        report.write(table.read(a.records), a.report, a.runs)
        print(a.report)
        return
    claims = chosen(a.claims)
    if a.data is None:
        if a.claims:
            raise ValueError("name the prepared store: --data STORE (made by: alexnet prepare SOURCE STORE)")
        print(table.listing(table.read(a.records), table.cost_h(claims, table.peak_macs_per_s())))
        return
    from alexnet.data.store import Store

    terms = runner.Terms(Store(a.data), a.scale, a.seeds, a.out, a.jobs)
    for found in table.reproduce(claims, terms, a.records, picky=bool(a.claims)):
        print(found, flush=True)


VERBS: dict[str, Callable[[list[str]], None]] = {
    "demo": demo,
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "predict": predict,
    "features": features,
    "figure": figure,
    "summary": summary,
    "export": export,
    "bench": bench,
    "reproduce": reproduce,
}
