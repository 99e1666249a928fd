"""A config as plain JSON values and back, strictly: a file that says something else is refused by field."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar


def to_dict(value: Any) -> Any:
    """Plain JSON values; a dataclass carries its class name under `is`, so that it can be read back."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: to_dict(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"is": type(value).__name__} | fields
    if isinstance(value, tuple):
        return [to_dict(item) for item in value]
    return value


T = TypeVar("T")


def from_dict(cls: type[T], data: Any, where: str = "config") -> T:
    """The value that `to_dict` wrote. Raises ValueError naming the field that is unknown, missing or wrong."""
    return typing.cast(T, _read(cls, data, where))


def _read(kind: Any, data: Any, where: str) -> Any:
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _read_union(options, data, where)
    if origin is Literal:
        if data not in options:
            raise ValueError(f"{where} is {data!r}; it can be {', '.join(map(repr, options))}")
        return data
    if origin is tuple:
        if not isinstance(data, list):
            raise ValueError(f"{where} is {data!r}; a list belongs there")
        kinds = [options[0]] * len(data) if options[-1] is Ellipsis else list(options)
        if len(kinds) != len(data):
            raise ValueError(f"{where} has {len(data)} entries; it needs {len(kinds)}")
        return tuple(
            _read(k, item, f"{where}[{i}]")
            for i, (k, item) in enumerate(zip(kinds, data, strict=True))
        )
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, data, where)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise ValueError(f"{where} is {data!r}; {kind.__name__} belongs there")
    return data


def _read_union(options: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in options:
        return None
    rest = [option for option in options if option is not type(None)]
    if len(rest) == 1:
        return _read(rest[0], data, where)
    named = {option.__name__: option for option in rest}
    tag = data.get("is") if isinstance(data, dict) else None
    if tag not in named:
        raise ValueError(f"{where} must be one of {', '.join(named)}; its `is` says {tag!r}")
    return _read(named[tag], data, where)


def _read_dataclass(kind: Any, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{where} is {data!r}; the fields of {kind.__name__} belong there")
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}
    unknown = [name for name in data if name not in fields and name != "is"]
    if unknown:
        raise ValueError(
            f"{where} has no field {unknown[0]!r}; {kind.__name__} has {', '.join(fields)}"
        )
    required = [
        n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING
    ]
    missing = [name for name in required if name not in data]
    if missing:
        raise ValueError(f"{where} lacks the field {missing[0]!r}")
    return kind(**{n: _read(hints[n], data[n], f"{where}.{n}") for n in fields if n in data})
