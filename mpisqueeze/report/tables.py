"""Tables as every report has them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text


def make_table(**options: Any) -> Table:
    """An empty table with a rule below the titles and nothing at its edges; `options`: of rich's Table."""
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left", **options)


def close_table(title: str | None = None) -> Table:
    """`make_table` for many columns, one character apart."""
    return make_table(padding=(0, 1, 0, 0), title=title, title_style="bold")


def make_list(entries: Iterable[tuple[str, str | Text]]) -> Table:
    """(name, text) a line, the names dim; a line without a name goes on with the one above. Markup stays as it is."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    for name, text in entries:
        grid.add_row(name, Text(text) if isinstance(text, str) else text)
    return grid
