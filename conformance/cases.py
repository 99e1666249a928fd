"""The cases: settings of local response normalization, with vectors in files.

NumPy and the standard library are all that this needs, so that it runs in the environment of any
framework. `python -m conformance.cases` writes the vectors anew.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent
VECTORS, INDEX = FOLDER / "vectors", FOLDER / "cases.json"

Array = NDArray[np.float64]

READINGS = ("above", "below", "both", "neither")
"""How an even size is read: its odd neighbor has a higher index (the text of ONNX), a lower index,
is on both sides (one map more than the size says), or on neither (one map less)."""


class Damaged(ValueError):
    """A file of vectors that is not the published one."""


@dataclass(frozen=True)
class Case:
    """Settings and the shape of the input.

    Attributes:
        convention: sum: alpha multiplies the sum of the squares, and the window has n // 2
            neighbors on each side (the paper, TensorFlow). mean: alpha / n multiplies it (Caffe,
            PyTorch, ONNX, cuDNN, OpenVINO).
        columns: The sum does not cross from one of these groups of maps to the next.
        scale: Standard deviation of the input.
    """

    name: str
    about: str
    convention: str
    shape: tuple[int, int, int, int]
    n: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75
    columns: int = 1
    scale: float = 100.0

    @property
    def readings(self) -> tuple[str, ...]:
        """The readings of the size that a framework may have; "" where there is only one."""
        return READINGS if self.convention == "mean" and self.n % 2 == 0 else ("",)

    @property
    def factor(self) -> float:
        """What the sum of the squares is multiplied by."""
        return self.alpha / self.n if self.convention == "mean" else self.alpha


# The scales and alphas are chosen so that alpha times the sum is about as large as k: a window that
# is wrong by one map changes the result by several percent, which even bfloat16 shows.
CASES = (
    Case("paper", "the constants of section 3.3", "sum", (2, 7, 3, 4)),
    Case("paper-columns", "two columns, whose sums do not mix", "sum", (2, 8, 2, 3), columns=2),
    Case("paper-even", "even n: n // 2 neighbors on each side", "sum", (2, 7, 2, 3), n=4),
    Case("paper-edges", "a window wider than the maps", "sum", (4, 3, 2, 2), n=9),
    Case("paper-one", "n = 1: each map by itself", "sum", (2, 3, 2, 2), n=1, alpha=5e-4),
    Case("paper-batch", "more images than maps", "sum", (7, 3, 2, 2), n=3, alpha=2e-4),
    Case("paper-beta", "beta 0.5, k 1, one image", "sum", (1, 6, 3, 3), 3, 1.0, 2e-4, 0.5),
    Case("paper-zeros", "maps of zeros", "sum", (2, 6, 2, 2)),
    Case("mean", "Caffe's constants: k 1, alpha / n", "mean", (2, 7, 3, 4), k=1.0, scale=200),
    Case("mean-batch", "more images than maps", "mean", (7, 3, 2, 2), 3, 1.0, scale=200),
    Case("mean-square", "as many images as maps", "mean", (5, 5, 2, 2), 3, 1.0, scale=200),
    Case("mean-columns", "two columns", "mean", (2, 8, 2, 2), k=1.0, columns=2, scale=200),
    Case("mean-even", "an even size", "mean", (2, 9, 2, 3), 4, 1.0, scale=200),
)


def window(case: Case, reading: str) -> tuple[int, int]:
    """The number of neighbors below and above a map."""
    half = case.n // 2
    if reading == "above":
        return half - 1, half
    if reading == "below":
        return half, half - 1
    if reading == "neither":
        return half - 1, half - 1
    return half, half


def forward(x: Array, case: Case, reading: str = "") -> tuple[Array, Array]:
    """The formula of section 3.3, map by map.

    b_i = a_i / (k + alpha * sum of a_j squared over the neighbors j of i) ** beta

    Returns:
        b, and the sum in brackets.
    """
    below, above = window(case, reading)
    maps = x.shape[1] // case.columns
    d = np.empty_like(x)
    for i in range(x.shape[1]):
        column = i // maps * maps
        first, last = max(column, i - below), min(column + maps - 1, i + above)
        squares = sum(x[:, j] ** 2 for j in range(first, last + 1))
        d[:, i] = case.k + case.factor * squares
    return x / d**case.beta, d


def gradient(x: Array, dy: Array, case: Case, reading: str = "") -> Array:
    """The gradient of sum(dy * b) with respect to x, by the chain rule, pair by pair."""
    below, above = window(case, reading)
    maps = x.shape[1] // case.columns
    _, d = forward(x, case, reading)
    dx = dy * d**-case.beta
    for i in range(x.shape[1]):
        column = i // maps * maps
        for j in range(max(column, i - below), min(column + maps - 1, i + above) + 1):
            # b_i depends on a_j through d_i.
            through = dy[:, i] * x[:, i] * -case.beta * d[:, i] ** (-case.beta - 1)
            dx[:, j] += through * case.factor * 2 * x[:, j]
    return dx


def bfloat16_exact(x: Array) -> Array:
    """Round to numbers that bfloat16 has, so that the same input serves every precision."""
    bits = x.astype(np.float32).view(np.uint32)
    return (bits & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


def vectors(case: Case, seed: int) -> dict[str, Array]:
    """The input x, the output y, a gradient dy of the output, and the gradient dx of the input.

    Where an even size has several readings, each has its own y and dx: y_above, and so on.
    """
    random = np.random.default_rng(seed)
    x = bfloat16_exact(random.normal(0, case.scale, case.shape))
    if case.name.endswith("zeros"):
        x[:, 1:3] = 0
        x[0, :, 0, 0] = 0
    dy = bfloat16_exact(random.normal(0, 1, case.shape))
    result = {"x": x, "dy": dy}
    for reading in case.readings:
        suffix = f"_{reading}" if reading else ""
        result[f"y{suffix}"] = forward(x, case, reading)[0]
        result[f"dx{suffix}"] = gradient(x, dy, case, reading)
    return result


def load(case: Case) -> dict[str, Array]:
    """The vectors of a case from its file.

    Raises:
        Damaged: The file is not the one that was published.
    """
    listed = {entry["name"]: entry for entry in json.loads(INDEX.read_text())}
    data = (VECTORS / f"{case.name}.npz").read_bytes()
    if hashlib.sha256(data).hexdigest() != listed[case.name]["sha256"]:
        raise Damaged(
            f"{VECTORS / case.name}.npz is damaged: its checksum is not that of cases.json; get it "
            "from the repository again"
        )
    with np.load(io.BytesIO(data)) as arrays:
        return {name: arrays[name] for name in arrays.files}


def write() -> None:
    """Write the files of all cases and `cases.json`."""
    VECTORS.mkdir(exist_ok=True)
    entries: list[dict[str, Any]] = []
    for seed, case in enumerate(CASES):
        content = io.BytesIO()
        np.savez(content, **vectors(case, seed))
        data = content.getvalue()
        (VECTORS / f"{case.name}.npz").write_bytes(data)
        facts = asdict(case) | {"readings": list(case.readings)}
        del facts["scale"]
        entries.append(facts | {"sha256": hashlib.sha256(data).hexdigest()})
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    INDEX.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    write()
