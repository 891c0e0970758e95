"""Charts as data, whether Vega or the terminal draws them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.report.scales import Scale, Unit, linear_unit, say

Numbers = NDArray[np.float64]

#: Losses and times that span a larger factor than this get a logarithmic axis.
LOG_FROM = 20.0
#: Places along an axis that a curve is thinned to as it becomes a line: more than any drawing shows.
PLACES = 2000
#: A run that diverges comes to numbers that no arithmetic of axes survives.
MOST = 1e100
#: A loss that diverges is cut off at so many times the largest of the runs that did not.
_HEADROOM = 1.5
#: A line of at most so many points has a marker at each.
_FEW = 8


@dataclass(frozen=True)
class Series:
    """A line, or points.

    Attributes:
        name: as the legend has it.
        x, y: (K,), x ascending; a y that is not finite interrupts the line, and so does one beyond MOST.
        style: which colour and marker; the same number for the same thing in all plots of a page.
        kind: `line`; `faint`, a line behind the others without an entry in the legend; `points`, marks alone, with no
            entry either, of the line of the same style.
        remark: behind the name, such as `diverged`.
        band: (low, high), each (K,), between which the ground behind the line is shaded; None: nothing is.
    """

    name: str
    x: Numbers
    y: Numbers
    style: int
    kind: str = "line"
    remark: str = ""
    band: tuple[Numbers, Numbers] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "y", drawable(self.y))

    @classmethod
    def of_curve(cls, name: str, x: Numbers, y: Numbers, style: int, log: bool, **more: Any) -> Series:
        """A line through many points, of which those are kept that PLACES along its axis need."""
        kept = thin(x, y, Scale.around(x, log, pad=0), PLACES)
        return cls(name, x[kept], y[kept], style, **more)

    @property
    def label(self) -> str:
        return f"{self.name} ({self.remark})" if self.remark else self.name

    @property
    def end(self) -> float:
        """The last y that is finite, NaN of none."""
        finite = self.y[np.isfinite(self.y)]
        return float(finite[-1]) if finite.size else float("nan")


@dataclass(frozen=True)
class Axis:
    """An axis of a chart.

    Attributes:
        label: the quantity, without its unit.
        limits: ends of the axis, beyond which lines are cut off; None: all is shown.
    """

    label: str
    unit: Unit = Unit.NUMBER
    log: bool = False
    limits: tuple[float, float] | None = None

    def title(self, scale: Scale) -> str:
        """The label with the unit, where the numbers do not have it."""
        unit = linear_unit(scale, self.unit)[1]
        return f"{self.label} ({unit})" if unit else self.label


@dataclass(frozen=True)
class LineChart:
    """Lines over a common axis.

    Attributes:
        levels: y of horizontal lines, with what they are called.
        caption: a sentence or two that readers need.
        measured: the meaning of `points`, where there are some.
    """

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]
    levels: Sequence[tuple[float, str]] = ()
    caption: str = ""
    measured: str = ""

    @property
    def lines(self) -> list[Series]:
        return [series for series in self.series if series.kind == "line"]

    @property
    def is_drawn(self) -> bool:
        """There is a line, which takes two points."""
        return any(
            np.count_nonzero(np.isfinite(series.y) & ((series.x > 0) | (not self.x.log))) > 1 for series in self.lines
        )

    def scales(self) -> tuple[Scale, Scale]:
        """The axes' scales, of x and y."""
        x = np.concatenate([s.x for s in self.series] or [np.empty(0)])
        y = np.concatenate([s.y for s in self.series] or [np.empty(0)])
        both = np.isfinite(x) & np.isfinite(y)
        x, y = x[both], np.concatenate([y[both], *(edge for s in self.series for edge in s.band or ())])
        return Scale.around(x, self.x.log, self.x.limits, pad=0), Scale.around(y, self.y.log, self.y.limits, pad=0.05)

    def in_end_order(self) -> list[Series]:
        """The lines as their ends stand from the top down; one that left at the top stands where it left."""
        return sorted(self.lines, key=lambda series: -series.end if np.isfinite(series.end) else np.inf)


@dataclass(frozen=True)
class Bar:
    """A row of a bar chart.

    Attributes:
        parts: (S,) length of each segment, one behind the other.
        mark: where a mark stands, or None.
    """

    name: str
    parts: Sequence[float]
    mark: float | None = None


@dataclass(frozen=True)
class BarChart:
    """Stacked bars, a row each.

    Attributes:
        segments: (S,) names of the segments.
        mark: the name of the mark, empty where there is none.
    """

    title: str
    x: Axis
    segments: Sequence[str]
    bars: Sequence[Bar]
    mark: str = ""
    caption: str = ""

    def scale(self) -> Scale:
        ends = [max(sum(bar.parts), bar.mark or 0.0) for bar in self.bars]
        return Scale(0.0, max([*ends, 0.0]) * 1.02 or 1.0, False)


