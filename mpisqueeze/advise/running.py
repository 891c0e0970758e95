"""An advice carried out on the ranks: rank 0 decides what runs next and for how long, and all of them run it."""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mpisqueeze.advise.advisor import Advisor, Job, Question
from mpisqueeze.advise.candidates import baseline, candidates
from mpisqueeze.comm.watchdog import watched
from mpisqueeze.comm.world import RankFailureError, Signal, World
from mpisqueeze.errors import UsageError
from mpisqueeze.modelling.calibrate import CalibrationRequest, calibrate
from mpisqueeze.modelling.methods import BASELINE
from mpisqueeze.record.folder import write_json
from mpisqueeze.record.reading import RunLog, folderless, read_run
from mpisqueeze.runs.comparing import check_entries, run_one
from mpisqueeze.runs.interrupts import Interrupts, StoppedError
from mpisqueeze.runs.pairs import expand, parse_pair
from mpisqueeze.runs.plan import Plan, plan
from mpisqueeze.runs.view import View
from mpisqueeze.settings import SETTINGS, Settings

#: Bytes of the largest message of a calibration.
_LARGEST = 1 << 20


class TimedView(View):
    """A view that ends a run once its time is over.

    Attributes:
        deadline: by `time.perf_counter`.
    """

    deadline = math.inf

    @property
    def enough(self) -> bool:
        return time.perf_counter() >= self.deadline


@dataclass(frozen=True)
class _Ended:
    """A run that has ended; the log is on rank 0."""

    log: RunLog | None
    took_s: float
    overdue: bool


def check(question: Question, world: World) -> None:
    """Build the baseline's run and those that a user named, and let them go; collective. Raises UsageError."""
    base = question.settings
    texts = [BASELINE, *question.pairs, *question.also]
    entries = world.collectively(lambda: expand([parse_pair(text) for text in texts], [], base))
    check_entries(entries, world, question.target)
    if world.size == 1:
        raise UsageError(
            "one rank has nobody to exchange with: start several, as in mpisqueeze launch -n 4 advise, or with mpirun"
        )


class Driver:
    """All ranks, on their way to an advice; its methods are collective.

    Args:
        path: of the folder with all runs, on every rank.
        interrupts: entered.
        advisor: on rank 0.
        view: on rank 0 one that shows something, and ends runs in time.
        say: called on rank 0 with what happens next.
    """

    def __init__(
        self,
        question: Question,
        world: World,
        path: Path,
        interrupts: Interrupts,
        advisor: Advisor | None,
        view: TimedView,
        say: Callable[[str], None],
    ) -> None:
        self.question, self.world, self.path, self.interrupts = question, world, path, interrupts
        self.advisor, self.view, self.say = advisor, view, say

    def advise(self) -> Signal:
        """Run all that the budget allows; the signal that ended it before, if any.

        Raises UsageError where the budget is too short for a run.
        """
        try:
            if not self._on_root(lambda advisor: advisor.planned):
                self._probe()
                self._calibrate()
                self._on_root(lambda advisor: advisor.plan())
            self._on_root(lambda advisor: self.view.planned(advisor))  # type: ignore[attr-defined]
            while (job := self._on_root(lambda advisor: advisor.next())) is not None:
                ended = self._run(job)
                self._on_root(lambda advisor: advisor.book(job, ended.log, ended.took_s, ended.overdue))  # noqa: B023
        except StoppedError as stopped:
            return Signal(stopped.args[0])
        return Signal.NONE

    def _on_root(self, work: Callable[[Advisor], object]) -> object:
        advisor = self.advisor
        return self.world.on_root(lambda: work(advisor) if advisor else None)

    def _probe(self) -> None:
        """Time the baseline, and its overlapped exchange where the problem allows it."""
        self._on_root(lambda advisor: advisor.begin(baseline(self.question.settings), candidates(
            self.question.pairs, self.question.also, self.question.settings, self.question.server)))  # fmt: skip
        while (job := self._on_root(lambda advisor: advisor.next_probe())) is not None:
            ended = self._run(job)
            self._on_root(lambda advisor: advisor.probed(job, ended.log, ended.took_s))  # noqa: B023
        self._on_root(lambda advisor: advisor.check_budget())

    def _calibrate(self) -> None:
        specs = self._on_root(lambda advisor: advisor.compressors)
        if not specs:
            return
        request = self.world.collectively(
            lambda: CalibrationRequest.checked(specs, _LARGEST, True, self.question.settings)
        )
        with watched(self.world, "a stage of the calibration") as begin:

            def stage(text: str) -> None:
                begin()
                self.view.stage(text)  # type: ignore[attr-defined]

            facts = calibrate(request, self.world, stage if self.world.is_root else lambda text: begin())
        self._on_root(lambda advisor: write_json(advisor.calibration_path, facts))

    def _run(self, job: Job) -> _Ended:
        """One run. Raises StoppedError on all ranks when a signal ends it, or came before."""
        world, view = self.world, self.view
        self.interrupts.agree(world)
        began = time.perf_counter()
        view.deadline = began + job.stop_s
        if world.is_root:
            view.job_begins(job)  # type: ignore[attr-defined]
        made = world.collectively(lambda: _without_idle(plan(replace(job.settings, out=self.path / job.folder))))
        status, reason, stopped = run_one(made, world, view)
        took = time.perf_counter() - began
        if stopped:
            raise StoppedError(stopped)
        overdue = status == "interrupted"
        read = partial(_log, self.path / job.folder, made, world.size, job.name, status, reason)
        log = world.collectively(read if world.is_root else lambda: None)
        if world.is_root and log is not None:
            view.job_ended(job, log)  # type: ignore[attr-defined]
        return _Ended(log, took, overdue)


def _without_idle(made: Plan) -> Plan:
    """The plan with defaults in place of common settings that have no effect on it."""
    if not made.idle:
        return made
    return replace(made, config=replace(made.config, **{name: SETTINGS[name].default for name in made.idle}))
