"""Exact sums of pixel values, from which `prepare` computes the mean image and the covariance.

The sums are integers of 64 bits, so that they do not depend on the order in which workers finish:
rounded sums would. Those of the products pass 2**53, from which on float64 rounds, at some 7
million photographs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alexnet import native


@dataclass
class Sums:
    """Exact running sums over images, for RGB values in 0..255."""

    pixels: NDArray[Any]  # (size_px, size_px, 3) int64, or uint16
    products: NDArray[np.int64]  # (3, 3)
    images: int = 0

    @classmethod
    def zero(cls, size_px: int, dtype: Any = np.int64) -> Sums:
        """Return empty sums.

        uint16 holds the sum of up to 257 images. It is enough for one task, whose sums then stay in
        the processor's cache.
        """
        return cls(np.zeros((size_px, size_px, 3), dtype), np.zeros((3, 3), np.int64))

    def add(self, images: list[NDArray[np.uint8]]) -> None:
        """Add images, (size_px, size_px, 3) each."""
        # One by one: stacking the images first would only copy them.
        for rgb in images:
            self.pixels += rgb
            self.products += products(rgb)
        self.images += len(images)

    def merge(self, other: Sums) -> None:
        """Add the sums of other images."""
        self.pixels += other.pixels
        self.products += other.products
        self.images += other.images

    def mean(self) -> NDArray[np.float64]:
        """Return the mean image, (size_px, size_px, 3)."""
        return self.pixels / max(1, self.images)

    def covariance(self) -> NDArray[np.float64]:
        """Return the covariance of R, G and B over all pixels, (3, 3)."""
        count = max(1, self.images * self.pixels.shape[0] * self.pixels.shape[1])
        mean = self.pixels.sum((0, 1)) / count
        result: NDArray[np.float64] = self.products / count - np.outer(mean, mean)
        return result


def products(rgb: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the exact sums over pixels of the products of R, G and B, (3, 3).

    The compiled code is used where it exists.
    """
    operators = native.kernels()
    if operators is None:
        return plain_products(rgb)
    rgb, sums = np.ascontiguousarray(rgb), np.zeros((3, 3), np.int64)
    operators.products(rgb.ctypes.data, rgb.size // 3, sums.ctypes.data)
    return sums


def plain_products(rgb: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Compute the same in NumPy."""
    values = rgb.reshape(-1, 3).astype(np.float64)
    # Exact: the products of an image of 16,384 pixels a side sum to 2e13.
    total: NDArray[np.float64] = values.T @ values
    return total.astype(np.int64)
