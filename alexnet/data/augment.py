"""From uint8 pictures to the network's input, on the device, a batch at once (sections 2 and 4.1).

What happens to a picture is a pure function of (seed, epoch, picture): `draw` says what, `Preprocess` does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from alexnet import native
from alexnet.config import Augment
from alexnet.data.store import Statistics

# The authors' own analysis of the ILSVRC-2012 training set, RGB on 0..255. From make-data/input_meta
# of cuda-convnet2 (2014): the release of the 2012 code does not hold the numbers it was run with.
ILSVRC2012_ROOTS = np.array([121.780, 37.094, 19.721])  # square roots of the eigenvalues
ILSVRC2012_VECTORS = np.array(  # a row each
    [[-0.56351, -0.57618, -0.59200], [-0.71258, -0.02354, 0.70120], [0.41796, -0.81698, 0.39731]]
)
# torchvision's reference preprocessing, RGB on 0..1.
TORCHVISION_MEAN, TORCHVISION_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMAL = 2  # the stream of the colour noise; 0 and 1: places and reflections, of a picture and of a chunk


@dataclass(frozen=True)
class Draws:
    """What happens to each of N pictures. A patch's top left corner, in pixels; its reflection; its colour shift."""

    top: NDArray[np.int64]  # (N,)
    left: NDArray[np.int64]  # (N,)
    flip: NDArray[np.bool_]  # (N,)
    shift: NDArray[np.float32]  # (N, 3), grey levels
    scale: float = 1.0


