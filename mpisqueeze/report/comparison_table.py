"""The ranking as a table: its columns, and the text of its cells, for whatever writes it down."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mpisqueeze.analysis.ranking import BROKEN, FIGURES, Ranking, verdict
from mpisqueeze.quantities import duration, ratio, significant, size

STATUS_STYLES = {
    "ok": "green",
    "running": "bold",
    "interrupted": "yellow",
    "killed": "yellow",
    "diverged": "bold red",
    "failed": "bold red",
}

#: Characters that a method's name is not folded below.
_NAME_WIDTH = 28
_UNBOUNDED = 10_000


@dataclass(frozen=True)
class Column:
    """A column of the ranking.

    Attributes:
        title: its heading.
        cell: a row's text.
        kind: `quality` and `cost` columns part where the table is too wide, and `head` columns stand before both.
        style: of the whole column, where there are colours.
    """

    title: str
    cell: Callable[[dict[str, Any]], str]
    kind: str
    style: str = ""

    @property
    def left(self) -> bool:
        """Its cells are words."""
        return self.title in ("method", "status")


def columns_of(ranking: Ranking) -> list[Column]:
    """The columns that these runs fill: each figure followed by what it is of the first run's."""
    columns = [
        Column("#", lambda row: str(row["position"]), "head", "dim"),
        Column("method", lambda row: str(row["name"]), "head", "bold"),
    ]
    if any(row["status"] != "ok" for row in ranking.rows):
        columns.append(Column("status", lambda row: str(row["status"]), "head"))
    columns += [_of_sound_runs(column) for column in _figure("loss", "smoothed_loss", _four_digits, "quality")]
    columns += [_of_sound_runs(_measured(name)) for name in metrics_of(ranking)]
    columns += _figure("bytes", "bytes_sent", size, "cost")
    if ranking.target_loss is not None:
        columns += _figure("to target", "bytes_to_target", size, "cost")
        columns += _figure("time to it", "time_to_target_s", duration, "cost")
    columns += _figure("ms/it", "median_iteration_s", lambda value: significant(1e3 * value), "quality")
    return columns


def figures_of(ranking: Ranking) -> list[dict[str, Any]]:
    """The ranking in full for a spreadsheet: bytes and seconds, and `relative_…` over those of the first run."""
    metrics = list(dict.fromkeys(name for row in ranking.rows for name in row["evaluation"]))
    plain = ("position", "name", "status", *FIGURES, "final_loss", "iterations", "iterations_to_target")
    return [
        {
            **{key: row[key] for key in plain},
            **{f"relative_{figure}": row["relative"][figure] for figure in FIGURES},
            **{metric: row["evaluation"].get(metric) for metric in metrics},
            "target_loss": ranking.target_loss,
            "run_folder": row["run_folder"],
        }
        for row in ranking.rows
    ]


def metrics_of(ranking: Ranking) -> list[str]:
    """The test metric to show: the accuracy where there is one, else the loss, else whatever the problem reports."""
    reported = list(dict.fromkeys(name for row in ranking.rows for name in row["evaluation"]))
    for preferred in ("test_accuracy", "test_loss"):
        if preferred in reported:
            return [preferred]
    return reported[:1]


def notes(ranking: Ranking) -> list[str]:
    """What the columns mean, and who won."""
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
    columns = columns_of(ranking)
    whole = _table(ranking, columns)
    parts: list[RenderableType] = [whole]
    if _least_width(whole, console) > console.width:
        parts = [
            _table(ranking, [column for column in columns if column.kind in ("head", kind)])
            for kind in ("quality", "cost")
        ]
    return Group(*parts, *(Text(note) for note in notes(ranking)))


def _table(ranking: Ranking, columns: Sequence[Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    longest = max(len(row["name"]) for row in ranking.rows)
    for column in columns:
        table.add_column(
            column.title,
            justify="left" if column.left else "right",
            style=column.style,
            no_wrap=column.title != "method",
            overflow="fold",
            min_width=min(_NAME_WIDTH, longest) if column.title == "method" else None,
        )
    for row in ranking.rows:
        table.add_row(
            *(
                Text(column.cell(row), STATUS_STYLES.get(row["status"], "") if column.title == "status" else "")
                for column in columns
            )
        )
    return table


def _least_width(table: Table, console: Console) -> int:
    """Characters that the table takes with the method's name folded."""
    wide = Measurement.get(console, console.options.update_width(_UNBOUNDED), table).maximum
    (method,) = (column for column in table.columns if column.header == "method")
    return wide - max(len(str(cell)) for cell in method.cells) + (method.min_width or 0)


def _figure(title: str, key: str, show: Callable[[float], str], kind: str) -> list[Column]:
    return [
        Column(title, lambda row: _shown(row[key], show), kind),
        Column("×", lambda row: _shown(row["relative"][key], _compact_ratio), kind, "cyan"),
    ]


def _of_sound_runs(column: Column) -> Column:
    """The column without what a run that broke down happened to have last."""
    return replace(column, cell=lambda row: column.cell(row) if row["status"] not in BROKEN else "—")


def _measured(name: str) -> Column:
    title = {"test_accuracy": "test acc"}.get(name, name.replace("_", " "))
    return Column(title, lambda row: _shown(row["evaluation"].get(name), _four_digits), "quality")


def _four_digits(value: float) -> str:
    return significant(value, 4)


def _shown(value: float | None, show: Callable[[float], str]) -> str:
    return "—" if value is None else show(value)


def _compact_ratio(value: float) -> str:
    return ratio(value) if value >= 1 else f"{significant(value, 2)}×"
