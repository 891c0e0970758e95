"""The columns in which runs are compared, for whatever shows or exports them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mpisqueeze.record.figures import LOGGED, Figure, per_iteration

#: The rows of a ranking.
Rows = Sequence[Mapping[str, Any]]
#: Statuses of runs that show no way to any loss.
BROKEN = ("diverged", "failed", "skipped")


@dataclass(frozen=True)
class Column:
    """A column of a ranking.

    Attributes:
        key: of a row, or of its evaluation.
        heading: where there is little room; empty for what only a CSV file has.
        title: in full.
        unit: as of a recorded figure.
        kind: `quality` and `cost` columns part where a table is too wide, and `head` columns stand before both.
        relative: whether the first run's is what others are measured in.
        best: `min` or `max`; empty where there is nothing to win.
        sound: whether it says nothing of runs that broke down.
        advises: whether its best is no winner where the method is shown to fail: a fast iteration is not a fast run.
    """

    key: str
    heading: str
    title: str
    unit: str = ""
    kind: str = "quality"
    relative: bool = True
    best: str = "min"
    sound: bool = False
    advises: bool = False

    def of(self, row: Mapping[str, Any]) -> Any:
        """The value of a row; None where it has none."""
        if self.sound and row["status"] in BROKEN:
            return None
        return row[self.key] if self.key in row else row["evaluation"].get(self.key)

    def best_of(self, rows: Rows) -> list[str]:
        """Names of the runs with the best value; none where there is nothing to choose from."""
        able = (row for row in rows if row["status"] not in BROKEN and not (self.advises and row["shown_to_fail"]))
        sound = {row["name"]: self.of(row) for row in able}
        known = {name: value for name, value in sound.items() if value is not None}
        if not self.best or len(known) < 2:
            return []
        best = (max if self.best == "max" else min)(known.values())
        return [name for name, value in known.items() if value == best]


def _recorded(figure: Figure) -> Column:
    keys = {"spread": f"median_{figure.name}", "clock": per_iteration(figure.name)}
    key = keys.get(figure.over_iterations, figure.name)
    kind, best = ("cost", "") if figure.unit == "bytes" else ("quality", "min" if figure.unit == "s" else "")
    return Column(key, figure.heading, figure.title, figure.unit, kind, bool(figure.heading), best,
                  advises=figure.unit == "s")  # fmt: skip


#: Columns of the recorded figures that a summary has, by the figure's name.
RECORDED = {figure.name: _recorded(figure) for figure in LOGGED if figure.over_iterations}
_HEAD = [
    Column("position", "#", "position", "count", "head", False, ""),
    Column("name", "method", "method", "", "head", False, ""),
    Column("status", "status", "status", "", "head", False, ""),
]
_LOSS = Column("smoothed_loss", "loss", "training loss", sound=True)
_TO_TARGET = [
    Column("bytes_to_target", "to target", "bytes to target", "bytes", "cost"),
    Column("time_to_target_s", "time to it", "time to target", "s", "cost"),
]
_FIRST = ("bytes_sent", "elapsed_s")
_REST = [column for name, column in RECORDED.items() if name not in _FIRST]
#: The columns with numbers that every ranking has.
NUMBERS = [_LOSS, RECORDED["bytes_sent"], *_TO_TARGET, RECORDED["elapsed_s"], *_REST]


#: Columns by which runs can be sorted: `given` keeps their order, and `test` is the metric that a ranking shows.
SORTS: dict[str, Column | None] = {
    "loss": _LOSS,
    "test": None,
    "bytes": RECORDED["bytes_sent"],
    "bytes-to-target": _TO_TARGET[0],
    "time-to-target": _TO_TARGET[1],
    "time": RECORDED["elapsed_s"],
    "given": None,
}


def columns_of(rows: Rows, has_target: bool, metric: str) -> list[Column]:
    """The columns with a heading that these runs fill, with the usual metric and this one."""
    return [
        *_HEAD[: 3 if any(row["status"] != "ok" for row in rows) else 2],
        _LOSS,
        *map(measured, dict.fromkeys([*metrics_of(rows), *([metric] if metric else [])])),
        RECORDED["bytes_sent"],
        *(_TO_TARGET if has_target else []),
        RECORDED["elapsed_s"],
        *(column for column in _REST if column.heading and any(column.of(row) for row in rows)),
    ]


def metrics_of(rows: Rows) -> list[str]:
    """The test metric to show: the accuracy where there is one, else the loss, else whatever the problem reports."""
    reported = list(dict.fromkeys(name for row in rows for name in row["evaluation"]))
    for preferred in ("test_accuracy", "test_loss"):
        if preferred in reported:
            return [preferred]
    return reported[:1]


def rises(metric: str) -> bool:
    """It is an accuracy, which is the better the larger it is."""
    return metric.endswith("accuracy")


def measured(name: str) -> Column:
    """The column of an evaluated metric."""
    title = name.replace("_", " ")
    best = "max" if rises(name) else "min" if name.endswith("loss") else ""
    return Column(name, title.replace("accuracy", "acc"), title, relative=False, best=best, sound=True)
