"""The chart of a claim: its runs' losses, or a figure over what was swept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mpisqueeze.analysis.ranking import BROKEN, curve_of
from mpisqueeze.record.reading import RunLog
from mpisqueeze.report.charts import Axis, Chart, LineChart, Numbers, Series, value_axis
from mpisqueeze.report.palette import style_of
from mpisqueeze.report.run_charts import COSTS
from mpisqueeze.report.scales import Unit


def claim_chart(claim: dict[str, Any], logs: Sequence[RunLog | None]) -> Chart | None:
    """The chart that the claim's `figure` asks for; None where there is nothing to draw.

    Args:
        logs: its runs, in their order.
    """
    figure = claim["figure"]
    if figure is None or not claim["runs"]:
        return None
    names = figure.get("runs") or list(dict.fromkeys(row["run"] for row in claim["runs"]))
    styles = {name: style_of(index, len(names)) for index, name in enumerate(names)}
    chart = _sweep(claim, styles) if figure["kind"] == "sweep" else _losses(claim, logs, styles)
    return chart if chart.is_drawn else None


def _sweep(claim: dict[str, Any], styles: dict[str, int]) -> LineChart:
    """Medians over the seeds, as those that decide."""
    key = claim["figure"]["y"]
    label = claim["figure"].get("label", key)
    series = []
    for name, style in styles.items():
        rows = [row for row in claim["runs"] if row["run"] == name]
        at = sorted({float(row["x"]) for row in rows})
        # A figure that a seed never reaches is beyond all others.
        found = {x: [row.get(key) for row in rows if row["x"] == x] for x in at}
        known = [[y if isinstance(y, int | float) else np.inf for y in found[x]] for x in at]
        values = [float(np.median(numbers)) for numbers in known]
        series.append(Series(name, np.array(at), np.array(values), style))
    words = re.sub(r" \(s\)$", "", label)
    unit = Unit.SECONDS if words != label else Unit.BYTES if label.startswith("bytes") else Unit.NUMBER
    log = claim["figure"].get("log", False)
    # Slopes show on linear axes alone, from 0.
    values = [value for line in series for value in line.y if np.isfinite(value)]
    shows_all = log or max(values, default=0.0) <= 0
    y = Axis(words, unit, log, None if shows_all else (min(0.0, *values), 1.05 * max(values)))
    swept = claim["sweep"] or ""
    title = f"{words[:1].upper()}{words[1:]} by {swept.partition(' (')[0]}"
    return LineChart(title, Axis(swept, log=log), y, series, caption=_seeds(claim))


def _losses(claim: dict[str, Any], logs: Sequence[RunLog | None], styles: dict[str, int]) -> LineChart:
    """Smoothed losses by iteration: the median over the seeds, and faint each seed's."""
    series: list[Series] = []
    sound: list[Numbers] = []
    for name, style in styles.items():
        runs = [log for row, log in zip(claim["runs"], logs, strict=True) if row["run"] == name and log is not None]
        curves = [curve.loss for curve in map(curve_of, runs) if curve.loss.size]
        if not curves:
            continue
        if len(curves) > 1:
            series += (Series(name, np.arange(1.0, loss.size + 1), loss, style, "faint") for loss in curves)
        broken = sum(run.summary["status"] in BROKEN for run in runs)
        remark = f"{broken} of {len(runs)} diverged" if broken and len(runs) > 1 else "diverged" if broken else ""
        shortest = min(loss.size for loss in curves)
        with np.errstate(all="ignore"):
            middle = np.median([loss[:shortest] for loss in curves], axis=0)
        series.append(Series(name, np.arange(1.0, shortest + 1), middle, style, remark=remark))
        if not broken:
            sound.append(middle)
    y = value_axis("training loss, smoothed", [line for line in series if line.kind == "line"], sound)
    label, unit, log = COSTS["iteration"]
    return LineChart("Training loss by iteration", Axis(label, unit, log), y, series, caption=_seeds(claim))


def _seeds(claim: dict[str, Any]) -> str:
    seeds = len({row["seed"] for row in claim["runs"]})
    faint = ", and faint each of them" if claim["figure"]["kind"] == "loss" else ""
    return f"Median over {seeds} seeds{faint}." if seeds > 1 else ""
