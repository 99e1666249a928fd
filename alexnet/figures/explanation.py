"""Evidence for a class in one image: the test crops with their predictions, and every method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from alexnet.attribution import CropAnswers, Projection
from alexnet.explain import Explanation, per_pixel
from alexnet.figures.style import INK, SOFT, TRAIN, VAL, shortened
from alexnet.receptive_field import Box

PANELS_PER_ROW = 6
WIDTH_IN, PANEL_IN, CROPS_IN = 12.0, 2.4, 3.1
BEST = 5  # classes in the bars of the average
OPACITY = 0.6  # of a map over an image
FRAME_COLORS = ("#0072b2", "#d55e00", "#56b4e9", "#cc79a7", "#e69f00")
"""One for each crop that is not reflected; the nine of the CIFAR-10 networks repeat them. They are
colors of Okabe and Ito (2002), which color-blind readers tell apart, too; their black and yellow
would be lost on dark images and on white paper."""

TITLES = {
    "gradient": "gradient",
    "integrated-gradients": "integrated gradients",
    "smoothgrad": "SmoothGrad",
}


def explanation(explained: Explanation, names: Sequence[str], title: str) -> Figure:
    """Draw the test crops of an image with their answers, and what each method marks.

    Args:
        names: The name of each class to display.
        title: Stands above; the name of the image file, for instance.
    """
    panels = _method_panels(explained) + _projection_panels(explained, names)
    rows = -(-len(panels) // PANELS_PER_ROW)
    heights = [CROPS_IN, *[PANEL_IN * rows] * bool(rows)]
    figure = Figure(figsize=(WIDTH_IN, sum(heights) + 0.6), dpi=110)
    # With room between the rows, so that a note stands nearer to its panel than to the one below.
    figure.set_layout_engine("constrained", hspace=0.12)
    parts: Any = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    probability = explained.answers.average[explained.label]
    figure.suptitle(
        f"{shortened(title, 60)}: {shortened(names[explained.label], 40)} {probability:.1%}",
        fontsize=12,
        color=INK,
        parse_math=False,
    )
    _draw_crops(parts[0], explained, names)
    if panels:
        axes = parts[1].subplots(rows, PANELS_PER_ROW, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for panel, ax in zip(panels, axes.flat, strict=False):
            panel.draw(ax)
        parts[1].supxlabel(_caption(explained), fontsize=8, color=SOFT)
    return figure


def _caption(explained: Explanation) -> str:
    """Explain the panels whose notes are too short for it."""
    lines = []
    if explained.occlusion is not None:
        side_px = explained.occlusion.side_px
        lines.append(
            f"occlusion: percentage points of the probability that are lost when a square of "
            f"{side_px}x{side_px} pixels is covered"
        )
    if explained.projections:
        lines.append(
            "deconvnet: the strongest unit of each layer, and that of the class, led back to the "
            "pixels"
        )
    return "\n".join(lines)


def _draw_crops(part: SubFigure, explained: Explanation, names: Sequence[str]) -> None:
    """Draw the image with its crops, each crop with its answer, and the average."""
    answers = explained.answers
    parts: Any = part.subfigures(1, 3, width_ratios=[2.9, 6.2, 2.9])
    left, middle, right = parts
    _draw_frames(left.subplots(), explained)
    count = len(answers.crops)
    per_row = min(count, 5)
    axes = middle.subplots(-(-count // per_row), per_row, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for number, ax in zip(range(count), axes.flat, strict=False):
        ax.imshow(answers.pixels(explained.image, number))
        reflected = answers.crops[number][2]
        _frame(ax, answers.side_px, _color(answers, number), dashed=reflected)
        best = int(answers.probabilities[number].argmax())
        ax.set_title(
            f"{shortened(names[best], 13)} {answers.probabilities[number, best]:.0%}",
            fontsize=8,
            color=INK if best == explained.label else VAL,
            pad=3,
            parse_math=False,
        )
    notes = []
    if any(reflected for _, _, reflected in answers.crops):
        notes.append("dashed: reflected")
    if any(answers.probabilities.argmax(1) != explained.label):
        notes.append("red: another class")
    middle.supxlabel("; ".join(notes), fontsize=8, color=SOFT)
    _draw_average(right.subplots(), explained, names)


def _draw_frames(ax: Axes, explained: Explanation) -> None:
    """Draw the stored image and where its crops lie."""
    answers = explained.answers
    ax.imshow(explained.image)
    ax.set_axis_off()
    # A reflected crop has the place of another one.
    places = {crop[:2]: number for number, crop in reversed(list(enumerate(answers.crops)))}
    for (top, left), number in places.items():
        ax.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5),
                answers.side_px,
                answers.side_px,
                fill=False,
                edgecolor=_color(answers, number),
                linewidth=1.6,
            )
        )
    side_px = len(explained.image)
    count = len(answers.crops)
    ax.set_title(
        f"{side_px}x{side_px} pixels, {count} crop{'s' if count > 1 else ''} of "
        f"{answers.side_px}x{answers.side_px}",
        fontsize=9,
        color=INK,
    )


def _draw_average(ax: Axes, explained: Explanation, names: Sequence[str]) -> None:
    """Draw the average answer as bars."""
    average = explained.answers.average
    order = np.argsort(-average, kind="stable")[:BEST]
    for rank, label in enumerate(order):
        color = TRAIN if label == explained.label else SOFT
        ax.barh(-rank, average[label], height=0.42, color=color, alpha=0.75)
        # Above the bar, where a long name has room.
        ax.text(
            0,
            0.29 - rank,
            f"{shortened(names[label], 26)} {average[label]:.1%}",
            fontsize=8,
            va="bottom",
            color=INK,
            parse_math=False,
        )
    ax.set_xlim(0, 1)
    ax.set_ylim(0.4 - BEST, 0.85)
    ax.set_axis_off()
    count = len(explained.answers.crops)
    ax.set_title(
        "the answer" if count == 1 else f"average of the {count} answers", fontsize=9, color=INK
    )


@dataclass(frozen=True)
class Panel:
    """One map: an image with a title above and a note below, and what lies over it.

    Attributes:
        over: A map that is drawn over the image, each value with its color and opacity.
        extent: The outer edges of the map, in pixels of the image: left, right, bottom, top. None:
            the map has the pixels of the image.
        box: What a unit sees; framed.
    """

    image: NDArray[Any]
    title: str
    note: str
    over: NDArray[np.float64] | None = None
    extent: tuple[float, float, float, float] | None = None
    box: Box | None = None

    def draw(self, ax: Axes) -> None:
        """Draw the panel on an axis without a frame."""
        ax.imshow(self.image)
        if self.over is not None:
            ax.imshow(self.over, extent=self.extent, interpolation="bilinear")
            # A map may be larger than the image.
            ax.set_xlim(-0.5, self.image.shape[1] - 0.5)
            ax.set_ylim(self.image.shape[0] - 0.5, -0.5)
        if self.box is not None:
            corner = self.box.left - 0.5, self.box.top - 0.5
            size = self.box.right - self.box.left, self.box.bottom - self.box.top
            ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=VAL, linewidth=1.0))
        ax.set_title(self.title, fontsize=9, color=INK, pad=9, parse_math=False)
        # As a label of the axis, which the layout keeps apart from the title below.
        ax.set_axis_on()
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        ax.set_xlabel(self.note, fontsize=7, color=SOFT)


def _method_panels(explained: Explanation) -> list[Panel]:
    """Return a panel for each method that makes one map; before them the center crop."""
    panels = []
    for method, values in explained.maps.items():
        pixels = per_pixel(method, values)
        if method == "integrated-gradients":
            panels.append(Panel(_signed(pixels), TITLES[method], "red: for, blue: against"))
        else:
            panels.append(Panel(_strength(pixels), TITLES[method], "bright: counts most"))
    gray = _gray(explained.crop)
    if explained.occlusion is not None:
        drop = explained.occlusion.drop(len(explained.crop))
        largest = float(np.abs(drop).max())
        lost, gained = max(0.0, float(drop.max())), max(0.0, -float(drop.min()))
        note = f"red: at most {_points(lost)} points lost"
        # A class that is improbable gains by most squares.
        note += f"\nblue: {_points(gained)} gained" if gained > lost else ""
        panels.append(Panel(gray, "occlusion", note, _over(drop, "RdBu_r", -largest, largest)))
    if explained.grad_cam is not None:
        values, unit_field = explained.grad_cam
        # The outermost values go on to the border, which their units see too.
        wide = np.pad(values, 1, mode="edge")
        # Each value lies on the middle of the field of its unit.
        first, last = unit_field.centre_px(-1.5), unit_field.centre_px(len(values) + 0.5)
        over = _over(wide, "Reds", 0, float(values.max()))
        note = "red: for the class"
        panels.append(Panel(gray, "Grad-CAM", note, over, (first, last, last, first)))
    crop = [Panel(explained.crop, "center crop", "what the maps belong to")]
    return crop + panels if panels else []


def _projection_panels(explained: Explanation, names: Sequence[str]) -> list[Panel]:
    """Return what the strongest unit of each layer answered to, as the deconvnet shows it."""
    panels = []
    side_px = len(explained.crop)
    for projection in explained.projections:
        title = f"deconvnet, {projection.layer} unit {projection.unit}"
        box: Box | None = projection.box
        note = "frame: what the unit sees"
        if projection.box == Box(0, 0, side_px, side_px):
            box, note = None, "the unit sees the whole crop"
        if projection is explained.projections[-1]:
            title = f"deconvnet, {shortened(names[explained.label], 16)}"
            note = f"unit {projection.unit} of {projection.layer}"
        panels.append(Panel(_color_signed(projection), title, note, box=box))
    return panels


def _over(values: NDArray[np.float32], colors: str, low: float, high: float) -> NDArray[np.float64]:
    """Color a map that lies over an image, (H, W, 4), at an opacity that leaves both readable."""
    scale = Normalize(low, max(high, low + 1e-12))
    colored: NDArray[np.float64] = ScalarMappable(scale, colors).to_rgba(values, alpha=OPACITY)
    return colored


def _strength(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Color values from 0 up, (H, W): the largest 1 % of them have the brightest color."""
    colors: NDArray[np.float64]
    colors = ScalarMappable(Normalize(0, _largest(values)), "inferno").to_rgba(values)
    return colors