def draw(
    augment: Augment,
    statistics: Statistics,
    input_px: int,
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    place: NDArray[np.int64],
    colour: bool = True,
) -> Draws:
    """The draws for pictures `index` of a split, which stand at `place` in the epoch.

    Position and flip come from (seed, epoch, index), or with augment.chunk > 1 from (seed, epoch, place // chunk);
    colour from (seed, epoch, index). colour=False: the noise is off (the original's end game).
    """
    border = statistics.mean.shape[0] - input_px
    count = len(index)
    top, left, flip = (
        np.full(count, border // 2),
        np.full(count, border // 2),
        np.zeros(count, bool),
    )
    y, x, coin = _uniform(
        seed, epoch, *((0, index) if augment.chunk == 1 else (1, place // augment.chunk))
    )
    if augment.crops:
        # The paper's factor of 2048 is 32x32x2; the authors' code also draws the last offset.
        positions = border + 1 if augment.last_offset else max(1, border)
        top, left = (y * positions).astype(np.int64), (x * positions).astype(np.int64)
    if augment.flips:
        flip = coin < 0.5
    if augment.colour == "none" or not colour:
        return Draws(top, left, flip, np.zeros((count, 3), np.float32))
    shift = colour_shift(augment, statistics, _normal(seed, epoch, index)).astype(np.float32)
    # The authors divide by 1 + coefficient, and only while the noise is on (convdata_jpeg.py).
    scale = 1 / (1 + augment.colour_std) if augment.colour == "original" else 1.0
    return Draws(top, left, flip, shift, scale)


def _uniform(seed: int, epoch: int, stream: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Three numbers in [0, 1) for each of `rows`: (3, N)."""
    return _table(seed, epoch, stream, _room(rows))[rows].T


def _normal(seed: int, epoch: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    return _table(seed, epoch, NORMAL, _room(rows))[rows]


def _room(rows: NDArray[np.int64]) -> int:
    return 1 << int(rows.max(initial=0)).bit_length()


@lru_cache(maxsize=4)
def _table(seed: int, epoch: int, stream: int, rows: int) -> NDArray[np.float64]:
    """The draws of a whole epoch at once, (rows, 3); a row is the same however many there are."""
    key, counter = np.array([seed, epoch], np.uint64), np.array([0, 0, 0, stream], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
    return generator.standard_normal((rows, 3)) if stream == NORMAL else generator.random((rows, 3))


def colour_shift(
    augment: Augment, statistics: Statistics, normal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Grey levels to add to R, G and B of each picture. normal: (N, 3), of mean 0 and deviation 1.

    paper: [p1 p2 p3][a1 l1, a2 l2, a3 l3]^T with the covariance of RGB in 0..1, times 255.
    original: the square roots of the eigenvalues, on 0..255.
    """
    if augment.pca == "ilsvrc2012":
        roots, vectors = ILSVRC2012_ROOTS, ILSVRC2012_VECTORS
    else:
        values, columns = np.linalg.eigh(statistics.covariance)
        roots, vectors = np.sqrt(np.maximum(values, 0)), columns.T
    sizes = roots if augment.colour == "original" else 255 * (roots / 255) ** 2
    shift: NDArray[np.float64] = augment.colour_std * normal * sizes @ vectors
    return shift


def patches(augment: Augment, stored_px: int, input_px: int) -> list[tuple[int, int, bool]]:
    """(top, left, reflected) of the test patches: ten (section 4.1), a 3x3 grid (the CIFAR-10 nets), or the centre."""
    border = stored_px - input_px
    half = border // 2
    if augment.test_patches == "centre" or border == 0:
        return [(half, half, False)]
    if augment.test_patches == "nine":
        return [(y, x, False) for y in (0, half, border) for x in (0, half, border)]
    corners = [(0, 0), (0, border), (border, 0), (border, border), (half, half)]
    return [(y, x, flip) for flip in (False, True) for y, x in corners]


def same_patch(top: int, left: int, flip: bool, count: int) -> Draws:
    """One test patch of every picture of a batch, without noise."""
    full = np.full(count, 1)
    return Draws(full * top, full * left, full * flip > 0, np.zeros((count, 3), np.float32))


def check_sizes(stored_px: int, input_px: int) -> None:
    """Raises ValueError when the network sees more than is stored, or so small a part that a mistake is likely."""
    if input_px > stored_px:
        raise ValueError(
            f"the network sees {input_px} pixels a side and the store has {stored_px}; "
            "prepare it with a larger --size-px or set a smaller architecture.input_px"
        )
    if stored_px > 2 * input_px:
        raise ValueError(
            f"the network sees {input_px} of the {stored_px} pixels a side in the store; "
            f"prepare it with --size-px {input_px} or a little more"
        )


class Preprocess:
    """The pictures of a batch cut, reflected, centred and coloured on the device."""

    def __init__(
        self,
        augment: Augment,
        statistics: Statistics,
        input_px: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        stored_px = statistics.mean.shape[0]
        check_sizes(stored_px, input_px)
        self.augment, self.input_px, self.stored_px = augment, input_px, stored_px
        self.device, self.dtype = device, dtype
        mean = torch.tensor(statistics.mean, dtype=torch.float32, device=device)
        half = (stored_px - input_px) // 2
        self.whole_mean = mean
        self.mirrored_mean = mean.flip(1).contiguous()
        self.deviation = (
            255 * mean.new_tensor(TORCHVISION_STD) if augment.mean == "channel" else None
        )
        self.centre_mean = mean[half : half + input_px, half : half + input_px]

    def centre_patch_mean(self) -> torch.Tensor:
        """What is subtracted from a centre patch: (input_px, input_px, 3) or broadcast to it, grey levels."""
        if self.augment.mean == "channel":
            return (255 * self.centre_mean.new_tensor(TORCHVISION_MEAN)).expand_as(self.centre_mean)
        return self.centre_mean

    def __call__(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """images: (N, stored_px, stored_px, 3) uint8 on any device -> (N, 3, input_px, input_px), channels last.

        Raises ValueError for a patch that leaves its picture.
        """
        border = self.stored_px - self.input_px
        if any(a.size and not 0 <= a.min() <= a.max() <= border for a in (draws.top, draws.left)):
            raise ValueError(
                f"a patch of {self.input_px} pixels leaves its picture of {self.stored_px}"
            )
        images = images.to(self.device, non_blocking=True).contiguous()
        x = self._compiled(images, draws)
        return (self.plain(images, draws) if x is None else x).permute(0, 3, 1, 2)

    def centre(self, images: torch.Tensor) -> torch.Tensor:
        """The central patch of every picture, without noise."""
        half = (self.stored_px - self.input_px) // 2
        return self(images, same_patch(half, half, False, len(images)))

    def plain(self, images: torch.Tensor, draws: Draws) -> torch.Tensor:
        """The same, channels last in shape too, by indexing, the whole batch at once: a few kernels on a GPU."""
        flip = torch.from_numpy(draws.flip).to(self.device)
        side = torch.arange(self.input_px, device=self.device)
        rows = torch.from_numpy(draws.top).to(self.device)[:, None] + side
        along = torch.where(flip[:, None], self.input_px - 1 - side, side)
        columns = torch.from_numpy(draws.left).to(self.device)[:, None] + along
        each = torch.arange(len(images), device=self.device)[:, None, None]
        rows, columns = rows[:, :, None], columns[:, None, :]
        # the mean of each pixel belongs to the picture: cut and reflected with it
        mean = (
            self.whole_mean[rows, columns]
            if self.augment.mean == "pixel"
            else self.centre_patch_mean()
        )
        x = images[each, rows, columns].float() - mean
        x += torch.from_numpy(draws.shift).to(self.device)[:, None, None, :]
        if draws.scale != 1:
            x *= draws.scale
        if self.deviation is not None:
            x /= self.deviation
        return x.to(self.dtype)

    def _compiled(self, images: torch.Tensor, draws: Draws) -> torch.Tensor | None:
        """The same in one pass over memory; None where it could not be compiled, or not for this device."""
        if self.device.type != "cpu" or self.dtype not in native.SUFFIX:
            return None
        if (operators := native.compiled()) is None:
            return None
        px, moves = self.input_px, self.augment.mean == "pixel"
        out = torch.empty((len(images), px, px, 3), dtype=self.dtype)
        mean = self.whole_mean if moves else self.centre_patch_mean().contiguous()
        kinds = (
            (draws.top, np.int64),
            (draws.left, np.int64),
            (draws.flip, np.uint8),
            (draws.shift, np.float32),
        )
        places = [np.ascontiguousarray(array, kind) for array, kind in kinds]
        cut = getattr(operators, f"cut_{native.SUFFIX[self.dtype]}")
        cut(
            *(tensor.data_ptr() for tensor in (images, mean, self.mirrored_mean)),
            *(array.ctypes.data for array in places),
            None if self.deviation is None else self.deviation.data_ptr(),
            out.data_ptr(),
            native.Cut(len(images), self.stored_px, px, moves, draws.scale),
        )
        return out
