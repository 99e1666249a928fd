"""The short help of `alexnet train RECIPE` and `alexnet summary RECIPE`.

A recipe has more than a hundred fields, and a page that lists all of them hides the few that people
change. The tables below name those few; `--help-all` lists every field.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alexnet import recipes
from alexnet.cli.options import ACCEPTED
from alexnet.config import Config
from alexnet.program import command
from alexnet.terminal import entry, wrapped

INDENT = 34
"""Width of the left column, in characters: the longest flag with its value fits."""


@dataclass(frozen=True)
class Setting:
    """One line of the short help."""

    flag: str
    """Without the dashes: the path of a field of `Config`, or `epochs`, `minutes` or `out`."""
    value: str
    """The kind of value, as the help shows it."""
    text: str
    has_default: bool = True
    """False: the help does not say the value of the recipe."""


ARCHITECTURE = (
    Setting("architecture.input-px", "INT", "Side of the input, in pixels."),
    Setting("architecture.width", "FLOAT", "Factor on the width of layers."),
    Setting(
        "architecture.columns",
        "INT",
        "Groups of filters; the number of filters stays (section 3.2).",
    ),
    Setting("architecture.activation", "NAME", "relu, tanh or logistic."),
    Setting("architecture.normalise", "BOOL", "False: without normalization."),
)

TRAIN_GROUPS: dict[str, tuple[Setting, ...]] = {
    "Run": (
        Setting("data", "STORE", "Prepared store, a folder or a URL. Required."),
        Setting("out", "RUN", "Folder of the run."),
        Setting("seed", "INT", "Seed of all that is random."),
        Setting("init", "RUN", "Start from the weights of this run."),
        Setting("init-layers", "NAME...", "Layers to take from --init; all by default."),
    ),
    "Optimization": (
        Setting("epochs", "INT", "Passes over the images; the schedule scales with it."),
        Setting("sgd.lr", "FLOAT", "Initial learning rate (of biases: sgd.bias-lr)."),
        Setting("sgd.batch", "INT", "Images per batch, all ranks."),
        Setting("sgd.weight-decay", "FLOAT", "Weight decay."),
    ),
    "Network": ARCHITECTURE,
    "Augmentation": (
        Setting("augment.crops", "BOOL", "False: center crops only."),
        Setting("augment.flips", "BOOL", "Random reflections."),
        Setting("augment.colour", "NAME", "Color noise: none, paper or original."),
    ),
    "Hardware": (
        Setting("device", "NAME", "auto, cpu, cuda or mps."),
        Setting(
            "precision",
            "NAME",
            "auto, float64, float32, tf32 or bfloat16; auto is bfloat16 on CUDA.",
        ),
        Setting(
            "workers",
            "INT",
            "Decoding threads. (default: 2; on CUDA, one less than the cores, at most 40)",
        ),
    ),
}

MINUTES = 9.0
"""Time to train on a folder of images; with preparation, test and page some ten minutes."""
FOLDER_GROUPS = {
    title: tuple(setting for setting in settings if setting.flag not in ("data", "epochs"))
    for title, settings in TRAIN_GROUPS.items()
}
FOLDER_GROUPS["Run"] += (
    Setting("recipe", "NAME", "Recipe to train; by the size of the images when not given.", False),
    Setting("minutes", "FLOAT", f"Time to train on this machine. (default: {MINUTES:g})"),
    Setting("epochs", "INT", "Passes over the images, in place of --minutes.", False),
)
"""For a folder of images in place of a recipe: its store is made beside the run, and the number of
epochs follows from the time."""
FOLDER_DEFAULTS = (
    "The defaults below are those of `modern_small`; images under 48 pixels get a CIFAR-10 recipe "
    "with others."
)
"""Said for a folder, whose recipe is chosen by `own_images.TINY_PX`."""

COMMON = (
    Setting("data", "STORE", "Prepared store, a folder or a URL; a recipe needs one."),
    Setting("out", "RUN", "Folder of the run. (default: runs/ and the name of recipe or folder)"),
    Setting("epochs", "INT", "Passes over the images; the schedule of the recipe scales with it."),
    Setting(
        "minutes", "FLOAT", f"With FOLDER: time to train, or give --epochs. (default: {MINUTES:g})"
    ),
    Setting("seed", "INT", "Seed of weights, image order, augmentation and dropout. (default: 0)"),
)
"""What the help without a recipe says of the options of all recipes."""

SUMMARY_GROUPS: dict[str, tuple[Setting, ...]] = {
    "Network": (
        *ARCHITECTURE,
        Setting("architecture.classes", "INT", "Units of the last layer."),
        Setting("architecture.links", "BOOL", "False keeps the columns apart to the last layer."),
        Setting("architecture.without", "NAME...", "Convolutional layers to leave out."),
    ),
}


def default_of(config: Config, flag: str) -> Any:
    """The value of a recipe's field, by its flag. Raises AttributeError for an unknown field."""
    # These options belong to the verb and not to the recipe.
    if flag == "out":
        return f"runs/{Path(config.recipe).name}"
    if flag == "epochs":
        return config.schedule.epochs
    if flag == "minutes":
        return None
    value: Any = config
    for name in flag.split("."):
        value = getattr(value, name.replace("-", "_"))
    return value


def short_help(verb: str, config: Config, groups: dict[str, tuple[Setting, ...]]) -> str:
    """The options that people change, in groups, with the defaults of this recipe.

    Args:
        verb: `train` or `summary`.
        config: The recipe; `config.recipe` must be its name on the command line.
        groups: Settings by the title of their group.
    """
    lines = []
    for title, settings in groups.items():
        lines += ["", f"{title}:"]
        for setting in settings:
            value = default_of(config, setting.flag)
            # An empty string or tuple and None stand for "not given", which the text explains.
            is_said = setting.has_default and value not in ("", (), None)
            default = f" (default: {value})" if is_said else ""
            lines += entry(f"--{setting.flag} {setting.value}", setting.text + default, INDENT)
    shown = [setting.flag for settings in groups.values() for setting in settings]
    short = [f"--{name}" for name, field in ACCEPTED.items() if field in shown]
    every = f"--help-all lists every field: {command(verb, config.recipe)} --help-all"
    return "\n".join(
        [
            *lines,
            "",
            *wrapped(f"Short names: {', '.join(short)}.", rest="  "),
            *wrapped(every, rest="  "),
        ]
    )


def common_lines() -> list[str]:
    """The options of all recipes."""
    return [line for s in COMMON for line in entry(f"--{s.flag} {s.value}", s.text, 20)]


def recipe_lines() -> list[str]:
    """The recipes with the first sentence of each, a line for each."""
    indent = max(map(len, recipes.__all__)) + 4
    lines = []
    for name in recipes.__all__:
        about = " ".join((getattr(recipes, name).__doc__ or "").split())
        lines.append(f"  {name:<{indent - 2}}{about.partition('. ')[0].rstrip('.')}")
    return lines


def with_full_help(arguments: list[str]) -> list[str]:
    """The arguments as tyro reads them: its `--help` is our `--help-all`."""
    return ["--help" if argument == "--help-all" else argument for argument in arguments]
