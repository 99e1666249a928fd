"""The help page of a verb, as wide as the screen, and with one form of each switch.

tyro's own help does neither.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from alexnet.program import command
from alexnet.terminal import entry, paragraphs, together, wrapped


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


def names_of(form: type) -> dict[str, bool]:
    """The names of the options of a verb, each with whether it is a switch."""
    return {option.name: option.value == "" for option in options_of(form) if not option.positional}


def wants_help(arguments: list[str]) -> bool:
    """Whether the arguments ask for the help."""
    # Anywhere among the arguments: `--sgd.lr 0.1 --help` asks for help too.
    return "-h" in arguments or "--help" in arguments
