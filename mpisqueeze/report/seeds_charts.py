"""The charts of pairs over seeds: median curves with bands, and time to target against the final metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from mpisqueeze.analysis.columns import BROKEN, rises
from mpisqueeze.analysis.intervals import Difference, Ratio
from mpisqueeze.analysis.ranking import curve_of, evaluated
from mpisqueeze.analysis.seeds import Pooled
from mpisqueeze.errors import UsageError
from mpisqueeze.modelling.bandwidth import ByBandwidth, times_by_bandwidth
from mpisqueeze.quantities import counted
from mpisqueeze.record.calibration import Calibration
from mpisqueeze.record.reading import SMOOTHED, RunLog
from mpisqueeze.report.charts import (
    Axis,
    Bar,
    BarChart,
    Chart,
    ChartPoint,
    LineChart,
    Numbers,
    PointChart,
    Series,
    value_axis,
)
from mpisqueeze.report.palette import style_of
from mpisqueeze.report.run_charts import (
    COSTS,
    axis_of,
    bandwidth_chart,
    costs_of,
    is_shown,
    levels_of,
    phase_chart,
    timed,
)
from mpisqueeze.report.scales import Unit

#: Iterations that a curve is drawn through at most, evenly spaced on the axis.
_PLACES = 600
_MEDIANS = "Lines are medians over seeds."

#: (x, y) of a run, both (K,): costs, and what is drawn over them.
Curves = Callable[[RunLog], tuple[Numbers, Numbers]]


def loss_band_chart(pooled: Pooled, cost: str) -> LineChart:
    """Smoothed training loss over a cost, an entry of COSTS: the median over seeds, with a band."""

    def curve(run: RunLog) -> tuple[Numbers, Numbers]:
        found = curve_of(run)
        return costs_of(found)[cost], found.loss

    return _band_chart(pooled, cost, "", f"Training loss by {cost}", "training loss", curve)


def metric_band_chart(pooled: Pooled, cost: str) -> LineChart:
    """The metric over a cost, an entry of COSTS: the median over seeds, with a band."""
    metric = pooled.ranking.metric
    name = (metric or "evaluations").replace("_", " ")

    def curve(run: RunLog) -> tuple[Numbers, Numbers]:
        at, values = evaluated(run, metric)
        return np.concatenate([[0.0], costs_of(curve_of(run))[cost]])[at], values

    return _band_chart(pooled, cost, metric or "evaluations", f"{name.capitalize()} by {cost}", name, curve)


def _band_chart(pooled: Pooled, cost: str, metric: str, title: str, name: str, curves: Curves) -> LineChart:
    runs = [replace(pair.runs[0], name=pair.name) for pair in pooled.pairs.values()]
    label, unit, log = axis_of(cost, runs)
    series, sound = [], []
    for index, pair in enumerate(pooled.pairs.values()):
        well = [run for run in pair.runs if run.summary["status"] not in BROKEN]
        x, y, low, high = _middle([curves(run) for run in well or pair.runs], log)
        if is_shown(x, log):
            broken = len(pair.runs) - len(well)
            remark = f"{broken} of {len(pair.runs)} broke down" if broken else ""
            line = Series(pair.name, x, y, style_of(index, len(pooled.pairs)), remark=remark, band=(low, high))
            series.append(line)
            # The first evaluations, far above the others, do not stretch the axis.
            settled = x.size // 10 if metric and x.size > 10 else 0
            sound += [np.concatenate([low[settled:], high[settled:]])] if well else []
    y_axis = value_axis(name, series, sound, 1.0 if rises(metric) else math.inf)
    levels = levels_of(len(pooled.pairs), pooled.ranking, metric)
    return LineChart(title, Axis(label, unit, log), y_axis, series, levels, _MEDIANS)


def _middle(curves: Sequence[tuple[Numbers, Numbers]], log: bool) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """The median x and y of curves, point by point, and the lowest and the highest y; as long as half of them are.

    Points of the same number belong together, as they are of the same iteration, so that nothing is interpolated.
    """
    lengths = sorted((x.size for x, _ in curves), reverse=True)
    length = lengths[(len(lengths) - 1) // 2] if lengths else 0
    if not length:
        return (np.empty(0),) * 4
    spaced = np.geomspace(1, length, _PLACES) - 1 if log else np.linspace(0, length - 1, _PLACES)
    kept = np.unique(np.append(spaced.round().astype(np.intp), length - 1))
    x, y = (np.full((len(curves), kept.size), np.nan) for _ in range(2))
    for row, points in enumerate(curves):
        within = kept[kept < points[0].size]
        for filled, values in zip((x, y), points, strict=True):
            filled[row, : within.size] = values[within]
    with np.errstate(all="ignore"):
        return np.nanmedian(x, 0), np.nanmedian(y, 0), np.nanmin(y, 0), np.nanmax(y, 0)


def pareto_chart(pooled: Pooled) -> PointChart:
    """Time to target against the final metric: the first pair where it is, the others where intervals put them.

    A pair stands at the first pair's geometric mean times its paired ratio, and at the first pair's mean metric plus
    its paired difference, with the intervals of both; without points where the first pair missed the target.
    """
    metric = pooled.ranking.metric or SMOOTHED
    first = pooled.first
    times = [value for value in first.each["time_to_target_s"] if value]
    finals = [value for value in first.each[metric] if value is not None]
    points, left_out = [], []
    if len(times) == len(first.seeds) == len(finals):
        base, level = math.exp(float(np.log(times).mean())), float(np.mean(finals))
        for index, pair in enumerate(pooled.pairs.values()):
            ratio, gap = pair.relative["time_to_target_s"], pair.differences[metric]
            if ratio.ratio is None or gap.difference is None:
                left_out.append(pair.name)
                continue
            across, up = _ends(ratio, base), _ends(gap, level)
            alone = pair is first
            style = style_of(index, len(pooled.pairs))
            points.append(ChartPoint(pair.name, base * ratio.ratio, level + gap.difference, style,
                                None if alone else across, None if alone else up))  # fmt: skip
    name = metric.replace("_", " ")
    caption = (
        f"Means over seeds. Bars are 95 % intervals of what differs from {first.name}, paired by seed: a bar that "
        f"reaches as far as {first.name}, across or up, does not tell its pair from it there."
    )
    if left_out:
        caption += f" Without a place, as they missed the target: {', '.join(left_out)}."
    spread = [point.x for point in points]
    log = bool(spread) and max(spread) > 4 * min(spread)
    label = timed("time to target", [run for pair in pooled.pairs.values() for run in pair.runs])
    time, title = Axis(label, Unit.SECONDS, log), f"Time to target and final {name}"
    return PointChart(title, time, Axis(f"final {name}"), points, caption)


def _ends(found: Ratio | Difference, base: float) -> tuple[float, float] | None:
    if found.low is None or found.high is None:
        return None
    if isinstance(found, Ratio):
        return base * found.low, base * found.high
    return base + found.low, base + found.high


def phases_chart(pooled: Pooled) -> BarChart:
    """The phases of an iteration, the mean over a pair's runs."""
    bars: list[Bar] = []
    about = phase_chart([], pooled.ranking)
    axis = replace(about.x, label=timed("time", [run for pair in pooled.pairs.values() for run in pair.runs]))
    for pair in pooled.pairs.values():
        found = phase_chart(pair.runs, pooled.ranking).bars
        if found:
            parts = np.mean([bar.parts for bar in found], axis=0).tolist()
            bars.append(Bar(pair.name, parts, float(np.mean([bar.mark for bar in found if bar.mark is not None]))))
    return replace(about, x=axis, bars=bars, caption=f"Means over seeds. {about.caption}")


