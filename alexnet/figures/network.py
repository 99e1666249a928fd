"""Figure 2: the network, drawn from its plan, one row for each column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from alexnet.architecture import Op, Shape, plan
from alexnet.config import Architecture, Conv, FullyConnected, Local
from alexnet.figures.style import INK, SOFT, TRAIN, VAL

Point = tuple[float, float]

# Lengths in inches. Sides, maps and units enter by powers below 1, as by eye in the paper's
# drawing: true proportions would make the last maps too small to see.
MOST_SIDE, LEAST_SIDE = 1.7, 0.25
SIDE_POWER = 0.6
MOST_THICK, LEAST_THICK = 0.6, 0.12
THICK_POWER = 0.7
MOST_BAR, LEAST_BAR = 1.5, 0.4
BAR_POWER = 0.4
SLANT = 0.42
"""A side that leads away from the reader is this long, along x and y, for a side of length 1."""
GAP, ROW_GAP = 0.62, 0.55
LINE = 0.16
TEXT_WIDTH = 1.28
"""A layer is at least this far from the next, so that the lines of text below have room."""


@dataclass(frozen=True)
class DrawnLayer:
    """The maps of a layer in one column: (x, y) is the lower left corner of the front."""

    x: float
    y: float
    thick: float
    height: float
    slant: float
    maps: int
    side_px: int

    @property
    def left(self) -> Point:
        """Where the connections of the layer before end: the middle of its left side."""
        return self.x + self.slant / 2, self.y + (self.height + self.slant) / 2

    def on_right(self, across: float, up: float) -> Point:
        """Return a point of the side on the right, which leads away; both from 0 to 1."""
        return (
            self.x + self.thick + across * self.slant,
            self.y + up * self.height + across * self.slant,
        )


def network(architecture: Architecture) -> Figure:
    """Draw the layers of an architecture with the sizes of their maps and filters, as in Fig. 2.

    Blue lines stay inside a column, red ones lead from one column to another.

    Raises:
        ConfigError: The architecture is invalid.
    """
    ops = plan(architecture)
    layers = [op for op in ops if op.op == "linear"]
    boxes = _boxes(layers, architecture)
    top = max(box.y + box.height + box.slant for row in boxes for box in row)
    right = boxes[-1][0].x + TEXT_WIDTH
    texts = [["image"], *(_lines(op, ops, architecture) for op in layers)]
    bottom = -LINE * (max(map(len, texts)) + 2.2)
    figure = Figure(figsize=(right + 0.3, top - bottom + 0.4), dpi=150)
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set_axis_off()
    ax.set_xlim(-0.2, right + 0.1)
    ax.set_ylim(bottom - 0.1, top + 0.3)
    for op, sources, targets in zip(layers, boxes, boxes[1:], strict=False):
        for a, source in enumerate(sources):
            for b, target in enumerate(targets):
                # A grouped layer sees only its own column; the image belongs to all.
                if a == b or op.columns == 1:
                    across = a != b and len(sources) > 1 and len(targets) > 1
                    _draw_connection(ax, op, source, target, VAL if across else TRAIN)
    for row in boxes:
        # From above to below: a box in front hides the lines that end behind it.
        for box in reversed(row):
            _draw_box(ax, box)
    for row, lines in zip(boxes, texts, strict=True):
        ax.text(row[0].x, -1.6 * LINE, lines[0], fontsize=8.5, color=INK, va="top", weight="bold")
        ax.text(
            row[0].x,
            -1.6 * LINE - 1.1 * LINE,
            "\n".join(lines[1:]),
            fontsize=7,
            color=SOFT,
            va="top",
            linespacing=1.35,
        )
    if architecture.columns > 1:
        ax.text(
            -0.1,
            top + 0.2,
            f"{architecture.columns} columns; blue: connections inside a column, red: between them",
            fontsize=8,
            color=SOFT,
            va="top",
        )
    return figure


def _boxes(layers: list[Op], architecture: Architecture) -> list[list[DrawnLayer]]:
    """Place the image and the output of each layer: a list of boxes, one for each column."""
    shapes = [layers[0].in_shape, *(op.shape for op in layers)]
    widest = max(shape[1] for shape in shapes)
    most_maps = max((shape[0] for shape in shapes if shape[1] > 1), default=1)
    most_units = max((shape[0] for shape in shapes if shape[1] == 1), default=1)

    def size(shape: Shape) -> tuple[float, float, float]:
        """Thickness, height and slant of a layer's boxes."""
        if shape[1] == 1:
            height = max(LEAST_BAR, MOST_BAR * (shape[0] / most_units) ** BAR_POWER)
            return LEAST_THICK, height, LEAST_THICK
        side = max(LEAST_SIDE, MOST_SIDE * (shape[1] / widest) ** SIDE_POWER)
        thick = MOST_THICK * (shape[0] / most_maps) ** THICK_POWER
        return max(LEAST_THICK, thick), side, SLANT * side

    sizes = [size(shape) for shape in shapes]
    row_height = max(height + slant for _, height, slant in sizes) + ROW_GAP
    boxes, x = [], 0.0
    for number, (shape, (thick, height, slant)) in enumerate(zip(shapes, sizes, strict=True)):
        # The image and the classes belong to all columns, and stand in the middle.
        columns = 1 if number in (0, len(layers)) else architecture.columns
        middle = row_height * architecture.columns / 2
        centers = [
            middle if columns == 1 else row_height * (columns - column - 0.5)
            for column in range(columns)
        ]
        boxes.append(
            [
                DrawnLayer(
                    x,
                    center - (height + slant + ROW_GAP) / 2 + LINE,
                    thick,
                    height,
                    slant,
                    shape[0] // columns,
                    shape[1],
                )
                for center in centers
            ]
        )
        x += max(TEXT_WIDTH, thick + slant + GAP)
    return boxes


