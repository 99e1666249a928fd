"""Figure 3: the filters of the first layer."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from alexnet.errors import RunError
from alexnet.figures.style import INK, SOFT
from alexnet.model import Network

GAP_PX, FILTERS_PER_ROW = 1, 16  # as in Fig. 3
WIDTH_IN, MOST_TILE_IN = 9.0, 0.8


def filters(net: Network) -> Figure:
    """Draw the filters of the first layer, those of each column apart, as in Fig. 3.

    Raises:
        RunError: If the first layer is not convolutional.
    """
    first = net.plan[0]
    # Filters of the two columns follow each other in the weight tensor.
    weight = net.first_weight().float().cpu()
    if weight.dim() != 4:
        raise RunError(f"{first.layer.name} has no filters to draw")
    columns = net.architecture.columns
    per_row = _per_row(len(weight) // columns)
    # -(-a // b) is a / b rounded up.
    rows = -(-len(weight) // columns // per_row)
    # A few filters make a narrow figure and not a wide one with an empty part.
    tile_in = min(MOST_TILE_IN, WIDTH_IN / per_row)
    title_in = 0.35
    size = (max(3.6, tile_in * per_row), columns * (rows * tile_in + title_in) + 0.3)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.subplots(columns, 1, squeeze=False)[:, 0]
    for number, (ax, part) in enumerate(zip(axes, weight.chunk(columns), strict=True), 1):
        ax.imshow(_tiles(part, per_row), interpolation="nearest")
        ax.set_axis_off()
        name = f"{first.layer.name}: {len(part)} filters of {part.shape[2]}x{part.shape[3]}"
        ax.set_title(
            name if columns == 1 else f"column {number}, {name}", fontsize=9, color=INK, loc="left"
        )
    note = "gray: a weight of 0; each filter is scaled by its largest weight"
    figure.supxlabel(note, fontsize=7, color=SOFT)
    return figure


def _per_row(count: int) -> int:
    """Return the number of filters in a row that leaves the least of the last row empty."""
    return -(-count // -(-count // FILTERS_PER_ROW))


def _tiles(filters: torch.Tensor, per_row: int) -> NDArray[np.float32]:
    """Arrange filters, (K, 3, S, S), as one image, (H, W, 3).

    Each filter is scaled by its own largest weight, with zero as mid-gray: otherwise a few strong
    filters would leave the others gray.
    """
    tiles = filters.permute(0, 2, 3, 1).numpy()
    largest = np.abs(tiles).max(axis=(1, 2, 3), keepdims=True)
    tiles = 0.5 + 0.5 * tiles / np.maximum(largest, 1e-12)
    side = tiles.shape[1] + GAP_PX
    rows = -(-len(tiles) // per_row)
    sheet = np.ones((rows * side + GAP_PX, per_row * side + GAP_PX, 3), np.float32)
    for i, tile in enumerate(tiles):
        y, x = i // per_row * side + GAP_PX, i % per_row * side + GAP_PX
        sheet[y : y + side - GAP_PX, x : x + side - GAP_PX] = tile
    return sheet
