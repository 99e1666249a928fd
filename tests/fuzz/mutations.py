"""Damage to bytes and to JSON: what broken disks, cut downloads and hostile people produce."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

BLOCK = 512  # bytes of a sector, and of a block of a tar


def damage_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return the data with one to four changes. The result differs from `data`."""
    changed = data
    while changed == data:
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            changed = rng.choice(BYTE_CHANGES)(changed, rng)
    return changed


def _flip_bit(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return data
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _flip_early_bit(data: bytes, rng: random.Random) -> bytes:
    # Headers are short and decide most: a uniform choice would hardly ever meet them.
    return _flip_bit(data[:BLOCK], rng) + data[BLOCK:]


def _set_bytes(data: bytes, rng: random.Random) -> bytes:
    at, value = rng.randrange(len(data) + 1), rng.choice((0, 0x7F, 0x80, 0xFF))
    length = rng.choice((1, 2, 4, 8))
    return data[:at] + bytes([value] * length) + data[at + length :]


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _cut_at_block(data: bytes, rng: random.Random) -> bytes:
    return data[: BLOCK * rng.randrange(len(data) // BLOCK + 1)]


def _remove(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 4, BLOCK)) :]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 4, BLOCK))) + data[at:]


def _clear_block(data: bytes, rng: random.Random) -> bytes:
    at = BLOCK * rng.randrange(len(data) // BLOCK + 1)
    return data[:at] + bytes(len(data[at : at + BLOCK])) + data[at + BLOCK :]


def _repeat_block(data: bytes, rng: random.Random) -> bytes:
    at = BLOCK * rng.randrange(len(data) // BLOCK + 1)
    return data[: at + BLOCK] + data[at:]


def _swap_halves(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[at:] + data[:at]


def _append(data: bytes, rng: random.Random) -> bytes:
    return data + rng.randbytes(rng.choice((1, BLOCK)))


BYTE_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _flip_bit,
    _flip_bit,
    _flip_early_bit,
    _flip_early_bit,
    _set_bytes,
    _cut,
    _cut_at_block,
    _remove,
    _insert,
    _clear_block,
    _repeat_block,
    _swap_halves,
    _append,
)

NESTED = "[" * 100_000 + "]" * 100_000
"""JSON that Python's parser refuses with RecursionError."""


class Raw(str):
    """JSON text that `json.dumps` could not produce; it is inserted as it is."""


HOSTILE_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    3,
    2**63,
    10**400,
    0.5,
    1e308,
    Raw("NaN"),
    Raw("Infinity"),
    Raw("-1e999"),
    Raw(NESTED),
    Raw('"\\ud800"'),  # half of a surrogate pair, which cannot be encoded
    "",
    "x",
    "../../x",
    "/etc/passwd",
    "x" * 10_000,
    [],
    [[]],
    [1, 2, 3],
    {},
    {"is": []},
    {"is": "Conv"},
)


def damage_json(text: str, rng: random.Random) -> str:
    """Return a JSON text with one to three values replaced, removed, repeated or renamed."""
    value = json.loads(text)
    raw: dict[str, str] = {}
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _change_value(value, rng, raw)
    changed = json.dumps(value)
    for mark, inserted in raw.items():
        changed = changed.replace(f'"{mark}"', inserted)
    return changed


def _change_value(value: Any, rng: random.Random, raw: dict[str, str]) -> Any:
    """Change one place in a JSON value, at any depth."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        change = rng.random()
        if change < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if change < 0.15:
            return {f"{k}x" if k == key else k: v for k, v in value.items()}
        return value | {key: _change_value(value[key], rng, raw)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        change = rng.random()
        if change < 0.1:
            return value[:at] + value[at + 1 :]
        if change < 0.2:
            return [*value, value[at]]
        return [*value[:at], _change_value(value[at], rng, raw), *value[at + 1 :]]
    chosen = rng.choice(HOSTILE_VALUES)
    if isinstance(chosen, Raw):
        mark = f"raw {len(raw)}"
        raw[mark] = str(chosen)
        return mark
    return chosen
