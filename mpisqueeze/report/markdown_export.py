"""A ranking as a Markdown table."""

from __future__ import annotations

from mpisqueeze.analysis.ranking import Ranking
from mpisqueeze.files import write_text
from mpisqueeze.report.comparison_table import WORDS, columns_of, notes


def write_markdown(ranking: Ranking, target: str) -> None:
    """Write the terminal's table, with what its columns mean below."""
    columns = columns_of(ranking)
    rules = ["---" if each.column.key in WORDS else "--:" for each in columns]
    cells = [[column.cell(row) for column in columns] for row in ranking.rows]
    lines = [[column.title for column in columns], rules, *cells]
    table = "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)
    write_text(f"{table}\n\n" + "".join(f"- {_escaped(note)}\n" for note in notes(ranking)), target)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