def bandwidth_of(pooled: Pooled, calibration: Calibration | None) -> ByBandwidth:
    """`times_by_bandwidth` of all runs, whose methods have the numbers of their first pairs."""
    runs = [replace(run, name=pair.name) for pair in pooled.pairs.values() for run in pair.runs]
    numbers = [index for index, pair in enumerate(pooled.pairs.values()) for _ in pair.runs]
    times = times_by_bandwidth(runs, calibration)
    methods = [replace(method, first=numbers[method.first]) for method in times.methods]
    return replace(times, methods=methods, left_out=list(dict.fromkeys(times.left_out)))


def charts_of(kind: str, pooled: Pooled, calibration: Calibration | None = None) -> list[Chart]:
    """The charts of one of KINDS that show something, side by side.

    Raises:
        UsageError: there is nothing to draw.
    """
    found = [chart for chart in _asked(kind, pooled, calibration) if _drawn(chart)]
    if not found:
        raise UsageError(
            f"{counted(len(pooled.pairs), 'pair')} over seeds have nothing to draw for {kind}", "--plot-kind"
        )
    return found


def _asked(kind: str, pooled: Pooled, calibration: Calibration | None) -> Iterator[Chart]:
    what, _, cost = kind.partition("-by-")
    if not pooled.pairs:
        return
    if what == "loss":
        yield from (loss_band_chart(pooled, each) for each in ([cost] if cost else COSTS))
    elif what == "test":
        yield metric_band_chart(pooled, cost)
    elif what == "pareto":
        yield pareto_chart(pooled)
    elif what == "time":
        yield bandwidth_chart(bandwidth_of(pooled, calibration), len(pooled.pairs))
    else:
        yield phases_chart(pooled)


def _drawn(chart: Chart) -> bool:
    if isinstance(chart, BarChart):
        return bool(chart.bars)
    return bool(chart.points if isinstance(chart, PointChart) else chart.series)
