"""Units of a layer: the strongest patches of a store, and the image that maximizes a unit.

A patch is what the unit sees, no more and no less; `receptive_field` computes it from the plan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from alexnet.architecture import Op
from alexnet.config import Architecture
from alexnet.data.image import Rgb
from alexnet.data.loader import batches
from alexnet.data.preprocess import Preprocess
from alexnet.data.store import Split
from alexnet.errors import RunError
from alexnet.inference import activation
from alexnet.model import Network, evaluation_mode
from alexnet.progress import Progress
from alexnet.receptive_field import field, operations_until, seen
from alexnet.trained import Trained

BATCH = 64  # images
PATCHES = 9
"""Patches of a unit, as in Figure 2 of Zeiler and Fergus (2014)."""


@dataclass(frozen=True)
class Strongest:
    """Where the units of a layer are strongest in a split: at most one place in each image.

    All arrays are (units, places), strongest first.

    Attributes:
        values: The value of the unit, float32.
        images: Position of the image in the split.
        rows, columns: Position in the unit's map.
    """

    values: NDArray[np.float32]
    images: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]


@dataclass(frozen=True)
class Patch:
    """What one unit sees of a center crop.

    Attributes:
        pixels: (S, S, 3) uint8, S the side of a field, or of the crop if that is smaller.
        inside: (S, S), whether the unit sees the pixel. It sees nothing beyond the border.
    """

    pixels: Rgb
    inside: NDArray[np.bool_]


@torch.no_grad()
def strongest(trained: Trained, split: Split, layer: str, top_k: int = PATCHES) -> Strongest:
    """Find the images and places in which each unit of a layer has its largest values.

    Args:
        split: Its images are seen through the center crop.
        layer: Name of an operation, as `architecture.op_of` takes it.
        top_k: Number of places; a small split has fewer.

    Raises:
        ConfigError: There is no such layer.
        DataError: An image of the split is damaged.
    """
    units, _, width = operations_until(trained.net.architecture, layer)[-1].shape
    values = torch.empty(units, 0, device="cpu")
    images, places = torch.empty(2, units, 0, dtype=torch.int64, device="cpu")
    # In the order of the split, so that equal values are found in the same images every time.
    order = np.arange(len(split))
    with Progress(f"{layer}, {len(split)} images", len(split), "images") as progress:
        for batch in batches(split, order, BATCH):
            x = trained.preprocess.centre(batch.images)
            # (units, N, positions)
            maps = activation(trained, layer, x).reshape(len(x), units, -1).transpose(0, 1)
            # One place of each image, because the places beside it have nearly the same patch.
            best, place = maps.max(2)
            index = torch.from_numpy(batch.index).expand(units, -1)
            values = torch.cat([values, best], 1)
            images, places = torch.cat([images, index], 1), torch.cat([places, place], 1)
            values, kept = values.sort(dim=1, descending=True, stable=True)
            values, kept = values[:, :top_k], kept[:, :top_k]
            images, places = images.gather(1, kept), places.gather(1, kept)
            progress.advance(len(x))
    rows, columns = places // width, places % width
    return Strongest(values.numpy(), images.numpy(), rows.numpy(), columns.numpy())


def cut(architecture: Architecture, layer: str, crop: Rgb, row: int, column: int) -> Patch:
    """Cut out of a center crop what a unit sees.

    Args:
        layer: Name of an operation, as `architecture.op_of` takes it.
        crop: (input_px, input_px, 3) uint8.
        row, column: Position in the unit's map.

    Raises:
        ConfigError: There is no such layer or position.
    """
    input_px = architecture.input_px
    seen_by_all = field(architecture, layer)
    side = min(seen_by_all.size_px, input_px)
    # A field as large as the crop is shown as the crop: its pixels keep their places.
    first = [
        seen_by_all.first_px + index * seen_by_all.stride_px if side < input_px else 0
        for index in (row, column)
    ]
    box = seen(architecture, layer, row, column)
    top, left = box.top - first[0], box.left - first[1]
    bottom, right = box.bottom - first[0], box.right - first[1]
    pixels = np.zeros((side, side, 3), np.uint8)
    inside = np.zeros((side, side), bool)
    pixels[top:bottom, left:right] = crop[box.top : box.bottom, box.left : box.right]
    inside[top:bottom, left:right] = True
    return Patch(pixels, inside)


def maximise(
    net: Network,
    preprocess: Preprocess,
    layer: str,
    units: Sequence[int],
    steps: int = 128,
    step_size: float = 8.0,
    decay: float = 0.03,
    jitter_px: int | None = None,
) -> NDArray[np.uint8]:
    """Make for each unit an image that gives the unit in the middle of its map a large value.

    From faint noise, each step follows the gradient, scaled to `step_size`, and shrinks the image
    towards the mean image by `decay`. Before each step the image is shifted at random (jitter), so
    that nothing remains that only one position favors, such as the grain of a stride; and gradients
    are smoothed, because the finest patterns have the largest gradients and hide the others. What
    is maximized is the value before the activation function, which has a gradient everywhere.

    Source: Erhan and others, 2009; decay and blur are in Yosinski and others, 2015
    (arXiv:1506.06579), section 3, the jitter in Mordvintsev and others, 2015.

    Args:
        layer: Name of an operation, as `architecture.op_of` takes it.
        step_size: Root mean square of a step over what the unit sees, in gray levels.
        decay: Share of the difference from the mean image that is lost in each step.
        jitter_px: Largest shift; a sixteenth of a field when not given, and at most 8.

    Returns:
        (units, input_px, input_px, 3) uint8.

    Raises:
        ConfigError: There is no such layer.
        RunError: There is no such unit.
    """
    ops = operations_until(net.architecture, layer)
    check_units(layer, ops[-1].shape[0], units)
    size_px = field(net.architecture, layer).size_px
    jitter_px = min(8, size_px // 16) if jitter_px is None else jitter_px
    smooth_px = min(1.5, size_px / 60)  # leaves the filters of conv1 as they are
    row, column = middle(net.architecture, layer)
    box = seen(net.architecture, layer, row, column)
    num_seen = 3 * (box.bottom - box.top) * (box.right - box.left)
    if ops[-1].op == "activation":
        ops = ops[:-1]
    mean = preprocess.centre_mean.permute(2, 0, 1)
    deviation = 1.0 if preprocess.deviation is None else preprocess.deviation[:, None, None]
    generator = torch.Generator().manual_seed(0)
    # In gray levels from the mean image; the network may want another scale.
    noise = torch.randn((len(units), *mean.shape), generator=generator, device="cpu")
    v = 4 * noise.to(mean.device)
    with evaluation_mode(net), Progress(f"maximize {layer}", steps, "steps") as progress:
        for _ in range(steps):
            drawn = torch.randint(
                -jitter_px, jitter_px + 1, (2,), generator=generator, device="cpu"
            )
            shift = drawn.tolist()
            shifted = v.roll(shift, (2, 3))
            gradient = _gradient(net, ops, shifted / deviation, units, row, column)
            shifted = shifted + _ascent(gradient, smooth_px, step_size * num_seen**0.5)
            # What an image file can hold.
            shifted = (mean + (1 - decay) * shifted).clamp(0, 255) - mean
            v = shifted.roll([-s for s in shift], (2, 3))
            progress.advance(1)
    result: NDArray[np.uint8]
    # Clamped again: where the mean image differs between pixels, the shift back has moved values
    # away from the mean that they were clamped with.
    result = (mean + v).clamp(0, 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return result


def _ascent(gradient: torch.Tensor, smooth_px: float, length: float) -> torch.Tensor:
    """The step up the gradient of each image: smoothed, and scaled to a Euclidean length.

    Args:
        gradient: (N, C, H, W).
        smooth_px: Standard deviation of the smoothing.
    """
    smoothed = _smoothed(gradient, smooth_px)
    norm: torch.Tensor = smoothed.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
    return smoothed * (length / norm)


def _gradient(
    net: Network, ops: Sequence[Op], x: torch.Tensor, units: Sequence[int], row: int, column: int
) -> torch.Tensor:
    """The gradient of each unit's value at one position, with respect to the unit's own image.

    Args:
        ops: The operations from the image to the layer of the units.
        x: (units, C, H, W), an image for each unit.
    """
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.enable_grad():
        maps = x
        for op in ops:
            maps = net.get_submodule(op.module)(maps)
        maps = maps.reshape(len(units), *ops[-1].shape)
        images = torch.arange(len(units), device=x.device)
        # No value depends on the image of another unit, so one backward pass serves all of them.
        (gradient,) = torch.autograd.grad(maps[images, list(units), row, column].sum(), x)
    return gradient


def _smoothed(x: torch.Tensor, deviation_px: float) -> torch.Tensor:
    """Blur images by a Gaussian of this standard deviation. x: (N, C, H, W)."""
    if deviation_px == 0:
        return x
    places = torch.arange(-5.0, 6.0, device=x.device)
    weights = torch.exp(-(places**2) / (2 * deviation_px**2))
    rows = (weights / weights.sum()).expand(x.shape[1], 1, 1, -1)
    # Rows, then columns: 22 products in place of 121.
    x = F.conv2d(x, rows, padding=(0, 5), groups=x.shape[1])
    return F.conv2d(x, rows.transpose(2, 3), padding=(5, 0), groups=x.shape[1])


def middle(architecture: Architecture, layer: str) -> tuple[int, int]:
    """Return the row and the column of the unit in the middle of a layer's maps."""
    _, height, width = operations_until(architecture, layer)[-1].shape
    return height // 2, width // 2


def check_units(layer: str, count: int, units: Sequence[int]) -> None:
    """Raise RunError if a layer does not have one of these units."""
    for unit in units:
        if not 0 <= unit < count:
            raise RunError(f"{layer} has {count} units, 0 to {count - 1}; there is no unit {unit}")


def spread(values: NDArray[np.float32], limit: int) -> list[int]:
    """Choose units at equal distances among those that respond at all.

    Args:
        values: The largest value of each unit.

    Returns:
        At most `limit` numbers of units. If none responds: the first units.
    """
    alive = np.flatnonzero(values > 0)
    candidates = alive if len(alive) else np.arange(len(values))
    return [int(unit) for unit in candidates[equally_spaced(len(candidates), limit)]]


def equally_spaced(count: int, limit: int) -> NDArray[np.int64]:
    """Return at most `limit` of the numbers 0..count - 1, at distances as equal as possible."""
    return np.linspace(0, count - 1, min(limit, count)).round().astype(np.int64)
