"""`alexnet train`"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import AvoidSubcommands, FlagConversionOff

from alexnet import recipes
from alexnet.cli.arguments import on_disk, recipe, stoppable
from alexnet.cli.help import options_of, wants_help
from alexnet.cli.mistakes import in_one_sentence
from alexnet.cli.options import fields_of, understood
from alexnet.cli.resume import ResumeArguments, print_next, resume
from alexnet.cli.short_help import (
    FOLDER_DEFAULTS,
    FOLDER_GROUPS,
    MINUTES,
    TRAIN_GROUPS,
    common_lines,
    recipe_lines,
    short_help,
    with_full_help,
)
from alexnet.config import Config, scaled
from alexnet.errors import AlexNetError, nearest_name, unknown
from alexnet.program import command
from alexnet.saved_config import read_file
from alexnet.terminal import together, wrapped


@dataclass(frozen=True)
class TrainArguments:
    """Train a recipe. Each field of the recipe is an option."""

    out: Path | None = None
    """Folder of the new run; runs/RECIPE when not given."""
    epochs: int | None = None
    """Number of epochs; the whole schedule is scaled in proportion."""
    minutes: float | None = None
    """With a folder of images, in place of --epochs: time to train on this machine."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=recipes.original)


def train(arguments: list[str]) -> None:
    """Run `alexnet train`: start a run of a recipe, resume a run, or list the recipes."""
    if any(argument.split("=")[0] == "--resume" for argument in arguments):
        resume(arguments)
        return
    if not arguments or arguments[0].startswith("-"):
        if arguments and arguments[0] not in ("-h", "--help"):
            raise AlexNetError(f"name the recipe first: {', '.join(recipes.__all__)}")
        print(_help())
        return
    name, *rest = arguments
    if wants_help(rest):
        groups, usage = TRAIN_GROUPS, _usage(name)
        if is_folder(name):
            # It is trained on with the options of a recipe; store and run are named after it.
            config = replace(recipes.modern_small(), recipe=name)
            usage = [*_usage_of_folder(name, "usage: "), "", *wrapped(FOLDER_DEFAULTS)]
            groups = FOLDER_GROUPS
        else:
            config = base_config(name)
        print("\n".join(usage) + "\n" + short_help("train", config, groups))
        return
    if is_folder(name):
        _train_on_folder(name, with_full_help(rest))
        return
    a = parse_train(name, with_full_help(rest))
    if a.minutes is not None:
        raise AlexNetError(
            "--minutes is for a folder of images; give a recipe its number of --epochs"
        )
    if not a.config.data:
        raise AlexNetError(
            "name the prepared store: --data STORE "
            f"(made by: {command('prepare', 'SOURCE', 'STORE')})"
        )
    from alexnet.distributed.mesh import destroy_mesh
    from alexnet.train import start

    run = on_disk(a.out or Path("runs") / a.config.recipe)
    with stoppable():
        start.fit(a.config, run)
    destroy_mesh()
    print_next(run)


def is_folder(name: str) -> bool:
    """Tell whether `alexnet train NAME` means a folder of images; a recipe comes first."""
    return name not in recipes.__all__ and Path(name).is_dir()


def _train_on_folder(folder: str, arguments: list[str]) -> None:
    # Parsed before the folder is read, so that a mistake is answered at once.
    chosen = _chosen_recipe(arguments)
    if chosen and chosen not in recipes.__all__:
        raise AlexNetError(unknown("recipe", chosen, recipes.__all__))
    base = base_config(chosen or "modern_small")
    a = parse_train(base.recipe, arguments, base)
    if a.config.data:
        raise AlexNetError(f"the images are those of {folder}; leave --data out")
    counted = a.epochs is not None or a.config.schedule.epochs != base.schedule.epochs
    if counted and a.minutes is not None:
        raise AlexNetError("give either --epochs or --minutes")
    if a.minutes is not None and not 0 < a.minutes < math.inf:
        raise AlexNetError(f"--minutes is {a.minutes:g}; it must be a positive number")
    run = on_disk(a.out or Path("runs") / Path(folder).resolve().name)
    from alexnet import own_images
    from alexnet.distributed.mesh import is_distributed

    if is_distributed():
        raise AlexNetError(
            "a folder is trained on in one process; for several, prepare it and train a recipe"
        )

    def change(config: Config) -> Config:
        return parse_train(config.recipe, arguments, config).config

    with stoppable():
        minutes = None if counted else a.minutes or MINUTES
        results = own_images.train_on(folder, run, change, minutes, base if chosen else None)
    print(own_images.report(results, run))


