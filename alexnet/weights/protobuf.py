"""Protocol buffers, as far as reading weights needs them: fields by number, without a schema.

Caffe's and ONNX's files are protocol buffers. Their own packages are large, optional, or gone, and
a file from a stranger must end in bounded time and memory, so this reader copies no tensor and
counts the fields that it has read.
"""

from __future__ import annotations

import math
import struct

import numpy as np
from numpy.typing import NDArray

MOST_FIELDS = 1_000_000
"""Most fields in all messages of one file. An AlexNet has some hundreds; a damaged file could make
the reader walk through millions of fields of two bytes."""

MOST_NUMBERS = 2**29
"""Most numbers in all arrays: 2 GiB as float32, to which those of 16 bits grow."""
MOST_DIMENSIONS, MOST_SIDE = 8, 2**31
"""Most sides of an array, and the longest side: what fits into a file of 2 GiB."""

# Wire types: https://protobuf.dev/programming-guides/encoding
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
VARINT_BYTES = 10  # at most, for 64 bits in groups of 7


class Malformed(ValueError):
    """Bytes that are not a message, or not the message that was expected."""


class Unsupported(Malformed):
    """A message that is intact, in a form that is not read; the text says what to do."""


class Budget:
    """The number of fields, and of tensors' numbers, that may still be read from a file."""

    def __init__(self, fields: int = MOST_FIELDS, numbers: int = MOST_NUMBERS) -> None:
        self._left, self._numbers_left = fields, numbers

    def spend(self) -> None:
        """Count one field. Raises Malformed when there were too many."""
        self._left -= 1
        if self._left < 0:
            raise Malformed("it has more than a million fields")

    def spend_numbers(self, count: int) -> None:
        """Count numbers of a tensor. Raises Malformed when there were too many."""
        self._numbers_left -= count
        if self._numbers_left < 0:
            raise Malformed("its arrays are larger than 2 GiB as float32")


class Message:
    """The fields of one message; the messages inside it are read when they are asked for."""

    def __init__(self, data: memoryview, budget: Budget) -> None:
        """Raises Malformed if the bytes are not a message."""
        self._budget = budget
        self._fields: dict[int, list[int | memoryview]] = {}
        position = 0
        while position < len(data):
            budget.spend()
            tag, position = _varint(data, position)
            value, position = _value(data, position, tag & 7)
            self._fields.setdefault(tag >> 3, []).append(value)

    def messages(self, number: int) -> list[Message]:
        """The messages in a repeated field."""
        return [Message(value, self._budget) for value in self.parts(number)]

    def message(self, number: int) -> Message:
        """The message in a field; an empty one if the field is absent."""
        # Of a field that is given twice, the last counts.
        return Message((self.parts(number) or [memoryview(b"")])[-1], self._budget)

    def has(self, number: int) -> bool:
        """Whether the field is there."""
        return number in self._fields

    def parts(self, number: int) -> list[memoryview]:
        """The bytes of each value of a field."""
        values = self._fields.get(number, [])
        parts = [value for value in values if isinstance(value, memoryview)]
        if len(parts) < len(values):
            raise Malformed(f"field {number} is a number where bytes are expected")
        return parts

    def text(self, number: int) -> str:
        """A string; empty if the field is absent."""
        return bytes((self.parts(number) or [memoryview(b"")])[-1]).decode(errors="replace")

    def integer(self, number: int, default: int) -> int:
        """A whole number."""
        return (self.integers(number) or [default])[-1]

    def integers(self, number: int) -> list[int]:
        """The whole numbers of a repeated field, packed or not."""
        result: list[int] = []
        for value in self._fields.get(number, []):
            if isinstance(value, int):
                result.append(value)
                continue
            position = 0
            while position < len(value):
                self._budget.spend()
                decoded, position = _varint(value, position)
                result.append(decoded)
        return result

    def real(self, number: int, default: float) -> float:
        """A number of 32 bits."""
        values = self.floats(number)
        return float(values[-1]) if len(values) else default

    def floats(self, number: int, dtype: str = "<f4") -> NDArray[np.float32]:
        """The numbers of a repeated field, packed or not, as float32; a view where it can be."""
        parts, size = self.parts(number), np.dtype(dtype).itemsize
        if any(len(part) % size for part in parts):
            raise Malformed(f"field {number} ends inside a number")
        self._budget.spend_numbers(sum(map(len, parts)) // size)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        return np.frombuffer(data, dtype).astype(np.float32, copy=False)


def shaped(values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Give the numbers of an array their shape. Raises Malformed if they do not fill it."""
    # Sides are numbers of a stranger: NumPy takes none beyond 63 bits, even beside a 0.
    if (
        len(shape) > MOST_DIMENSIONS
        or any(side > MOST_SIDE for side in shape)
        or math.prod(shape) != len(values)
    ):
        raise Malformed(f"an array of {len(values)} numbers has another shape")
    return values.reshape(shape)


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Read a whole number; return it and the position after it."""
    result = 0
    for count, byte in enumerate(data[position : position + VARINT_BYTES]):
        result |= (byte & 127) << (7 * count)
        if byte < 128:
            return result & (2**64 - 1), position + count + 1
    raise Malformed("it ends inside a number")


def _value(data: memoryview, position: int, wire_type: int) -> tuple[int | memoryview, int]:
    """Read the value of a field; return it and the position after it."""
    if wire_type == VARINT:
        return _varint(data, position)
    if wire_type == BYTES:
        length, position = _varint(data, position)
    elif wire_type in (FIXED32, FIXED64):
        length = 4 if wire_type == FIXED32 else 8
    else:
        raise Malformed(f"it has a field of the unknown type {wire_type}")
    if length > len(data) - position:
        raise Malformed("a field reaches beyond its end")
    return data[position : position + length], position + length


def field(number: int, value: int | float | str | bytes) -> bytes:
    """Write one field: a whole number, a float of 32 bits, a string, or bytes (a message)."""
    if isinstance(value, int):
        return _written(number << 3 | VARINT) + _written(value)
    if isinstance(value, float):
        return _written(number << 3 | FIXED32) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return _written(number << 3 | BYTES) + _written(len(data)) + data


def _written(value: int) -> bytes:
    """Write a whole number, at least 0."""
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])
