"""The page of finished runs: who wins and by how much, the plots, the settings and the machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mpisqueeze.analysis.columns import RECORDED, rises
from mpisqueeze.analysis.ranking import BROKEN, Ranking, verdict, winners
from mpisqueeze.modelling.bandwidth import times_by_bandwidth
from mpisqueeze.quantities import counted, duration, grouped, ratio, significant, size
from mpisqueeze.record.calibration import Calibration
from mpisqueeze.record.figures import TIMES
from mpisqueeze.record.reading import RunLog
from mpisqueeze.report.charts import Chart
from mpisqueeze.report.closing import traffic, traffic_note, traffic_title
from mpisqueeze.report.comparison_table import factor, in_unit, meaning_of_marks
from mpisqueeze.report.html.blocks import Chapter, Page, Table, TableCell, Tile
from mpisqueeze.report.html.provenance import NAMED, environment, settings
from mpisqueeze.report.palette import style_of
from mpisqueeze.report.run_charts import bandwidth_chart, loss_chart, metric_chart, phase_chart
from mpisqueeze.report.tables import STATUS, defined


def runs_page(runs: Sequence[RunLog], ranking: Ranking, calibration: Calibration | None = None) -> Page:
    """The page of at least one run.

    Args:
        calibration: a network's, for the latency that times by bandwidth are modelled with.
    """
    styles = {run.name: style_of(index, len(runs)) for index, run in enumerate(runs)}
    single = len(runs) == 1
    sections = [
        _single(runs[0]) if single else _comparison(runs, ranking, styles),
        _loss(runs, ranking),
        _test(runs, ranking),
        _time(runs, ranking, calibration),
        Chapter("Settings", "settings", settings(runs, styles)),
        Chapter("Environment", "environment", environment(runs)),
    ]
    unwell = Counter(STATUS[run.summary["status"]][0] for run in runs if run.summary["status"] != "ok")
    badge = ", ".join(f"{count} {status}" for status, count in unwell.items())
    title = f"Comparison of {len(runs)} runs"
    if single:
        title, badge = runs[0].name, "".join(unwell)
    return Page(title, lead(runs), [section for section in sections if section and section.facts], badge)


def lead(runs: Sequence[RunLog]) -> str:
    """The settings that all runs share, in a line."""

    def shared(key: str) -> Any:
        values = {run.summary.get(key) for run in runs}
        return values.pop() if len(values) == 1 else None

    keys = ("problem", "data", "dimension", "ranks", "hosts", "workers")
    problem, data, dimension, ranks, hosts, workers = map(shared, keys)
    parts = []
    if problem:
        parts.append(f"{problem} on {data}" if data else str(problem))
    if dimension:
        parts.append(f"{grouped(dimension)} parameters of {shared('dtype') or 'mixed types'}")
    if workers and shared("virtual"):
        parts.append(counted(workers, "virtual worker"))
    elif ranks:
        parts.append(counted(ranks, "rank") + (f" on {counted(hosts, 'host')}" if hosts else ""))
    links = {run.network for run in runs if run.environment.get("link", "real") != "real"}
    if links:
        parts.append(f"link: {links.pop()}" if len(links) == 1 else f"{len(links)} links, emulated or of a lab")
    return "; ".join(parts)


def _virtual(about: Mapping[str, Any]) -> str:
    """A mark for times of virtual workers."""
    return " (virtual)" if about.get("virtual") else ""


def _comparison(runs: Sequence[RunLog], ranking: Ranking, styles: dict[str, int]) -> Chapter:
    target = ranking.target.said(3) if ranking.target else ""
    tiles = []
    for winner in winners(ranking):
        name = winner.row["name"]
        tiles.append(
            Tile(f"{winner.title} to {target.replace('_', ' ')}", winner.cost,
                 f"{name}{winner.beats}", styles[name])
        )  # fmt: skip
    sound = [row for row in ranking.rows if row["status"] not in BROKEN]
    tiles += _best_metric(ranking, sound, styles)
    fastest = RECORDED["elapsed_s"].best_of(ranking.rows)
    if fastest:
        best = ranking.row(fastest[0])
        pace = duration(best["elapsed_s_per_iteration"])
        tiles.append(Tile(f"Fastest iteration{_virtual(best)}", pace, best["name"], styles[best["name"]]))
    # Where the tiles say who won, nothing else needs to.
    said = [] if winners(ranking) else verdict(ranking)
    said += (f"{row['name']} {STATUS[row['status']][0]}: {row['reason']}" for row in ranking.rows if row["reason"])
    facts = {
        "tiles": tiles,
        "differences": ranking.differences,
        "ranking": _ranking_table(runs, ranking, styles),
        "meaning": _meaning(ranking),
    }
    return Chapter("", "comparison", {**facts, "said": said, "warnings": ranking.warnings})


def _meaning(ranking: Ranking) -> str:
    """The meaning of the table's columns."""
    text = f"Training loss: {ranking.smoothing}. Iteration: elapsed time, without the warm-up; time to target with it."
    if ranking.target:
        text += f" Target: {ranking.target}, {ranking.target.source}."
    failing = [row["name"] for row in ranking.rows if row["shown_to_fail"]]
    if failing:
        text += f" Shown to fail, and not among the fastest iterations: {', '.join(failing)}."
    text += f" {meaning_of_marks(ranking)}".rstrip()
    if ranking.gossips:
        text += " Of gossip methods, a loss is the mean over ranks, each with its own model; their average is tested."
    return text


