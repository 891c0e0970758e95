"""The terminal's view of an advice: its plan, the race while it goes on, and the verdict with its evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mpisqueeze.advice.running import AdviceWatcher
from mpisqueeze.advice.scheme import ENOUGH, FEW, RATES
from mpisqueeze.quantities import clock, counted, duration, significant
from mpisqueeze.record.reading import SMOOTHED, RunLog
from mpisqueeze.report.live import Drawing, bar
from mpisqueeze.report.tables import Fitting, TableColumn, close_table, filled, first_fitting, make_list, panel

if TYPE_CHECKING:
    from mpisqueeze.advice.advisor import AdviceQuestion, Advisor, Job
    from mpisqueeze.record.iterations import Progress
    from mpisqueeze.runs.preparation import Run

#: Characters that a method's name is not folded below.
_NAME = 30
#: Names in a line of methods that were dropped for the same reason.
_NAMED = 6


def opening(question: AdviceQuestion, ranks: int, path: str, again: bool) -> Panel:
    """The question, and what is about to be done for how long."""
    methods = ", ".join([*question.pairs, *question.also]) or "every method that is expected to converge"
    if question.also and not question.pairs:
        methods = f"every method that is expected to converge, and {', '.join(question.also)}"
    problem = question.settings.problem
    where = counted(ranks, "rank" if question.settings.workers is None else "virtual worker")
    return panel("advise", [
        ("question", f"does one of these pay off on {where}, against allreduce?"),
        ("methods", methods),
        ("problem", problem),
        ("budget", f"{duration(question.budget_s)}: time a gradient, calibrate the network, model the methods, tune "
                   "the learning rates of the nearest, race them over seeds"),
        ("folder", f"{path}{' (goes on)' if again else ''}"),
    ])  # fmt: skip


def plan_list(advisor: Advisor) -> Table:
    """The race that is planned."""
    race = advisor.race
    assert race is not None
    scheme = race.scheme
    names = [candidate.label for candidate in advisor.candidates[: scheme.methods + 1]]
    left = max(0.0, advisor.clock.left_s)
    waiting = len(race.names) - len(names)
    dropped = len(advisor.candidates) - len(race.names)
    factors = sorted(RATES[scheme.rates])
    tuned = "not tuned, for the budget" if scheme.rates == 1 else (
        f"{scheme.rates} a method, {significant(factors[0], 2)} to {factors[-1]:g} × its usual one, in runs of "
        f"{counted(scheme.short, 'iteration')}; the best two in whole ones"
    )  # fmt: skip
    link = f"{advisor.network}; a gradient takes {duration(advisor.compute_s)}"
    behind = f"; then, if there is time, the next {waiting}" if waiting else ""
    behind += f"; {counted(dropped, 'other')} dropped by the model, or shown to fail" if dropped else ""
    return make_list([
        ("network", link),
        ("race", f"{', '.join(names[1:])}{behind}"),
        ("against", names[0]),
        ("rates", tuned),
        ("runs", f"{counted(scheme.iterations, 'iteration')} each; {FEW} seeds for all, {ENOUGH} for the closest, then "
                 "a final of the best against the baseline on seeds of its own, as many as are likely to decide"),
        ("time", f"about {duration(scheme.seconds)} with {ENOUGH} seeds in the final; {duration(left)} are left"),
    ])  # fmt: skip


class AdviceView(AdviceWatcher):
    """Watches the runs of an advice.

    Args:
        live: draw a table that updates in place.
        pulse: called now and then while a run iterates.
    """

    def __init__(self, console: Console, live: bool, advisor: Advisor, pulse: Callable[[], None]) -> None:
        self.console, self.pulse, self._advisor = console, pulse, advisor
        self._drawing = Drawing(console, live)
        self._current: Job | None = None
        self._progress = ""
        self._rows: list[dict[str, Any]] = []
        self._warned: set[str] = set()

    def stage(self, text: str) -> None:
        if self._drawing:
            self._progress = f"calibrating: {text}"
            self._drawing.show(self._table)
        else:
            self._say(f"[{clock(self._advisor.clock.spent_s)}] calibrating: {text}", "dim")

    def planned(self, advisor: Advisor) -> None:
        self.console.print(plan_list(advisor))
        self._rows = rows(advisor)

    def job_begins(self, job: Job) -> None:
        self._current, self._progress = job, ""
        self._drawing.show(self._table)

    def start(self, run: Run, environment: dict[str, Any]) -> None:
        for warning in [text for text in run.warnings if text not in self._warned]:
            self._say(f"warning: {warning}", "yellow")
        self._warned.update(run.warnings)

    def progress(self, progress: Progress) -> None:
        self.pulse()
        self._progress = f"iteration {progress.iteration}, loss {significant(progress.loss)}"
        self._drawing.show(self._table)

    def job_ended(self, advisor: Advisor, job: Job, log: RunLog) -> None:
        self._rows = rows(advisor)
        if not self._drawing:
            summary = log.summary
            value = next(iter((summary["evaluation"] or {}).items()), None)
            parts = [f"{job.name}, {job.about}: {summary['status']}", counted(summary["iterations"], "iteration")]
            parts += [f"{value[0]} {significant(value[1])}"] if value and value[1] is not None else []
            parts += [duration(summary["wall_s"])] if summary["wall_s"] is not None else []
            self._say(f"[{clock(advisor.clock.spent_s)}] {'  '.join(parts)}")
        self._drawing.show(self._table, now=True)

    @property
    def _metric(self) -> str:
        race = self._advisor.race
        return (race.target.name if race and race.target else "") or SMOOTHED

    def close(self) -> None:
        """Take the live table away; nothing is drawn afterwards."""
        self._drawing.close()

    def _say(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style), soft_wrap=True)

    def _table(self) -> RenderableType:
        budget = self._advisor.clock
        now = "" if self._current is None else f"{self._current.name}, {self._current.about}"
        line = bar(min(budget.spent_s, budget.budget_s), budget.budget_s, clock(budget.spent_s), now, self._progress)
        if not self._rows:
            return line
        fits = max(3, self.console.height - 6)
        columns = first_fitting(_columns(self._metric), self._rows, self.console.width)
        return Group(filled(close_table(), columns, self._rows[:fits]), line)


def rows(advisor: Advisor) -> list[dict[str, Any]]:
    """The methods of the race, as advice.json has them, each with its label and its state."""
    race = advisor.race
    assert race is not None
    found = []
    for index in range(race.admitted + 1):
        about = advisor.candidate(index)
        state = "racing" if about["seeds"] else "tuned" if about["settings"].get("lr") else "waiting"
        found.append({**about, "state": "dropped" if about["dropped_because"] else state if index else "baseline"})
    return found


def _columns(metric: str) -> list[TableColumn]:
    """The columns of the race's table, with the target's metric."""
    return [
        TableColumn("method", itemgetter("label"), _NAME, left=True, style="bold", folds=True),
        TableColumn("state", itemgetter("state"), left=True),
        TableColumn("rate", lambda row: _figure(row["settings"].get("lr"), "{:g}".format)),
        TableColumn("seeds", lambda row: str(len(row["seeds"]) or "—")),
        TableColumn("× time", lambda row: _figure(row["relative"]["ratio"], significant), style="cyan"),
        TableColumn("95 % interval", _interval),
        TableColumn(metric.replace("_", " "), lambda row: _figure(row["final"].get(metric), _four)),
        TableColumn("model", lambda row: _figure(row["modelled"], significant)),
    ]


def _interval(row: Mapping[str, Any]) -> str:
    low, high = (row["relative"][end] for end in ("low", "high"))
    return "—" if low is None or high is None else f"{significant(low)} to {significant(high)}"


def _figure(value: float | None, show: Callable[[float], str]) -> str:
    return "—" if value is None else show(value)


def _four(value: float) -> str:
    return significant(value, 4)


def raced(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The methods of advice.json that ran, with a state for tables."""
    shown = [row for row in facts["candidates"] if row["runs"]]
    return [{**row, "state": _state(row, facts)} for row in shown]


