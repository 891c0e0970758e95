"""Results as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpisqueeze.files import write_text
from mpisqueeze.report.tables import TableColumn
from mpisqueeze.streams import harmless

_MARKS = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "\\|", "[": "\\[", "]": "\\]"})


def write_markdown(columns: Sequence[TableColumn], rows: Sequence[Any], notes: Sequence[str], target: str) -> None:
    """Write a table with a line a row, and notes below it.

    Args:
        target: a file, or `-` for stdout.
    """
    rules = ["---" if column.left else "--:" for column in columns]
    cells = [[str(column.cell(row)) for column in columns] for row in rows]
    lines = [[column.title for column in columns], rules, *cells]
    table = "\n".join(f"| {' | '.join(_escaped(cell) for cell in line)} |" for line in lines)
    write_text(f"{table}\n\n" + "".join(f"- {_escaped(note)}\n" for note in notes), target)


def _escaped(text: str) -> str:
    """A text without line ends, HTML, links and images."""
    return harmless(" ".join(text.splitlines())).translate(_MARKS)
