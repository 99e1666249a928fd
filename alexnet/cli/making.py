"""Verbs that make stores and runs: demo, prepare, train."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, cast

import tyro
from tyro.conf import AvoidSubcommands, FlagConversionOff, Positional

from alexnet import recipes
from alexnet.cli.parsing import on_disk, parse
from alexnet.config import Config, StoreSettings, scaled


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
    a = parse(DemoArguments, "demo", arguments)
    from alexnet import demo as made

    with _stoppable():
        print(made.report(made.demo(a.out, a.train, a.val, a.epochs), a.out))


@dataclass(frozen=True)
class PrepareArguments:
    """Make a store: the shorter side rescaled, the central square cut out, statistics taken on the way.

    SOURCE: the archives of ILSVRC-2012 or -2010, Kaggle's ImageNet, tiny-imagenet-200, folders of
    classes, a flat folder with a table of labels, Parquet files, WebDataset shards, one tar a class,
    CIFAR-10's binary files; or a Hugging Face hub name.
    """

    source: Positional[Annotated[str, tyro.conf.arg(metavar="SOURCE")]]
    store: Positional[Annotated[Path, tyro.conf.arg(metavar="STORE")]]
    val_fraction: float = 0.1
    """How much is held out, where the source has no validation split."""
    splits: tuple[str, ...] = ()
    """Splits to prepare, train among them; all that have labels when not given."""
    settings: Annotated[StoreSettings, tyro.conf.arg(name="")] = field(
        default_factory=StoreSettings
    )
    workers: int = 0
    """Threads; 0: one a core."""
    force: bool = False
    """Replace a store that exists."""
    ignore_disk: bool = False
    """Begin even where the disk seems too small."""


def prepare(arguments: list[str]) -> None:
    a = parse(PrepareArguments, "prepare", arguments)
    from alexnet.data import prepare as making
    from alexnet.data import sources

    folder = on_disk(a.store)
    source = sources.find(a.source, a.val_fraction, a.splits)
    for note in source.notes:
        print(note, flush=True)
    manifest = making.prepare(source, folder, a.settings, a.workers, a.force, a.ignore_disk)
    print(f"{a.store}: {len(manifest['classes'])} classes")
    for name, split in manifest["splits"].items():
        kept = f", {split['kept']} kept byte for byte" if split["kept"] else ""
        print(f"  {name}: {split['images']} pictures, {len(split['skipped'])} skipped{kept}")
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
        r = tyro.cli(
            ResumeArguments, prog="alexnet train", args=arguments, config=(FlagConversionOff,)
        )
        from alexnet.train import loop
        from alexnet.train.checkpoint import read_config

        given = {
            name: value for name in ("columns", "hybrid") if (value := getattr(r, name)) is not None
        }
        with _stoppable():
            loop.resume(
                r.resume, replace(read_config(r.resume).parallel, **given) if given else None
            )
        return
    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] not in ("-h", "--help"):
            raise ValueError(f"name the recipe first: {', '.join(recipes.__all__)}")
        print(
            "usage: alexnet train RECIPE --data STORE [--out RUN] [--epochs N] [--FIELD VALUE ...]"
        )
        print("       alexnet train --resume RUN\n")
        for name in recipes.__all__:
            print(f"{name}\n    {' '.join((recipe(name).__doc__ or '').split())}")
        print("\nAll fields of a recipe: alexnet train RECIPE --help")
        return
    name, *rest = arguments
    a = parse_train(name, rest)
    if not a.config.data:
        raise ValueError(
            "name the prepared store: --data STORE (made by: alexnet prepare SOURCE STORE)"
        )
    from alexnet.train import loop

    with _stoppable():
        loop.fit(a.config, on_disk(a.out or Path("runs") / name))


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
        raise ValueError(
            f"there is no recipe {name!r}; the recipes are {', '.join(recipes.__all__)}"
        )
    return cast(Callable[[], Config], getattr(recipes, name))


class _stoppable:
    """Ends the program as training asks: 128 + the signal when stopped, 1 for a NaN. Of several ranks one speaks."""

    def __enter__(self) -> None:
        from alexnet.parallel.launch import one_speaks

        one_speaks()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
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