def _best_metric(ranking: Ranking, sound: Sequence[dict[str, Any]], styles: dict[str, int]) -> list[Tile]:
    metric = ranking.metric
    values = {row["name"]: row["evaluation"].get(metric) for row in sound}
    known = {name: value for name, value in values.items() if isinstance(value, int | float)}
    if not known:
        return []
    more = rises(metric)
    best = max(known.values()) if more else min(known.values())
    names = [name for name, value in known.items() if value == best]
    rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
    title = f"{'Highest' if more else 'Lowest'} {metric.replace('_', ' ')}"
    return [Tile(title, significant(best, 4), names[0] + rest, styles[names[0]])]


def _ranking_table(runs: Sequence[RunLog], ranking: Ranking, styles: dict[str, int]) -> Table:
    """The terminal's table, its factors below their figures, and bytes saved against plain sgd besides."""
    summaries = {run.name: run.summary for run in runs}
    columns = [column for column in ranking.columns if column.kind != "head"]
    best = {column.key: column.best_of(ranking.rows) for column in columns}
    titles = ["method"]
    for column in columns:
        titles += [column.title, "bytes saved"] if column.key == "bytes_sent" else [column.title]
    rows: list[list[TableCell | str]] = []
    for row in ranking.rows:
        name = row["name"]
        badge = "" if row["status"] == "ok" else STATUS[row["status"]][0]
        cells: list[TableCell | str] = [TableCell(name, style=styles[name], badge=badge)]
        for column in columns:
            detail = factor(column, row).replace("—", "") if column.relative else ""
            cells.append(TableCell(in_unit(column, row), detail, best=name in best[column.key]))
            if column.key == "bytes_sent":
                cells.append(_saved(summaries[name]))
        rows.append(cells)
    caption = (
        f"{ranking.order[0].upper()}{ranking.order[1:]}. Small figures: × of {ranking.reference}’s. "
        "Saved: against plain sgd. Bold: the column’s best."
    )
    return Table(titles, rows, caption)


def _saved(summary: dict[str, Any]) -> TableCell:
    percent = summary.get("percent_saved_vs_sgd")
    if percent is None:
        return TableCell("—")
    return TableCell(
        f"{percent:.1f} %".replace("-", "−"), f"{ratio(summary['ratio_vs_sgd'])} fewer" if percent > 0 else ""
    )


