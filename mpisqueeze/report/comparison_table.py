"""The ranking as a table: its columns, and the text of its cells, for whatever writes it down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mpisqueeze.analysis import columns
from mpisqueeze.analysis.columns import Column
from mpisqueeze.analysis.ranking import Ranking, verdict
from mpisqueeze.quantities import duration, grouped, ratio, significant, size
from mpisqueeze.report.tables import close_table

STATUS_STYLES = {
    "ok": "green",
    "running": "bold",
    "interrupted": "yellow",
    "killed": "yellow",
    "diverged": "bold red",
    "failed": "bold red",
}

#: Keys of columns that hold words.
WORDS = ("name", "status")
_STYLES = {"position": "dim", "name": "bold"}
#: Characters that a method's name is not folded below.
_NAME_WIDTH = 28
_UNBOUNDED = 10_000


@dataclass(frozen=True)
class Shown:
    """A column as people see it, or its `factor`, a row's value over the first run's."""

    column: Column
    factor: bool = False

    @property
    def title(self) -> str:
        return "×" if self.factor else self.column.heading

    @property
    def left(self) -> bool:
        """Its cells are words."""
        return self.column.key in WORDS

    def cell(self, row: Mapping[str, Any]) -> str:
        if self.factor:
            value, show = row["relative"][self.column.key], _compact_ratio
            return "—" if self.column.of(row) is None else _shown(value, show)
        return _shown(self.column.of(row), _SHOW.get(self.column.heading) or _UNITS[self.column.unit])


def in_unit(column: Column, row: Mapping[str, Any]) -> str:
    """A row's value with its unit, for tables whose headings do not name it."""
    return _shown(column.of(row), _UNITS[column.unit])


def columns_of(ranking: Ranking) -> list[Shown]:
    """The columns that these runs fill: each figure followed by what it is of the first run's."""
    shown = []
    for column in columns.columns_of(ranking):
        shown += [Shown(column), Shown(column, True)] if column.relative else [Shown(column)]
    return shown


def figures_of(ranking: Ranking) -> list[dict[str, Any]]:
    """The ranking in full for a spreadsheet: bytes and seconds, and `relative_…` over those of the first run."""
    metrics = list(dict.fromkeys(name for row in ranking.rows for name in row["evaluation"]))
    plain = ("final_loss", "iterations", "iterations_to_target")
    keys = ["position", *WORDS, *(column.key for column in columns.NUMBERS), *plain]
    relative = [column.key for column in columns.NUMBERS if column.relative]
    return [
        {
            **{key: row[key] for key in keys},
            **{f"relative_{key}": row["relative"][key] for key in relative},
            **{metric: row["evaluation"].get(metric) for metric in metrics},
            "target_loss": ranking.target_loss,
            "run_folder": row["run_folder"],
        }
        for row in ranking.rows
    ]


def notes(ranking: Ranking) -> list[str]:
    """The meaning of the columns, and the winners."""
    meaning = f"loss: {ranking.smoothing}; ×: of {ranking.reference}'s; ms/it: median"
    if ranking.target_loss is not None:
        meaning += f"; target: loss {significant(ranking.target_loss, 4)} ({ranking.target_is})"
    # Ranks whose models drift apart fit their own samples better than any common model does.
    gossip = ["gossip: a loss is the mean over ranks, each with its own model; what was tested is their average"]
    return [
        meaning,
        *(gossip if ranking.gossips else []),
        *(verdict(ranking) if len(ranking.rows) > 1 else []),
        *(f"{row['name']} {row['status']}: {row['reason'].splitlines()[0]}" for row in ranking.rows if row["reason"]),
    ]


def comparison_report(ranking: Ranking, console: Console) -> Group:
    """The ranking for a terminal or a log: one table, or two where one would be too wide."""
    shown = columns_of(ranking)
    whole = _table(ranking, shown)
    parts: list[RenderableType] = [whole]
    if _least_width(whole, console) > console.width:
        parts = [
            _table(ranking, [each for each in shown if each.column.kind in ("head", kind)])
            for kind in ("quality", "cost")
        ]
    return Group(*parts, *(Text(note) for note in notes(ranking)))


def _table(ranking: Ranking, shown: Sequence[Shown]) -> Table:
    table = close_table()
    longest = max(len(row["name"]) for row in ranking.rows)
    for each in shown:
        key = each.column.key
        table.add_column(
            each.title,
            justify="left" if each.left else "right",
            style="cyan" if each.factor else _STYLES.get(key, ""),
            no_wrap=key != "name",
            overflow="fold",
            min_width=min(_NAME_WIDTH, longest) if key == "name" else None,
        )
    for row in ranking.rows:
        style = STATUS_STYLES.get(row["status"], "")
        table.add_row(*(Text(each.cell(row), style if each.column.key == "status" else "") for each in shown))
    return table


def _least_width(table: Table, console: Console) -> int:
    """Characters that the table takes with the method's name folded."""
    wide = Measurement.get(console, console.options.update_width(_UNBOUNDED), table).maximum
    (method,) = (column for column in table.columns if column.header == "method")
    return wide - max(len(str(cell)) for cell in method.cells) + (method.min_width or 0)


def _four_digits(value: float) -> str:
    return significant(value, 4)


def _shown(value: Any, show: Callable[[Any], str]) -> str:
    return "—" if value is None else show(value)


def _compact_ratio(value: float) -> str:
    return ratio(value) if value >= 1 else f"{significant(value, 2)}×"


_UNITS: dict[str, Callable[[Any], str]] = {"s": duration, "bytes": size, "count": grouped, "": _four_digits}
#: Headings that say more than the unit.
_SHOW: dict[str, Callable[[Any], str]] = {
    "method": str, "status": str, "ms/it": lambda value: significant(1e3 * value),
}  # fmt: skip
