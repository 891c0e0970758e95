"""Tables as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mpisqueeze.analysis.ranking import FIGURES, Ranking
from mpisqueeze.files import write_text

_PLAIN = ("position", "name", "status", *FIGURES, "final_loss", "iterations", "iterations_to_target")


def write_rows(fields: Sequence[str], rows: Iterable[Mapping[str, Any]], target: str) -> None:
    """Write a line for each row, with these fields of it; a field is empty where a row has None or no such key."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(text.getvalue(), target)


def write_csv(ranking: Ranking, target: str) -> None:
    """Write a line a run: bytes and seconds in full, `relative_…` over the first run's, empty where there is none."""
    metrics = list(dict.fromkeys(name for row in ranking.rows for name in row["evaluation"]))
    fields = [*_PLAIN, *(f"relative_{figure}" for figure in FIGURES), *metrics, "target_loss", "run_folder"]
    rows = [
        {
            **{key: row[key] for key in _PLAIN},
            **{f"relative_{figure}": row["relative"][figure] for figure in FIGURES},
            **row["evaluation"],
            "target_loss": ranking.target_loss,
            "run_folder": row["run_folder"],
        }
        for row in ranking.rows
    ]
    write_rows(fields, rows, target)
