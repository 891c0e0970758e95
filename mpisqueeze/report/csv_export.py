"""Results as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mpisqueeze.files import write_text
from mpisqueeze.streams import harmless

#: Beginnings of formulas, but for those of numbers.
_FORMULA = re.compile(r"\s*(?:[=@|%]|[-+](?![\d.]+(?:[eE][-+]?\d+)?\s*$))")


def write_csv(rows: Sequence[Mapping[str, Any]], target: str) -> None:
    """Write a line a row below the names of all columns; an empty cell is for None and for what a row lacks.

    A text that a spreadsheet would take for a formula gets an apostrophe in front.

    Args:
        target: a file, or `-` for stdout.
    """
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _defused(value) for name, value in row.items()} for row in rows)
    write_text(text.getvalue(), target)


def _defused(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return f"'{harmless(value)}" if _FORMULA.match(value) else harmless(value)
