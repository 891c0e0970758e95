"""The terminal's view of claims that are put to the test, and the table of their verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.text import Text

from mpisqueeze.quantities import counted, duration
from mpisqueeze.record.reading import RunLog
from mpisqueeze.report.live import Drawing
from mpisqueeze.report.tables import make_table
from mpisqueeze.runs.view import View

if TYPE_CHECKING:
    from mpisqueeze.record.iterations import Progress
    from mpisqueeze.runs.preparation import Run

STYLES = {"PASS": "bold green", "FAIL": "bold red", "NOT DISTINGUISHABLE": "yellow", "SKIPPED": "yellow"}
_OUTCOMES = {True: ("holds", "green"), False: ("does not hold", "red"), None: ("not told apart", "yellow")}


class ClaimsView(View):
    """Shows all claims, and their runs.

    Args:
        claims: how many there are.
        live: draw a line that updates in place.
        pulse: called now and then while a run iterates.
    """

    def __init__(self, console: Console, live: bool, claims: int, pulse: Callable[[], None]) -> None:
        self.console, self.claims, self.pulse = console, claims, pulse
        self._drawing = Drawing(console, live)
        self._claim, self._number, self._runs, self._run = "", 0, 0, 0
        self._planned, self._done = 0, 0

    def claim_begins(self, number: int, name: str, runs: int, workers: int | None) -> None:
        self._claim, self._number, self._runs, self._run = name, number, runs, 0
        self._planned = self._done = 0
        self._drawing.show(self._line, now=True)
        if runs and not self._drawing:
            on = f" on up to {counted(workers, 'virtual worker')}" if workers else ""
            self.console.print(Text(f"{self._at} {name}: {counted(runs, 'run')}{on}", "dim"), soft_wrap=True)

    def run_begins(self, index: int) -> None:
        self._run, self._done = index, 0

    def start(self, run: Run, environment: dict[str, Any]) -> None:
        self._planned = run.iterations
        self._drawing.show(self._line)

    def progress(self, progress: Progress) -> None:
        self.pulse()
        self._done = progress.iteration
        self._drawing.show(self._line)

    def run_ended(self, index: int, run: RunLog) -> None:
        if run.summary["status"] in ("failed", "interrupted"):
            reason = run.summary["reason"] or ""
            self.console.print(Text(f"{self._at} {run.name}: {run.summary['status']} {reason}", "yellow"))

    def claim_ended(self, verdict: dict[str, Any]) -> None:
        self.console.print(
            Text.assemble(
                f"{self._at} ",
                (verdict["verdict"], STYLES[verdict["verdict"]]),
                f"  {verdict['claim']}  ",
                (duration(verdict["seconds"]), "dim"),
            ),
            soft_wrap=True,
        )

    def close(self) -> None:
        """Take the live line away; nothing is drawn afterwards."""
        self._drawing.close()

    @property
    def _at(self) -> str:
        return f"[{self._number + 1}/{self.claims}]"

    def _line(self) -> Text:
        part = f"run {self._run + 1}/{self._runs}" if self._runs else ""
        part += f", iteration {self._done}/{self._planned}" if self._planned else ""
        return Text.assemble(f"{self._at} ", (self._claim, "bold"), f"  {part}")


def claims_report(verdicts: Sequence[dict[str, Any]], asked: int) -> RenderableType:
    """Every claim with what decided it, and how many hold of those that were asked for."""
    table = make_table()
    table.add_column("claim", style="bold", no_wrap=True)
    table.add_column("what decides")
    table.add_column("found", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for verdict in verdicts:
        table.add_row(
            verdict["claim"], Text(verdict["title"], "bold"), "", Text(verdict["verdict"], STYLES[verdict["verdict"]])
        )
        for decision in verdict["decisions"]:
            if decision["found"] is not None:
                outcome = Text(*_OUTCOMES[decision["passed"]])
                table.add_row("", Text(decision["text"]), Text(decision["found"]), outcome)
        if verdict["reason"]:
            table.add_row("", Text(verdict["reason"], "yellow"), "", "")
        table.add_section()
    return Group(table, Text(count_of(verdicts, asked), "bold"))


def count_of(verdicts: Sequence[dict[str, Any]], asked: int) -> str:
    """A sentence that says how many claims hold of those that were asked for; an interruption leaves some untested."""
    counts = {name: sum(verdict["verdict"] == name for verdict in verdicts) for name in STYLES}
    parts = [f"{counts['PASS']} of {counted(asked, 'claim')} {'holds' if asked == 1 else 'hold'}"]
    parts += [f"{counts['FAIL']} {'does' if counts['FAIL'] == 1 else 'do'} not"] if counts["FAIL"] else []
    unknown = counts["NOT DISTINGUISHABLE"]
    parts += [f"{unknown} {'is' if unknown == 1 else 'are'} not told apart by the seeds"] if unknown else []
    parts += [f"{counts['SKIPPED']} could not be tested here"] if counts["SKIPPED"] else []
    parts += [f"{asked - len(verdicts)} not tested: interrupted"] if asked > len(verdicts) else []
    return ", ".join(parts) + "."
