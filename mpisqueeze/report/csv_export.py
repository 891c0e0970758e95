"""A ranking as CSV."""

from __future__ import annotations

import csv
import io
from typing import Any

from mpisqueeze.analysis.ranking import FIGURES, Ranking
from mpisqueeze.files import write_text

_PLAIN = ("position", "name", "status", *FIGURES, "final_loss", "iterations", "iterations_to_target")


def write_csv(ranking: Ranking, target: str) -> None:
    """Write a line a run: bytes and seconds in full, `relative_…` over the first run's, empty where there is none."""
    metrics = list(dict.fromkeys(name for row in ranking.rows for name in row["evaluation"]))
    text = io.StringIO()
    relative = [f"relative_{figure}" for figure in FIGURES]
    writer = csv.DictWriter(text, [*_PLAIN, *relative, *metrics, "target_loss", "run_folder"], lineterminator="\n")
    writer.writeheader()
    for row in ranking.rows:
        line: dict[str, Any] = {key: row[key] for key in _PLAIN}
        line |= {f"relative_{figure}": row["relative"][figure] for figure in FIGURES}
        writer.writerow(
            {**line, **row["evaluation"], "target_loss": ranking.target_loss, "run_folder": row["run_folder"]}
        )
    write_text(text.getvalue(), target)
