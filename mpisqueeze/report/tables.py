"""Tables as every report has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mpisqueeze import __version__

_UNBOUNDED = 10_000
#: Words and style of each status of a run.
STATUS = {
    "ok": ("finished", "green"),
    "running": ("running", "bold"),
    "diverged": ("diverged", "bold red"),
    "interrupted": ("interrupted", "yellow"),
    "failed": ("failed", "bold red"),
    "killed": ("no end recorded", "yellow"),
    "skipped": ("skipped", ""),
}
#: Behind a figure that is by definition, in a table of figures that are counted; a note below says so.
DEFINED = "†"


def defined(bytes_are: str) -> str:
    """` by definition` behind bytes that are not counted, else nothing."""
    return "" if bytes_are == "counted" else f" {bytes_are}"


@dataclass(frozen=True)
class TableColumn:
    """A column of a table.

    Attributes:
        title: its heading.
        cell: the text for a row.
        width: of the cells, in characters, at least.
        left: whether its cells are words, which stand at the left.
        style: of its cells.
        part: a table that is too wide is parted between parts; columns without a part are in all of its tables.
        folds: whether it is made narrower, down to `width`, where the table is too wide.
    """

    title: str
    cell: Callable[[Any], str | Text]
    width: int = 0
    left: bool = False
    style: str = ""
    part: str = ""
    folds: bool = False


def make_table(**options: Any) -> Table:
    """An empty table with a rule below the titles and nothing at its edges; `options`: of rich's Table."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", **options)


def close_table(title: str | None = None) -> Table:
    """`make_table` for many columns, one character apart."""
    return make_table(padding=(0, 1, 0, 0), title=title, title_style="bold")


def filled(table: Table, columns: Sequence[TableColumn], rows: Iterable[Any]) -> Table:
    """The table with a line for each row. Markup in cells stays as it is."""
    lines = [[Text(cell) if isinstance(cell := column.cell(row), str) else cell for column in columns] for row in rows]
    for index, column in enumerate(columns):
        longest = max((line[index].cell_len for line in lines), default=0)
        table.add_column(
            column.title,
            justify="left" if column.left else "right",
            style=column.style,
            no_wrap=not column.folds,
            overflow="fold",
            min_width=min(column.width, longest) if column.folds else column.width,
        )
    for line in lines:
        table.add_row(*line)
    return table


def fitting(columns: Sequence[TableColumn], rows: Sequence[Any], console: Console) -> list[Table]:
    """Close tables, each with as many parts of the columns as fit into the console, and with one at least."""
    groups: list[list[TableColumn]] = []
    named: list[str] = []
    for part in dict.fromkeys(column.part for column in columns if column.part) or [""]:
        more = [column for column in columns if column.part in ("", *named, part)]
        if groups and _width(more, rows, console) <= console.width:
            groups[-1] = more
            named.append(part)
        else:
            groups.append([column for column in columns if column.part in ("", part)])
            named = [part]
    return [filled(close_table(), group, rows) for group in groups]


def _width(columns: Sequence[TableColumn], rows: Sequence[Any], console: Console) -> int:
    """Characters that a close table needs, its columns that fold as narrow as they may be."""
    table = filled(close_table(), columns, rows)
    needed = Measurement.get(console, console.options.update_width(_UNBOUNDED), table).maximum
    for column, made in zip(columns, table.columns, strict=True):
        if column.folds:
            needed -= max(len(str(cell)) for cell in made.cells) - (made.min_width or 0)
    return needed


def make_list(entries: Iterable[tuple[str, str | Text]]) -> Table:
    """(name, text) a line, the names dim; a line without a name goes on with the one above. Markup stays as it is."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    for name, text in entries:
        grid.add_row(name, Text(text) if isinstance(text, str) else text)
    return grid


def panel(command: str, entries: Iterable[tuple[str, str | Text]]) -> Panel:
    """The box that a command's output begins with."""
    title = f"mpisqueeze {__version__} {command}"
    return Panel(make_list(entries), title=title, title_align="left", box=box.ROUNDED, expand=False)
