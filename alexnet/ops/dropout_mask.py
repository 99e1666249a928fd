"""Masks of dropout: which units a step keeps.

A mask is a function of (seed, step, layer), so a resumed run draws the same masks. The random bits
of a unit are those of Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
2011), a function of a 64-bit key and a counter. They are therefore the same on every device, and a
rank of several draws its own units alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from alexnet import native
from alexnet.ops import fast

Words = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
LOW = 2**32 - 1
# The constants of Philox4x32: the multipliers of a round, and what a round adds to the key.
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
KEY_STEPS = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10


@dataclass(frozen=True)
class Mask:
    """The mask of a layer for a batch, or for a rank's part of it, before it is drawn.

    The number of a unit is its index in the array (N, units) of the full batch, row by row. The
    counter of Philox is the number divided by 4, and the remainder chooses one of its four words.

    Attributes:
        key: 64 bits (`dropout_key`) as a signed number, or an int64 tensor of one value on the
            device of the activations. A CUDA graph reads a tensor anew at each replay.
        rate: Probability that a unit is dropped, rounded to a multiple of 2**-32.
        first_row: Position in the full batch of the first image of this part.
        first_unit: Position in the full layer of the first unit of this part.
        units: Number of units of the full layer; None: the part has all of them.
    """

    key: int | torch.Tensor
    rate: float
    first_row: int = 0
    first_unit: int = 0
    units: int | None = None

    @property
    def threshold(self) -> int:
        """A unit is kept if its 32 random bits are at least this."""
        return round(self.rate * 2**32)

    def stretches(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Describe the numbers of the units of a tensor as stretches of consecutive numbers.

        Returns:
            Number of stretches, length of each, first number of the first one, and distance between
            the first numbers of two of them.
        """
        rows, count = shape[0], math.prod(shape[1:])
        units = count if self.units is None else self.units
        first = self.first_row * units + self.first_unit
        return (1, rows * count, first, 0) if count == units else (rows, count, first, units)

    def draw(self, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
        """Draw the mask for activations of this shape: True where a unit is kept."""
        keep = torch.empty(shape, dtype=torch.bool, device=device)
        if _compiled_takes(keep):
            return self._draw_compiled(keep)
        stretches, length, first, distance = self.stretches(shape)
        begin = first + distance * torch.arange(stretches, device=device)[:, None]
        # A stretch may begin and end between two calls of Philox.
        calls = torch.arange((length + 3) // 4 + 1, device=device)
        counter = begin // 4 + calls
        zero = torch.zeros_like(counter)
        words = torch.stack(philox(self.key, (counter & LOW, counter >> 32, zero, zero)), -1)
        chosen = words.flatten(1).gather(1, begin % 4 + torch.arange(length, device=device))
        return (chosen >= self.threshold).view(shape)

    def _draw_compiled(self, keep: torch.Tensor) -> torch.Tensor:
        library = native.kernels()
        assert library is not None
        # Not in one stretch: the rows are divided among the threads.
        rows, count = keep.shape[0], math.prod(keep.shape[1:])
        units = count if self.units is None else self.units
        first = self.first_row * units + self.first_unit
        library.dropout_mask(
            int(self.key), self.threshold, rows, count, first, units, keep.data_ptr()
        )
        return keep


def dropout_key(seed: int, step: int, layer: str) -> int:
    """The key of a layer's mask in a step: 64 bits as a signed number."""
    # A hash, because the keys of Philox must differ, and (seed, step, layer) has more than 64 bits.
    digest = hashlib.blake2b(f"{seed}/{step}/{layer}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def dropout_keys(seed: int, step: int, layers: Iterable[str]) -> torch.Tensor:
    """The keys of the masks of these layers in a step, int64, on the CPU."""
    keys = [dropout_key(seed, step, layer) for layer in layers]
    return torch.tensor(keys, dtype=torch.int64, device="cpu")


def philox(key: int | torch.Tensor, counter: Words) -> Words:
    """Philox4x32-10 in plain PyTorch.

    Args:
        key: 64 bits.
        counter: Four words of 32 bits, lowest first, as int64 tensors of one shape.

    Returns:
        Four words of 32 random bits each, as int64 tensors.
    """
    k0, k1 = key & LOW, key >> 32 & LOW
    c0, c1, c2, c3 = counter
    for _ in range(ROUNDS):
        (high0, low0), (high1, low1) = _product(c0, MULTIPLIERS[0]), _product(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + KEY_STEPS[0] & LOW, k1 + KEY_STEPS[1] & LOW
    return c0, c1, c2, c3


def _product(word: torch.Tensor, multiplier: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The high and the low 32 bits of the product of two words of 32 bits.

    In two halves of 16 bits, because the product would overflow the 63 bits of an int64.
    """
    upper, lower = word * (multiplier >> 16), word * (multiplier & 0xFFFF)
    middle = upper + (lower >> 16)
    return middle >> 16, (middle << 16 | lower & 0xFFFF) & LOW


def _compiled_takes(keep: torch.Tensor) -> bool:
    return (
        keep.device.type == "cpu"
        and keep.numel() > 0
        and fast.unobserved(keep)
        and native.kernels() is not None
    )
