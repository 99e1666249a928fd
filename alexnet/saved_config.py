"""The JSON form of settings, and the names that version 0.1 wrote into it.

It holds for any frozen dataclass, as those of `config.py`. A file that does not fit is rejected
with the name of the field, because a setting that is silently ignored would make a record
irreproducible.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from alexnet.errors import ConfigError
from alexnet.files import parse_json

T = TypeVar("T")

MOST_INT = 2**63 - 1
"""The largest whole number that the libraries which receive a setting can take."""

# Names in files of version 0.1, and the present names of the same fields, classes and operations.
OLD_CLASSES = {"Full": "FullyConnected", "Spatial": "SpatialNorm", "Steps": "StepSchedule"}
OLD_FIELDS = {
    "Architecture": {"unit": "activation", "spatial": "spatial_norm"},
    "Sgd": {
        "rate": "lr",
        "decay": "weight_decay",
        "decay_of": "weight_decay_of",
        "bias_rate": "bias_lr",
        "bias_falls": "bias_lr_follows",
    },
    "LayerLr": {"rate": "lr"},
    "Plateau": {"least_gain": "min_delta"},
    "StepSchedule": {"layer_rates": "layer_lrs"},
}
OLD_VALUES = {"unit": "activation", "spatial": "spatial_norm"}


def to_dict(value: Any) -> Any:
    """Convert a setting to plain JSON values.

    A dataclass carries its class name under `is`, which tells the members of a union apart.
    """
    if dataclasses.is_dataclass(value):
        fields = {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"is": type(value).__name__} | fields
    if isinstance(value, tuple):
        # JSON has no tuples; `from_dict` knows from the type that the list is one.
        return [to_dict(item) for item in value]
    return value


def from_dict(cls: type[T], data: Any, where: str = "config") -> T:
    """Read a value that `to_dict` wrote.

    Args:
        where: The name of the value in error messages.

    Raises:
        ConfigError: A field is unknown, missing or wrong; the message names it.
    """
    return typing.cast(T, _read(cls, data, where))


def read_file(cls: type[T], path: Path) -> T:
    """Read a JSON file of settings, such as the config.json of a run.

    Raises:
        ConfigError: The file is not JSON, or a setting is unknown, missing or wrong; the message
            names the file.
        OSError: The file cannot be read.
    """
    try:
        data = parse_json(path.read_bytes())
    except ValueError as error:
        raise ConfigError(
            f"{path} is not JSON ({error}); name the config.json of a run, or a recipe"
        ) from None
    return from_dict(cls, data, str(path))


def _read(expected: Any, data: Any, where: str) -> Any:
    """Read `data` as a value of the type `expected`."""
    origin, options = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        return _read_union(options, data, where)
    if origin is Literal:
        if isinstance(data, str) and OLD_VALUES.get(data) in options:
            return OLD_VALUES[data]
        if data not in options:
            choices = ", ".join(map(repr, options))
            raise ConfigError(f"{where} is {_shown(data)}; it can be {choices}")
        return data
    if origin is tuple:
        if not isinstance(data, list):
            raise ConfigError(f"{where} is {_shown(data)}; it must be a list")
        # tuple[X, ...] has any number of entries; tuple[X, Y] has a type for each.
        types_of_items = [options[0]] * len(data) if options[-1] is Ellipsis else list(options)
        if len(types_of_items) != len(data):
            raise ConfigError(f"{where} has {len(data)} entries; it needs {len(types_of_items)}")
        return tuple(
            _read(item_type, item, f"{where}[{i}]")
            for i, (item_type, item) in enumerate(zip(types_of_items, data, strict=True))
        )
    if dataclasses.is_dataclass(expected):
        return _read_dataclass(expected, data, where)
    # In Python a bool is an int; in a config file `true` for a number is a mistake.
    if isinstance(data, int) and not isinstance(data, bool):
        if abs(data) > MOST_INT:
            raise ConfigError(f"{where} is {_shown(data)}; that is too large")
        # People and other programs write 1 for 1.0.
        if expected is float:
            return float(data)
    if not isinstance(data, expected) or (expected is int and isinstance(data, bool)):
        raise ConfigError(f"{where} is {_shown(data)}; it must be of type {expected.__name__}")
    if expected is float and math.isnan(data):
        raise ConfigError(f"{where} is NaN; it must be a number")
    return data


def _shown(data: Any) -> str:
    """The value for a message; only its kind if it is long or cannot be printed."""
    if isinstance(data, int) and abs(data) > MOST_INT:
        # Python refuses to print a number of thousands of digits.
        return f"a number of {data.bit_length()} bits"
    if isinstance(data, dict | list):
        return "an object" if isinstance(data, dict) else "a list"
    text = repr(data)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _read_union(options: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in options:
        return None
    rest = [option for option in options if option is not type(None)]
    # Of `X | None` only X is left, whose type is known without a tag.
    if len(rest) == 1:
        return _read(rest[0], data, where)
    named = {option.__name__: option for option in rest}
    tag = data.get("is") if isinstance(data, dict) else None
    tag = OLD_CLASSES.get(tag, tag) if isinstance(tag, str) else tag
    # Not any object may be looked up in a dict: a list cannot.
    if not isinstance(tag, str) or tag not in named:
        names = ", ".join(named)
        raise ConfigError(f"{where} must be one of {names}; its `is` says {_shown(tag)}")
    return _read(named[tag], data, where)


@lru_cache
def _type_hints(cls: type) -> dict[str, Any]:
    """The types of the fields: `Field.type` is a string, and evaluating them all takes 0.5 ms."""
    return typing.get_type_hints(cls)


def _read_dataclass(cls: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise ConfigError(
            f"{where} is {_shown(data)}; it must be an object with the fields of {cls.__name__}"
        )
    old = OLD_FIELDS.get(cls.__name__, {})
    data = {old.get(name, name): value for name, value in data.items()}
    hints = _type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = [name for name in data if name not in fields and name != "is"]
    if unknown:
        raise ConfigError(
            f"{where} has no field {_shown(unknown[0])}; {cls.__name__} has {', '.join(fields)}"
        )
    # A field has no default if both kinds of default are missing.
    required = [
        n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in data]
    if missing:
        raise ConfigError(f"{where} lacks the field {missing[0]!r}")
    # Fields with a default may be absent: files of older versions lack the newer fields.
    return cls(**{n: _read(hints[n], data[n], f"{where}.{n}") for n in fields if n in data})


def differences(before: Any, today: Any, name: str = "") -> Iterator[str]:
    """The differences of two values of `to_dict` in words: `schedule.colour_until none -> 18`.

    A difference in a list or an object is given by its name alone.
    """
    if isinstance(before, dict) and isinstance(today, dict) and before.keys() == today.keys():
        for key in before:
            yield from differences(before[key], today[key], f"{name}.{key}".lstrip("."))
    # Layers are compared one by one, so that a difference names the layer.
    elif _has_names(before) and _has_names(today) and len(before) == len(today):
        for layer_before, layer_today in zip(before, today, strict=True):
            yield from differences(layer_before, layer_today, f"{name}.{layer_before['name']}")
    elif before != today:
        single = not isinstance(before, dict | list) and not isinstance(today, dict | list)
        yield f"{name} {_word(before)} -> {_word(today)}" if single else name


def _has_names(value: Any) -> bool:
    """Whether a value is a list of objects with names, such as the layers."""
    return isinstance(value, list) and any(
        isinstance(item, dict) and "name" in item for item in value
    )


def _word(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return (
        "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
