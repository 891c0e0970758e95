"""A ranking as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

from mpisqueeze.analysis.columns import NUMBERS
from mpisqueeze.analysis.ranking import Ranking
from mpisqueeze.files import write_text

_PLAIN = ("position", "name", "status", "final_loss", "iterations", "iterations_to_target")


def write_csv(ranking: Ranking, target: str) -> None:
    """Write a line a run: bytes and seconds in full, `relative_…` over the first run's, empty where there is none."""
    metrics = list(dict.fromkeys(name for row in ranking.rows for name in row["evaluation"]))
    keys = [*_PLAIN[:3], *(column.key for column in NUMBERS), *_PLAIN[3:]]
    relative = [column.key for column in NUMBERS if column.relative]
    names = [*keys, *(f"relative_{key}" for key in relative), *metrics, "target_loss", "run_folder"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in ranking.rows:
        line: dict[str, Any] = {key: row[key] for key in keys}
        line |= {f"relative_{key}": row["relative"][key] for key in relative}
        writer.writerow(
            {**line, **row["evaluation"], "target_loss": ranking.target_loss, "run_folder": row["run_folder"]}
        )
    write_text(text.getvalue(), target)