def _state(row: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    if row["name"] == facts["baseline"]:
        return "baseline"
    if row["name"] == facts["best"]:
        return "best"
    return "dropped" if row["dropped_because"] else "raced"


def notes(facts: Mapping[str, Any]) -> list[str]:
    """The meaning of the table's columns, and why methods were dropped."""
    meaning = "× time: of the baseline's to the target, paired by seed; model: an iteration's time over the baseline's"
    why: dict[str, list[str]] = {}
    for row in facts["candidates"]:
        if row["dropped_because"]:
            why.setdefault(row["dropped_because"], []).append(row["label"])
    return [meaning, *(f"dropped, as {reason}: {_few(names)}" for reason, names in why.items())]


def _few(names: Sequence[str]) -> str:
    """The first names, and how many there are besides."""
    more = len(names) - _NAMED
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:_NAMED])} and {more} more"


def commands(facts: Mapping[str, Any]) -> list[str]:
    """The commands that run the methods of the table once more, one each."""
    return [row["command"] for row in facts["candidates"] if row["runs"] and row["command"]]


def advice_report(facts: Mapping[str, Any]) -> Group:
    """The verdict, the table below it, and the commands that rerun its lines."""
    first, *others = facts["sentences"]
    style = {True: "bold green", False: "bold", None: "bold yellow"}[facts["pays_off"]]
    parts: list[RenderableType] = [Text(""), Text(first, style), *(Text(text) for text in others)]
    shown, target = raced(facts), facts["target"]
    if shown:
        parts += [
            Fitting(_columns(target["name"] if target else SMOOTHED), shown),
            *(Text(text, "dim") for text in notes(facts)),
        ]
    return Group(*parts)


def closing_lines(facts: Mapping[str, Any], path: str) -> list[str]:
    """The commands that run the table's lines once more, the time that was spent, and where everything is."""
    lines = [f"  {line}" for line in commands(facts)]
    spent = f"{duration(facts['spent_s'])} of {duration(facts['budget_s'])} spent"
    return [*(["Run a line again:", *lines] if lines else []), spent, f"advice: {path}"]
