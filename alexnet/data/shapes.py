"""The built-in data set: ten classes of shapes on cluttered backgrounds.

Color, texture, light and position are random. The set serves the demo and the tests: it is
generated and not downloaded, and for a given seed it is the same on every machine. It is hard for a
linear classifier on pixels, whose error exceeds 60 %, and easy enough for a small network to learn
in minutes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from alexnet.data.sources import Item, Source, SourceSplit
from alexnet.errors import DataError

SIZE_PX = 256
MOST_IMAGES = 500_000  # of each split, all of which are different
CLASSES = (
    "disc",
    "ring",
    "square",
    "triangle",
    "star",
    "cross",
    "crescent",
    "heart",
    "bars",
    "flower",
)

Plane = NDArray[np.float32]


def image(label: int, seed: int) -> NDArray[np.uint8]:
    """Draw one image of class `label`: (256, 256, 3) uint8, a function of (label, seed)."""
    if not 0 <= label < len(CLASSES):
        raise DataError(f"label {label} is not one of the {len(CLASSES)} classes")
    # The order of the draws is part of the data set: another order gives other images.
    rng = np.random.default_rng([label, seed])
    grid = np.linspace(-1, 1, SIZE_PX, dtype=np.float32)
    x, y = np.meshgrid(grid, grid)
    ground = rng.uniform(40, 215, 3)
    canvas: Plane = _texture(rng, x, y, ground, np.clip(ground + rng.uniform(-70, 70, 3), 0, 255))
    for _ in range(rng.integers(2, 6)):  # clutter: blobs with textures of their own
        _paste_blob(rng, canvas, x, y)
    cx, cy = rng.uniform(-0.3, 0.3, 2).tolist()
    size, angle = rng.uniform(0.5, 0.8), rng.uniform(-0.4, 0.4)
    # Only the part of the image around the shape is computed, to save time.
    here = _window(cx, cy, size * 1.15)
    dx, dy = x[here] - cx, y[here] - cy
    cos, sin = math.cos(angle) / size, math.sin(angle) / size
    inside = _inside(CLASSES[label], cos * dx + sin * dy, cos * dy - sin * dx)
    main = rng.uniform(0, 255, 3)
    other = np.clip(main + rng.uniform(-60, 60, 3), 0, 255)
    canvas[here] = np.where(inside[..., None], _texture(rng, dx, dy, main, other), canvas[here])
    # Light from one side, and noise, as in photographs.
    light = 1 + rng.uniform(-0.35, 0.35) * x + rng.uniform(-0.35, 0.35) * y
    noise = rng.standard_normal((SIZE_PX, SIZE_PX, 1), np.float32) * 6
    return (canvas * light[..., None] * rng.uniform(0.7, 1.2) + noise).clip(0, 255).astype(np.uint8)


def _texture(
    rng: np.random.Generator,
    x: Plane,
    y: Plane,
    main: NDArray[np.float64],
    other: NDArray[np.float64],
) -> Plane:
    """Mix two colors by a wave of random direction, length and sharpness."""
    turn, length, phase = rng.uniform(0, math.pi), rng.uniform(2, 18), rng.uniform(0, 2 * math.pi)
    wave = np.sin(math.cos(turn) * length * x + math.sin(turn) * length * y + phase)
    share = np.clip(0.5 + wave * rng.uniform(0.3, 3), 0, 1)[..., None]
    mixed = share * (main - other).astype(np.float32) + other.astype(np.float32)
    return np.asarray(mixed, np.float32)


def _window(cx: float, cy: float, reach: float) -> tuple[slice, slice]:
    """Return the part of the image within `reach` of a point, in coordinates -1..1."""

    def span(centre: float) -> slice:
        low, high = ((centre + side * reach + 1) / 2 * SIZE_PX for side in (-1, 1))
        return slice(max(0, math.floor(low)), min(SIZE_PX, math.ceil(high)))

    return span(cy), span(cx)


def _paste_blob(rng: np.random.Generator, canvas: Plane, x: Plane, y: Plane) -> None:
    """Paste an irregular patch with a texture of its own: an ellipse cut by a line."""
    cx, cy = rng.uniform(-1, 1, 2).tolist()
    a, b = rng.uniform(0.1, 0.35, 2).tolist()
    turn = rng.uniform(0, math.pi)
    here = _window(cx, cy, max(a, b))
    dx, dy = x[here] - cx, y[here] - cy
    cut = math.cos(turn) * dx + math.sin(turn) * dy < rng.uniform(0, 0.3)
    inside = ((dx / a) ** 2 + (dy / b) ** 2 < 1) & cut
    texture = _texture(rng, dx, dy, *rng.uniform(20, 235, (2, 3)))
    canvas[here] = np.where(inside[..., None], texture, canvas[here])


def _inside(name: str, u: Plane, v: Plane) -> NDArray[np.bool_]:
    """Tell which points belong to a shape.

    Args:
        u: Horizontal coordinate of each point, to the right. The shape fills about -0.8..0.8.
        v: Vertical coordinate, downwards.
    """
    r, turn = np.hypot(u, v), np.arctan2(v, u)
    box = np.maximum(np.abs(u), np.abs(v))
    inside: NDArray[np.bool_]
    match name:
        case "disc":
            inside = r < 0.7
        case "ring":
            inside = (r < 0.8) & (r > 0.45)
        case "square":
            inside = box < 0.62
        case "triangle":
            inside = (v < 0.55) & (v > 1.9 * np.abs(u) - 0.85)
        case "star":
            inside = r < 0.42 + 0.42 * np.cos(5 * (turn + math.pi / 2)) ** 3
        case "cross":
            inside = (box < 0.8) & (np.minimum(np.abs(u), np.abs(v)) < 0.2)
        case "crescent":
            inside = (r < 0.8) & (np.hypot(u - 0.4, v) > 0.65)
        case "heart":
            w = -1.3 * v + 0.15
            inside = (1.69 * u**2 + w**2 - 0.6) ** 3 < 1.69 * u**2 * w**3 * 1.4
        case "bars":
            inside = (np.abs(v) < 0.75) & ((np.abs(u) < 0.13) | (np.abs(np.abs(u) - 0.56) < 0.13))
        case _:  # flower
            inside = (r < 0.55 + 0.25 * np.cos(6 * turn)) & (r > 0.18)
    return inside


def _file(label: int, seed: int) -> bytes:
    """Return an image as the bytes of a file."""
    buffer = io.BytesIO()
    # BMP is lossless, and costs no time for compression.
    Image.fromarray(image(label, seed)).save(buffer, "BMP")
    return buffer.getvalue()


def source(train: int, val: int, seed: int = 0) -> Source:
    """Return the set as a source for `prepare`; images are drawn when they are read.

    Args:
        train: Number of training images; the classes take turns.
        val: Number of validation images.
        seed: Other seeds give other images.

    Raises:
        DataError: If a split would be empty, or share images with the other one.
    """

    def split(name: str, count: int, offset: int) -> SourceSplit:
        def items(start: int) -> Iterator[Item]:
            for number in range(start, count):
                label = number % len(CLASSES)
                # The factor keeps the images of different seeds apart, and the offset those of the
                # two splits.
                image_seed = seed * 1_000_003 + offset + number
                yield Item(
                    f"{name}/{CLASSES[label]}-{number:05d}",
                    label,
                    partial(_file, label, image_seed),
                )

        return SourceSplit(name, count, items)

    if train < 1 or val < 1:
        raise DataError(
            f"{train} training and {val} validation images; at least 1 of each is needed"
        )
    if max(train, val) > MOST_IMAGES:
        raise DataError(
            f"{train:,} training and {val:,} validation images; at most {MOST_IMAGES:,} of each "
            "are all different, so ask for fewer"
        )
    splits = (split("train", train, 0), split("val", val, MOST_IMAGES))
    return Source(f"built-in shapes, seed {seed}", CLASSES, splits)
