"""Units of a layer: what maximizes each, and its strongest patches of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alexnet.architecture import Op, op_of
from alexnet.config import Architecture, FullyConnected
from alexnet.data.store import Split
from alexnet.errors import RunError
from alexnet.figures.answers import stored_image
from alexnet.figures.style import INK, SOFT, shortened
from alexnet.receptive_field import field, operations_until
from alexnet.trained import Trained
from alexnet.units import Patch, check_units, cut, maximise, middle, spread, strongest

UNITS = 8
"""Units that are drawn where the user names none."""

MOST_UNITS = 40
"""More rows than this make an image that viewers do not open in full."""

TILE_IN = 0.95
NOT_SEEN = 226  # gray level; photographs have white and black backgrounds


def units(trained: Trained, split: Split, layer: str = "", numbers: Sequence[int] = ()) -> Figure:
    """Draw for each unit the image that maximizes it, and its nine strongest patches.

    Args:
        split: Where the patches come from.
        layer: Name of an operation, as `architecture.op_of` takes it; if empty, that of the last
            convolution.
        numbers: The units; if empty, some at equal distances.

    Raises:
        ConfigError: There is no such layer.
        RunError: There is no such unit, there are too many, or the images have another size.
    """
    architecture, preprocess = trained.net.architecture, trained.preprocess
    op = op_of(trained.net.plan, layer or _last_convolution(trained.net.plan))
    layer = op.name
    check_units(layer, op.shape[0], numbers)
    if len(numbers) > MOST_UNITS:
        raise RunError(f"{len(numbers)} units are too many for a figure; name at most {MOST_UNITS}")
    best = strongest(trained, split, layer)
    numbers = list(numbers) or spread(best.values[:, 0], UNITS)
    made = maximise(trained.net, preprocess, layer, numbers)
    rows = []
    for unit, image in zip(numbers, made, strict=True):
        patches = [cut(architecture, layer, image, *middle(architecture, layer))]
        for index, row, column in zip(
            best.images[unit], best.rows[unit], best.columns[unit], strict=True
        ):
            crop = preprocess.centre_pixels(stored_image(split, int(index)))
            patches.append(cut(architecture, layer, crop, int(row), int(column)))
        rows.append((unit, patches, best.values[unit]))
    last = op == trained.net.plan[-1]
    sees = _sees(architecture, layer)
    return _draw_units(op, sees, rows, trained.names if last else (), len(split))


def _last_convolution(ops: Sequence[Op]) -> str:
    """Return the name of the last layer with maps, or of the first layer if there is none."""
    with_maps = [op.layer.name for op in ops if not isinstance(op.layer, FullyConnected)]
    return with_maps[-1] if with_maps else ops[0].layer.name


def _sees(architecture: Architecture, layer: str) -> str:
    """Say what a unit of a layer sees."""
    side, input_px = field(architecture, layer).size_px, architecture.input_px
    if any(isinstance(op.layer, FullyConnected) for op in operations_until(architecture, layer)):
        return f"a unit sees the whole crop of {side}x{side} pixels"
    clipped = f", cut at the border of the crop of {input_px}x{input_px}" if side > input_px else ""
    return f"a unit sees {side}x{side} pixels{clipped}"


def _draw_units(
    op: Op,
    sees: str,
    rows: Sequence[tuple[int, Sequence[Patch], NDArray[np.float32]]],
    names: Sequence[str],
    num_images: int,
) -> Figure:
    """Draw a row for each unit: its number, the maximizing patch, and the strongest patches.

    Args:
        sees: What a unit sees, in words.
        rows: Number, patches with the maximizing one first, and the values of the others.
        names: The names of the units if they are classes; else empty.
        num_images: Number of the images that were searched; of few, many units share some.
    """
    num_patches = max(len(patches) for _, patches, _ in rows)
    size = (TILE_IN * (num_patches + 0.9), TILE_IN * 1.16 * len(rows) + 0.75)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    # The narrow second column is a gap between what is made and what is found.
    widths = {"width_ratios": [1, 0.12, *[1] * (num_patches - 1)]}
    axes = figure.subplots(len(rows), num_patches + 1, squeeze=False, gridspec_kw=widths)
    for ax in axes.flat:
        ax.set_axis_off()
    per_column = op.shape[0] // op.columns
    for row_axes, (unit, patches, values) in zip(axes, rows, strict=True):
        column = f", column {unit // per_column + 1}" if op.columns > 1 else ""
        name = f", {shortened(names[unit], 12)}" if names else column
        _show(row_axes[0], patches[0], f"unit {unit}{name}")
        for ax, patch, value in zip(row_axes[2:], patches[1:], values, strict=False):
            _show(ax, patch, f"{value:.1f}")
    figure.suptitle(f"{op.name}: {sees}", fontsize=10, color=INK)
    figure.supxlabel(
        f"left: made to maximize the unit; right: its strongest patches in {num_images:,} images, "
        "and its value; gray: beyond the crop",
        fontsize=8,
        color=SOFT,
    )
    return figure


def _show(ax: Axes, patch: Patch, title: str) -> None:
    """Draw a patch; what the unit does not see is gray."""
    shown: NDArray[Any] = np.where(patch.inside[..., None], patch.pixels, NOT_SEEN)
    ax.imshow(shown, interpolation="nearest")
    ax.set_title(title, fontsize=6.5, color=INK, pad=2, parse_math=False)
