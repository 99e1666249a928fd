"""Statistics of an effect: interval, test and verdict, by rules that were fixed before the runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Literal

from scipy.stats import t

Verdict = Literal["same sign", "opposite sign", "differs", "inconclusive"]
LEVEL, POWER = 0.95, 0.8
"""Confidence level of the interval, and power of the minimum detectable effect."""


@dataclass(frozen=True)
class Estimate:
    """The mean of paired differences, one for each seed, and what can be concluded from them.

    With a single value, or with equal values beside no effect, there is no interval, and every
    field that needs one is None.
    """

    n: int
    mean: float
    deviation: float | None
    low: float | None
    high: float | None
    """Bounds of the interval that holds the true mean with a probability of 95 % (Student's t)."""
    minimum_detectable: float | None
    """Minimum detectable effect: the smallest distance from no effect that n values of this
    deviation find with a probability of 80 %."""
    p: float | None
    """p value of the two-sided t test against no effect."""
    verdict: Verdict
    """same sign: the interval lies wholly on the claimed side of the value that stands for no
    effect (0 for a difference, 1 for a ratio). opposite sign: wholly on the other side. differs:
    wholly on either side, where no side is claimed. inconclusive: the interval contains that value,
    or there is no interval."""

    def contains(self, value: float) -> bool | None:
        """Whether the interval contains a value; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low <= value <= self.high


def estimate(values: Sequence[float], none: float = 0.0, one_sided: bool = True) -> Estimate:
    """Estimate an effect.

    Args:
        values: One value for each seed, or for each disjoint ensemble.
        none: The value that stands for no effect: 0 for a difference, 1 for a ratio.
        one_sided: The claim is that values are above `none`; False: no side is claimed.
    """
    n, middle = len(values), mean(values)
    distance, rounding = abs(middle - none), 1e-9 * max(map(abs, values))
    deviation = stdev(values) if n > 1 else 0.0
    # Equal values, here within the rounding of their differences, have an interval only where there
    # is nothing to find: errors are counts of images, so that two seeds often agree by chance.
    if n < 2 or (deviation <= rounding and distance > rounding):
        return Estimate(n, middle, None, None, None, None, None, "inconclusive")
    error = deviation / math.sqrt(n)
    # Student's t and not the normal distribution: for five seeds 2.78 standard errors and not 1.96.
    wide = float(t.ppf(0.5 + LEVEL / 2, n - 1))
    low, high = middle - wide * error, middle + wide * error
    # The usual approximation: a sum of two quantiles in place of the noncentral t distribution.
    detectable = (wide + float(t.ppf(POWER, n - 1))) * error
    p = 2 * float(t.sf(distance / error, n - 1)) if deviation > rounding else 1.0
    verdict: Verdict = "inconclusive"
    if low - none > rounding:
        verdict = "same sign" if one_sided else "differs"
    elif none - high > rounding:
        verdict = "opposite sign" if one_sided else "differs"
    return Estimate(n, middle, deviation, low, high, detectable, p, verdict)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p values for their number (Holm 1979).

    Rejecting every hypothesis whose adjusted p is at most 0.05 makes one or more false rejections
    among all of them with a probability of at most 5 %, however they depend on each other.

    Returns:
        The adjusted p of each, in the order given.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        # A hypothesis cannot be rejected before those with smaller p, hence the running maximum.
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
