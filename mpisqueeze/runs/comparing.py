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
from mpisqueeze.analysis.seeds import UNFINISHED, Pooled, pool
from mpisqueeze.comm.world import RankFailureError, Signal, World
from mpisqueeze.errors import UsageError
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
from mpisqueeze.streams import harmless

T = TypeVar("T")


class Ledger:
    """On rank 0: the runs so far, and compare.json, replaced after each of them.

    Args:
        path: the comparison's folder, new or empty.
        entries: the runs that are to come.
        world: where they run.
        target: as given, or None.
        sort: by what runs are ranked, of SORTS.
        seeds: of the counted runs, which are pooled by pair; None where each run is a row of its own.

    Attributes:
        entries: all runs, done or to come.
        runs: those that are done, in the order of their entries.
        tuned: what each pair chose, an object a pair.

    Raises:
        UsageError: the folder cannot be made.
    """

    def __init__(
        self,
        path: Path,
        entries: Sequence[Entry],
        world: World,
        target: Target | None,
        sort: str = "loss",
        seeds: Sequence[int] | None = None,
    ) -> None:
        self.folder = RunFolder(path)
        self.entries, self.target, self.sort = [*entries], target, sort
        self._ranks, self._workers = world.process.size, world.size if world.virtual else None
        self.seeds = None if seeds is None else [*seeds]
        self.runs: list[RunLog] = []
        self.tuned: list[dict[str, Any]] = []
        self.write("running")

    def expect(self, entries: Sequence[Entry]) -> None:
        """Replace the runs that are to come."""
        self.entries[len(self.runs) :] = entries

    def add(self, status: str, reason: str | None) -> RunLog:
        """Book the next run, which has ended, from its folder where it has one."""
        entry = self.entries[len(self.runs)]
        ranks = self._ranks if self._workers else entry.takes or self._ranks
        run = log_of(self.folder.path / entry.folder, entry.plan, ranks, entry.name, status, reason)
        self.runs.append(run)
        # Many runs may be skipped at once, none of which changes a result.
        if status != "skipped":
            self.write("running")
        return run

    @property
    def counted(self) -> list[tuple[Entry, RunLog]]:
        """The runs so far that are no trials."""
        return [(entry, run) for entry, run in zip(self.entries, self.runs, strict=False) if entry.phase == "race"]

    def ranking(self) -> Ranking | None:
        """The ranking of the counted runs so far; None without any."""
        runs = [run for _, run in self.counted]
        return rank_runs(runs, self.target, self.sort) if runs else None

    def pooled(self) -> Pooled | None:
        """The counted runs so far, pooled over seeds; None where none has ended, or where they are not pooled."""
        ended = any(run.summary["status"] not in UNFINISHED for _, run in self.counted)
        runs = [(entry.pair, entry.seed, run) for entry, run in self.counted]
        options = dict.fromkeys(option for choice in self.tuned for option in choice["settings"])
        return pool(runs, self.target, self.sort, [*options]) if self.seeds and ended else None

    def summaries(self) -> list[dict[str, Any]]:
        """The summary of each counted run, with its loss and costs in the ranking; where runs are pooled, those alone
        that no folder has."""
        if self.seeds:
            return [{"name": run.name, **run.summary} for run in self.runs if run.path is None]
        ranking = self.ranking()
        return summaries_of([run for _, run in self.counted], ranking) if ranking else []

    def results(self) -> Sequence[Any]:
        """The list that `--json` writes: an object a pair, over its seeds, or a summary a run."""
        if not self.seeds:
            return self.summaries()
        pooled = self.pooled()
        return pooled.as_json() if pooled else []

    def write(self, status: str) -> None:
        """Replace compare.json; the status is `running`, `done` or `interrupted`."""
        about: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "mpisqueeze": __version__,
            "status": status,
            "ranks": self._ranks,
            "workers": self._workers,
            "given_target": self.target.as_json() if self.target else None,
            "seeds": self.seeds,
            "runs": [entry.as_json() for entry in self.entries],
            "tuned": self.tuned,
            "summaries": self.summaries(),
        }
        if self.seeds:
            pooled = self.pooled()
            about |= pooled.facts() if pooled else {}
        else:
            ranking = self.ranking()
            about |= ranking.as_json() if ranking else {}
        self.folder.write_json(COMPARISON, about, durable=status != "running")


