"""The numbers of a chart as a table, for readers who cannot see it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mpisqueeze.report.charts import BarChart, Chart, LineChart, Numbers, PointChart, Series
from mpisqueeze.report.html.blocks import Table, TableCell
from mpisqueeze.report.scales import Unit, say

#: Places at which lines are compared.
_COMPARED = 6


def numbers_of(chart: Chart) -> Table:
    """The table of a chart: its bars, or its lines at a few places."""
    rows: list[Sequence[TableCell | str]] = []
    x = chart.x.unit
    if isinstance(chart, BarChart):
        for bar in chart.bars:
            mark = [say(bar.mark, x) if bar.mark is not None else "—"] if chart.mark else []
            rows.append([bar.name, *(say(part, x) for part in bar.parts), *mark])
        return Table(["", *chart.segments, *([chart.mark] if chart.mark else [])], rows)
    if isinstance(chart, PointChart):
        for point in chart.points:
            rows.append([TableCell(point.name, style=point.style), *point.said(x, chart.y.unit)])
        return Table(["", chart.x.label, chart.y.label], rows)
    longest = max((series.x for series in chart.lines), key=lambda x: x[-1] if x.size else 0.0, default=np.empty(0))
    # Lines that share their places on the axis are compared there, others by their ends and extremes.
    shared = x is Unit.COUNT or all(np.array_equal(series.x, longest[: len(series.x)]) for series in chart.lines)
    spaced = np.linspace(0, max(0, longest.size - 1), _COMPARED).round().astype(np.intp)
    if x is Unit.COUNT and longest.size:
        spaced = np.searchsorted(longest, np.linspace(float(longest[0]), float(longest[-1]), _COMPARED))
    places = np.unique(longest[spaced[spaced < longest.size]])
    titles = [f"at {say(float(place), x)}" for place in places]
    for series in chart.lines:
        name = TableCell(series.label, style=series.style)
        if shared:
            values = [float(series.y[at]) if at >= 0 else math.nan for at in _known(series.x, places)]
            rows.append([name, *(say(value, chart.y.unit) for value in values)])
        else:
            rows.append([name, *_extremes(series, chart)])
    titles = titles if shared else ["first", "lowest", "highest", "last"]
    for series in (series for series in chart.series if series.kind == "points"):
        points = list(zip(series.x.tolist(), series.y.tolist(), strict=True))[: len(titles)]
        name = TableCell(f"{series.label}, measured", style=series.style)
        rows.append([name, *(_at(*point, chart) for point in points), *[""] * (len(titles) - len(points))])
    return Table([chart.y.label, *titles], rows)


def _known(x: Numbers, places: Numbers) -> list[int]:
    """The index of the last x up to each place, -1 where there is none or x has ended."""
    if not x.size:
        return [-1] * places.size
    at = np.searchsorted(x, places, side="right") - 1
    return np.where(places <= x[-1], at, -1).tolist()


def _extremes(series: Series, chart: LineChart) -> list[TableCell | str]:
    finite = np.flatnonzero(np.isfinite(series.y))
    if not finite.size:
        return ["—"] * 4
    lowest, highest = finite[series.y[finite].argmin()], finite[series.y[finite].argmax()]
    return [_at(float(series.x[at]), float(series.y[at]), chart) for at in (finite[0], lowest, highest, finite[-1])]


def _at(x: float, y: float, chart: LineChart) -> TableCell:
    return TableCell(say(y, chart.y.unit), f"at {say(x, chart.x.unit)}")
