"""The charts of finished runs, by the names that `--plot-kind` takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mpisqueeze.analysis.columns import rises
from mpisqueeze.analysis.ranking import BROKEN, Curve, Ranking, evaluated
from mpisqueeze.errors import UsageError
from mpisqueeze.modelling.bandwidth import ByBandwidth, times_by_bandwidth
from mpisqueeze.quantities import counted, significant
from mpisqueeze.record.calibration import Calibration
from mpisqueeze.record.figures import PHASES
from mpisqueeze.record.reading import RunLog
from mpisqueeze.report.charts import Axis, Bar, BarChart, Chart, LineChart, Numbers, Series, value_axis
from mpisqueeze.report.palette import style_of
from mpisqueeze.report.scales import Unit
from mpisqueeze.report.tables import defined

#: Costs up to an iteration: label, unit, and whether the axis is logarithmic.
COSTS = {
    "iteration": ("iteration", Unit.COUNT, False),
    "bytes": ("bytes sent by all ranks", Unit.BYTES, True),
    "time": ("training time", Unit.SECONDS, False),
}
#: The evaluations of this first part of a run do not stretch the axis, if so many others are there.
_WARM, _ENOUGH = 0.1, 5


def loss_chart(runs: Sequence[RunLog], ranking: Ranking, cost: str) -> LineChart:
    """Smoothed training loss over a cost, an entry of COSTS; of a single run also every iteration's own."""
    label, unit, log = axis_of(cost, runs)
    faint, lines, sound = [], [], []
    for index, run in enumerate(runs):
        style = style_of(index, len(runs))
        curve = ranking.curves[run.name]
        x = costs_of(curve)[cost]
        if not is_shown(x, log):
            continue
        if len(runs) == 1 and curve.reach:
            faint.append(Series.of_curve("each iteration", x, run.columns["loss"], style, log, kind="faint"))
        lines.append(Series.of_curve(run.name, x, curve.loss, style, log, remark=remark_of(run)))
        if run.summary["status"] not in BROKEN:
            sound.append(curve.loss)
    y = value_axis("training loss", lines, sound)
    levels = levels_of(len(runs), ranking, "")
    return LineChart(f"Training loss by {cost}", Axis(label, unit, log), y, [*faint, *lines], levels)


def levels_of(count: int, ranking: Ranking, metric: str) -> list[tuple[float, str]]:
    """The target, if it is of this metric; nothing is counted up to that of a run by itself, unless it was given."""
    target = ranking.target
    if target is None or target.name != metric or not (count > 1 or target.source == "given"):
        return []
    return [(target.value, f"target {significant(target.value)}")]


def metric_chart(runs: Sequence[RunLog], ranking: Ranking, cost: str) -> LineChart:
    """The metric over a cost, an entry of COSTS; without series where there were no evaluations."""
    metric = ranking.metric
    label, unit, log = axis_of(cost, runs)
    series, later = [], []
    for index, run in enumerate(runs):
        at, y = evaluated(run, metric)
        x = np.concatenate([[0.0], costs_of(ranking.curves[run.name])[cost]])[at]
        if not is_shown(x, log):
            continue
        series.append(Series(run.name, x, y, style_of(index, len(runs)), remark=remark_of(run)))
        if run.summary["status"] not in BROKEN:
            warm = at >= _WARM * run.columns["loss"].size
            later.append(y[warm] if warm.sum() >= _ENOUGH else y)
    name = (metric or "evaluations").replace("_", " ")
    y_axis = value_axis(name, series, later, 1.0 if rises(metric) else math.inf)
    levels = levels_of(len(runs), ranking, metric or "evaluations")
    return LineChart(f"{name.capitalize()} by {cost}", Axis(label, unit, log), y_axis, series, levels)


def phase_chart(runs: Sequence[RunLog], ranking: Ranking) -> BarChart:
    """The phases of an iteration, on average over the half of the iterations around the median."""
    bars = []
    for run in runs:
        seconds = run.columns["iteration_s"][run.summary["warmup"] :]
        if seconds.size:
            quarter = seconds.size // 4
            usual = np.argsort(seconds)[quarter : seconds.size - quarter] + run.summary["warmup"]
            parts = [float(run.columns[name][usual].mean()) for name in PHASES]
            bars.append(Bar(run.name, parts, float(run.columns["iteration_s"][usual].mean())))
    return BarChart(
        "Where an iteration's time goes",
        Axis(timed("time", runs), Unit.SECONDS),
        [*PHASES.values()],
        bars,
        "whole iteration",
        "Means over the half of the iterations that is neither fast nor slow, without the warm-up; of each phase's own "
        "slowest rank, so that they may add up to more than the iteration. Elapsed time is less where ranks overlap.",
    )