def _chosen_recipe(arguments: list[str]) -> str | None:
    """The value of --recipe; None if it is not given."""
    for word, following in itertools.pairwise([*arguments, ""]):
        name, equals, value = word.partition("=")
        if name == "--recipe":
            return value if equals else following
    return None


def _usage(name: str) -> list[str]:
    # In an option with its value no line may end.
    options = ("--data STORE", "[--out RUN]", "[--epochs INT]", "[--FIELD VALUE ...]")
    return [
        *wrapped(together(options), f"usage: {command('train', name)} ", " " * 11),
        f"       {command('train', '--resume', 'RUN')}",
    ]


def _usage_of_folder(folder: str, before: str) -> list[str]:
    options = ("[--recipe RECIPE]", "[--out RUN]", "[--minutes FLOAT]", "[--FIELD VALUE ...]")
    return wrapped(together(options), f"{before}{command('train', folder)} ", " " * 11)


def _help() -> str:
    """The help without a recipe: the options of all recipes, and a line for each recipe."""
    resuming = [f"--{option.name}" for option in options_of(ResumeArguments)]
    resuming.remove("--resume")
    return "\n".join(
        [
            *_usage("RECIPE"),
            *_usage_of_folder("FOLDER", " " * 7),
            "",
            *wrapped(
                "FOLDER has a folder of images for each class, which are prepared, trained on and "
                "tested. RECIPE is one of those below, or the config.json of another run."
            ),
            "",
            *common_lines(),
            "",
            *wrapped(
                f"With --resume, which continues a run: {', '.join(resuming)}. "
                f"{command('train', '--resume', '--help')} describes them."
            ),
            "",
            *wrapped(f"Recipes; their options: {command('train', 'RECIPE')} --help or --help-all"),
            *recipe_lines(),
        ]
    )


def base_config(name: str) -> Config:
    """The configuration that the options change: of a recipe, or of a file such as RUN/config.json.

    Args:
        name: Name of a recipe, or path of a JSON file, which ends in `.json`. The number of classes
            in the file is left out, since the store of a run decides it.

    Raises:
        AlexNetError: There is no such recipe, or the file is not a configuration.
    """
    if name.endswith(".json"):
        config = read_file(Config, Path(name))
        # That of its store, which may not be the store of the new run.
        return replace(config, architecture=replace(config.architecture, classes=None))
    if Path(name).is_file():
        raise AlexNetError(
            f"{name} is a file; give a folder of images, a recipe, or the config.json of a run"
        )
    if name not in recipes.__all__:
        meant = nearest_name(name, recipes.__all__)
        raise AlexNetError(
            f"{name!r} is neither a recipe nor a folder that exists; "
            + (f"the nearest recipe is {meant}; " if meant else "")
            + f"all recipes are listed by: {command('train', '--help')}"
        )
    return recipe(name)


def parse_train(name: str, arguments: list[str], base: Config | None = None) -> TrainArguments:
    """Parse the arguments of `alexnet train NAME` into the complete configuration of a run.

    Args:
        base: What the options change; that of `name` if None.

    Raises:
        AlexNetError: As `base_config` does; or `--recipe` names another recipe.
    """
    base = base or base_config(name)
    names = {"out": False, "epochs": False, "minutes": False, **fields_of(base)}
    words = understood(arguments, names, f"train {name}", values=True)
    with in_one_sentence(f"train {name}"):
        a = tyro.cli(
            TrainArguments,
            prog=command("train", name),
            args=words,
            default=TrainArguments(config=base),
            # AvoidSubcommands: the schedule and the layers are unions, which tyro would otherwise
            # turn into subcommands. FlagConversionOff: `--augment.crops False` reads as the field
            # does.
            config=(AvoidSubcommands, FlagConversionOff),
        )
    # Every field is an option, and the run would bear a false name.
    if a.config.recipe != base.recipe:
        raise AlexNetError(
            f"--recipe is for a folder of images; train this recipe by: "
            f"{command('train', a.config.recipe)}"
        )
    # After parsing, so that --epochs also scales a schedule whose fields were set by hand.
    if a.epochs is not None:
        a = replace(a, config=replace(a.config, schedule=scaled(a.config.schedule, a.epochs)))
    return a
