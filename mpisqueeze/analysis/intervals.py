"""Paired ratios with their intervals: how many times another's cost is this one, as well as a few seeds can tell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import cast

from mpisqueeze.record.types import PairedDifference, PairedRatio

#: Fewer pairs give no interval: two have one degree of freedom, and an interval of 12.7 standard errors to a side.
FEWEST = 3
LEVEL = 0.95
#: The normal deviate that 90 % are below.
_POWER = 1.2816
#: The largest exponent of e whose power is a finite float.
_LARGEST = 700.0


@dataclass(frozen=True)
class Ratio:
    """Paired values over a reference's.

    Attributes:
        ratio: geometric mean of the pairs' ratios; None where a pair lacks a value, or has one that is not above 0.
        low, high: ends of the interval; None where there is no ratio, and for fewer than FEWEST pairs.
        pairs: in which both values are there.
        missed: values that are None (∞), of `of`.
        distinguishable: whether the interval excludes 1; None: no interval.
        reference_missed: values of the reference that are None, of `of`.
    """

    ratio: float | None
    low: float | None
    high: float | None
    pairs: int
    missed: int
    of: int
    distinguishable: bool | None
    reference_missed: int = 0

    def as_json(self) -> PairedRatio:
        return cast(PairedRatio, asdict(self))


@dataclass(frozen=True)
class Difference:
    """Paired values less a reference's, for figures such as accuracies, of which a ratio says little.

    Attributes:
        difference: mean of the pairs' differences; None where a pair lacks a value.
        low, high: ends of the interval; None where there is no difference, and for fewer than FEWEST pairs.
        pairs: in which both values are there.
        distinguishable: whether the interval excludes 0; None: no interval.
    """

    difference: float | None
    low: float | None
    high: float | None
    pairs: int
    distinguishable: bool | None

    def as_json(self) -> PairedDifference:
        return cast(PairedDifference, asdict(self))


def paired(values: Sequence[float | None], reference: Sequence[float | None], level: float = LEVEL) -> Ratio:
    """The ratio of values to a reference's, pair by pair, with Student's interval around the mean of its logarithms.

    The interval is exp(m ± t s/√K), m and s being the mean and the standard deviation of the K log-ratios and t the
    quantile of K − 1 degrees of freedom (Student, "The Probable Error of a Mean", Biometrika 6, 1908).

    Args:
        values, reference: (K,) of the same seeds in the same order, each ≥ 0; None: ∞, which has no ratio.
        level: the part of intervals that hold the true ratio.

    Raises:
        ValueError: they are not of the same length.
    """
    both = _both(values, reference)
    of, pairs = len(values), len(both)
    missed, reference_missed = values.count(None), reference.count(None)
    logs = [math.log(value) - math.log(other) for value, other in both if value > 0 < other]
    if not logs or len(logs) < of:
        return Ratio(None, None, None, pairs, missed, of, None, reference_missed)
    middle, half = _around(logs, level)
    if half is None:
        return Ratio(_power(middle), None, None, pairs, missed, of, None, reference_missed)
    low, high = _power(middle - half), _power(middle + half)
    return Ratio(_power(middle), low, high, pairs, missed, of, not low <= 1 <= high, reference_missed)


def seeds_needed(found: Ratio, distance: float, least: int, most: int) -> int:
    """The pairs with which an interval is likely to end short of a limit, in 9 of 10 repetitions.

    The fewest K with (t + 1.28) s/√K ≤ `distance`; s is that of the pairs of `found`, t the quantile of K − 1 degrees
    of freedom, 1.28 that of 90 % of normal deviates.

    Args:
        found: a ratio with its interval.
        distance: of the logarithms of the expected ratio and the limit.
        least, most: bounds of the result; `most` where `found` has no interval.
    """
    if found.low is None or found.high is None or found.low <= 0:
        return most
    half = (math.log(found.high) - math.log(found.low)) / 2
    deviation = half / student(LEVEL, found.pairs - 1) * math.sqrt(found.pairs)
    for count in range(least, most):
        if (student(LEVEL, count - 1) + _POWER) * deviation <= distance * math.sqrt(count):
            return count
    return most


def difference(values: Sequence[float | None], reference: Sequence[float | None], level: float = LEVEL) -> Difference:
    """The difference of values from a reference's, pair by pair, with Student's interval m ± t s/√K.

    Args:
        values, reference: (K,) of the same seeds in the same order; None: there is none.

    Raises:
        ValueError: they are not of the same length.
    """
    pairs = [value - other for value, other in _both(values, reference)]
    if not pairs or len(pairs) < len(values):
        return Difference(None, None, None, len(pairs), None)
    middle, half = _around(pairs, level)
    if half is None:
        return Difference(middle, None, None, len(pairs), None)
    low, high = middle - half, middle + half
    return Difference(middle, low, high, len(pairs), not low <= 0 <= high)


def median(values: Sequence[float | None]) -> float | None:
    """The median of values, of which None is ∞ and takes part; None where it is ∞, and of nothing."""
    if not values:
        return None
    middle = statistics.median([math.inf if value is None else value for value in values])
    return middle if math.isfinite(middle) else None


def _both(values: Sequence[float | None], reference: Sequence[float | None]) -> list[tuple[float, float]]:
    """The pairs in which both values are there."""
    pairs = zip(values, reference, strict=True)
    return [(value, other) for value, other in pairs if value is not None and other is not None]


def _power(exponent: float) -> float:
    """e to the exponent, which is finite, as JSON has it."""
    return math.exp(max(-_LARGEST, min(_LARGEST, exponent)))


def _around(values: Sequence[float], level: float) -> tuple[float, float | None]:
    """The mean, and half the width of its interval; None for fewer than FEWEST values."""
    middle = statistics.fmean(values)
    if len(values) < FEWEST:
        return middle, None
    error = statistics.stdev(values, middle) / math.sqrt(len(values))
    return middle, student(level, len(values) - 1) * error


@cache
def student(level: float, freedom: int) -> float:
    """The t within which a part `level` (0 to 1) of Student's distribution lies, to either side of 0.

    The part as a series in the cosine of θ = arctan(t/√ν): Abramowitz and Stegun, "Handbook of Mathematical
    Functions", 1964, 26.7.3 and 26.7.4.

    Args:
        freedom: degrees of freedom ν ≥ 1.
    """

    def within(angle: float) -> float:
        cosine, odd = math.cos(angle), freedom % 2
        term = cosine if odd else 1.0
        total = term if freedom > 1 else 0.0
        for power in range(2 + odd, freedom, 2):
            term *= (power - 1) / power * cosine**2
            total += term
        part = math.sin(angle) * total
        return 2 / math.pi * (angle + part) if odd else part

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < level else (low, middle)
    return math.sqrt(freedom) * math.tan(low)
