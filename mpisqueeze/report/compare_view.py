"""The terminal's view of a comparison: a table that updates in place, or a line for each start and each end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mpisqueeze.quantities import counted, duration, grouped, significant, size
from mpisqueeze.record.environment import ranks_on_hosts
from mpisqueeze.record.reading import RunLog
from mpisqueeze.report.live import Drawing
from mpisqueeze.report.tables import STATUS, TableColumn, defined, filled, make_table, panel
from mpisqueeze.report.training_view import problem
from mpisqueeze.runs.view import View

if TYPE_CHECKING:
    from mpisqueeze.record.iterations import Progress
    from mpisqueeze.runs.preparation import Run

#: Columns of a run's figures, by their names.
_FIGURES = {"iterations": "iterations", "loss": "loss", "metric": "test", "sent": "sent", "pace": "ms/it"}
#: Lines of the screen that the table's heading, what is hidden and the prompt take.
_AROUND = 6


@dataclass(eq=False)
class _RunLine:
    name: str
    state: str = "waiting"
    iterations: str = ""
    loss: str = ""
    metric: str = ""
    sent: str = ""
    defined: str = ""
    pace: str = ""


class CompareView(View):
    """Watches all runs of a comparison, one after the other.

    Args:
        names: the runs' names.
        path: the comparison's folder.
        live: draw a table that updates in place.
        pulse: called now and then while a run iterates.
    """

    def __init__(
        self, console: Console, live: bool, names: Sequence[str], path: str, pulse: Callable[[], None]
    ) -> None:
        self.console, self.path, self.pulse = console, path, pulse
        self._rows = [_RunLine(name) for name in names]
        self._drawing = Drawing(console, live)
        self._current = self._planned = 0
        self._introduced = False
        self._warned: set[str] = set()

    def run_begins(self, index: int) -> None:
        self._current = index
        self._rows[index].state = "running"

    def start(self, run: Run, environment: dict[str, Any]) -> None:
        self._planned = run.iterations
        self._rows[self._current].defined = defined(run.network.counter.bytes_are)
        if not self._introduced:
            self._introduced = True
            self.console.print(header(run, environment, len(self._rows), self.path))
        if not self._drawing:
            self._say(counted(run.iterations, "iteration"))
        for warning in [text for text in run.warnings if text not in self._warned]:
            self._say(f"warning: {warning}", "yellow")
        self._warned.update(run.warnings)
        self._drawing.show(self._table)

    def progress(self, progress: Progress) -> None:
        self.pulse()
        row = self._rows[self._current]
        row.iterations = f"{progress.iteration}/{self._planned}"
        row.loss, row.sent = significant(progress.loss), f"{size(progress.bytes_sent)}{row.defined}"
        row.pace = significant(1e3 * progress.seconds_per_iteration)
        self._drawing.show(self._table)

    def evaluation(self, line: dict[str, Any]) -> None:
        values = {key: value for key, value in line.items() if key not in ("iteration", "epoch")}
        name = "test_accuracy" if "test_accuracy" in values else next(iter(values))
        self._rows[self._current].metric = f"{name} {significant(values[name])}"
        self._drawing.show(self._table)

    def run_ended(self, index: int, run: RunLog) -> None:
        summary, row = run.summary, self._rows[index]
        self._current = index
        row.state = summary["status"]
        pace = summary["elapsed_s_per_iteration"]
        if summary["iterations"]:
            loss = summary["final_loss"]
            row.iterations = grouped(summary["iterations"])
            row.loss = "—" if loss is None else significant(loss)
            row.sent = f"{size(summary['bytes_sent'])}{row.defined}"
            row.pace = "" if pace is None else significant(1e3 * pace)
        if not self._drawing:
            parts = [summary["status"]]
            if summary["iterations"]:
                parts += [f"after {row.iterations} iterations"] if summary["status"] != "ok" else []
                parts += [f"loss {row.loss}", row.metric, f"{size(summary['bytes_sent'])} sent{row.defined}"]
                parts += [f"{row.pace} ms/it"] if row.pace else []
                parts += [duration(summary["wall_s"])] if summary["wall_s"] is not None else []
            parts += [summary["reason"].splitlines()[0]] if summary["reason"] else []
            self._say("  ".join(part for part in parts if part))
        self._drawing.show(self._table, now=True)

    def close(self) -> None:
        """Take the live table away; nothing is drawn afterwards."""
        self._drawing.close()

    def _say(self, text: str, style: str = "") -> None:
        number = f"[{self._current + 1}/{len(self._rows)}]"
        self.console.print(Text(f"{number} {self._rows[self._current].name}: {text}", style), soft_wrap=True)

    def _table(self) -> Table:
        def status(run: _RunLine) -> Text:
            return Text(run.state, "dim" if run.state == "waiting" else STATUS[run.state][1])

        fits = max(3, self.console.height - _AROUND)
        first = max(0, min(self._current - fits // 2, len(self._rows) - fits))
        columns = [
            TableColumn("#", lambda run: str(self._rows.index(run) + 1)),
            TableColumn("method", attrgetter("name"), left=True),
            TableColumn("state", status, left=True),
            *(TableColumn(title, attrgetter(name)) for name, title in _FIGURES.items()),
        ]
        return filled(make_table(), columns, self._rows[first : first + fits])


def header(run: Run, environment: dict[str, Any], runs: int, path: str) -> Panel:
    """The machines, and what the runs share; `run` is the first one to start."""
    together = f", one after the other: same start, data order and seed {run.plan.config.seed}"
    return panel("compare", [
        ("MPI", ranks_on_hosts(environment)),
        ("device", f"{run.device.label}, {environment['kernels']} kernels; buffers: {run.device.buffers}"),
        ("problem", problem(run)),
        ("runs", Text.assemble((str(runs), "bold"), together)),
        ("folder", path),
    ])  # fmt: skip
