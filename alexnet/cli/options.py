"""The names of options: other forms that are understood, and the answer where one does not exist.

tyro parses; of a boolean it knows one form alone, and for a name that another tool uses it suggests
ten options.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from alexnet.errors import AlexNetError, nearest_name
from alexnet.program import command

ACCEPTED = {
    "lr": "sgd.lr",
    "learning-rate": "sgd.lr",
    "batch": "sgd.batch",
    "batch-size": "sgd.batch",
    "momentum": "sgd.momentum",
    "weight-decay": "sgd.weight-decay",
    "wd": "sgd.weight-decay",
    "width": "architecture.width",
    "input-px": "architecture.input-px",
}
"""Short names of fields of a recipe."""

OTHER_NAMES = {
    "gpu": ("device cuda",),
    "cuda": ("device cuda",),
    "cpu": ("device cpu",),
    "num-workers": ("workers",),
    "threads": ("workers",),
    "output": ("out",),
    "output-dir": ("out",),
    "save-dir": ("out",),
    "outdir": ("out",),
    "dataset": ("data",),
    "data-dir": ("data",),
    "store": ("data",),
    "image-size": ("architecture.input-px", "size-px"),
    "img-size": ("architecture.input-px", "size-px"),
    "imgsz": ("architecture.input-px", "size-px"),
    "num-epochs": ("epochs",),
    "max-epochs": ("epochs",),
    "num-classes": ("architecture.classes",),
    "classes": ("architecture.classes",),
    "topk": ("most",),
    "top-k": ("most",),
    "amp": ("precision bfloat16",),
    "fp16": ("precision bfloat16",),
    "bf16": ("precision bfloat16",),
    "pretrained": ("init",),
    "weights": ("init",),
    "overwrite": ("force",),
}
"""Names that other tools have for our options; the first one that the verb has is meant."""

SENTENCES = {
    "dropout": "--architecture.dropout.masks False turns it off; in the form of 2012 the "
    "outputs stay halved, as in the authors' code. --architecture.dropout.rate sets the "
    "probability",
    "lrn": "--architecture.normalise False turns the normalizations off",
    "optimizer": "every recipe trains with SGD and momentum (--sgd.lr, --sgd.momentum)",
    "scheduler": "the schedule belongs to the recipe; --epochs stretches it",
}
"""What is said of other tools' options that are no single option of a recipe."""


def fields_of(config: Any, prefix: str = "") -> dict[str, bool]:
    """The options that the fields of a recipe give, each with whether it is a switch."""
    names: dict[str, bool] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            names |= fields_of(value, f"{name}.")
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for number, item in enumerate(value):
                names |= fields_of(item, f"{name}.{number}.")
        else:
            names[name] = isinstance(value, bool)
    return names


def understood(
    arguments: list[str], names: Mapping[str, bool], verb: str, values: bool = False
) -> list[str]:
    """The arguments with the names and the form of switches that tyro knows.

    `--x`, `--no-x`, `--x True` and `--x False` are understood for every switch.

    Args:
        arguments: The arguments of a verb.
        names: Its options without dashes, each with whether it is a switch.
        verb: The verb, and the recipe if there is one, for the message.
        values: The parser expects `--x True` instead of `--x`.

    Raises:
        AlexNetError: An option does not exist. The message names the one that is meant.
    """
    result: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        # Not the value -1, and not -h.
        if not re.match("--?[a-z]", word) or word in ("-h", "--help"):
            result.append(word)
            continue
        typed, equals, value = word.lstrip("-").partition("=")
        name = _known(typed.replace("_", "-"), names, verb)
        negative = name not in names
        name = name.removeprefix("no-") if negative else name
        if not names[name]:
            result.append(f"--{name}{equals}{value}")
            continue
        if not equals and rest and rest[0].lower() in ("true", "false"):
            value = rest.pop(0)
        if equals and value.lower() not in ("true", "false"):
            listed = command(*verb.split(), "--help")
            raise AlexNetError(f"--{name} cannot be {value}; it takes True or False; see {listed}")
        on = (value.lower() != "false") is not negative
        if values:
            result += [f"--{name}", str(on)]
        else:
            result.append(f"--{name}" if on else f"--no-{name}")
    return result


def _known(typed: str, names: Mapping[str, bool], verb: str) -> str:
    """The name of an option as the parser knows it, or `no-` and the name of a switch."""
    if typed in names or names.get(typed.removeprefix("no-")):
        return typed
    if ACCEPTED.get(typed) in names:
        return ACCEPTED[typed]
    # A recipe's fields; other verbs have no dropout to speak of.
    meaning = typed.removeprefix("no-").removeprefix("architecture.")
    if meaning in SENTENCES and "sgd.lr" in names:
        raise AlexNetError(f"there is no option --{typed}: {SENTENCES[meaning]}")
    for ours in OTHER_NAMES.get(typed, ()):
        if ours.split()[0] in names:
            raise AlexNetError(f"there is no option --{typed}; here it is --{ours}")
    meant = _meant(typed, names)
    hint = f"the nearest is --{meant}; " if meant else ""
    # The short help of a recipe has the usual options only.
    page = "--help-all" if "sgd.lr" in names and verb.startswith("train ") else "--help"
    raise AlexNetError(
        f"there is no option --{typed}; {hint}all are listed by: {command(*verb.split())} {page}"
    )


def _meant(typed: str, names: Mapping[str, bool]) -> str | None:
    """The option with the most similar name; of a recipe's field, its last word counts too."""
    # A run is resumed with --lr, which a recipe calls --sgd.lr.
    last_word = typed.rpartition(".")[2]
    if last_word in names:
        return last_word
    candidates = {name: name for name in names}
    for name in names:
        # The fields of one layer or one change have numbers, and are seldom meant.
        if not any(part.isdecimal() for part in name.split(".")):
            candidates.setdefault(name.rpartition(".")[2], name)
    candidates |= {short: name for short, name in ACCEPTED.items() if name in names}
    meant = nearest_name(typed, candidates)
    return candidates[meant] if meant else None
