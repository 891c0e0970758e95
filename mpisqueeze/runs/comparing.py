"""Several runs in one launch, from the same start, data order and seed, and the ranking of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mpisqueeze import __version__
from mpisqueeze.analysis.ranking import Ranking, Target, rank_runs, summaries_of
from mpisqueeze.comm.world import RankFailureError, Signal, World
from mpisqueeze.errors import UsageError
from mpisqueeze.parts import contracts
from mpisqueeze.record.figures import no_columns
from mpisqueeze.record.folder import RunFolder
from mpisqueeze.record.reading import COMPARISON, RunLog, folderless, read_run
from mpisqueeze.record.summary import summary_of
from mpisqueeze.record.types import SCHEMA_VERSION
from mpisqueeze.runs.interrupts import Interrupts
from mpisqueeze.runs.pairs import Entry, blamed
from mpisqueeze.runs.plan import Plan
from mpisqueeze.runs.preparation import Run
from mpisqueeze.runs.training import train
from mpisqueeze.runs.view import View
from mpisqueeze.settings import name_of

T = TypeVar("T")


class Ledger:
    """On rank 0: the runs so far, and compare.json, replaced after each of them.

    Args:
        path: the comparison's folder, new or empty.
        target: as given, or None.
        sort: by what runs are ranked, of SORTS.

    Raises:
        UsageError: the folder cannot be made.
    """

    def __init__(
        self, path: Path, entries: Sequence[Entry], ranks: int, target: Target | None, sort: str = "loss"
    ) -> None:
        self.folder = RunFolder(path)
        self.entries, self.ranks, self.target, self.sort = entries, ranks, target, sort
        self.runs: list[RunLog] = []
        self.write("running")

    def add(self, entry: Entry, status: str, reason: str | None) -> RunLog:
        """Book a run that has ended, from its folder where it has one."""
        path = self.folder.path / entry.folder
        if os.path.exists(path / "config.json"):
            run = read_run(path, entry.name)
        else:
            config = {**entry.plan.as_json(), "ranks": entry.ranks or self.ranks}
            summary = summary_of(config, {}, no_columns(), [], status, reason, None)
            run = folderless(entry.name, summary)
        self.runs.append(run)
        self.write("running")
        return run

    def ranking(self) -> Ranking:
        """The ranking of the runs so far, of which there is one at least."""
        return rank_runs(self.runs, self.target, self.sort)

    def summaries(self) -> list[dict[str, Any]]:
        return summaries_of(self.runs, self.ranking()) if self.runs else []

    def write(self, status: str) -> None:
        """Replace compare.json; the status is `running`, `done` or `interrupted`."""
        about = {
            "schema_version": SCHEMA_VERSION,
            "mpisqueeze": __version__,
            "status": status,
            "ranks": self.ranks,
            "given_target": self.target.as_json() if self.target else None,
            "runs": [{"name": entry.name, "folder": entry.folder, "swept": entry.swept} for entry in self.entries],
            "summaries": self.summaries(),
        }
        self.folder.write_json(COMPARISON, about | (self.ranking().as_json() if self.runs else {}))


class _Trial(Run):
    """Everything that a run checks before its first iteration, without leaving a folder."""

    def _open_folder(self) -> None:
        pass


def check_entries(entries: Sequence[Entry], world: World, target: Target | None = None) -> None:
    """Build each run once and let it go, so that a wrong one is known before the first one starts; collective.

    Args:
        target: whose metric each problem has to evaluate.

    Raises:
        UsageError: naming the pair or the sweep to blame, on every rank alike.
        RankFailureError: likewise.
    """
    for entry in entries:
        try:
            _alike(world, entry, partial(_try, entry.plan, target))
        except UsageError as error:
            swept = {name_of(option): value for option, value in entry.swept.items()}
            raise blamed(error, entry.name, swept) from error.__cause__


def _try(plan: Plan, target: Target | None, world: World) -> None:
    trial = _Trial(plan, world)
    trial.algorithm.close()
    if target and target.name:
        world.on_root(lambda: _check_metric(trial, target.name))


def _check_metric(trial: Run, metric: str) -> None:
    """Evaluate the initial point, since a problem tells its metrics by that alone. Raises UsageError."""
    part = trial.plan.problem
    evaluate = getattr(trial.problem, "evaluate", None)
    with contracts.plugin(part, "--problem", "evaluate(x)"):
        known = sorted(evaluate(trial.x) or {}) if evaluate else []
    if metric not in known:
        raise UsageError(f"{part.spec} evaluates {', '.join(known) or 'nothing'}, not {metric!r}", "--target")


def compare(
    entries: Sequence[Entry],
    world: World,
    path: Path,
    interrupts: Interrupts,
    ledger: Ledger | None,
    view: View,
) -> tuple[list[str], Signal]:
    """Run all entries, one after the other; collective.

    A run that diverges or fails on all ranks alike ends itself and not the others; a signal ends the current one and
    skips the rest.

    Args:
        path: the comparison's folder, on every rank.
        interrupts: entered.
        ledger: on rank 0.

    Returns:
        On every rank the statuses of the runs, in their order, and the signal that ended the comparison, if any.
    """
    statuses: list[str] = []
    stopped_by = Signal.NONE
    for index, entry in enumerate(entries):
        stopped_by = stopped_by or Signal(world.agree(interrupts.wish))
        if stopped_by:
            status, reason = "skipped", None
        else:
            view.run_begins(index)
            config = replace(entry.plan.config, out=path / entry.folder)
            run_one = partial(_run_one, replace(entry.plan, config=config), view=view)
            status, reason, stopped_by = _alike(world, entry, run_one)
        statuses.append(status)
        world.collectively(partial(_book, ledger, view, index, status, reason))
    if ledger:
        ledger.write("interrupted" if stopped_by else "done")
    return statuses, stopped_by


def _alike(world: World, entry: Entry, work: Callable[[World], T]) -> T:
    """The result of `work` on the ranks that take part, on all ranks; the others wait. Collective.

    A UsageError or RankFailureError that `work` raises on all that take part is raised on all.
    """
    team = world.first(entry.ranks or world.size)
    if team is world:
        return work(world)
    result: Any = None
    error: Exception | None = None
    if team is not None:
        try:
            result = work(team)
        except UsageError as failure:
            error = failure
        except RankFailureError as failure:
            if failure.alone:
                raise
            error = failure
    world.rest()

    def repeat() -> Any:
        if error is not None:
            raise error
        return result

    return world.comm.bcast(world.collectively(repeat))


def _book(ledger: Ledger | None, view: View, index: int, status: str, reason: str | None) -> None:
    """Write down and show, on rank 0, how run `index` ended."""
    if ledger:
        view.run_ended(index, ledger.add(ledger.entries[index], status, reason))


def _run_one(plan: Plan, world: World, view: View) -> tuple[str, str | None, Signal]:
    """A run's status, why it failed, and the signal that interrupted it."""
    try:
        summary = train(plan, world, view)
    except UsageError as error:
        return "failed", str(error), Signal.NONE
    except RankFailureError as error:
        if error.alone:  # the other ranks wait within the run, and have to be ended
            raise
        if world.is_root:
            sys.stderr.write(error.details)
        return "failed", str(error), Signal.NONE
    stopped = {"SIGINT": Signal.INTERRUPT, "SIGTERM": Signal.TERMINATE}.get(summary["signal"] or "", Signal.NONE)
    return summary["status"], summary["reason"], stopped
