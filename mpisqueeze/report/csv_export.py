"""Results as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from mpisqueeze.files import write_text


def write_csv(rows: Sequence[Mapping[str, Any]], target: str) -> None:
    """Write a line a row below the names of all columns; an empty cell is for None and for what a row lacks.

    Args:
        target: a file, or `-` for stdout.
    """
    text = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(text.getvalue(), target)
