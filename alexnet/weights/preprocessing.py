"""What a file of weights does itself to an image before the first layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from alexnet.data.preprocess import TORCHVISION_MEAN, TORCHVISION_STD
from alexnet.weights.operations import Array, WeightFile

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Preprocessing:
    """(image - mean) * scale, with the channels in the order of the network's input.

    Attributes:
        mean: (3,) or (3, H, H); None if nothing is subtracted in the file.
        scale: (3,).
    """

    mean: Array | None
    scale: Array

    @property
    def is_torchvisions(self) -> bool:
        """Whether it does nothing, or what torchvision does, for values of 0..1 or of 0..255."""
        if self.mean is None:
            return bool((self.scale == 1).all())
        return any(
            self.mean.shape == (3,)
            and np.allclose(self.mean, np.multiply(TORCHVISION_MEAN, white), rtol=1e-4)
            and np.allclose(1 / self.scale, np.multiply(TORCHVISION_STD, white), rtol=1e-4)
            for white in (1, 255)
        )


def preprocessing_of(file: WeightFile) -> Preprocessing | str:
    """What a file subtracts and multiplies by; or why it cannot be said, in words."""
    mean: Numbers | None = None
    scale: Numbers = np.full(3, file.scale, np.float64)
    if file.mean:
        if len(file.mean) not in (1, 3):
            return f"it subtracts {len(file.mean)} means, and an image has three channels"
        mean = np.broadcast_to(np.array(file.mean, np.float64), 3)
    for operation in file.operations:
        if operation.weight:
            break
        if not operation.constant:
            return f"before its first layer it has {operation.kind}"
        value = _by_channel(file.arrays[operation.constant])
        if value is None or not np.isfinite(value).all():
            shape = file.arrays[operation.constant].shape
            return f"before its first layer it has {operation.kind} with numbers of shape {shape}"
        by_channel = scale if value.ndim == 1 else scale[:, None, None]
        match operation.kind:
            case "sub" | "add":
                summand = (value if operation.kind == "sub" else -value) / by_channel
                mean = summand if mean is None else _sum(mean, summand)
            case "mul" | "div":
                if value.ndim != 1 or not (value > 0).all():
                    return "before its first layer it multiplies each pixel by a number of its own"
                scale = scale * value if operation.kind == "mul" else scale / value
    if not np.isfinite(scale).all() or not (scale > 0).all():
        return f"it multiplies its images by {scale.tolist()}"
    return Preprocessing(
        None if mean is None else mean.astype(np.float32), scale.astype(np.float32)
    )


def _by_channel(array: Array) -> Numbers | None:
    """A constant as (3,), or (3, H, H) if its pixels differ; None if it has another shape."""
    if array.size == 1:
        return np.full(3, array.reshape(()), np.float64)
    while array.ndim > 3 and len(array) == 1:
        array = array[0]
    if array.ndim != 3 or len(array) != 3 or not 0 < array.shape[1] == array.shape[2]:
        return None
    same = (array == array[:, :1, :1]).all()
    return (array[:, 0, 0] if same else array).astype(np.float64)


def _sum(a: Numbers, b: Numbers) -> Numbers:
    """Add two means, of which either can be that of each channel."""
    if a.ndim < b.ndim:
        a, b = b, a
    return a + (b[:, None, None] if b.ndim < a.ndim else b)
