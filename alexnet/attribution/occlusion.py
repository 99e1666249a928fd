"""Occlusion maps: how probable a class stays while a square of the image is covered."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.errors import ConfigError
from alexnet.model import Network, evaluation_mode

AT_ONCE = 64
"""Number of images in one forward pass; it limits the memory."""

POSITIONS = 17
"""Number of positions of the square along each side of the image."""


@dataclass(frozen=True)
class Occlusion:
    """The probability of a class while a square covers a part of the image.

    Attributes:
        probabilities: (rows, columns) float32; the square begins at `starts_px[row]` from the top
            and at `starts_px[column]` from the left.
        starts_px: Where the square begins, the same along both axes; pixels.
        side_px: Side of the square.
        uncovered: The probability without a square.
    """

    probabilities: NDArray[np.float32]
    starts_px: NDArray[np.int64]
    side_px: int
    uncovered: float

    def drop(self, input_px: int) -> NDArray[np.float32]:
        """Return how much the probability falls, for each pixel on average over its squares.

        Returns:
            (input_px, input_px); positive where covering the pixel speaks against the class.
        """
        total, count = np.zeros((2, input_px, input_px))
        for row, top in enumerate(self.starts_px):
            for column, left in enumerate(self.starts_px):
                square = np.s_[top : top + self.side_px, left : left + self.side_px]
                total[square] += self.uncovered - self.probabilities[row, column]
                count[square] += 1
        mean: NDArray[np.float32] = (total / count).astype(np.float32)
        return mean


def squares(
    input_px: int, side_px: int | None = None, positions: int = POSITIONS
) -> tuple[int, NDArray[np.int64]]:
    """Return the side of the square and where it begins, the same along both axes; pixels.

    The positions are at equal distances from border to border; a small image has fewer. They are
    never farther apart than the square is wide, so that every pixel is covered at some time.

    Args:
        side_px: None: a fifth of the side of the image.
        positions: Number of positions along each side.

    Raises:
        ConfigError: The square does not fit into the image, or some pixel would never be covered.
    """
    if side_px is None:
        side_px = max(1, round(input_px / 5))
    if not 1 <= side_px <= input_px:
        raise ConfigError(f"side_px is {side_px}; it must be from 1 to {input_px}")
    fewest = math.ceil(input_px / side_px)
    if positions < fewest:
        raise ConfigError(
            f"positions is {positions}; a square of {side_px} pixels needs at least {fewest} to "
            f"cover {input_px}"
        )
    starts = np.linspace(0, input_px - side_px, positions).round().astype(np.int64)
    return side_px, np.unique(starts)


@torch.no_grad()
def occlusion(
    net: Network,
    x: torch.Tensor,
    label: int,
    side_px: int | None = None,
    positions: int = POSITIONS,
) -> Occlusion:
    """Cover a square of the image with the mean image, at all of a grid of positions.

    Source: Zeiler and Fergus, 2014 (arXiv:1311.2901), section 4.2, with a gray square.

    Args:
        x: (3, input_px, input_px), preprocessed.
        side_px: Side of the square; None: a fifth of that of the image.
        positions: Number of positions along each side of the image.

    Raises:
        ConfigError: As `squares` does.
    """
    side_px, starts = squares(x.shape[-1], side_px, positions)
    corners = [(int(top), int(left)) for top in starts for left in starts]
    result = []
    with evaluation_mode(net):
        uncovered = float(net(x[None]).softmax(1)[0, label])
        for first in range(0, len(corners), AT_ONCE):
            part = corners[first : first + AT_ONCE]
            images = x.repeat(len(part), 1, 1, 1)
            for image, (top, left) in zip(images, part, strict=True):
                image[:, top : top + side_px, left : left + side_px] = 0
            images = images.contiguous(memory_format=torch.channels_last)
            result.append(net(images).softmax(1)[:, label])
    grid = torch.cat(result).float().cpu().numpy().reshape(len(starts), len(starts))
    return Occlusion(grid, starts, side_px, uncovered)