def _signed(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Color values of both signs, (H, W): red is positive and white 0."""
    largest = _largest(values)
    colors: NDArray[np.float64]
    colors = ScalarMappable(Normalize(-largest, largest), "RdBu_r").to_rgba(values)
    return colors


def _color_signed(projection: Projection) -> NDArray[np.float64]:
    """Turn a projection into an image, (H, W, 3): 0 is mid-gray."""
    pixels = projection.pixels.transpose(1, 2, 0).astype(np.float64)
    # Only what the unit sees: the zeros around a small field would set the scale otherwise.
    box = projection.box
    inside = pixels[box.top : box.bottom, box.left : box.right]
    return (0.5 + 0.5 * pixels / _largest(inside)).clip(0, 1)


def _largest(values: NDArray[Any]) -> float:
    """Return what counts as the largest size of a value: single pixels far above do not."""
    return max(1e-12, float(np.quantile(np.abs(values), 0.99)))


def _points(share: float) -> str:
    """A probability in points: whole ones from 10 on, two digits below."""
    return f"{100 * share:.0f}" if share >= 0.0995 else f"{100 * share:.2g}"


def _gray(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return an image without color, (H, W, 3), over which a colored map can be read."""
    gray = image.mean(2, keepdims=True).astype(np.uint8)
    return np.repeat(gray, 3, axis=2)


def _frame(ax: Axes, side_px: int, color: str, dashed: bool) -> None:
    """Draw a frame around a crop, in the color that its place has in the image."""
    ax.add_patch(
        Rectangle(
            (-0.5, -0.5),
            side_px,
            side_px,
            fill=False,
            edgecolor=color,
            linewidth=2.5,
            linestyle=(0, (2, 1.5)) if dashed else "solid",
        )
    )


def _color(answers: CropAnswers, number: int) -> str:
    """Return the color of a crop; a reflected one has that of its place."""
    places = list(dict.fromkeys(crop[:2] for crop in answers.crops))
    return FRAME_COLORS[places.index(answers.crops[number][:2]) % len(FRAME_COLORS)]
