"""The options of a verb: their help page, and what is said of an option that does not exist.

tyro parses; it does not fit its help into a screen, has two forms of booleans, and suggests ten
options for a name that another tool uses.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from alexnet.errors import AlexNetError, nearest_name
from alexnet.program import command
from alexnet.terminal import entry, paragraphs, together, wrapped

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


@dataclass(frozen=True)
class Option:
    """An option or a positional argument of a verb."""

    name: str
    """`val-fraction` or `RUN...`; without the dashes."""
    value: str
    """The kind of value, as the help shows it; empty for a switch and a positional argument."""
    text: str
    default: Any
    """MISSING: it has to be given."""
    positional: bool

    def term(self) -> str:
        """The option as the help lists it, such as `--seeds INT`."""
        if self.positional:
            return self.name
        no = "no-" if self.default is True else ""
        return f"--{no}{self.name} {self.value}".rstrip()

    def explanation(self) -> str:
        """The text, and the default unless that means "not given", which the text explains."""
        if self.default is MISSING:
            return self.text if self.positional else f"{self.text} Required."
        if isinstance(self.default, bool) or self.default in (None, "", ()):
            return self.text
        return f"{self.text} (default: {self.default})"


def options_of(form: type) -> list[Option]:
    """The options of a dataclass that `arguments.parse` parses, in the order of its fields."""
    texts = _field_texts(form)
    hints = typing.get_type_hints(form, include_extras=True)
    options: list[Option] = []
    for field in dataclasses.fields(form):
        hint = hints[field.name]
        metadata = getattr(hint, "__metadata__", ())
        kind = typing.get_args(hint)[0] if metadata else hint
        if dataclasses.is_dataclass(kind):
            assert isinstance(kind, type)
            options += options_of(kind)
            continue
        metavars = [m for annotation in metadata if (m := getattr(annotation, "metavar", None))]
        positional = Positional in metadata
        name = field.name.replace("_", "-")
        value, choices = _value(name, kind)
        options.append(
            Option(
                # The last metavar is that of the field; the others belong to its type.
                name=(metavars or [name.upper()])[-1] if positional else name,
                value=(metavars or [value])[-1],
                text=texts.get(field.name, "") + choices,
                default=_default(field),
                positional=positional,
            )
        )
    return options


def _value(name: str, kind: Any) -> tuple[str, str]:
    """The kind of value of an option as the help shows it, and its choices if they are many."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        # `X | None`: None stands for "not given".
        (kind,) = (member for member in typing.get_args(kind) if member is not type(None))
    if kind is bool:
        return "", ""
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        if len("|".join(choices)) <= 20:
            return "|".join(choices), ""
        return "NAME", f" One of {', '.join(choices)}."
    kinds = {int: "INT", float: "FLOAT", Path: "PATH"}
    return kinds.get(kind, name.rpartition("-")[2].upper()), ""


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _field_texts(form: type) -> dict[str, str]:
    """The docstring of each field of a dataclass, on one line."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(form))).body
    assert isinstance(tree, ast.ClassDef)
    texts = {}
    for field, after in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            texts[field.target.id] = " ".join(str(after.value.value).split())
    return texts


def help_page(form: type, verb: str, usage: str = "") -> str:
    """The help of a verb, no wider than the terminal.

    Args:
        form: The dataclass of its arguments.
        verb: Its name.
        usage: The arguments in the first line; those of `form` when not given.
    """
    options = options_of(form)
    if not usage:
        needed = [o.term() for o in options if o.positional or o.default is MISSING]
        optional = ["[OPTION ...]"] * (len(needed) < len(options))
        usage = together(needed + optional)
    first = f"usage: {command(*verb.split())} "
    lines = [*wrapped(usage, first, " " * 11), "", *paragraphs(inspect.getdoc(form) or "")]
    for positional in (True, False):
        of_kind = [option for option in options if option.positional is positional]
        lines += [""] * bool(of_kind) + list(option_lines(of_kind))
    return "\n".join(lines)


def option_lines(options: list[Option]) -> Iterator[str]:
    """The lines of a list of options, with the explanations in one column."""
    # A long option stands on a line of its own; it must not push all explanations to the right.
    indent = min(28, max((len(option.term()) for option in options), default=0) + 4)
    for option in options:
        yield from entry(option.term(), option.explanation(), indent)


def switches_of(form: type) -> dict[str, bool]:
    """The names of the options of a verb, each with whether it is a switch."""
    return {option.name: option.value == "" for option in options_of(form) if not option.positional}


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


def wants_help(arguments: list[str]) -> bool:
    """Whether the arguments ask for the help."""
    # Anywhere among the arguments: `--sgd.lr 0.1 --help` asks for help too.
    return "-h" in arguments or "--help" in arguments
