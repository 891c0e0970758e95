"""Tables as every report has them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mpisqueeze import __version__

#: Characters between two columns of a close table, and at both its edges together.
_GAP = 2
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
        joined: whether it stays beside the column before it where a part by itself is too wide, and is parted.
        folds: whether it is made narrower, down to `width` and to its longest word, where the table is too wide.
    """

    title: str
    cell: Callable[[Any], str | Text]
    width: int = 0
    left: bool = False
    style: str = ""
    part: str = ""
    joined: bool = False
    folds: bool = False


def make_table(**options: Any) -> Table:
    """An empty table with a rule below the titles and nothing at its edges; `options`: of rich's Table."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", **options)


def close_table(title: str | None = None) -> Table:
    """`make_table` for many columns, one character apart."""
    return make_table(padding=(0, 1, 0, 0), title=title, title_style="bold")


def filled(table: Table, columns: Sequence[TableColumn], rows: Iterable[Any]) -> Table:
    """The table with a line for each row. Markup in cells stays as it is."""
    lines = [[_cell(column, row) for column in columns] for row in rows]
    for index, column in enumerate(columns):
        table.add_column(
            column.title,
            justify="left" if column.left else "right",
            style=column.style,
            no_wrap=not column.folds,
            overflow="fold",
            min_width=_least(column, [line[index] for line in lines]) if column.folds else column.width,
        )
    for line in lines:
        table.add_row(*line)
    return table


def _cell(column: TableColumn, row: Any) -> Text:
    cell = column.cell(row)
    return Text(cell) if isinstance(cell, str) else cell


def _least(column: TableColumn, cells: Sequence[Text]) -> int:
    """Characters that a column takes at least."""
    longest = max((cell.cell_len for cell in cells), default=0)
    texts = [*column.title.split("\n"), *(word for cell in cells for word in str(cell).split() if column.folds)]
    widths = [Text(text).cell_len for text in texts]
    return max(*widths, min(column.width, longest) if column.folds else max(column.width, longest))


@dataclass(frozen=True)
class Fitting:
    """A close table, or several below each other where one would be wider than the console, so that no cell is cut.

    Each has as many parts of the columns as fit, and one at least; a part that is too wide by itself is parted
    between columns.
    """

    columns: Sequence[TableColumn]
    rows: Sequence[Any]
    title: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Table]:
        for number, group in enumerate(self._tables(options.max_width)):
            yield filled(close_table(None if number else self.title), group, self.rows)

    def _tables(self, width: int) -> list[list[TableColumn]]:
        """The columns of each table."""
        needs = {id(c): _least(c, [_cell(c, row) for row in self.rows]) for c in self.columns}
        head = [column for column in self.columns if not column.part]

        def fits(more: Sequence[TableColumn]) -> bool:
            shown = [*head, *more]
            return sum(needs[id(column)] for column in shown) + _GAP * len(shown) <= width

        units: list[list[TableColumn]] = []
        for name in dict.fromkeys(column.part for column in self.columns if column.part):
            part = [column for column in self.columns if column.part == name]
            if fits(part):
                units.append(part)
            else:
                starts = [at for at, column in enumerate(part) if not column.joined or not at]
                units += [part[start:end] for start, end in zip(starts, [*starts[1:], len(part)], strict=True)]
        tables: list[list[TableColumn]] = []
        for unit in units or [[]]:
            if tables and fits([*tables[-1], *unit]):
                tables[-1] += unit
            else:
                tables.append(list(unit))
        # Columns stand in their order, those of every table among the others.
        return [[column for column in self.columns if not column.part or column in table] for table in tables]


def first_fitting(columns: Sequence[TableColumn], rows: Sequence[Any], width: int) -> list[TableColumn]:
    """The first columns that a close table of so many characters has room for, and one at least."""
    shown: list[TableColumn] = []
    for column in columns:
        width -= _least(column, [_cell(column, row) for row in rows]) + _GAP
        if shown and width < 0:
            break
        shown.append(column)
    return shown


def make_list(entries: Iterable[tuple[str, str | Text]]) -> Table:
    """(name, text) a line, the names dim; a line without a name goes on with the one above. Markup stays as it is."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in entries:
        grid.add_row(name, Text(text) if isinstance(text, str) else text)
    return grid


def panel(command: str, entries: Iterable[tuple[str, str | Text]]) -> Panel:
    """The box that a command's output begins with."""
    title = f"mpisqueeze {__version__} {command}"
    return Panel(make_list(entries), title=title, title_align="left", box=box.ROUNDED, expand=False)
