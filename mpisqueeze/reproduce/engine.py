"""Claims are put to the test one after the other: their runs are done, and their verdicts follow from the figures."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mpisqueeze import __version__
from mpisqueeze.analysis.evidence import FIGURES, Evidence
from mpisqueeze.comm.world import Signal, World
from mpisqueeze.errors import UsageError
from mpisqueeze.holder import beat
from mpisqueeze.record.claims import CLAIMS
from mpisqueeze.record.folder import RunFolder, sanitized
from mpisqueeze.record.reading import RunLog
from mpisqueeze.record.types import SCHEMA_VERSION
from mpisqueeze.reproduce.claims import ClaimRun, StatedClaim
from mpisqueeze.reproduce.expressions import joined
from mpisqueeze.reproduce.virtual import LabError, run_in_lab
from mpisqueeze.runs.comparing import Ledger, Track, check_entries, on_first
from mpisqueeze.runs.interrupts import Interrupts
from mpisqueeze.runs.pairs import Entry
from mpisqueeze.runs.view import View
from mpisqueeze.settings import Settings
from mpisqueeze.virtual.workers import on_workers

T = TypeVar("T")

#: Verdicts on a claim that was tested, by whether its decisions hold; None: the seeds do not tell.
VERDICTS = {True: "PASS", False: "FAIL", None: "NOT DISTINGUISHABLE"}


@dataclass(frozen=True)
class Task:
    """A claim with its runs, planned.

    Attributes:
        obstacle: why it cannot be tested here, or None.
        shared: the virtual workers in place of ranks that `--workers` asks for; a claim's own come before them.
        size: the ranks, or virtual workers, that the claim has for its runs.
    """

    claim: StatedClaim
    trials: list[ClaimRun]
    entries: list[Entry]
    obstacle: str | None
    shared: int | None
    size: int

    def do(self, world: World, work: Callable[[World], T]) -> T:
        """Call `work` where the claim's runs are done: on ranks, or on virtual workers. Collective.

        Those of `--workers` are spread over the ranks. Those that the claim has itself are rank 0's, as the small
        problems that they train on would spend more time between processes than they save; the other ranks rest.
        """
        own = self.claim.workers
        if own is None:
            return on_workers(world, self.shared, work)
        return on_first(world, 1, lambda team: on_workers(team, own, work))


def plan_tasks(claims: Sequence[StatedClaim], ranks: int, settings: Settings) -> list[Task]:
    """Every run of every claim, planned for `ranks` ranks. Raises UsageError naming the claim.

    Args:
        settings: those of the reproduction: `data_dir`, `device` and, for claims without virtual workers of their own,
            `workers`.
    """
    tasks = []
    for claim in claims:
        obstacle, size = None, claim.workers or settings.workers or ranks
        if claim.workers and "MPISQUEEZE_LAB" in os.environ:
            obstacle = "trains virtual workers, and a lab has real ranks"
        elif claim.workers is None and size < claim.file.min_ranks:
            obstacle = f"needs {claim.file.min_ranks} ranks at least, and these are {size}"
        trials = [] if obstacle else claim.trials(size)
        trials = [
            replace(t, config=replace(t.config, data_dir=settings.data_dir, device=settings.device)) for t in trials
        ]
        if settings.workers and claim.hosts is not None:
            obstacle, trials = "needs virtual hosts for its ranks, and virtual workers have none", []
        try:
            entries = [trial.entry(number) for number, trial in enumerate(trials, 1)]
        except UsageError as error:
            raise UsageError(f"{error} (claim {claim.name})", error.option) from error.__cause__
        tasks.append(Task(claim, trials, entries, obstacle, settings.workers, size))
    return tasks


def check_first(tasks: Sequence[Task], world: World) -> None:
    """Build the first run of each claim once, so that missing data are known before anything starts; collective.

    Raises UsageError or RankFailureError.
    """
    for task in tasks:
        task.do(world, partial(check_entries, task.entries[:1]))


def check_claims(
    tasks: Sequence[Task],
    world: World,
    path: Path,
    scale: str,
    interrupts: Interrupts,
    folder: RunFolder | None,
    view: View,
) -> tuple[list[dict[str, Any]], Signal]:
    """Put all claims to the test; collective.

    Args:
        world: of the ranks.
        path: of the whole reproduction, on every rank.
        interrupts: entered.
        folder: on rank 0.

    Returns:
        On rank 0 an object a claim, see `_verdict`, without those that a signal kept from being tested; the signal.
    """
    verdicts: list[dict[str, Any]] = []

    def write(status: str) -> None:
        about = {"schema_version": SCHEMA_VERSION, "mpisqueeze": __version__, "status": status, "scale": scale}
        about |= {"ranks": world.size, "workers": tasks[0].shared}
        if folder:
            folder.write_json(CLAIMS, about | {"asked": len(tasks), "claims": verdicts})

    for number, task in enumerate(tasks):
        stopped = Signal(world.agree(interrupts.wish))
        if not stopped:
            began = time.monotonic()
            view.claim_begins(number, task.claim.name, len(task.entries), task.claim.workers)
            logs, reason, stopped = _run(task, world, path / task.claim.name, interrupts, view)
        if stopped:
            write("interrupted")
            return verdicts, stopped
        judge = partial(_verdict, task, logs, reason) if world.is_root else dict[str, Any]
        found = world.collectively(judge)
        if world.is_root:
            found["seconds"] = time.monotonic() - began
            verdicts.append(found)
            write("running")
            view.claim_ended(found)
    write("done")
    return verdicts, Signal.NONE


def _run(
    task: Task, world: World, path: Path, interrupts: Interrupts, view: View
) -> tuple[list[RunLog], str | None, Signal]:
    """The runs of a claim, on rank 0, in the order of its trials; why there are none; a signal that ended them."""
    if task.obstacle:
        return [], task.obstacle, Signal.NONE
    if task.claim.hosts is not None:
        return _run_in_lab(task, world, path, interrupts)
    logs: list[RunLog] = []

    def run(world: World) -> Signal:
        """The signal that ended the runs, if any; on workers or on ranks."""
        ledger = world.collectively(lambda: Ledger(path, task.entries, world, None) if world.is_root else None)
        listening = interrupts if world.leads else Interrupts(listens=False)
        track = Track(world, path, listening, ledger, view if world.is_root else View())
        track.run(task.entries)
        track.end()
        logs.extend(ledger.runs if ledger else [])
        return track.stopped_by

    return logs, None, task.do(world, run)


def _run_in_lab(
    task: Task, world: World, path: Path, interrupts: Interrupts
) -> tuple[list[RunLog], str | None, Signal]:
    """Rank 0 has a virtual cluster made and waits for it; the others wait for rank 0."""
    logs: list[RunLog] = []
    reason = None

    def stopped() -> bool:
        beat()
        return bool(interrupts.wish)

    if world.is_root:
        try:
            logs = run_in_lab(task.claim, task.trials, path, stopped)
        except LabError as error:
            reason = str(error)
    world.rest()
    return logs, reason, Signal(world.agree(interrupts.wish))


def _verdict(task: Task, logs: list[RunLog], reason: str | None) -> dict[str, Any]:
    """The verdict on a claim, of VERDICTS, with all that led to it; `SKIPPED` is for a `reason`.

    `workers`: the most virtual workers that a claim has itself, None where it has none.
    `decisions` has an object for each: `text`, `holds` (the expression), `found` (with the numbers in place), `passed`
    (None where the seeds do not tell).
    `runs` has an object a run: its name, point, seed, folder, status and figures, None for one that is not finite.
    """
    claim, file, figure = task.claim, task.claim.file, task.claim.file.figure
    about: dict[str, Any] = {
        "claim": claim.name,
        "title": file.title,
        "says": file.says,
        "source": file.source,
        "note": file.note or None,
        "seeds": file.seeds,
        "workers": claim.workers,
        "sweep": claim.sweep.axis if claim.sweep else None,
        "figure": figure and {**msgspec.structs.asdict(figure), "label": FIGURES[figure.y].label},
    }
    decisions: list[dict[str, Any]] = [
        {"text": stated.text, "holds": decision.text, "found": None, "passed": None}
        for stated, decision in zip(file.decisions, claim.decisions, strict=True)
    ]
    if reason is not None:
        return about | {"verdict": "SKIPPED", "reason": reason, "decisions": decisions, "runs": []}
    points = claim.points(task.size)
    by_run: dict[str, list[list[RunLog]]] = {run: [[] for _ in points] for run in claim.runs}
    for trial, log in zip(task.trials, logs, strict=True):
        by_run[trial.run][points.index(trial.point)].append(log)
    sizes = [int(point.x) if claim.sweep and claim.sweep.over_n else task.size for point in points]
    evidence = Evidence(by_run, [point.x for point in points], sizes)
    for decision, row in zip(claim.decisions, decisions, strict=True):
        finding = decision.decide(evidence)
        row["found"], row["passed"] = finding.shown, finding.holds
    failed = [log for log in logs if log.summary["status"] in ("failed", "killed", "skipped")]
    return about | {
        "verdict": VERDICTS[joined([row["passed"] for row in decisions], False)],
        "reason": f"{failed[0].name} failed: {failed[0].summary['reason']}" if failed else None,
        "decisions": decisions,
        "runs": [_row(trial, log) for trial, log in zip(task.trials, logs, strict=True)],
    }


def _row(trial: ClaimRun, log: RunLog) -> dict[str, Any]:
    summary = log.summary
    return {
        "run": trial.run,
        "point": trial.point.label or None,
        "x": trial.point.x,
        "seed": trial.config.seed,
        "algorithm": summary["algorithm"],
        "compressor": summary["compressor"],
        "status": summary["status"],
        "run_folder": summary["run_folder"],
        **sanitized({name: figure.of(log) for name, figure in FIGURES.items()}),
    }
