"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mpisqueeze.analysis.ranking import Ranking
from mpisqueeze.files import write_text
from mpisqueeze.report.comparison_table import columns_of, notes


def write_table(
    titles: Sequence[str], left: Sequence[bool], rows: Iterable[Sequence[str]], notes: Iterable[str], target: str
) -> None:
    """Write a table with `notes` below it.

    Args:
        left: for each column, whether its cells are flush left.
        rows: the cells of each line.
    """
    rules = ["---" if flush else "--:" for flush in left]
    lines = [list(titles), rules, *([_escaped(cell) for cell in row] for row in rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    write_text(f"{table}\n\n" + "".join(f"- {_escaped(note)}\n" for note in notes), target)


def write_markdown(ranking: Ranking, target: str) -> None:
    """Write the terminal's table, with what its columns mean below."""
    columns = columns_of(ranking)
    left = [column.title in ("method", "status") for column in columns]
    rows = [[column.cell(row) for column in columns] for row in ranking.rows]
    write_table([column.title for column in columns], left, rows, notes(ranking), target)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
