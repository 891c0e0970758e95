"""The methods on one network and on others like it: break-even points, a map of the fastest, growth with the ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mpisqueeze.costs.link import Link
from mpisqueeze.modelling.methods import Method, Traffic
from mpisqueeze.modelling.predict import Prediction, Work, predict, terms_of, work_of
from mpisqueeze.modelling.targets import NeededIterations
from mpisqueeze.record.calibration import Calibration

#: Bits a second between which a break-even point is searched, and points a decade at which the search looks first.
SLOWEST, FASTEST = 1e3, 1e13
_LOOKS = 4
#: Relative difference below which two times are the same.
_SAME = 1e-9
GROWTH_RANKS = (*(2**k for k in range(1, 17)), 100_000)


@dataclass(frozen=True)
class Wins:
    """The bandwidths at which a method beats the baseline.

    Attributes:
        between: intervals of bandwidth (bits/s), None for an end beyond what was searched.
    """

    between: list[tuple[float | None, float | None]]

    @property
    def break_even(self) -> float | None:
        """Bits a second where that ends, or begins where it has no end; None where it always or never wins."""
        for low, high in reversed(self.between):
            return high if high is not None else low
        return None


def wins(gain: Callable[[float], float]) -> Wins:
    """The bandwidths at which `gain(bandwidth)` is positive, between 1 kbit/s and 10 Tbit/s.

    It is looked at four times a decade, and each change of sign is bisected to a part in 10 000, on a logarithmic
    scale. Two crossings between two looks go unseen.
    """
    decades = math.log10(FASTEST / SLOWEST)
    points = [SLOWEST * 10 ** (i / _LOOKS) for i in range(round(decades * _LOOKS) + 1)]
    signs = [gain(point) > 0 for point in points]
    between: list[tuple[float | None, float | None]] = []
    low: float | None = None
    for i in range(1, len(points)):
        if signs[i] == signs[i - 1]:
            continue
        crossing = _bisect(gain, points[i - 1], points[i], signs[i])
        if signs[i]:
            low = crossing
        else:
            between.append((low, crossing))
    if signs[-1]:
        between.append((low, None))
    return Wins(between)


def _bisect(gain: Callable[[float], float], low: float, high: float, sign_at_high: bool) -> float:
    while high / low > 1 + 1e-4:
        middle = math.sqrt(low * high)
        if (gain(middle) > 0) == sign_at_high:
            high = middle
        else:
            low = middle
    return math.sqrt(low * high)


class Forecast:
    """The methods on one network, and on others like it.

    Args:
        methods: the first is the baseline.
        link: its latency and gap keep their ratio where others are looked at.
        compute_s: None where it is not known, and left out.
        left_out: names of methods that are shown to fail.
        measured: the iterations that runs of the methods needed: what is compared is then the time to their target, and
            not that of an iteration.
        inside: the link between ranks of a group, None where it is not known, and left out.

    Attributes:
        results: a prediction for each method, in their order.
        missing: compressors whose kernels are not in the calibration.
        timed: whether kernel rates are in the predictions.
        shapes: of the parameters, where runs tell them.
    """

    def __init__(
        self,
        methods: Sequence[Method],
        ranks: int,
        dimension: int,
        dtype: str,
        link: Link,
        compute_s: float | None,
        calibration: Calibration | None,
        left_out: Sequence[str] = (),
        measured: NeededIterations | None = None,
        inside: Link | None = None,
    ) -> None:
        self.inside = inside
        self.left_out, self.measured, self.computes = left_out, measured, compute_s is not None
        self.methods, self.link, self.compute_s = list(methods), link, compute_s or 0.0
        self.ranks, self.dimension, self.dtype = ranks, dimension, dtype
        self.vector_bytes = dimension * np.dtype(dtype).itemsize
        # Another dimension is another model's.
        known = measured is not None and measured.dimension == dimension
        self.shapes = measured.shapes if measured and known else None
        self.traffic = [method.traffic(ranks, dimension, dtype, self.shapes) for method in self.methods]
        pairs = list(zip(self.methods, self.traffic, strict=True))
        work = [work_of(*pair, calibration) if calibration else None for pair in pairs]
        # A method whose kernels are not known would beat those whose are: then all go without.
        unknown = {method.compressor_name for method, found in zip(self.methods, work, strict=True) if found is None}
        self.missing = sorted(unknown) if calibration else []
        self.timed = calibration is not None and not self.missing
        self.work = [found if found and self.timed else Work() for found in work]
        # The first of those that cost the same stands for them all.
        first: dict[tuple[Traffic, Work, float], int] = {}
        counts = measured.iterations if measured else [1.0] * len(pairs)
        alike = enumerate(zip(self.traffic, self.work, counts, strict=True))
        self._alike = [first.setdefault(key, index) for index, key in alike]
        self._wins: dict[int, Wins] = {}
        self.results = [self._predict(index, link) for index in range(len(self.methods))]

    def cost(self, index: int, prediction: Prediction) -> float:
        """Time (s) of an iteration of method `index`, or to the target where iterations are known."""
        if self.measured is None:
            return prediction.iteration_s
        count = self.measured.iterations[index]
        return count * prediction.iteration_s if math.isfinite(count) else math.inf

    def _predict(self, index: int, link: Link) -> Prediction:
        traffic = self.traffic[index]
        terms = terms_of(traffic.ranks, link)
        return predict(self.methods[index], traffic, self.work[index], terms, self.compute_s, inside=self.inside)

    def wins(self, index: int) -> Wins:
        """The bandwidths at which method `index` beats the baseline, at this latency and compute time."""
        alike = self._alike[index]
        if alike not in self._wins:

            def gain(bandwidth: float) -> float:
                link = replace(self.link, byte_s=8 / bandwidth)
                base = self.cost(0, self._predict(0, link))
                return base * (1 - _SAME) - self.cost(alike, self._predict(alike, link))

            self._wins[alike] = wins(gain)
        return self._wins[alike]

    def fastest(self, bandwidth: float, latency_s: float) -> tuple[Prediction, float]:
        """The fastest method at another bandwidth (bits/s) and latency α (s), of several that tie the first.

        Beside it the baseline's time over its own.
        """
        alpha = self.link.latency + self.link.gap
        part = self.link.gap / alpha if alpha else 1.0
        link = replace(self.link, latency=latency_s * (1 - part), gap=latency_s * part, byte_s=8 / bandwidth)
        best = self._predict(0, link)
        base = least = self.cost(0, best)
        for index in sorted(set(self._alike)):
            prediction = self._predict(index, link)
            cost = self.cost(index, prediction)
            if cost < least * (1 - _SAME):
                best, least = prediction, cost
        return best, _over(base, least)

    def speedup(self, index: int) -> float:
        """The baseline's time over that of method `index`."""
        return _over(*(self.cost(i, self.results[i]) for i in (0, index)))

    def growth(self) -> Iterator[Prediction]:
        """`wire_s` for N = 2, 4, 8, …, for one method that compresses and one that does not from each exchange.

        A graph from a file has no larger one, and is left out.
        """
        for method in self._typical():
            for ranks in GROWTH_RANKS:
                traffic = method.traffic(ranks, self.dimension, self.dtype, self.shapes)
                yield predict(method, traffic, Work(), terms_of(traffic.ranks, self.link), self.compute_s)

    def _typical(self) -> list[Method]:
        kept: dict[tuple[str, bool], Prediction] = {}
        for prediction in self.results:
            if (prediction.method.topology or "").startswith("file:"):
                continue
            key = (prediction.traffic.exchange, prediction.traffic.up < self.vector_bytes)
            if key not in kept or prediction.wire_s < kept[key].wire_s * (1 - _SAME):
                kept[key] = prediction
        return [prediction.method for prediction in kept.values()]


def _over(base: float, other: float) -> float:
    return base / other if other else 1.0
