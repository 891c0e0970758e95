"""Claims put to the test, one after the other: their runs, what those came to, and the verdicts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from mpisqueeze import __version__
from mpisqueeze.analysis.evidence import FIGURES, Evidence
from mpisqueeze.comm.world import Signal, World
from mpisqueeze.errors import UsageError
from mpisqueeze.record.claims import CLAIMS
from mpisqueeze.record.folder import RunFolder
from mpisqueeze.record.reading import RunLog
from mpisqueeze.record.types import SCHEMA_VERSION
from mpisqueeze.report.claims_view import ClaimsView
from mpisqueeze.reproduce.claims import Claim, Trial
from mpisqueeze.reproduce.virtual import LabError, run_in_lab
from mpisqueeze.runs.comparing import Ledger, check_entries, compare
from mpisqueeze.runs.interrupts import Interrupts
from mpisqueeze.runs.pairs import Entry


class Verdict(str, Enum):
    """What became of a claim."""

    PASS = "PASS"
    FAIL = "FAIL"
    SKIPPED = "SKIPPED"


@dataclass(frozen=True)
class Task:
    """A claim with its runs, planned.

    Attributes:
        obstacle: why it cannot be tested here, or None.
    """

    claim: Claim
    trials: list[Trial]
    entries: list[Entry]
    obstacle: str | None


def plan_tasks(claims: Sequence[Claim], ranks: int, data_dir: Path | None, device: str) -> list[Task]:
    """Every run of every claim, planned for `ranks` ranks. Raises UsageError naming the claim."""
    tasks = []
    for claim in claims:
        obstacle = None
        if ranks < claim.min_ranks:
            obstacle = f"needs {claim.min_ranks} ranks at least, and these are {ranks}"
        trials = [] if obstacle else claim.trials(ranks)
        trials = [replace(t, config=replace(t.config, data_dir=data_dir, device=device)) for t in trials]
        try:
            entries = [trial.entry(number) for number, trial in enumerate(trials, 1)]
        except UsageError as error:
            raise UsageError(f"{error} (claim {claim.name})", error.option) from error.__cause__
        tasks.append(Task(claim, trials, entries, obstacle))
    return tasks


def check_tasks(tasks: Sequence[Task], world: World) -> None:
    """Build the first run of each claim once, so that missing data are known before the first one starts; collective.

    Raises UsageError on all ranks alike.
    """
    for task in tasks:
        check_entries(task.entries[:1], world)


def check_claims(
    tasks: Sequence[Task],
    world: World,
    path: Path,
    scale: str,
    interrupts: Interrupts,
    folder: RunFolder | None,
    view: ClaimsView | None,
) -> tuple[list[dict[str, Any]], Signal]:
    """Put all claims to the test; collective.

    Args:
        path: of the whole reproduction, on every rank.
        interrupts: entered.
        folder, view: on rank 0.

    Returns:
        On rank 0 an object a claim, see `_verdict`, without those that a signal kept from being tested; the signal.
    """
    verdicts: list[dict[str, Any]] = []
    stopped = Signal.NONE
    for number, task in enumerate(tasks):
        stopped = Signal(world.agree(interrupts.wish))
        if not stopped:
            began = time.monotonic()
            if view:
                view.claim_begins(number, task.claim.name, len(task.entries))
            logs, reason, stopped = _run(task, world, path / task.claim.name, interrupts, view)
        if stopped:
            break
        judge: Callable[[], dict[str, Any]] = partial(_verdict, task, logs, reason, world.size)
        found = world.collectively(judge if world.is_root else dict)
        if folder and view:
            found["seconds"] = time.monotonic() - began
            verdicts.append(found)
            _write(folder, scale, world.size, "running", verdicts)
            view.claim_ended(found)
    if folder:
        _write(folder, scale, world.size, "interrupted" if stopped else "done", verdicts)
    return verdicts, stopped


def _write(folder: RunFolder, scale: str, ranks: int, status: str, verdicts: list[dict[str, Any]]) -> None:
    about = {
        "schema_version": SCHEMA_VERSION,
        "mpisqueeze": __version__,
        "status": status,
        "scale": scale,
        "ranks": ranks,
    }
    folder.write_json(CLAIMS, about | {"claims": verdicts})


def _run(
    task: Task, world: World, path: Path, interrupts: Interrupts, view: ClaimsView | None
) -> tuple[list[RunLog], str | None, Signal]:
    """The runs of a claim, on rank 0, in the order of its trials; why there are none; a signal that ended them."""
    if task.obstacle:
        return [], task.obstacle, Signal.NONE
    if task.claim.hosts is not None:
        return _run_in_lab(task, world, path, interrupts)
    ledger: Ledger | None = None

    def open_ledger() -> None:
        nonlocal ledger
        ledger = Ledger(path, task.entries, world.size, None)

    world.collectively(open_ledger if world.is_root else lambda: None)
    outcome = compare(task.entries, world, path, interrupts, ledger, view)
    return (ledger.runs if ledger else []), None, Signal(outcome.stopped_by)


def _run_in_lab(
    task: Task, world: World, path: Path, interrupts: Interrupts
) -> tuple[list[RunLog], str | None, Signal]:
    """Rank 0 has a virtual cluster made and waits for it; the others wait for rank 0."""
    logs: list[RunLog] = []
    reason = None
    if world.is_root:
        try:
            logs = run_in_lab(task.claim, task.trials, path, lambda: bool(interrupts.wish))
        except LabError as error:
            reason = str(error)
    world.rest()
    return logs, reason, Signal(world.agree(interrupts.wish))


def _verdict(task: Task, logs: list[RunLog], reason: str | None, ranks: int) -> dict[str, Any]:
    """What became of a claim.

    `decisions` has an object for each: `text`, `holds` (the expression), `found` (with the numbers in place), `passed`.
    `runs` has an object a run: its name, point, seed, folder, status and figures.
    """
    claim = task.claim
    about: dict[str, Any] = {
        "claim": claim.name,
        "title": claim.title,
        "says": claim.says,
        "source": claim.source,
        "note": claim.note or None,
        "seeds": list(claim.seeds),
        "sweep": claim.sweep.axis if claim.sweep else None,
        "figure": None
        if claim.figure is None
        else {"kind": claim.figure.kind, "y": claim.figure.y, "label": FIGURES[claim.figure.y].label},
    }
    if reason is not None:
        untested = [{"text": d.text, "holds": d.holds.text, "found": None, "passed": None} for d in claim.decisions]
        return about | {"verdict": Verdict.SKIPPED.value, "reason": reason, "decisions": untested, "runs": []}
    points = claim.points(ranks)
    by_run: dict[str, list[list[RunLog]]] = {run: [[] for _ in points] for run in claim.runs}
    for trial, log in zip(task.trials, logs, strict=True):
        by_run[trial.run][points.index(trial.point)].append(log)
    evidence = Evidence(by_run, [point.x for point in points], ranks)
    decisions, passed = [], True
    for decision in claim.decisions:
        finding = decision.holds.decide(evidence)
        passed = passed and finding.holds
        wanted = {"text": decision.text, "holds": decision.holds.text}
        decisions.append({**wanted, "found": finding.shown, "passed": finding.holds})
    failed = [log for log in logs if log.summary["status"] in ("failed", "killed", "skipped")]
    return about | {
        "verdict": (Verdict.PASS if passed else Verdict.FAIL).value,
        "reason": f"{failed[0].name} failed: {failed[0].summary['reason']}" if failed else None,
        "decisions": decisions,
        "runs": [_row(trial, log) for trial, log in zip(task.trials, logs, strict=True)],
    }


def _row(trial: Trial, log: RunLog) -> dict[str, Any]:
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
        **{name: figure.of(log) for name, figure in FIGURES.items()},
    }
