"""Mixup and CutMix: a share of each training image, and of its target, is the next image's.

Both are later than the paper (Zhang et al. 2017, Yun et al. 2019). The next image is that of the
batch, and the first one for the last. Batches are in a new order in each epoch, except where
`Config.order` is fixed: there the pairs stay the same. How much is mixed in, and where, is a
function of (seed, epoch, image), as in `augment.py`.

The published methods draw a share between 0 and 1. Here the larger of the two shares is always the
image's own, so that its label stays the one that a training error can be counted against. For
mixup, pairs and shares are as likely as before. The square of CutMix lies inside the image, where
the published one is cut at the border.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet.config import Augment
from alexnet.data.augment import table_rows, uniform_numbers
from alexnet.data.device_feed import moved

# Numbers of the random streams: the place of a square and the method, and the shares of each.
PLACE, MIXUP, CUTMIX = 5, 6, 7


@dataclass(frozen=True)
class Mixing:
    """What each of N images gets of the next one.

    Attributes:
        share: Share of the next image's label in the target, at most 1/2.
        top, left: Upper left corner of the square that is pasted, in pixels of the input.
        side_px: Side of the square; 0: the images are added instead, by their shares.
    """

    share: NDArray[np.float32]  # (N,)
    top: NDArray[np.int64]  # (N,)
    left: NDArray[np.int64]  # (N,)
    side_px: NDArray[np.int64]  # (N,)


def mixes(augment: Augment) -> bool:
    """Whether images are mixed."""
    return augment.mixup > 0 or augment.cutmix > 0


def sample_mixing(
    augment: Augment, input_px: int, seed: int, epoch: int, index: NDArray[np.int64]
) -> Mixing:
    """Draw what each image of a batch gets of the next one.

    Args:
        augment: With `mixup` or `cutmix` above 0.
        index: Positions of the images in the split, shape (N,).
    """
    y, x, coin = uniform_numbers(seed, epoch, PLACE, index)
    # Where a recipe has both, half of the images have either.
    pastes = coin < (0.5 if augment.mixup > 0 else 1) * (augment.cutmix > 0)
    drawn = np.where(
        pastes,
        _shares(seed, epoch, CUTMIX, augment.cutmix, index),
        _shares(seed, epoch, MIXUP, augment.mixup, index),
    )
    share = np.minimum(drawn, 1 - drawn)
    # Rounded, the largest squares could cover more than half: 40 pixels of 56 are 51 %.
    most_px = math.isqrt(input_px**2 // 2)
    side_px = np.minimum(np.rint(np.sqrt(share) * input_px).astype(np.int64), most_px)
    side_px = np.where(pastes, side_px, 0)
    # Of whole pixels, whose share is what the target gets.
    share = np.where(pastes, side_px**2 / input_px**2, share)
    places = input_px - side_px + 1
    top, left = ((v * places).astype(np.int64) for v in (y, x))
    return Mixing(share.astype(np.float32), top, left, side_px)


def _shares(
    seed: int, epoch: int, stream: int, alpha: float, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    if alpha == 0:
        return np.zeros(len(rows))
    return _table(seed, epoch, stream, alpha, table_rows(rows))[rows]


# Both streams of an epoch, and shorter tables, which a batch of few images may need.
@lru_cache(maxsize=8)
def _table(seed: int, epoch: int, stream: int, alpha: float, rows: int) -> NDArray[np.float64]:
    """The shares of a whole epoch; each is the same however many rows are drawn after it."""
    key, counter = np.array([seed, epoch], np.uint64), np.array([0, 0, 0, stream], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
    return generator.beta(alpha, alpha, rows)


def mix(
    images: torch.Tensor, labels: torch.Tensor, mixing: Mixing
) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Mix each image of a batch with the next one.

    Args:
        images: Input of the network, (N, 3, input_px, input_px).
        labels: (N,) int64.

    Returns:
        The mixed images, in the channels-last memory format, and the labels that were mixed in,
        with their shares (N,).
    """

    def sent(values: NDArray[np.float32] | NDArray[np.int64]) -> torch.Tensor:
        return moved(torch.from_numpy(values), images.device)

    share, side = sent(mixing.share), sent(mixing.side_px)[:, None]
    along = torch.arange(images.shape[2], device=images.device)
    in_rows, in_columns = (
        (along >= first) & (along < first + side)
        for first in (sent(mixing.top)[:, None], sent(mixing.left)[:, None])
    )
    inside = (in_rows[:, :, None] & in_columns[:, None, :]).to(images.dtype)
    # A square is pasted whole; without one, every pixel gets the share.
    added = share.to(images.dtype)[:, None, None]
    amount = torch.where(side[:, :, None] > 0, inside, added)[:, None]
    mixed = torch.lerp(images, images.roll(-1, 0), amount)
    return mixed.contiguous(memory_format=torch.channels_last), (labels.roll(-1), share)
