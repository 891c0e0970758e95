"""The terminal's view of claims that are put to the test, and the table of their verdicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from mpisqueeze.quantities import counted, duration
from mpisqueeze.record.reading import RunLog
from mpisqueeze.report.tables import make_table
from mpisqueeze.reproduce.view import ClaimsWatcher

if TYPE_CHECKING:
    from mpisqueeze.record.iterations import Progress
    from mpisqueeze.runs.preparation import Run

STYLES = {"PASS": "bold green", "FAIL": "bold red", "SKIPPED": "yellow"}
#: Seconds between two drawings.
_INTERVAL = 0.2


class ClaimsView(ClaimsWatcher):
    """Shows all claims, and their runs.

    Args:
        claims: how many there are.
        live: draw a line that updates in place.
        pulse: called now and then while a run iterates.
    """

    def __init__(self, console: Console, live: bool, claims: int, pulse: Callable[[], None]) -> None:
        self.console, self.claims, self.pulse = console, claims, pulse
        self._live = Live(console=console, auto_refresh=False, transient=True) if live else None
        self._claim, self._number, self._runs, self._run = "", 0, 0, 0
        self._planned, self._done = 0, 0
        self._drawn = 0.0
        if self._live:
            self._live.start()

    def claim_begins(self, number: int, name: str, runs: int) -> None:
        self._claim, self._number, self._runs, self._run = name, number, runs, 0
        self._planned = self._done = 0
        if self._live:
            self._refresh(now=True)
        elif runs:
            self.console.print(Text(f"{self._at} {name}: {counted(runs, 'run')}", "dim"), soft_wrap=True)

    def run_begins(self, index: int) -> None:
        self._run, self._done = index, 0

    def start(self, run: Run, environment: dict[str, Any]) -> None:
        self._planned = run.iterations
        self._refresh()

    def progress(self, progress: Progress) -> None:
        self.pulse()
        self._done = progress.iteration
        self._refresh()

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
        if self._live:
            self._live.stop()

    @property
    def _at(self) -> str:
        return f"[{self._number + 1}/{self.claims}]"

    def _refresh(self, now: bool = False) -> None:
        if self._live and (now or time.monotonic() - self._drawn > _INTERVAL):
            self._drawn = time.monotonic()
            part = f"run {self._run + 1}/{self._runs}" if self._runs else ""
            part += f", iteration {self._done}/{self._planned}" if self._planned else ""
            # Open MPI's launcher forwards nothing but whole lines, so that the last one has to be empty.
            line = Text.assemble(f"{self._at} ", (self._claim, "bold"), f"  {part}")
            self._live.update(Group(line, Text("")), refresh=True)


def claims_report(verdicts: Sequence[dict[str, Any]]) -> RenderableType:
    """Every claim with what decided it, and how many hold."""
    table = make_table()
    table.add_column("claim", style="bold", no_wrap=True)
    table.add_column("what decides")
    table.add_column("found", overflow="fold")
    table.add_column("verdict", no_wrap=True)
    for verdict in verdicts:
        table.add_row(verdict["claim"], Text(verdict["title"], "bold"), "", _mark(verdict["verdict"]))
        for decision in verdict["decisions"]:
            if decision["passed"] is not None:
                outcome = Text("holds", "green") if decision["passed"] else Text("does not hold", "red")
                table.add_row("", Text(decision["text"]), Text(decision["found"]), outcome)
        if verdict["reason"]:
            table.add_row("", Text(verdict["reason"], "yellow"), "", "")
        table.add_section()
    return Group(table, Text(count_of(verdicts), "bold"))


def count_of(verdicts: Sequence[dict[str, Any]]) -> str:
    """A sentence that says how many claims hold."""
    counts = {name: sum(verdict["verdict"] == name for verdict in verdicts) for name in STYLES}
    parts = [f"{counts['PASS']} of {counted(len(verdicts), 'claim')} hold"]
    parts += [f"{counts['FAIL']} {'does' if counts['FAIL'] == 1 else 'do'} not"] if counts["FAIL"] else []
    parts += [f"{counts['SKIPPED']} could not be tested here"] if counts["SKIPPED"] else []
    return ", ".join(parts) + "."


def _mark(verdict: str) -> Text:
    return Text(verdict, STYLES[verdict])
