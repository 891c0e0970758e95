"""The page of pairs over seeds: the verdict with its intervals, the plots with bands, and each run by its seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mpisqueeze.analysis.intervals import LEVEL
from mpisqueeze.analysis.seeds import COSTS, TO_TARGET, Pooled, SeededPair
from mpisqueeze.quantities import counted, duration, significant, size
from mpisqueeze.record.calibration import Calibration
from mpisqueeze.record.reading import SMOOTHED
from mpisqueeze.report.charts import Chart
from mpisqueeze.report.comparison_table import in_unit
from mpisqueeze.report.html.blocks import Chapter, Page, Table, TableCell, Tile
from mpisqueeze.report.html.provenance import environment, settings
from mpisqueeze.report.html.run_page import lead
from mpisqueeze.report.palette import style_of
from mpisqueeze.report.run_charts import COSTS as AXES
from mpisqueeze.report.run_charts import bandwidth_chart
from mpisqueeze.report.seeds_charts import bandwidth_of, loss_band_chart, metric_band_chart, pareto_chart, phases_chart
from mpisqueeze.report.seeds_table import ALIKE, chosen_of, interval_text, notes_beside, ratio_text, seeds_of


def seeds_page(pooled: Pooled, calibration: Calibration | None = None) -> Page:
    """The page of pairs over seeds.

    Args:
        calibration: a network's, for the latency that times by bandwidth are modelled with.
    """
    pairs = [*pooled.pairs.values()]
    styles = {pair.name: style_of(index, len(pairs)) for index, pair in enumerate(pairs)}
    runs = [run for pair in pairs for run in pair.runs]
    title = f"Comparison of {counted(len(pairs), 'pair')} over seeds"
    if not pairs:
        facts = {"note": " ".join(pooled.verdict())}
        return Page(title, "", [Chapter("", "drawings", facts)])
    first_runs = [replace(pair.runs[0], name=pair.name) for pair in pairs]
    losses = [chart for chart in (loss_band_chart(pooled, cost) for cost in AXES) if chart.is_drawn]
    tests = [chart for chart in (metric_band_chart(pooled, cost) for cost in AXES) if chart.is_drawn]
    sections = [
        _comparison(pooled, styles),
        Chapter("Training loss", "drawings", {"note": f"Smoothed: {pooled.ranking.smoothing}."}, losses),
        Chapter("Test", "drawings", {"note": ""}, tests) if tests else None,
        _time(pooled, calibration),
        Chapter("Settings", "settings", settings(first_runs, styles)),
        Chapter("Environment", "environment", environment(runs)),
    ]
    unwell = sum(status != "ok" for pair in pairs for status in pair.status)
    badge = f"{counted(unwell, 'run')} not finished well" if unwell else ""
    return Page(title, lead(runs), [section for section in sections if section and section.facts], badge)


def _comparison(pooled: Pooled, styles: dict[str, int]) -> Chapter:
    target = pooled.target.said(3).replace("_", " ") if pooled.target else ""
    tiles = []
    for win in pooled.wins():
        found = win.pair.relative[next(key for key, title, _, _ in COSTS if title == win.title)]
        figure = win.cost if found.ratio is None else ratio_text(found)
        tiles.append(Tile(f"{win.title} to {target}", figure, f"{win.pair.name}: {win.cost}, {win.said}",
                          styles[win.pair.name]))  # fmt: skip
    meaning = (
        f"Medians over seeds; a run that missed the target counts as ∞. Small figures: × of {pooled.first.name}’s, the "
        f"geometric mean of ratios paired by seed, with its {100 * LEVEL:g} % interval (Student’s t on their "
        f"logarithms). {ALIKE}: not distinguishable, as the interval holds 1. Loss: {pooled.ranking.smoothing}. "
        "Iteration: elapsed time, without the warm-up; time to target with it."
    )
    if pooled.target:
        meaning += f" Target: {pooled.target}, {pooled.target.source}."
    pareto = pareto_chart(pooled)
    facts = {
        "tiles": tiles,
        "differences": pooled.ranking.differences,
        "verdict": pooled.verdict(),
        "ranking": _table(pooled, styles),
        "notes": [meaning, *notes_beside(pooled)],
        "warnings": pooled.ranking.warnings,
        "seeds": _seeds(pooled, styles),
    }
    return Chapter("", "pooled", facts, [pareto] if len(pareto.points) > 1 and not pooled.stopped else [])


def _table(pooled: Pooled, styles: dict[str, int]) -> Table:
    columns = [column for column in pooled.ranking.columns if column.kind != "head"]
    titles = ["method", *(["chosen"] if pooled.chosen else []), "seeds", *(column.title for column in columns)]
    rows: list[Sequence[TableCell | str]] = []
    for row in pooled.ranking.rows:
        pair = pooled.pairs[row["name"]]
        badge = "shown to fail" if pair.shown_to_fail else ""
        cells: list[TableCell | str] = [TableCell(pair.name, style=styles[pair.name], badge=badge)]
        cells += [chosen_of(pooled, pair)] if pooled.chosen else []
        cells.append(seeds_of(pair))
        for column in columns:
            found = pair.relative.get(column.key) if column.relative and pair is not pooled.first else None
            # Misses are told of the costs to the target alone.
            shown = found and (column.key in TO_TARGET or not found.missed)
            detail = f"{ratio_text(found)} {interval_text(found)}".strip() if found and shown else ""
            cells.append(TableCell(in_unit(column, row), detail.replace("—", "")))
        rows.append(cells)
    order = pooled.ranking.order
    caption = f"{order[0].upper()}{order[1:]}, by medians."
    return Table(titles, rows, caption, left=(0, 1) if pooled.chosen else (0,))


def _seeds(pooled: Pooled, styles: dict[str, int]) -> Table:
    """A row a pair and seed: what an interval is made of, and where it lies."""
    metric = pooled.ranking.metric or SMOOTHED
    shown: tuple[tuple[str, Any], ...] = (
        ("time_to_target_s", duration),
        ("bytes_to_target", size),
        ("iterations_to_target", lambda value: significant(value, 4)),
        (metric, lambda value: significant(value, 4)),
    )
    rows: list[Sequence[TableCell | str]] = []
    for pair in pooled.pairs.values():
        for at, seed in enumerate(pair.seeds):
            status = pair.status[at]
            name = TableCell(pair.name, style=styles[pair.name], badge="" if status == "ok" else status)
            values = ((pair.each[key][at], show) for key, show in shown if key in pair.each)
            cells = ["—" if value is None else show(value) for value, show in values]
            cells += ["—"] * (len(shown) - len(cells))
            rows.append([name, str(seed), *cells, _folders(pair, seed)])
    titles = ["method", "seed", "time to target", "bytes to target", "iterations", f"final {metric.replace('_', ' ')}"]
    return Table([*titles, "run folder"], rows, left=(0, 6))


def _folders(pair: SeededPair, seed: int) -> str:
    return ", ".join(str(run.path or "—") for run in pair.runs_of(seed))


def _time(pooled: Pooled, calibration: Calibration | None) -> Chapter | None:
    phases = phases_chart(pooled)
    if not phases.bars:
        return None
    times = bandwidth_of(pooled, calibration)
    charts: list[Chart] = [phases, *([bandwidth_chart(times, len(pooled.pairs))] if times.methods else [])]
    networks = sorted({run.network for pair in pooled.pairs.values() for run in pair.runs})
    note = " ".join(filter(None, [f"Network: {'; '.join(networks)}.", pooled.ranking.doubt_on_times]))
    return Chapter("Time", "times", {"note": note, "phases": None, "left_out": times.left_out}, charts)
