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
from mpisqueeze.report.tables import STATUS, TableColumn, close_table, defined, filled, first_fitting, panel
from mpisqueeze.report.training_view import link, problem
from mpisqueeze.runs.view import View

if TYPE_CHECKING:
    from mpisqueeze.record.iterations import Progress
    from mpisqueeze.runs.pairs import Entry
    from mpisqueeze.runs.preparation import Run

#: Characters of an iteration's loss or metric, of bytes and of milliseconds, kept free before there are any.
_WIDTH = 8
#: Characters that a method's name is not folded below.
_NAME = 28
#: Lines of the screen that the table's heading, what is hidden and the prompt take.
_AROUND = 6


@dataclass(eq=False)
class _RunLine:
    name: str
    state: str = "waiting"
    iterations: str = ""
    loss: str = ""
    metric: str = ""
    value: str = ""
    sent: str = ""
    defined: str = ""
    pace: str = ""


class CompareView(View):
    """Watches all runs of a comparison, one after the other.

    Args:
        entries: its runs.
        path: the comparison's folder.
        live: draw a table that updates in place.
        pulse: called now and then while a run iterates.
    """

    def __init__(
        self, console: Console, live: bool, entries: Sequence[Entry], path: str, pulse: Callable[[], None]
    ) -> None:
        self.console, self.path, self.pulse = console, path, pulse
        self._entries = entries
        self._rows = [_RunLine(entry.name) for entry in entries]
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
            self.console.print(header(run, environment, self._entries, self.path))
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
        row = self._rows[self._current]
        row.metric, row.value = name, significant(values[name])
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
                parts += [
                    f"loss {row.loss}",
                    f"{row.metric} {row.value}".strip(),
                    f"{size(summary['bytes_sent'])} sent{row.defined}",
                ]
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

        least = max(_NAME, *(len(word) for run in self._rows for word in run.name.split()))
        lines = max(-(-len(run.name) // least) for run in self._rows)
        fits = max(3, (self.console.height - _AROUND) // lines)
        first = max(0, min(self._current - fits // 2, len(self._rows) - fits))
        metrics = list(dict.fromkeys(run.metric for run in self._rows if run.metric))
        metric = metrics[0].replace("_", " ").replace("accuracy", "acc") if len(metrics) == 1 else "test"
        columns = [
            TableColumn("#", lambda run: str(self._rows.index(run) + 1)),
            TableColumn("method", attrgetter("name"), _NAME, left=True, folds=True),
            TableColumn("state", status, max(map(len, STATUS)), left=True),
            TableColumn("iterations", attrgetter("iterations"), len(f"{self._planned}/{self._planned}")),
            TableColumn("loss", attrgetter("loss"), _WIDTH),
            TableColumn(metric, lambda run: run.value if len(metrics) == 1 else f"{run.metric} {run.value}", _WIDTH),
            TableColumn("ms/it", attrgetter("pace"), _WIDTH),
            TableColumn("sent", attrgetter("sent"), _WIDTH),
        ]
        # Columns for which the terminal is too narrow are in the table at the end.
        return filled(close_table(), first_fitting(columns, self._rows, self.console.width),
                      self._rows[first : first + fits])  # fmt: skip


def header(run: Run, environment: dict[str, Any], entries: Sequence[Entry], path: str) -> Panel:
    """The machines, what the runs share, and what is swept; `run` is the first one to start."""
    swept: dict[str, dict[str, None]] = {}
    for entry in entries:
        for option, value in entry.swept.items():
            swept.setdefault(option, {})[value] = None

    def shared(text: str, *options: str) -> str:
        """A line of the header, which holds for the first run alone where an option that it tells of is swept."""
        return f"{text}; the first run's, as --sweep has more" if swept.keys() & set(options) else text

    device = f"{run.device.label}, {environment['kernels']} kernels; buffers: {run.device.buffers}"
    seeded = "start and data order for each seed"
    if "--seed" not in swept:
        seeded = f"start, data order and seed {run.plan.config.seed}"
    sweeps = [f"{option.removeprefix('--')} = {' or '.join(values)}" for option, values in swept.items()]
    return panel("compare", [
        ("MPI", ranks_on_hosts(environment)),
        *(("link", shared(text, "--link")) for text in link(run, environment)),
        ("device", shared(device, "--device", "--buffers")),
        ("problem", shared(problem(run), "--problem", "--data", "--samples", "--dtype", "--partition")),
        ("runs", Text.assemble((str(len(entries)), "bold"), f", one after the other: same {seeded}")),
        *zip(["sweep", *[""] * len(sweeps)], sweeps, strict=False),
        ("folder", path),
    ])  # fmt: skip
