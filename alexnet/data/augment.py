"""Augmentation: what happens to each image of an epoch (sections 2 and 4.1).

`sample_augmentation` draws the crop, the reflection and the color shift of each image as a pure
function of (seed, epoch, image); `preprocess.Preprocess` applies them to a whole batch.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread

import numpy as np
from numpy.typing import NDArray

from alexnet.config import Augment
from alexnet.data.store import Statistics

# The authors' own analysis of the ILSVRC-2012 training set, for RGB values in 0..255. The numbers
# come from make-data/input_meta of cuda-convnet2 (2014), because the release of the 2012 code does
# not contain the ones it was run with.
ILSVRC2012_ROOTS = np.array([121.780, 37.094, 19.721])  # square roots of the eigenvalues
ILSVRC2012_VECTORS = np.array(  # one eigenvector per row
    [[-0.56351, -0.57618, -0.59200], [-0.71258, -0.02354, 0.70120], [0.41796, -0.81698, 0.39731]]
)
# Number of the random stream of the color noise. Streams 0 and 1 hold the crop positions and
# reflections, drawn for each image or for each chunk of the epoch; 3 and 4 the sizes of zoomed
# crops, likewise; 5 to 7 are those of `mixing.py`. `loader.epoch_order` permutes by the words
# of stream 0, too: words of its own would change the order of every run that was ever recorded.
NORMAL = 2
ZOOM = 3
ASPECT = 4 / 3
"""Largest ratio of the sides of a zoomed crop, either way (Szegedy et al. 2014)."""


@dataclass(frozen=True)
class Augmentation:
    """Crop position, reflection and color shift of each of N images.

    Attributes:
        top: Row of the crop's upper left corner in the stored image, in pixels.
        left: Column of that corner, in pixels.
        flip: Whether the crop is reflected horizontally.
        shift: Added to R, G and B of every pixel of the image, in gray levels.
        scale: Factor applied to the input after the shift.
        sides: Height and width of each zoomed crop, in pixels of the stored image; None where all
            crops have the size of the input.
    """

    top: NDArray[np.int64] | NDArray[np.float64]  # (N,); whole pixels unless zoomed
    left: NDArray[np.int64] | NDArray[np.float64]  # (N,)
    flip: NDArray[np.bool_]  # (N,)
    shift: NDArray[np.float32]  # (N, 3)
    scale: float = 1.0
    sides: NDArray[np.float64] | None = None  # (2, N)

    def packed(self, input_px: int) -> NDArray[np.float32]:
        """Return all numbers of the batch in one array for a device, shape (N, 8).

        A row has, for the pixels of the input: the row of the stored image that the first one is
        read at and the distance to the next, the same for columns (reflected crops are read
        backwards, with a negative distance), the shift of R, G and B, and the scale. Rows and
        columns count from the center of the first pixel.
        """
        packed = np.empty((len(self.top), 8), np.float32)
        # An ordinary crop has the sides of the input, so that its places are whole numbers.
        sides = np.full((2, 1), float(input_px)) if self.sides is None else self.sides
        (row_step, column_step), half_pixel = sides / input_px, 0.5
        row, column = self.top + half_pixel * row_step, self.left + half_pixel * column_step
        mirrored = column + (input_px - 1) * column_step
        packed[:, 0], packed[:, 1] = row - half_pixel, row_step
        packed[:, 2] = np.where(self.flip, mirrored, column) - half_pixel
        packed[:, 3] = np.where(self.flip, -column_step, column_step)
        packed[:, 4:7], packed[:, 7] = self.shift, self.scale
        return packed


def sample_augmentation(
    augment: Augment,
    statistics: Statistics,
    input_px: int,
    seed: int,
    epoch: int,
    index: NDArray[np.int64],
    position: NDArray[np.int64],
    colour: bool = True,
) -> Augmentation:
    """Draw the crop position, reflection and color shift of each image in a batch.

    The draw depends only on (seed, epoch, image), never on the batch, the worker or the device, so
    a resumed or distributed run sees the same images. With `augment.chunk` > 1, position and
    reflection depend on (seed, epoch, position // chunk) instead: the authors' code crops and
    reflects each chunk of images alike. The color shift always belongs to the image.

    Args:
        augment: Which random changes the recipe makes.
        statistics: Mean and covariance of the training images.
        input_px: Side of the crop, in pixels.
        index: Positions of the images in the split, shape (N,).
        position: Positions of the images in the order of the epoch, shape (N,).
        colour: False turns the color noise off (the last epochs of `original`).

    Returns:
        Offsets in pixels, reflections, and color shifts in gray levels, one row per image.

    Source: section 4.1; for `original`, convdata_jpeg.py of the authors' 2012 release.
    """
    stored_px = statistics.mean.shape[0]
    border = stored_px - input_px
    count = len(index)
    top: NDArray[np.int64] | NDArray[np.float64] = np.full(count, border // 2)
    left: NDArray[np.int64] | NDArray[np.float64] = np.full(count, border // 2)
    flip, sides = np.zeros(count, bool), None
    chunked = augment.chunk > 1
    rows = position // augment.chunk if chunked else index
    # Drawn even where the recipe does not use them, so that each setting has the same draws
    # whether or not the others are on.
    y, x, coin = uniform_numbers(seed, epoch, int(chunked), rows)
    if augment.crops and zooms(augment):
        uniform = uniform_numbers(seed, epoch, ZOOM + chunked, rows)
        sides = _zoomed_sides(augment.zoom, augment.zoom_to, input_px, uniform)
        sides = np.minimum(sides, stored_px)
        # (2, N): the heights leave room for the rows, the widths for the columns.
        top, left = (y, x) * (stored_px - sides)
    elif augment.crops:
        # The paper counts 2048 = 32x32x2 crops of a 256-pixel image, hence 32 offsets (0..31).
        # With `last_offset`, as in the authors' code, the last one is drawn too: 33 offsets.
        positions = border + 1 if augment.last_offset else max(1, border)
        top, left = (y * positions).astype(np.int64), (x * positions).astype(np.int64)
    if augment.flips:
        flip = coin < 0.5
    if augment.colour == "none" or not colour:
        return Augmentation(top, left, flip, np.zeros((count, 3), np.float32), sides=sides)
    shift = colour_shift(augment, statistics, _normal(seed, epoch, index)).astype(np.float32)
    # The authors divide by 1 + coefficient, but only while the noise is on (convdata_jpeg.py).
    scale = 1 / (1 + augment.colour_std) if augment.colour == "original" else 1.0
    return Augmentation(top, left, flip, shift, scale, sides)


def zooms(augment: Augment) -> bool:
    """Whether random crops have other sides than the input."""
    return augment.zoom < 1 or augment.zoom_to > 1


def _zoomed_sides(
    smallest: float, largest: float, input_px: int, uniform: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the height and width of zoomed crops in pixels, shape (2, N).

    Args:
        smallest, largest: Smallest and largest share of the input's area.
        uniform: Uniform numbers in [0, 1): for the area, for the aspect ratio, and unused, (3, N).
    """
    side = input_px * np.sqrt(smallest + (largest - smallest) * uniform[0])
    # Drawn on a logarithmic scale, so that wide and high crops are equally likely.
    aspect = ASPECT ** (uniform[1] - 0.5)
    return np.stack([side / aspect, side * aspect])


def uniform_numbers(
    seed: int, epoch: int, stream: int, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return three uniform numbers in [0, 1) for each of `rows`, shape (3, N)."""
    return _table(seed, epoch, stream, table_rows(rows))[rows].T


def _normal(seed: int, epoch: int, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return three standard normal numbers for each of `rows`, shape (N, 3)."""
    return _table(seed, epoch, NORMAL, table_rows(rows))[rows]


def table_rows(rows: NDArray[np.int64]) -> int:
    """Return how many rows a table needs to contain `rows`, rounded up to a power of two.

    The rounding keeps the number of distinct tables small, so that batches share cached ones.
    """
    return 1 << int(rows.max(initial=0)).bit_length()


# Those of an epoch and of the next one, by stream and seed, and then by epoch and rows. A batch of
# few images may need a shorter table.
_TABLES: dict[tuple[int, int], dict[tuple[int, int], Future[NDArray[np.float64]]]] = {}
# A table that was being drawn would never be complete in a forked process.
os.register_at_fork(after_in_child=_TABLES.clear)


def _table(seed: int, epoch: int, stream: int, rows: int) -> NDArray[np.float64]:
    """The random numbers of a whole epoch, shape (rows, 3).

    Those of the next epoch are drawn meanwhile: for ImageNet that takes 0.2 to 0.8 s, in which the
    first batch of an epoch would wait. Those of other epochs are dropped: they have 50 MB each. Two
    seeds are kept for each stream, for two trainings of different seeds that take turns in one
    process.
    """
    epochs = epoch, epoch + 1
    # A new dict in place of the old one, which another thread may be reading.
    old = _TABLES.get((stream, seed), {})
    tables = {key: old[key] for key in old if key[0] in epochs}
    for e in epochs:
        if (e, rows) not in tables:
            tables[e, rows] = _begun(seed, e, stream, rows)
    _TABLES[stream, seed] = tables
    # A training whose seed is dropped here, because two others have begun, draws its tables again.
    for key in [key for key in list(_TABLES) if key[0] == stream][:-2]:
        _TABLES.pop(key, None)
    return tables[epoch, rows].result()


def _begun(seed: int, epoch: int, stream: int, rows: int) -> Future[NDArray[np.float64]]:
    """Begin to draw a table in a thread."""
    table: Future[NDArray[np.float64]] = Future()

    def draw() -> None:
        try:
            table.set_result(_drawn(seed, epoch, stream, rows))
        # It is raised where the table is needed.
        except MemoryError as error:
            table.set_exception(error)

    # Not a pool of threads: a process that is forked would have the pool without its threads.
    Thread(target=draw, daemon=True).start()
    return table


def _drawn(seed: int, epoch: int, stream: int, rows: int) -> NDArray[np.float64]:
    """Draw a table.

    Each row is the same however many rows are drawn, because they are drawn in order. One call
    for the epoch is far cheaper than one generator per image.
    """
    key, counter = np.array([seed, epoch], np.uint64), np.array([0, 0, 0, stream], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
    return generator.standard_normal((rows, 3)) if stream == NORMAL else generator.random((rows, 3))


def colour_shift(
    augment: Augment, statistics: Statistics, normal: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the gray levels to add to R, G and B of each image, shape (N, 3).

    Args:
        normal: Standard normal numbers, shape (N, 3).

    `paper` computes [p1 p2 p3][a1 l1, a2 l2, a3 l3]^T (section 4.1) from the covariance of RGB in
    0..1 and multiplies the result by 255. `original` multiplies by the square roots of the
    eigenvalues instead, with RGB in 0..255.
    """
    if augment.pca == "ilsvrc2012":
        roots, vectors = ILSVRC2012_ROOTS, ILSVRC2012_VECTORS
    else:
        values, columns = np.linalg.eigh(statistics.covariance)
        # Rounding can make the smallest eigenvalue slightly negative; its root would be NaN.
        roots, vectors = np.sqrt(np.maximum(values, 0)), columns.T
    # (roots / 255)**2 are the eigenvalues l of the covariance of RGB in 0..1.
    sizes = roots if augment.colour == "original" else 255 * (roots / 255) ** 2
    shift: NDArray[np.float64] = augment.colour_std * normal * sizes @ vectors
    return shift


def evaluation_crops(
    augment: Augment, stored_px: int, input_px: int
) -> list[tuple[int, int, bool]]:
    """Return (top, left, reflected) of each test crop.

    There are ten crops (section 4.1), a 3x3 grid of nine (the CIFAR-10 networks), or the center
    crop alone. Their side is `Augment.test_px`, or that of the input.
    """
    border = stored_px - (augment.test_px or input_px)
    half = border // 2
    if augment.test_patches == "centre" or border == 0:
        return [(half, half, False)]
    if augment.test_patches == "nine":
        return [(y, x, False) for y in (0, half, border) for x in (0, half, border)]
    corners = [(0, 0), (0, border), (border, 0), (border, border), (half, half)]
    return [(y, x, flip) for flip in (False, True) for y, x in corners]


def fixed_crop(top: int, left: int, flip: bool, count: int, side_px: int = 0) -> Augmentation:
    """Return the same test crop for each of `count` images, without color noise.

    Args:
        side_px: Side of a crop that is rescaled to the input; 0: that of the input.
    """
    # Every image of a test batch gets the same crop.
    return Augmentation(
        np.full(count, top),
        np.full(count, left),
        np.full(count, flip),
        np.zeros((count, 3), np.float32),
        sides=np.full((2, count), float(side_px)) if side_px else None,
    )