def log_of(path: Path, plan: Plan, ranks: int, name: str, status: str, reason: str | None) -> RunLog:
    """A run that has ended, from its folder where it has one."""
    if os.path.exists(path / "config.json"):
        return read_run(path, name)
    summary = summary_of({**plan.as_json(), "ranks": ranks}, {}, no_columns(), [], status, reason, None)
    return folderless(name, summary)


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
            on_first(world, entry.takes, partial(_try, entry.plan, target))
        except UsageError as error:
            swept = {name_of(option): value for option, value in entry.swept.items()}
            raise blamed(error, entry.name, swept) from error.__cause__


def _try(plan: Plan, target: Target | None, world: World) -> None:
    trial = _Trial(replace(plan, config=replace(plan.config, stop_at=None)), world)
    trial.algorithm.close()
    if target and target.name:
        world.on_root(lambda: trial.evaluate_start(target.name, "--target"))


class Track:
    """The one place where runs go, one after the other; its methods are collective.

    A run that diverges or fails on all ranks alike ends itself and not the others; a signal ends the current one and
    skips the rest.

    Args:
        path: of the folder with the runs' folders, on every rank.
        interrupts: entered.
        ledger: on rank 0; it knows the first runs already.

    Attributes:
        stopped_by: the signal that ended the runs, if any.
        statuses: of the runs so far.
    """

    def __init__(self, world: World, path: Path, interrupts: Interrupts, ledger: Ledger | None, view: View) -> None:
        self.world, self.path, self.interrupts, self.ledger, self.view = world, path, interrupts, ledger, view
        self.stopped_by = Signal.NONE
        self.statuses: list[str] = []

    def expect(self, entries: Sequence[Entry]) -> None:
        """Say which runs are to come, in place of what was said before."""
        if self.ledger:
            self.ledger.expect(entries)
            self.view.runs_to_come(entries)

    def run(self, entries: Sequence[Entry]) -> list[RunLog | None]:
        """Do the next runs, which are expected. Their logs on rank 0, None elsewhere."""
        logs: list[RunLog | None] = []
        for entry in entries:
            self.stopped_by = self.stopped_by or Signal(self.world.agree(self.interrupts.wish))
            if self.stopped_by:
                status, reason = "skipped", None
            else:
                self.view.run_begins(len(self.statuses))
                config = replace(entry.plan.config, out=self.path / entry.folder)
                work = partial(run_one, replace(entry.plan, config=config), view=self.view)
                status, reason, self.stopped_by = on_first(self.world, entry.takes, work)
            logs.append(self.world.collectively(partial(self._book, status, reason)))
            self.statuses.append(status)
        return logs

    def end(self) -> None:
        """Say that nothing more is to come."""
        if self.ledger:
            self.ledger.write("interrupted" if self.stopped_by else "done")

    def _book(self, status: str, reason: str | None) -> RunLog | None:
        """Write down and show, on rank 0, how a run ended."""
        if self.ledger is None:
            return None
        log = self.ledger.add(status, reason)
        self.view.run_ended(len(self.statuses), log)
        return log


def on_first(world: World, ranks: int | None, work: Callable[[World], T]) -> T:
    """The result of `work` on the `ranks` lowest ranks, None for all, on all ranks; the others wait. Collective.

    A UsageError or RankFailureError that `work` raises on all that take part is raised on all.
    """
    team = world.first(ranks or world.size)
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


def run_one(plan: Plan, world: World, view: View) -> tuple[str, str | None, Signal]:
    """A run's status, why it failed, and the signal that interrupted it."""
    try:
        summary = train(plan, world, view)
    except UsageError as error:
        return "failed", str(error), Signal.NONE
    except RankFailureError as error:
        if error.alone:  # the other ranks wait within the run, and have to be ended
            raise
        if world.is_root:
            sys.stderr.write(harmless(error.details))
        return "failed", str(error), Signal.NONE
    stopped = {"SIGINT": Signal.INTERRUPT, "SIGTERM": Signal.TERMINATE}.get(summary["signal"] or "", Signal.NONE)
    return summary["status"], summary["reason"], stopped
