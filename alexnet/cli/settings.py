"""The short help of `alexnet train RECIPE` and `alexnet summary RECIPE`.

A recipe has more than a hundred fields, and a page that lists all of them hides the few that people
change. The tables below name those few; `--help-all` lists every field. Nothing here needs tyro, so
the short help prints in a fraction of a second.
"""

from __future__ import annotations

import shutil
import textwrap
from dataclasses import dataclass
from typing import Any

from alexnet.config import Config

FLAG_COLUMNS = 32
"""Width of the left column, in characters: the longest flag with its value fits."""


@dataclass(frozen=True)
class Setting:
    """One line of the short help."""

    flag: str
    """Without the dashes: the path of a field of `Config`, or `epochs` or `out`."""
    value: str
    """The kind of value, as the help shows it."""
    text: str


ARCHITECTURE = (
    Setting("architecture.input-px", "INT", "Side of the input crop, in pixels."),
    Setting("architecture.width", "FLOAT", "Factor on the filters and hidden units of all layers."),
    Setting("architecture.columns", "INT", "Groups of filters (section 3.2)."),
    Setting("architecture.activation", "NAME", "relu, tanh or logistic."),
    Setting("architecture.normalise", "BOOL", "False leaves the normalisation layers out."),
)

TRAIN_GROUPS: dict[str, tuple[Setting, ...]] = {
    "Run": (
        Setting("data", "STORE", "Prepared store, a folder or a URL. Required."),
        Setting("out", "RUN", "Folder of the new run."),
        Setting("seed", "INT", "Seed of weights, image order, augmentation and dropout."),
    ),
    "Optimization": (
        Setting("epochs", "INT", "Number of epochs; the schedule scales with it."),
        Setting("sgd.lr", "FLOAT", "Initial learning rate."),
        Setting("sgd.batch", "INT", "Images in a batch, over all ranks."),
        Setting("sgd.weight-decay", "FLOAT", "Weight decay."),
    ),
    "Network": ARCHITECTURE,
    "Augmentation": (
        Setting("augment.crops", "BOOL", "Random crops; False: the centre crop."),
        Setting("augment.flips", "BOOL", "Random horizontal reflections."),
        Setting("augment.colour", "NAME", "Colour noise: none, paper or original."),
    ),
    "Initialization": (
        Setting("init", "RUN", "Start from the weights of this run."),
        Setting("init-layers", "NAME...", "Layers to take from --init; all by default."),
    ),
    "Hardware": (
        Setting("device", "NAME", "auto, cpu, cuda or mps."),
        Setting(
            "precision",
            "NAME",
            "auto, float64, float32, tf32 or bfloat16; auto is bfloat16 on CUDA.",
        ),
        Setting("workers", "INT", "Threads that decode images; 0 decodes in the training thread."),
    ),
}

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
    # These two options belong to the verb and not to the recipe.
    if flag == "out":
        return f"runs/{config.recipe}"
    if flag == "epochs":
        return config.schedule.epochs
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
    indent = FLAG_COLUMNS + 2
    # 100 columns at most, since longer lines are hard to read on a wide terminal.
    width = max(indent + 20, min(100, shutil.get_terminal_size().columns))
    lines = []
    for title, settings in groups.items():
        lines += ["", f"{title}:"]
        for setting in settings:
            value = default_of(config, setting.flag)
            # An empty string or tuple and None stand for "not given", which the text explains.
            default = "" if value in ("", (), None) else f" (default: {value})"
            text = textwrap.wrap(setting.text + default, width - indent)
            flag = f"  --{setting.flag} {setting.value}"
            lines += [f"{flag:<{indent}}{text[0]}", *(" " * indent + line for line in text[1:])]
    lines += ["", f"--help-all lists every field: alexnet {verb} {config.recipe} --help-all"]
    return "\n".join(lines)


def wants_short_help(arguments: list[str]) -> bool:
    """Whether the arguments ask for the short help."""
    # Anywhere among the arguments: `--sgd.lr 0.1 --help` asks for help too.
    return "-h" in arguments or "--help" in arguments


def with_full_help(arguments: list[str]) -> list[str]:
    """The arguments as tyro reads them: its `--help` is our `--help-all`."""
    return ["--help" if argument == "--help-all" else argument for argument in arguments]
