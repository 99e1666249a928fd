"""What n seeds can tell of an effect, fixed beforehand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal

from scipy.stats import t

Verdict = Literal["agrees", "disagrees", "differs", "cannot tell"]
LEVEL, POWER = 0.95, 0.8


@dataclass(frozen=True)
class Estimate:
    """Of paired differences, one a seed."""

    n: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    """The interval that holds the true mean 95 times in 100 (Student's t)."""
    smallest: float | None
    """The smallest distance from no effect that n seeds of this deviation find four times in five."""
    verdict: Verdict
    """agrees: the interval lies wholly on the claimed side of no effect; disagrees: wholly on the other;
    differs: wholly on either, where no side is claimed."""


def estimate(values: Sequence[float], none: float = 0.0, sided: bool = True) -> Estimate:
    """values: one a seed; sided: the claimed side is above `none`. With one seed nothing can be told."""
    n, middle = len(values), mean(values)
    if n < 2:
        return Estimate(n, middle, None, None, None, None, "cannot tell")
    deviation = stdev(values)
    error = deviation / math.sqrt(n)
    wide = float(t.ppf(0.5 + LEVEL / 2, n - 1))
    low, high = middle - wide * error, middle + wide * error
    smallest = (wide + float(t.ppf(POWER, n - 1))) * error
    verdict: Verdict = "agrees" if low > none else "disagrees" if high < none else "cannot tell"
    if not sided and verdict != "cannot tell":
        verdict = "differs"
    return Estimate(n, middle, deviation, low, high, smallest, verdict)
