"""The terminal's view of a comparison: a table that updates in place, or a line for each start and each end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from mpisqueeze.quantities import clock, counted, duration, grouped, significant, size
from mpisqueeze.record.environment import ranks_on_hosts
from mpisqueeze.record.reading import RunLog
from mpisqueeze.report.live import Drawing
from mpisqueeze.report.tables import STATUS, TableColumn, close_table, defined, filled, first_fitting, panel
from mpisqueeze.report.training_view import link, problem
from mpisqueeze.runs.view import View
from mpisqueeze.settings import option_of

if TYPE_CHECKING:
    from mpisqueeze.record.iterations import Progress
    from mpisqueeze.runs.pairs import Entry
    from mpisqueeze.runs.preparation import Run

#: Characters of an iteration's loss or metric, of bytes and of milliseconds, kept free before there are any.
_WIDTH = 8
#: Characters that a method's name is not folded below.
_NAME = 28
#: Lines of the screen that the table's heading, what is hidden and the prompt take.
_AROUND = 7


@dataclass(eq=False)
class _PairLine:
    """A pair's latest run, and how many of its runs are done.

    Attributes:
        run: the run's seed, or what it tries; empty where the pair has one run.
        seconds: that its runs took.
    """

    name: str
    state: str = "waiting"
    run: str = ""
    done: int = 0
    seconds: float = 0.0
    iterations: str = ""
    loss: str = ""
    metric: str = ""
    value: str = ""
    sent: str = ""
    defined: str = ""
    pace: str = ""


class CompareView(View):
    """Watches all runs of a comparison, one after the other, in a line a pair.

    Args:
        entries: its pairs, or the runs themselves where each pair has one.
        path: the comparison's folder.
        live: draw a table that updates in place.
        pulse: called now and then while a run iterates.
        seeds: of each pair; None for a run each.
        tuning: what is tuned, in words.
    """

    def __init__(
        self,
        console: Console,
        live: bool,
        entries: Sequence[Entry],
        path: str,
        pulse: Callable[[], None],
        seeds: Sequence[int] | None = None,
        tuning: str = "",
    ) -> None:
        self.console, self.path, self.pulse = console, path, pulse
        self._pairs, self._seeds, self._tuning = entries, seeds, tuning
        self._rows = {entry.pair or entry.name: _PairLine(entry.pair or entry.name) for entry in entries}
        #: All runs, done or to come, of which so many are done.
        self._runs, self._done = [*entries], 0
        self._drawing = Drawing(console, live)
        self._current = self._planned = 0
        self._began = 0.0
        self._introduced = self._estimated = False
        self._warned: set[str] = set()

    @property
    def _row(self) -> _PairLine:
        entry = self._runs[self._current]
        return self._rows[entry.pair or entry.name]

    @property
    def _repeats(self) -> bool:
        return len(self._runs) > len(self._rows)

    def runs_to_come(self, entries: Sequence[Entry]) -> None:
        self._runs[self._done :] = entries

    def run_begins(self, index: int) -> None:
        self._current, self._began = index, time.monotonic()
        row, entry = self._row, self._runs[index]
        row.state, row.run = "running", entry.name.removeprefix(row.name).strip()

    def start(self, run: Run, environment: dict[str, Any]) -> None:
        self._planned = run.iterations
        self._row.defined = defined(run.network.counter.bytes_are)
        if not self._introduced:
            self._introduced = True
            self.console.print(header(run, environment, self._pairs, self.path, self._seeds, self._tuning))
        if not self._drawing and not self._row.done:
            self._say(counted(run.iterations, "iteration"))
        for warning in [text for text in run.warnings if text not in self._warned]:
            self._say(f"warning: {warning}", "yellow")
        self._warned.update(run.warnings)
        self._drawing.show(self._table)

    def progress(self, progress: Progress) -> None:
        self.pulse()
        row = self._row
        row.iterations = f"{progress.iteration}/{self._planned}"
        row.loss, row.sent = significant(progress.loss), f"{size(progress.bytes_sent)}{row.defined}"
        row.pace = significant(1e3 * progress.seconds_per_iteration)
        self._drawing.show(self._table)

    def evaluation(self, line: dict[str, Any]) -> None:
        values = {key: value for key, value in line.items() if key not in ("iteration", "epoch")}
        name = "test_accuracy" if "test_accuracy" in values else next(iter(values))
        row = self._row
        row.metric, row.value = name, significant(values[name])
        self._drawing.show(self._table)

    def run_ended(self, index: int, run: RunLog) -> None:
        self._current, self._done = index, index + 1
        summary, row = run.summary, self._row
        row.state = summary["status"]
        if row.state != "skipped":
            row.done, row.seconds = row.done + 1, row.seconds + time.monotonic() - self._began
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
            if row.state in ("ok", "diverged") and self._left and self._repeats and not self._estimated:
                self._estimated = True
                self.console.print(f"about {clock(self._left)} more for {counted(self._to_come, 'run')}")
        self._drawing.show(self._table, now=True)

    def close(self) -> None:
        """Take the live table away; nothing is drawn afterwards."""
        self._drawing.close()

    @property
    def _to_come(self) -> int:
        return len(self._runs) - self._done

    @property
    def _left(self) -> float | None:
        """Seconds that the runs to come will take, once each of their pairs has had a run; None where none is left."""
        rows = [self._rows[entry.pair or entry.name] for entry in self._runs[self._done :]]
        if not rows or not all(row.done for row in rows):
            return None
        return sum(row.seconds / row.done for row in rows)

    def _say(self, text: str, style: str = "") -> None:
        number = f"[{self._current + 1}/{len(self._runs)}]"
        self.console.print(Text(f"{number} {self._runs[self._current].name}: {text}", style), soft_wrap=True)

    def _table(self) -> Group:
        def status(run: _PairLine) -> Text:
            return Text(run.state, "dim" if run.state == "waiting" else STATUS[run.state][1])

        rows, of = [*self._rows.values()], Counter(entry.pair or entry.name for entry in self._runs)
        least = max(_NAME, *(len(word) for run in rows for word in run.name.split()))
        lines = max(-(-len(run.name) // least) for run in rows)
        fits = max(3, (self.console.height - _AROUND) // lines)
        first = max(0, min(rows.index(self._row) - fits // 2, len(rows) - fits))
        metrics = list(dict.fromkeys(run.metric for run in rows if run.metric))
        metric = metrics[0].replace("_", " ").replace("accuracy", "acc") if len(metrics) == 1 else "test"
        repeated = [
            TableColumn("runs", lambda run: f"{run.done}/{of[run.name]}", 5),
            TableColumn("run", attrgetter("run"), _WIDTH, left=True),
        ]
        columns = [
            TableColumn("#", lambda run: str(rows.index(run) + 1)),
            TableColumn("method", attrgetter("name"), _NAME, left=True, folds=True),
            TableColumn("state", status, max(map(len, STATUS)), left=True),
            *(repeated if self._repeats else []),
            TableColumn("iterations", attrgetter("iterations"), len(f"{self._planned}/{self._planned}")),
            TableColumn("loss", attrgetter("loss"), _WIDTH),
            TableColumn(metric, lambda run: run.value if len(metrics) == 1 else f"{run.metric} {run.value}", _WIDTH),
            TableColumn("ms/it", attrgetter("pace"), _WIDTH),
            TableColumn("sent", attrgetter("sent"), _WIDTH),
        ]
        # Columns for which the terminal is too narrow are in the table at the end.
        table = filled(close_table(), first_fitting(columns, rows, self.console.width), rows[first : first + fits])
        left = "" if self._left is None else f", about {clock(self._left)} more"
        return Group(table, Text(f"{self._done} of {counted(len(self._runs), 'run')} done{left}", "dim"))


def header(
    run: Run,
    environment: dict[str, Any],
    entries: Sequence[Entry],
    path: str,
    seeds: Sequence[int] | None = None,
    tuning: str = "",
) -> Panel:
    """The machines, what the runs share, what is swept and what is tuned; `run` is the first one to start."""
    swept: dict[str, dict[str, None]] = {}
    for entry in entries:
        for option, value in entry.swept.items():
            swept.setdefault(option, {})[value] = None

    def shared(text: str, *options: str) -> str:
        """A line of the header, which holds for the first run alone where an option that it tells of is swept."""
        return f"{text}; the first run's, as --sweep has more" if swept.keys() & set(options) else text

    device = f"{run.device.label}, {environment['kernels']} kernels; buffers: {run.device.buffers}"
    many, how = f"{len(entries)}", f", one after the other: same start, data order and seed {entries[0].seed}"
    if seeds:
        many = f"{counted(len(entries), 'pair')} × {len(seeds)} seeds"
        how = f" ({', '.join(map(str, seeds))}), in turns: same start and data order for each seed"
    sweeps = [f"{option.removeprefix('--')} = {' or '.join(values)}" for option, values in swept.items()]
    return panel("compare", [
        ("MPI", shared(ranks_on_hosts(environment), "--workers")),
        *(("link", shared(text, "--link")) for text in link(run, environment)),
        ("device", shared(device, "--device", "--buffers")),
        ("problem", shared(problem(run), "--problem", "--data", "--samples", "--dtype", "--partition")),
        ("runs", Text.assemble((many, "bold"), how)),
        *zip(["sweep", *[""] * len(sweeps)], sweeps, strict=False),
        *([("tune", tuning)] if tuning else []),
        ("folder", path),
    ])  # fmt: skip


def tuning_notes(tuned: Sequence[Mapping[str, Any]]) -> list[str]:
    """Warnings about what was tuned, from compare.json's `tuned`."""
    notes = []
    for one in tuned:
        if one["trials"] and not one["settings"]:
            notes.append(f"warning: no trial of {one['pair']} ended well, so that it has settings that were not tried")
        for name in one["at_edge"]:
            value = f"{option_of(name)[2:]} {one['settings'][name]:g}"
            notes.append(f"warning: {value} of {one['pair']} is at the edge of what was tried: move the ends of --tune")
    return notes