def _draw_box(ax: Axes, box: DrawnLayer) -> None:
    x, y = box.x, box.y
    t, h = box.thick, box.height
    s = box.slant
    faces = (
        ("#f4f7f8", [(x, y), (x + t, y), (x + t, y + h), (x, y + h)]),
        ("#e6eef1", [(x, y + h), (x + t, y + h), (x + t + s, y + h + s), (x + s, y + h + s)]),
        ("#d5e2e7", [(x + t, y), (x + t + s, y + s), (x + t + s, y + h + s), (x + t, y + h)]),
    )
    for color, corners in faces:
        # Not opaque: the filter that is drawn on the right side of a box shows through.
        ax.add_patch(Polygon(corners, facecolor=color, edgecolor=INK, linewidth=0.7, alpha=0.9))
    small: dict[str, Any] = {"fontsize": 7, "color": INK}
    # The number of maps or units below, as in the paper; the side of a map low at the left, where
    # no connection ends.
    ax.text(x + t / 2, y - 0.1, f"{box.maps}", ha="center", va="top", **small)
    if box.side_px > 1:
        ax.text(x - 0.07, y + 0.02, f"{box.side_px}", ha="right", va="bottom", **small)


def _draw_connection(ax: Axes, op: Op, source: DrawnLayer, target: DrawnLayer, color: str) -> None:
    """Draw how a layer sees the maps of one box: through a filter, or as a whole."""
    if isinstance(op.layer, FullyConnected):
        # From the upper and lower end of what it sees to those of the layer: all with all.
        ends = [
            (source.on_right(0.5, 1.0), source.on_right(0.5, 0.0)),
            (
                (target.x + target.slant / 2, target.y + target.height + target.slant / 2),
                (target.x + target.slant / 2, target.y + target.slant / 2),
            ),
        ]
        for start in ends[0]:
            for end in ends[1]:
                ax.plot(*zip(start, end, strict=True), color=color, linewidth=0.5, zorder=1.5)
        return
    # The maps are drawn as the layer before leaves them; a pool may have shrunk them since.
    share = min(1.0, op.layer.size_px / op.in_shape[1])
    # In the paper's drawing, too, the filter lies somewhat above the middle of the maps.
    low, high = 0.55 * (1 - share), 0.55 * (1 - share) + share
    corners = [
        source.on_right(low, low),
        source.on_right(high, low),
        source.on_right(high, high),
        source.on_right(low, high),
    ]
    ax.add_patch(
        Polygon(corners, facecolor="none", edgecolor=color, linewidth=0.8, zorder=3, closed=True)
    )
    for corner in corners:
        ax.plot(
            *zip(corner, target.left, strict=True),
            color=color,
            linewidth=0.5,
            linestyle=(0, (3, 2)),
            zorder=1.5,
        )


def _lines(op: Op, ops: tuple[Op, ...], architecture: Architecture) -> list[str]:
    """Return the lines of text below a layer; the first is its name."""
    layer = op.layer
    lines = [layer.name]
    if isinstance(layer, Conv | Local):
        lines += [f"{op.shape[0]} filters", f"{layer.size_px}x{layer.size_px}x{op.weight_shape[1]}"]
        if isinstance(layer, Local):
            lines += ["not shared"]
        elif layer.stride > 1:
            lines += [f"stride {layer.stride}"]
    else:
        lines += [f"{op.shape[0]} units", "all connected" if op.columns == 1 else "by column"]
    for after in ops:
        if after.layer is layer and after.op not in ("linear", "activation"):
            lines += _words(after, architecture)
    return lines


def _words(op: Op, architecture: Architecture) -> list[str]:
    """Name an operation that follows a layer; of a pooling also its window and result."""
    pool, dropout = architecture.pool, architecture.dropout
    match op.op:
        case "max_pool" | "avg_pool":
            side = op.shape[1]
            return [
                f"{op.op.removesuffix('_pool')} pooling {pool.size_px}x{pool.size_px}",
                f"stride {pool.stride}, to {side}x{side}",
            ]
        case "lrn":
            return ["normalization"]
        case "spatial_norm":
            return ["spatial norm."]
        case "batch_norm":
            return ["batch norm."]
        case "dropout" if not dropout.masks:
            # What is left of it: the factor of testing, in training too. The later form has none.
            return [f"values x {1 - dropout.rate:g}"] if dropout.form == "2012" else []
        case _:
            return [op.op]
