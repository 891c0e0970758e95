"""Pairs over seeds as a table: medians, ratios to the first pair with their intervals, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from rich.console import Group

from mpisqueeze.analysis.columns import NUMBERS
from mpisqueeze.analysis.intervals import LEVEL, Ratio
from mpisqueeze.analysis.seeds import TO_TARGET, Pooled, SeededPair
from mpisqueeze.quantities import counted, significant
from mpisqueeze.report.comparison_table import (
    NAME_WIDTH,
    compact_ratio,
    meaning_of_marks,
    note,
    settings_of,
    text_of,
)
from mpisqueeze.report.tables import Fitting, TableColumn

#: Before a ratio whose interval holds 1.
ALIKE = "≈"
#: Columns whose ratios stand with their intervals; those of other columns are in files.
_WITH_INTERVAL = TO_TARGET

Row = Mapping[str, Any]


def seeds_report(pooled: Pooled) -> Group:
    """Pairs over seeds for a terminal or a log: one table, or several where one would be too wide."""
    table = [Fitting(table_columns(pooled), pooled.ranking.rows)] if pooled.pairs else []
    return Group(*table, *map(note, notes(pooled)))


def table_columns(pooled: Pooled) -> list[TableColumn]:
    """The columns that these pairs fill: each figure's median followed by the ratio to the first pair's, and for costs
    by the ends of its interval."""
    pairs = pooled.pairs
    shown = []
    for column in pooled.ranking.columns:
        if column.key == "status":
            continue
        part, name = "" if column.kind == "head" else column.kind, column.key == "name"
        shown.append(
            TableColumn(column.heading, partial(text_of, column), NAME_WIDTH if name else 0, name,
                        {"position": "dim", "name": "bold"}.get(column.key, ""), part, folds=name)
        )  # fmt: skip
        if name:
            if pooled.chosen:
                shown.append(TableColumn("chosen", lambda row: chosen_of(pooled, pairs[row["name"]]), left=True))
            shown.append(TableColumn("seeds", lambda row: seeds_of(pairs[row["name"]])))
        if column.relative:
            key = column.key
            shown.append(TableColumn("×", partial(_ratio, pooled, key), style="cyan", part=part, joined=True))
            if key in _WITH_INTERVAL:
                shown.append(
                    TableColumn(
                        f"{100 * LEVEL:g} %", partial(_interval, pooled, key), style="dim", part=part, joined=True
                    )
                )
    return shown


def chosen_of(pooled: Pooled, pair: SeededPair) -> str:
    """The tuned settings: `lr=0.3`."""
    settings = pair.settings
    return " ".join(f"{name.replace('_', '-')}={settings[name]}" for name in pooled.chosen if name in settings) or "—"


def seeds_of(pair: SeededPair) -> str:
    """The number of seeds, and what became of those that did not end well: `5, 1 diverged`."""
    unwell = [status for status in pair.status if status != "ok"]
    counts = [f"{unwell.count(status)} {status}" for status in dict.fromkeys(unwell)]
    return ", ".join([str(len(pair.seeds)), *counts])


def ratio_text(found: Ratio) -> str:
    """`0.43×`, `≈1.02×` where the interval holds 1, `missed 2 of 5`; a dash where the first pair lacks a value."""
    if found.missed:
        return f"missed {found.missed} of {found.of}"
    if found.ratio is None:
        return "—"
    return f"{ALIKE if found.distinguishable is False else ''}{compact_ratio(found.ratio)}"


def interval_text(found: Ratio) -> str:
    """`0.38–0.50`; empty without an interval."""
    if found.low is None or found.high is None:
        return ""
    return f"{significant(found.low, 3)}–{significant(found.high, 3)}"


def _ratio(pooled: Pooled, key: str, row: Row) -> str:
    found = pooled.pairs[row["name"]].relative[key]
    if row["name"] == pooled.ranking.reference:
        return f"missed {found.missed} of {found.of}" if found.missed else "1.00×"
    # Misses are told of the costs to the target alone.
    return ratio_text(found) if key in TO_TARGET or not found.missed else "—"


def _interval(pooled: Pooled, key: str, row: Row) -> str:
    return "" if row["name"] == pooled.ranking.reference else interval_text(pooled.pairs[row["name"]].relative[key])


def notes(pooled: Pooled) -> list[str]:
    """The order and the meaning of the columns, what the runs do not have in common, and the verdict."""
    ranking = pooled.ranking
    if not pooled.pairs:
        return [*_left_out(pooled), *pooled.verdict()]
    meaning = (
        f"{ranking.order}; medians over seeds, of which a miss is ∞; loss: {ranking.smoothing}; ×: of "
        f"{ranking.reference}'s, the geometric mean of ratios paired by seed, with its {100 * LEVEL:g} % interval "
        f"(Student's t on their logarithms); {ALIKE}: not distinguishable, as the interval holds 1; "
        "ms/it: elapsed, without warm-up"
    )
    if ranking.target:
        meaning += f"; target: {ranking.target} ({ranking.target.source}); time to it: with warm-up"
    return [
        *(f"warning: {text}" for text in ranking.differences),
        *([f"link: {ranking.network}"] if ranking.network else []),
        meaning,
        *notes_beside(pooled),
        *pooled.verdict(),
        *(f"warning: {text}" for text in ranking.warnings),
        *(
            f"{pair.name} seed {seed} {status}: {_reason(pair, seed)}"
            for pair in pooled.ordered
            for seed, status in zip(pair.seeds, pair.status, strict=True)
            if status != "ok"
        ),
    ]


def notes_beside(pooled: Pooled) -> list[str]:
    """Notes on the figures, besides their meaning: marks, gossip, runs left out, chance."""
    ranking, many = pooled.ranking, len(pooled.others)
    marks = meaning_of_marks(ranking)
    gossip = ["gossip: a loss is the mean over ranks, each with its own model; what was tested is their average"]
    chance = (
        f"Each interval is of one comparison: of {many} between equals, {many * (1 - LEVEL):.2g} exclude 1 on average."
    )
    return [
        *([marks] if marks else []),
        *(gossip if ranking.gossips else []),
        *filter(None, [ranking.doubt_on_times]),
        *(["Runs ended at the target: losses and metrics are those there."] if pooled.stopped else []),
        *_left_out(pooled),
        *([chance] if many > 1 else []),
    ]


def _left_out(pooled: Pooled) -> list[str]:
    """A sentence on runs that did not finish, and one on seeds that not all pairs have."""
    found = [f"{counted(number, 'run')} of {name}" for name, number in pooled.unfinished.items()]
    said = [f"Left out, as they did not finish: {', '.join(found)}."] if found else []
    fewer = [pair for pair in pooled.others if pair.seeds != pooled.first.seeds]
    if fewer:
        shared = [f"{pair.name} {pair.relative[TO_TARGET[0]].of}" for pair in fewer]
        said.append(
            f"Paired are the seeds that {pooled.first.name} has, too; in common have with it: {', '.join(shared)}."
        )
    return said


def _reason(pair: SeededPair, seed: int) -> str:
    reasons = (run.summary["reason"] for run in pair.runs_of(seed))
    return next((reason.splitlines()[0] for reason in reasons if reason), "no reason recorded")


def figures_of(pooled: Pooled) -> list[dict[str, Any]]:
    """The comparison in full for a spreadsheet, a row a pair, best first.

    Of each figure there are the median, `…_each` (of each seed, with blanks between), and where it is compared
    `relative_…`, its `…_low` and `…_high` and whether the interval is `…_distinguishable`.
    """
    target = pooled.target.as_json() if pooled.target else dict.fromkeys(("name", "value"))
    rows = []
    for row in pooled.ranking.rows:
        pair = pooled.pairs[row["name"]]
        settings = {key: value for key, value in settings_of(pair.runs[0]).items() if key != "seed"}
        about: dict[str, Any] = {"position": row["position"], "name": pair.name, **settings}
        about |= {"seeds": _together(pair.seeds), "status": _together(pair.status), "missed": pair.missed}
        about |= {"shown_to_fail": pair.shown_to_fail, "bytes": row["bytes"]}
        for key in (*(column.key for column in NUMBERS), "iterations_to_target", *pair.metrics):
            about |= {f"{key}_median": pair.middle(key), f"{key}_each": _together(pair.each[key])}
        for key, found in pair.relative.items():
            about |= {
                f"relative_{key}": found.ratio, f"relative_{key}_low": found.low, f"relative_{key}_high": found.high,
                f"relative_{key}_distinguishable": found.distinguishable,
            }  # fmt: skip
        for key, gap in pair.differences.items():
            about |= {f"difference_{key}": gap.difference, f"difference_{key}_low": gap.low}
            about |= {f"difference_{key}_high": gap.high}
        about |= {f"target_{key}": value for key, value in target.items()}
        rows.append({**about, "run_folders": " ".join(run.summary["run_folder"] or "" for run in pair.runs)})
    return rows


def _together(values: Any) -> str:
    return " ".join("∞" if value is None else str(value) for value in values)
