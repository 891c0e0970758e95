"""The ranking as a table: its columns, and the text of its cells, for whatever writes it down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from rich.console import Group
from rich.text import Text

from mpisqueeze.analysis import columns
from mpisqueeze.analysis.columns import Column
from mpisqueeze.analysis.ranking import Ranking, verdict
from mpisqueeze.quantities import duration, grouped, ratio, significant, size
from mpisqueeze.record.reading import RunLog
from mpisqueeze.report.tables import DEFINED, STATUS, Fitting, TableColumn, defined
from mpisqueeze.settings import SETTINGS

#: Keys of columns that hold words.
WORDS = ("name", "status")
#: Keys of summaries that say how a run was made, beside its settings.
_RESOLVED = ("mpisqueeze", "ranks", "hosts", "dimension")
_STYLES = {"position": "dim", "name": "bold"}
#: Characters that a method's name is not folded below.
NAME_WIDTH = 28


def table_columns(ranking: Ranking) -> list[TableColumn]:
    """The columns that these runs fill: each figure followed by its factor, the value over the first run's."""
    shown = []
    for column in ranking.columns:
        key, part = column.key, "" if column.kind == "head" else column.kind
        text, name, style = partial(text_of, column), key == "name", _STYLES.get(key, "")
        shown.append(
            TableColumn(column.heading, text, NAME_WIDTH if name else 0, key in WORDS, style, part, folds=name)
        )
        if column.relative:
            shown.append(TableColumn("×", partial(factor, column), style="cyan", part=part, joined=True))
    return shown


def text_of(column: Column, row: Mapping[str, Any]) -> str | Text:
    """A row's cell in a table whose headings name the unit."""
    text = _marked(column, row, _SHOW.get(column.heading) or _UNITS[column.unit])
    return Text(text, STATUS[text][1]) if column.key == "status" else text


def _marked(column: Column, row: Mapping[str, Any], show: Callable[[Any], str]) -> str:
    """A row's value; bytes that were not counted with a mark, which `meaning_of_marks` explains."""
    value = column.of(row)
    return _shown(value, show) + (DEFINED if value is not None and column.unit == "bytes" and is_defined(row) else "")


def is_defined(row: Mapping[str, Any]) -> bool:
    """The bytes of a row are by definition."""
    return bool(defined(row["bytes"]))


def meaning_of_marks(ranking: Ranking) -> str:
    """A sentence on bytes that are not counted; empty where all are."""
    names = [row["name"] for row in ranking.rows if is_defined(row)]
    if not names:
        return ""
    return f"{DEFINED} Bytes of {', '.join(names)}: by definition; what MPI_Allreduce moves is the library's choice."


def factor(column: Column, row: Mapping[str, Any]) -> str:
    """A row's value over the first run's."""
    return "—" if column.of(row) is None else _shown(row["relative"][column.key], compact_ratio)


def in_unit(column: Column, row: Mapping[str, Any]) -> str:
    """A row's value with its unit, for tables whose headings do not name it."""
    return _marked(column, row, _UNITS[column.unit])


def settings_of(run: RunLog) -> dict[str, Any]:
    """A run's settings, and the name and the parameters of each of its parts: `algorithm_eta`; None where unknown."""
    config, summary = run.config, run.summary
    given = {name: config.get(name, summary.get(name)) for name in SETTINGS if name != "out"}
    parts = {
        f"{kind}_{key}": value
        for kind, part in config.get("parts", {}).items()
        for key, value in {"name": part["name"], **part.get("parameters", {})}.items()
    }
    return {**{name: summary.get(name) for name in _RESOLVED}, **given, **parts, "device": summary.get("device")}


def figures_of(runs: Sequence[RunLog], ranking: Ranking) -> list[dict[str, Any]]:
    """The ranking in full for a spreadsheet: settings, bytes and seconds, and `relative_…` over the first run's."""
    metrics = list(dict.fromkeys(name for row in ranking.rows for name in row["evaluation"]))
    plain = ("shown_to_fail", "final_loss", "iterations", "bytes", "virtual", "iterations_to_target")
    keys = [*(column.key for column in columns.NUMBERS), *plain]
    relative = [column.key for column in columns.NUMBERS if column.relative]
    target = ranking.target.as_json() if ranking.target else dict.fromkeys(("name", "value"))
    settings = {run.name: settings_of(run) for run in runs}
    known = dict.fromkeys(name for own in settings.values() for name in own)
    return [
        {
            **{key: row[key] for key in ("position", *WORDS)},
            **{name: settings[row["name"]].get(name) for name in known},
            **{key: row[key] for key in keys},
            **{f"relative_{key}": row["relative"][key] for key in relative},
            **{metric: row["evaluation"].get(metric) for metric in metrics},
            **{f"target_{key}": value for key, value in target.items()},
            "run_folder": row["run_folder"],
        }
        for row in ranking.rows
    ]


def notes(ranking: Ranking) -> list[str]:
    """The order and the meaning of the columns, what the runs do not have in common, and the winners."""
    meaning = (
        f"{ranking.order}; loss: {ranking.smoothing}; ×: of {ranking.reference}'s; ms/it: elapsed, without warm-up"
    )
    if ranking.target:
        meaning += f"; target: {ranking.target} ({ranking.target.source}); time to it: with warm-up"
    marks = meaning_of_marks(ranking)
    # Ranks whose models drift apart fit their own samples better than any common model does.
    gossip = ["gossip: a loss is the mean over ranks, each with its own model; what was tested is their average"]
    return [
        *(f"warning: {text}" for text in ranking.differences),
        *([f"link: {ranking.network}"] if ranking.network else []),
        meaning,
        *([marks] if marks else []),
        *(gossip if ranking.gossips else []),
        *filter(None, [ranking.doubt_on_times]),
        *(verdict(ranking) if len(ranking.rows) > 1 else []),
        # The closing tables of a single run have them.
        *(f"warning: {text}" for text in (ranking.warnings if len(ranking.rows) > 1 else [])),
        *(f"{row['name']} {row['status']}: {row['reason'].splitlines()[0]}" for row in ranking.rows if row["reason"]),
    ]


def comparison_report(ranking: Ranking) -> Group:
    """The ranking for a terminal or a log: one table, or several where one would be too wide."""
    return Group(Fitting(table_columns(ranking), ranking.rows), *map(note, notes(ranking)))


def note(text: str) -> Text:
    """A note below a table."""
    return Text(text, "yellow" if text.startswith("warning: ") else "")


def _shown(value: Any, show: Callable[[Any], str]) -> str:
    return "—" if value is None else show(value)


def compact_ratio(value: float) -> str:
    """A factor in a column of them: `0.43×`, `1.02×`."""
    return ratio(value) if value >= 1 else f"{significant(value, 2)}×"


_UNITS: dict[str, Callable[[Any], str]] = {
    "s": duration,
    "bytes": size,
    "count": grouped,
    "": partial(significant, digits=4),
}
#: Headings that say more than the unit.
_SHOW: dict[str, Callable[[Any], str]] = {
    "method": str, "status": str, "ms/it": lambda value: significant(1e3 * value),
}  # fmt: skip