@dataclass(frozen=True)
class ChartPoint:
    """A mark with the interval of each of its coordinates.

    Attributes:
        across, up: ends of the intervals of x and y; None where there is none.
        style: as of a line.
    """

    name: str
    x: float
    y: float
    style: int
    across: tuple[float, float] | None = None
    up: tuple[float, float] | None = None

    def said(self, x: Unit, y: Unit) -> list[str]:
        """The coordinates in words, each with its interval."""
        ends = ((self.x, self.across, x), (self.y, self.up, y))
        return [say(at, unit) + (f" ({say(near[0], unit)} to {say(near[1], unit)})" if near else "")
                for at, near, unit in ends]  # fmt: skip


@dataclass(frozen=True)
class PointChart:
    """Points with intervals, one of which the others are measured against.

    Attributes:
        points: the one to be measured against first.
    """

    title: str
    x: Axis
    y: Axis
    points: Sequence[ChartPoint]
    caption: str = ""

    def scales(self) -> tuple[Scale, Scale]:
        """The axes' scales, of x and y."""
        x = [value for point in self.points for value in (point.x, *(point.across or ()))]
        y = [value for point in self.points for value in (point.y, *(point.up or ()))]
        across = Scale.around(np.array(x, float), self.x.log, self.x.limits, pad=0.08)
        return across, Scale.around(np.array(y, float), self.y.log, self.y.limits, pad=0.08)


Chart = LineChart | BarChart | PointChart


def drawable(values: Numbers) -> Numbers:
    """The numbers, without what no axis can show: infinite if larger than MOST, 0 if smaller than 1/MOST."""
    size = np.abs(values)
    values = np.where(size > MOST, np.copysign(np.inf, values), values)
    return np.where(size < 1 / MOST, 0.0, values)


def value_axis(label: str, lines: Sequence[Series], sound: Sequence[Numbers], highest: float = math.inf) -> Axis:
    """The axis of losses or of a metric, with some room at the top for runs that broke down, which may leave it.

    Args:
        lines: all that are drawn.
        sound: the values of those that did not break down, or of a part of them. Where all did, they are shown whole.
        highest: the largest value that there can be.
    """
    values = drawable(np.concatenate([*(sound or [line.y for line in lines]), np.empty(0)]))
    values = values[np.isfinite(values)]
    if not values.size or values.min() == values.max():
        return Axis(label)
    low, high = float(values.min()), float(values.max())
    log = highest == math.inf and low > 0 and high / low > LOG_FROM
    if sound and len(sound) < len(lines):
        high = high * _HEADROOM if log else low + _HEADROOM * (high - low)
    shown = Scale(low, high, log).padded(0.05)
    return Axis(label, log=log, limits=(shown.low, min(shown.high, highest)))


def thin(x: Numbers, y: Numbers, scale: Scale, buckets: int) -> NDArray[np.intp]:
    """Indices of the points that a line needs at so many places along its axis.

    At each place these are the first, the lowest, the highest and the last, so that no spike is lost, and the first
    that is not finite.

    Args:
        x, y: (K,), x ascending.
    """
    inside = np.flatnonzero(np.isfinite(x) & (x > 0 if scale.log else True))
    if inside.size <= 2 * buckets:
        return inside
    place = np.minimum((scale.place(x[inside]) * buckets).astype(np.intp), buckets - 1)
    edges = [0, *(np.flatnonzero(np.diff(place)) + 1), inside.size]
    kept: list[int] = []
    for begin, end in pairwise(edges):
        values = y[inside[begin:end]]
        finite = np.isfinite(values)
        offsets = {0, end - begin - 1}
        if finite.any():
            offsets |= {int(np.where(finite, values, np.inf).argmin()), int(np.where(finite, values, -np.inf).argmax())}
        if not finite.all():
            offsets.add(int(np.argmin(finite)))
        kept += (begin + offset for offset in sorted(offsets))
    return inside[kept]


def marked(series: Series, x: Scale, y: Scale, along: int, shift: float) -> NDArray[np.intp]:
    """Indices of the points that a marker stands at: all if they are few, else the last and some before it.

    Args:
        along: how many places the line has for markers, besides its end.
        shift: of the places, in steps (0 to 1), so that those of several lines do not meet.
    """
    across, up = x.place(series.x), y.place(series.y)
    inside = np.flatnonzero(np.isfinite(across) & (across >= -0.01) & (up >= -0.01) & (up <= 1.01))
    if inside.size <= _FEW:
        return inside
    wanted = (np.arange(along) + shift) / along
    places = across[inside]
    wanted = wanted[(wanted > places[0]) & (wanted < places[-1] - 0.02)]
    return inside[np.unique(np.append(np.searchsorted(places, wanted), inside.size - 1))]