def bandwidth_chart(times: ByBandwidth, runs: int) -> LineChart:
    """An iteration's time over bandwidth: a line for each method, and points where it was measured.

    Args:
        runs: how many there are in all.
    """
    series = []
    for method in times.methods:
        style = style_of(method.first, runs)
        for kind, points in (("line", method.modelled), ("points", method.measured)):
            if points:
                x, y = np.array(points).T
                series.append(Series(method.name, x, y, style, kind))
    caption = f"Lines are modelled, not measured, for messages of {times.latency}: compute, coding and update as the "
    caption += "runs measured them, without waiting for a core or a slow neighbour."
    if times.elsewhere:
        caption += f" Not shown: {counted(times.elsewhere, 'run')} on links of another latency."
    measured = any(method.measured for method in times.methods)
    return LineChart(
        "Time of an iteration by bandwidth",
        Axis("bandwidth of every rank’s link", Unit.RATE, True),
        Axis("time of an iteration (modelled)", Unit.SECONDS, True),
        series,
        caption=caption,
        measured="whole iterations on links of that bandwidth" if measured else "",
    )


def remark_of(run: RunLog) -> str:
    status = run.summary["status"]
    return "" if status == "ok" else str(status)


#: Needs intervals, which one run does not have.
PARETO = "pareto"
#: Values of `--plot-kind`.
KINDS = (
    "loss",
    *(f"loss-by-{cost}" for cost in COSTS),
    *(f"test-by-{cost}" for cost in COSTS),
    "time-by-bandwidth",
    "phases",
    PARETO,
)


def charts_of(
    kind: str, runs: Sequence[RunLog], ranking: Ranking, calibration: Calibration | None = None
) -> list[Chart]:
    """The charts of one of KINDS that show something, side by side.

    Raises:
        UsageError: no run has anything to draw.
    """
    if kind == PARETO:
        raise UsageError("pareto is of runs over seeds, and these have one seed each", "--plot-kind")
    what, _, cost = kind.partition("-by-")
    charts: list[LineChart | BarChart]
    if what == "loss":
        charts = [loss_chart(runs, ranking, each) for each in ([cost] if cost else COSTS)]
    elif what == "test":
        charts = [metric_chart(runs, ranking, cost)]
    elif what == "time":
        modelled = times_by_bandwidth(runs, calibration)
        charts = [bandwidth_chart(modelled, len(runs))]
        if not modelled.methods:
            raise UsageError(f"there is nothing to model: {'; '.join(modelled.left_out)}", "--plot-kind")
    else:
        charts = [phase_chart(runs, ranking)]
    charts = [chart for chart in charts if (chart.series if isinstance(chart, LineChart) else chart.bars)]
    if not charts:
        missing = "evaluation" if what == "test" else "iteration"
        raise UsageError(f"no run has an {missing} to draw{' that sent bytes' * (cost == 'bytes')}", "--plot-kind")
    return [*charts]


def axis_of(cost: str, runs: Sequence[RunLog]) -> tuple[str, Unit, bool]:
    """An entry of COSTS, whose label names runs with bytes by definition, or with virtual times."""
    label, unit, log = COSTS[cost]
    names = [run.name for run in runs if defined(run.summary["bytes"])]
    if names and unit is Unit.BYTES:
        label += f" ({', '.join(names)}: by definition)"
    return timed(label, runs) if unit is Unit.SECONDS else label, unit, log


def timed(label: str, runs: Sequence[RunLog]) -> str:
    """The label of an axis with times of these runs, which says whose are virtual."""
    names = [run.name for run in runs if run.virtual]
    if not names:
        return label
    return f"{label} (virtual)" if len(names) == len(runs) else f"{label} ({', '.join(names)}: virtual)"


def costs_of(curve: Curve) -> dict[str, Numbers]:
    """Each cost up to and with an iteration (T,), by the names of COSTS."""
    return {"iteration": np.arange(1.0, curve.loss.size + 1), "bytes": curve.bytes_sent, "time": curve.seconds}


def is_shown(x: Numbers, log: bool) -> bool:
    """Some of a cost is on the axis: one rank sends no bytes."""
    return bool((x > 0).any() if log else x.size)
