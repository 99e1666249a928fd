"""Augmentation and preprocessing: stored uint8 images to network input (sections 2 and 4.1).

The module separates the random choice from the arithmetic. `sample_augmentation` draws the crop,
reflection and color shift of each image as a pure function of (seed, epoch, image);
`Preprocess` applies them to a whole batch on the device.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from importlib import util
from threading import Thread
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from alexnet import native
from alexnet.config import Augment, Conv
from alexnet.data.device_feed import moved
from alexnet.data.image import Rgb
from alexnet.data.store import Statistics
from alexnet.errors import DataError
from alexnet.ops import blocks

# The authors' own analysis of the ILSVRC-2012 training set, for RGB values in 0..255. The numbers
# come from make-data/input_meta of cuda-convnet2 (2014), because the release of the 2012 code does
# not contain the ones it was run with.
ILSVRC2012_ROOTS = np.array([121.780, 37.094, 19.721])  # square roots of the eigenvalues
ILSVRC2012_VECTORS = np.array(  # one eigenvector per row
    [[-0.56351, -0.57618, -0.59200], [-0.71258, -0.02354, 0.70120], [0.41796, -0.81698, 0.39731]]
)
# torchvision's reference preprocessing, for RGB values in 0..1.
TORCHVISION_MEAN, TORCHVISION_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
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


def _table(seed: int, epoch: int, stream: int, rows: int) -> NDArray[np.float64]:
    """The random numbers of a whole epoch, shape (rows, 3).

    Those of the next epoch are drawn meanwhile: for ImageNet that takes 0.2 to 0.8 s, in which the
    first batch of an epoch would wait.
    """
    this, _ = _begun(seed, epoch, stream, rows), _begun(seed, epoch + 1, stream, rows)
    return this.result()


# Four streams of two epochs, and as many shorter tables, which a batch of few images may need.
@lru_cache(maxsize=16)
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


# A table that was being drawn would never be complete in a forked process.
os.register_at_fork(after_in_child=_begun.cache_clear)


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


def check_sizes(stored_px: int, input_px: int, test_px: int = 0) -> None:
    """Check that crops of `input_px` pixels suit images stored with `stored_px` pixels.

    Args:
        test_px: `Augment.test_px`.

    Raises:
        DataError: If the crop is larger than the stored image, or smaller than half of it, which
            is probably a mistake.
    """
    if input_px > stored_px:
        raise DataError(
            f"the network sees {input_px} pixels per side, and the store has {stored_px}; "
            "prepare it with a larger --size-px or set a smaller architecture.input_px"
        )
    if test_px > stored_px:
        raise DataError(
            f"augment.test_px is {test_px}, and the store has {stored_px} pixels per side; prepare "
            "it with a larger --size-px or set a smaller augment.test_px"
        )
    if stored_px > 2 * input_px:
        raise DataError(
            f"the network sees {input_px} of the {stored_px} pixels per side in the store; "
            f"prepare it with --size-px {input_px} or a little more"
        )


class Preprocess:
    """Crops, reflects, centers and shifts the images of a batch on the device."""

    def __init__(
        self,
        augment: Augment,
        statistics: Statistics,
        input_px: int,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        stored_px = statistics.mean.shape[0]
        check_sizes(stored_px, input_px, augment.test_px)
        self.augment, self.input_px, self.stored_px = augment, input_px, stored_px
        self.device, self.dtype = device, dtype
        mean = torch.tensor(statistics.mean, dtype=torch.float32, device=device)
        half = (stored_px - input_px) // 2
        self.whole_mean = mean
        # The compiled code reads the mean of a reflected crop forwards from a reflected copy.
        self.mirrored_mean = mean.flip(1).contiguous()
        self.deviation = (
            255 * mean.new_tensor(TORCHVISION_STD) if augment.mean == "channel" else None
        )
        # Made once: a constant that is made in a step reaches a GPU by a copy that waits.
        fixed = mean[half : half + input_px, half : half + input_px]
        if augment.mean == "channel":
            fixed = (255 * mean.new_tensor(TORCHVISION_MEAN)).expand_as(fixed)
        # What is subtracted from a center crop, in gray levels, (input_px, input_px, 3).
        self.centre_mean = fixed.contiguous()
        # The mean of each pixel belongs to the image, so it is cropped and reflected with it. Any
        # other mean is subtracted from every crop as it is.
        self.mean_moves = augment.mean == "pixel"
        self.subtracted = self.whole_mean if self.mean_moves else self.centre_mean

    def __call__(self, images: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
        """Return the network's input for a batch.

        Args:
            images: (N, stored_px, stored_px, 3) uint8, on any device.
            augmentation: Crop, reflection and color shift of each image.

        Returns:
            (N, 3, input_px, input_px) on the device, in the channels-last memory format.

        Raises:
            DataError: If the images have another size or dtype, or the augmentation is that of
                another number of images, or a crop reaches beyond its image.
        """
        # Without these checks the compiled code would read foreign memory.
        if images.dtype != torch.uint8:
            raise DataError(
                f"the network takes stored images in bytes (torch.uint8), and these are "
                f"{images.dtype}; round them and convert them"
            )
        given = (augmentation.top, augmentation.left, augmentation.flip, augmentation.shift)
        if counts := {len(each) for each in given} - {len(images)}:
            raise DataError(
                f"an augmentation of {min(counts)} images was given for {len(images)}; "
                "it needs a row for each image"
            )
        stored = self.stored_px, self.stored_px, 3
        if images.shape[1:] != stored:
            raise DataError(
                f"the network takes stored images of shape {stored}, and these have shape "
                f"{tuple(images.shape[1:])}; prepare them with --size-px {self.stored_px}"
            )
        images = moved(images, self.device).contiguous()
        if self._takes_triton():
            packed = moved(self.packed(augmentation), self.device)
            return self.on_device(images, packed, augmentation.sides is not None)
        self._check(augmentation)
        plain = self.plain if augmentation.sides is None else self.zoomed
        x = self._compiled(images, augmentation)
        return (plain(images, augmentation) if x is None else x).permute(0, 3, 1, 2)

    def packed(self, augmentation: Augmentation) -> torch.Tensor:
        """Return `Augmentation.packed` as a tensor on the host, page-locked for a CUDA device.

        Raises:
            DataError: If a crop reaches beyond its image.
        """
        self._check(augmentation)
        return self._on_host(augmentation.packed(self.input_px))

    def on_device(
        self,
        images: torch.Tensor,
        packed: torch.Tensor,
        zoomed: bool,
        in_blocks_of: Conv | None = None,
    ) -> torch.Tensor:
        """Compute the network's input from tensors that lie on the device, by one Triton kernel.

        A CUDA graph can contain this call: the host has no part in it.

        Args:
            images: (N, stored_px, stored_px, 3) uint8, contiguous.
            packed: What `packed` returned for these images.
            zoomed: Whether the crops have other sides than the input.
            in_blocks_of: The first convolution, for an input in blocks of stride x stride pixels
                that has its padding (`ops/blocks.py`). None: an ordinary input.

        Returns:
            (N, 3, input_px, input_px) in the channels-last memory format; or what
            `blocks.conv2d` makes of it, (N, *blocks.shape(3, input_px, ...)).
        """
        # Imported here: Triton is present only beside a CUDA build of PyTorch.
        from alexnet.ops.triton_crop import crop_triton

        mean, moves = self.subtracted, self.mean_moves
        cut: tuple[int, ...] = ()
        if (conv := in_blocks_of) is not None:
            covered = blocks.covered_px(self.input_px, conv.size_px, conv.stride, conv.pad)
            cut = conv.stride, covered, conv.pad[0]
        x: torch.Tensor = crop_triton(
            images, mean, packed, self.deviation, self.input_px, zoomed, moves, self.dtype, *cut
        )
        return x

    def _takes_triton(self) -> bool:
        return (
            self.device.type == "cuda"
            and self.dtype in (torch.float32, torch.bfloat16)
            and util.find_spec("triton") is not None
        )

    def _check(self, augmentation: Augmentation) -> None:
        """Raise DataError if a crop reaches beyond its image."""
        border = self.stored_px - self.input_px
        if augmentation.sides is None and any(
            a.size and not 0 <= a.min() <= a.max() <= border
            for a in (augmentation.top, augmentation.left)
        ):
            raise DataError(
                f"a crop of {self.input_px} pixels reaches beyond its image of {self.stored_px}"
            )

    def _on_host(self, values: NDArray[Any]) -> torch.Tensor:
        """Return an array as a tensor from which a copy to the device does not wait."""
        tensor = torch.from_numpy(values)
        return tensor.pin_memory() if self.device.type == "cuda" else tensor

    def _to_device(self, values: NDArray[Any]) -> torch.Tensor:
        return moved(self._on_host(values), self.device)

    def centre(self, images: torch.Tensor) -> torch.Tensor:
        """Return the center crop of every image as at test time, without color noise."""
        start = self._centre_start
        return self(images, fixed_crop(start, start, False, len(images), self.augment.test_px))

    def centre_pixels(self, image: Rgb) -> Rgb:
        """Return the pixels that `centre` gives the network, to draw them.

        Args:
            image: (stored_px, stored_px, 3) uint8.

        Returns:
            (input_px, input_px, 3) uint8, rescaled where the crop is larger than the input.
        """
        start = self._centre_start
        crop: Rgb = image[start : start + self.test_px, start : start + self.test_px]
        if self.test_px == self.input_px:
            return crop
        # Bilinear and without smoothing, at the same places as `zoomed`.
        planes = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)[None].float()
        planes = F.interpolate(planes, size=self.input_px, mode="bilinear", align_corners=False)
        rescaled: Rgb = planes[0].permute(1, 2, 0).round().byte().contiguous().numpy()
        return rescaled

    @property
    def test_px(self) -> int:
        """Side of the test crops, in pixels of the stored image."""
        return self.augment.test_px or self.input_px

    @property
    def _centre_start(self) -> int:
        """The first row, and column, of the center crop in the stored image."""
        start: int = (self.stored_px - self.test_px) // 2
        return start

    def plain(self, images: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
        """Compute the same by indexing, shape (N, input_px, input_px, 3).

        Indexing treats the whole batch at once, which takes only a few kernels on a GPU.
        """
        flip = self._to_device(augmentation.flip)
        side = torch.arange(self.input_px, device=self.device)
        rows = self._to_device(augmentation.top)[:, None] + side
        along = torch.where(flip[:, None], self.input_px - 1 - side, side)
        columns = self._to_device(augmentation.left)[:, None] + along
        image_index = torch.arange(len(images), device=self.device)[:, None, None]
        rows, columns = rows[:, :, None], columns[:, None, :]
        mean = self.subtracted[rows, columns] if self.mean_moves else self.subtracted
        return self._shifted(images[image_index, rows, columns].float() - mean, augmentation)

    def _shifted(self, x: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
        """Apply the color shift and the scales to centered crops, (N, input_px, input_px, 3)."""
        x += self._to_device(augmentation.shift)[:, None, None, :]
        if augmentation.scale != 1:
            x *= augmentation.scale
        if self.deviation is not None:
            x /= self.deviation
        return x.to(self.dtype)

    def zoomed(self, images: torch.Tensor, augmentation: Augmentation) -> torch.Tensor:
        """Compute the input from crops of different sizes, rescaled bilinearly.

        Returns:
            (N, input_px, input_px, 3) on the device.
        """
        # The reference path is exact, so that it gives the same numbers on every processor.
        exact = self.dtype == torch.float64
        precision, dtype = (torch.float64, np.float64) if exact else (torch.float32, np.float32)
        # `grid_sample` counts from -1 to 1 on both axes of the stored image, edges of the outer
        # pixels included. `affine_grid` would give the same; it took 41 of 62 ms a batch.
        rows, columns = (
            self._to_device((2 * (v + 0.5) / self.stored_px - 1).astype(dtype))
            for v in self._places(augmentation)
        )
        size = len(images), self.input_px, self.input_px
        grid = torch.stack([columns[:, None].expand(size), rows[:, :, None].expand(size)], -1)
        values = images.to(precision)
        if self.mean_moves:
            values -= self.subtracted
        values = F.grid_sample(
            values.permute(0, 3, 1, 2), grid, padding_mode="border", align_corners=False
        ).permute(0, 2, 3, 1)
        if not self.mean_moves:
            values = values - self.subtracted
        # `grid_sample` gives one plane for each channel.
        return self._shifted(values, augmentation).contiguous()

    def _places(
        self, augmentation: Augmentation
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return where in the stored images each row and column of zoomed crops is read.

        Returns:
            Two arrays (N, input_px) of coordinates of pixel centers, between 0 and stored_px - 1.
        """
        assert augmentation.sides is not None
        along = (np.arange(self.input_px) + 0.5) / self.input_px
        height, width = augmentation.sides[:, :, None]
        across = np.where(augmentation.flip[:, None], 1 - along, along)
        y = augmentation.top[:, None] + height * along - 0.5
        x = augmentation.left[:, None] + width * across - 0.5
        return y.clip(0, self.stored_px - 1), x.clip(0, self.stored_px - 1)

    def _compiled(self, images: torch.Tensor, augmentation: Augmentation) -> torch.Tensor | None:
        """Compute the same in one pass over memory, shape (N, input_px, input_px, 3).

        Returns None where the compiled code is missing or does not serve this device or dtype.
        """
        if self.device.type != "cpu" or self.dtype not in native.SUFFIX:
            return None
        if (operators := native.kernels()) is None:
            return None
        px = self.input_px
        out = torch.empty((len(images), px, px, 3), dtype=self.dtype, device="cpu")
        shift = (augmentation.shift, np.float32)
        if augmentation.sides is None:
            name, means = "crop", [self.subtracted, self.mirrored_mean]
            choice = [
                (augmentation.top, np.int64),
                (augmentation.left, np.int64),
                (augmentation.flip, np.uint8),
                shift,
            ]
        else:
            name, means = "zoomed_crop", [self.subtracted]
            choice = [*((places, np.float32) for places in self._places(augmentation)), shift]
        # The C++ side takes bare pointers, so that each array must be contiguous and of this dtype.
        # The list keeps the converted copies alive during the call.
        arrays = [np.ascontiguousarray(array, dtype) for array, dtype in choice]
        getattr(operators, f"{name}_{native.SUFFIX[self.dtype]}")(
            *(tensor.data_ptr() for tensor in (images, *means)),
            *(array.ctypes.data for array in arrays),
            None if self.deviation is None else self.deviation.data_ptr(),
            out.data_ptr(),
            native.Crop(len(images), self.stored_px, px, self.mean_moves, augmentation.scale),
        )
        return out
