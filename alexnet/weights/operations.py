"""The operations of a network as a file describes them."""

from __future__ import annotations

from dataclasses import dataclass, field

KINDS = frozenset(
    [
        *("linear", "activation", "lrn", "spatial_norm", "max_pool", "avg_pool", "dropout"),
        *("softmax", "add", "sub", "mul", "div"),
    ]
)
"""Operations that are understood."""


@dataclass(frozen=True)
class Operation:
    """One operation of a network in a file.

    Attributes:
        kind: A name of `KINDS`, or, of what is not understood, what the file calls it.
        name: The file's own name of it.
        settings: Its numbers, by the names `group`, `stride`, `pad`, `pad_after`, `size`,
            `ceil_mode`, `columns` (in which an LRN sums), `n`, `k`, `beta` and `alpha` (a factor
            of the mean, as Caffe and ONNX have it; of a spatial norm, of the sum); those that the
            file gives.
        weight: Name of its weights among the arrays; empty if it has none.
        bias: Name of its biases; empty if it has none.
        is_convolution: Of a linear operation, whether it is a convolution.
        transposed: The weights are (inputs, outputs).
        constant: Name of the array that is added, subtracted, multiplied or divided by.
    """

    kind: str
    name: str = ""
    settings: dict[str, float] = field(default_factory=dict)
    weight: str = ""
    bias: str = ""
    is_convolution: bool = False
    transposed: bool = False
    constant: str = ""
