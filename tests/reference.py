"""Slow reference implementations: the operators of the paper as loops, in NumPy and float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def lrn(a: Array, n: int, k: float, alpha: float, beta: float, columns: int = 1) -> Array:
    """Section 3.3, map by map. a: (N, C, H, W)."""
    b = np.empty_like(a)
    maps = a.shape[1] // columns
    for i in range(a.shape[1]):
        first, last = i // maps * maps, i // maps * maps + maps - 1
        low, high = max(first, i - n // 2), min(last, i + n // 2)
        b[:, i] = a[:, i] / (k + alpha * (a[:, low : high + 1] ** 2).sum(1)) ** beta
    return b


def spatial_norm(a: Array, size: int, k: float, alpha: float, beta: float) -> Array:
    """The second normalisation of `original`: a window within one map, clipped at the border."""
    b = np.empty_like(a)
    half = size // 2
    for y in range(a.shape[2]):
        for x in range(a.shape[3]):
            window = a[:, :, max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
            b[:, :, y, x] = a[:, :, y, x] / (k + alpha * (window**2).sum((2, 3))) ** beta
    return b


def pool(a: Array, size: int, stride: int, partial: bool, kind: str) -> Array:
    """Section 3.4: the maximum or mean over windows `stride` apart.

    With `partial`, the last window may extend over the bottom or right border.
    """
    corners = [y for y in range(0, a.shape[2], stride) if partial or y + size <= a.shape[2]]
    if partial:  # no window after the first that reaches the border
        reach = [y for y in corners if y + size >= a.shape[2]]
        corners = [y for y in corners if y <= reach[0]]
    take = np.max if kind == "max" else np.mean
    rows = [
        [take(a[:, :, y : y + size, x : x + size], axis=(2, 3)) for x in corners] for y in corners
    ]
    return np.moveaxis(np.array(rows), (0, 1), (2, 3))


def locally_connected(a: Array, weight: Array, bias: Array, pad: tuple[int, int]) -> Array:
    """A layer with a separate filter for every position. weight: (K, C, S, S, H, W)."""
    a = np.pad(a, ((0, 0), (0, 0), pad, pad))
    filters, _, size, _, height, width = weight.shape
    out = np.empty((len(a), filters, height, width))
    for y in range(height):
        for x in range(width):
            window = a[:, :, y : y + size, x : x + size]
            out[:, :, y, x] = np.einsum("ncij,kcij->nk", window, weight[..., y, x]) + bias[:, y, x]
    return out


def philox(low: int, high: int, counter: list[int]) -> list[int]:
    """Philox4x32-10 as its paper defines it (Salmon et al. 2011, section 3.3).

    Args:
        low, high: The words of the key.
        counter: Four words of 32 bits.
    """
    left, right = np.uint64(low), np.uint64(high)
    words = np.array(counter, np.uint64)
    mask, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        product_0 = words[0] * np.uint64(0xD2511F53)
        product_1 = words[2] * np.uint64(0xCD9E8D57)
        words = np.array(
            [
                (product_1 >> shift) ^ words[1] ^ left,
                product_1 & mask,
                (product_0 >> shift) ^ words[3] ^ right,
                product_0 & mask,
            ]
        )
        left, right = left + np.uint64(0x9E3779B9) & mask, right + np.uint64(0xBB67AE85) & mask
    return [int(word) for word in words]