def _single(run: RunLog) -> Chapter:
    summary = run.summary
    tiles = []
    saved = _saved(summary)
    if saved.text != "—":
        detail = f"{size(summary['bytes_sent'])}{defined(summary['bytes'])}, not {size(summary['sgd_bytes_sent'])}"
        fewer = f", {saved.detail}" if saved.detail else ""
        tiles.append(Tile("Bytes saved against plain sgd", saved.text, f"{detail}{fewer}"))
    loss = summary["final_loss"]
    tiles.append(Tile("Training loss", "—" if loss is None else significant(loss, 4), "of the last iteration"))
    for name, value in list((summary["evaluation"] or {}).items())[:3]:
        if isinstance(value, int | float):
            tiles.append(Tile(name.replace("_", " ").capitalize(), significant(value, 4), "of the last evaluation"))
    pace, times = summary["elapsed_s_per_iteration"], summary["times"]["iteration_s"]
    if pace is not None:
        slowest = f"slowest rank: median {duration(times['median'])}, p99 {duration(times['p99'])}"
        tiles.append(Tile(f"Iteration{_virtual(summary)}", duration(pace), slowest))
    done = f"{grouped(summary['iterations'])} of {grouped(run.planned)} iterations"
    took = f" in {duration(summary['wall_s'])}" if summary["wall_s"] is not None else ""
    reason = f": {summary['reason']}" if summary["reason"] else ""
    well = summary["status"] == "ok"
    rows = [*traffic(summary), ("messages", grouped(summary["messages"]), "—")]
    facts = {
        "failure": "" if well else f"{STATUS[summary['status']][0].capitalize()} after {done}{reason}",
        "warnings": summary.get("warnings") or [],
        "tiles": tiles,
        "finished": f"{done}{took}." if well else "",
        "sent": Table([f"{traffic_title(summary)}, all ranks", run.name, "plain sgd"], rows, traffic_note(summary)),
    }
    return Chapter("", "single", facts)


def _loss(runs: Sequence[RunLog], ranking: Ranking) -> Chapter:
    charts = [loss_chart(runs, ranking, cost) for cost in ("iteration", "bytes", "time")]
    charts = [chart for chart in charts if chart.is_drawn]
    note = ""
    if not any(run.columns["loss"].size for run in runs):
        note = "No run has an iteration."
    elif not charts:
        note = "It takes two iterations to draw a line."
    # A mean over as few iterations as this is what it is.
    elif ranking.reaches[1]:
        note = f"Lines: {ranking.smoothing}."
        note += " Faint: each iteration by itself." if len(runs) == 1 else ""
    return Chapter("Training loss", "drawings", {"note": note}, charts)


def _test(runs: Sequence[RunLog], ranking: Ranking) -> Chapter | None:
    charts = [metric_chart(runs, ranking, cost) for cost in ("iteration", "bytes")]
    charts = [chart for chart in charts if chart.is_drawn]
    note = "Of gossip methods the mean of the ranks’ models is tested." if ranking.gossips else ""
    return Chapter("Test", "drawings", {"note": note}, charts) if charts else None


def _time(runs: Sequence[RunLog], ranking: Ranking, calibration: Calibration | None) -> Chapter | None:
    phases = phase_chart(runs, ranking)
    if not phases.bars:
        return None
    charts: list[Chart] = [phases]
    networks = sorted({run.network for run in runs})
    known = f"Networks: {'; '.join(networks)}" if len(networks) <= NAMED else f"{len(networks)} networks"
    by_bandwidth = times_by_bandwidth(runs, calibration)
    if by_bandwidth.methods:
        charts.append(bandwidth_chart(by_bandwidth, len(runs)))
    notes = [f"Network: {networks[0]}." if len(networks) == 1 else f"{known}.", ranking.doubt_on_times]
    facts = {
        "note": " ".join(filter(None, notes)),
        "phases": _time_table(runs),
        "left_out": by_bandwidth.left_out,
    }
    return Chapter("Time", "times", facts, charts)


def _time_table(runs: Sequence[RunLog]) -> Table:
    """Median and p99 of each phase."""
    rows = []
    for index, run in enumerate(runs):
        times = run.summary["times"]
        if times["iteration_s"]["median"] is not None:
            cells = [TableCell(duration(times[name]["median"]), duration(times[name]["p99"])) for name in TIMES]
            rows.append([TableCell(run.name, style=style_of(index, len(runs))), *cells])
    return Table(["", *TIMES.values()], rows, "Medians. Small figures: the 99th percentile.")
