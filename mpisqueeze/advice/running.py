"""An advice carried out on the ranks: rank 0 decides what runs next and for how long, and all of them run it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from mpisqueeze.advice.advisor import AdviceQuestion, Advisor, Job
from mpisqueeze.advice.candidates import baseline, candidates
from mpisqueeze.comm.watchdog import watched
from mpisqueeze.comm.world import Signal, World
from mpisqueeze.errors import UsageError
from mpisqueeze.modelling.calibrate import CalibrationRequest, assumed_link, calibrate
from mpisqueeze.modelling.methods import BASELINE
from mpisqueeze.record.folder import write_json
from mpisqueeze.record.reading import RunLog
from mpisqueeze.runs.comparing import check_entries, log_of, run_one
from mpisqueeze.runs.interrupts import Interrupts, StoppedError
from mpisqueeze.runs.pairs import expand, parse_pair
from mpisqueeze.runs.plan import Plan, plan
from mpisqueeze.runs.view import View
from mpisqueeze.settings import SETTINGS

T = TypeVar("T")

#: Bytes of the largest message of a calibration: no more than a vector has, which takes long enough on a slow link.
_LARGEST, _LEAST = 1 << 20, 1 << 15


class AdviceWatcher(View):
    """A view of an advice that shows nothing, and ends a run once its time is over.

    Attributes:
        deadline: of the current run, by `time.perf_counter`.
    """

    deadline = math.inf

    @property
    def enough(self) -> bool:
        return time.perf_counter() >= self.deadline

    def stage(self, text: str) -> None:
        """A stage of the calibration begins."""

    def planned(self, advisor: Advisor) -> None:
        """The race is planned, or goes on."""

    def job_begins(self, job: Job) -> None:
        """A run is about to be set up."""

    def job_ended(self, advisor: Advisor, job: Job, log: RunLog) -> None:
        """A run has ended, and is booked."""


@dataclass(frozen=True)
class _DoneJob:
    """A run that has ended; the log is on rank 0.

    Attributes:
        took_s: with set-up and evaluations, s.
        overdue: its time was over.
    """

    log: RunLog | None
    took_s: float
    overdue: bool


def check_network(question: AdviceQuestion) -> None:
    """Raise UsageError for virtual workers without a network between them, whose times would tell nothing."""
    settings = question.settings
    if settings.workers is not None and settings.link is None:
        raise UsageError("needs a network between virtual workers, such as latency=50us,bandwidth=10gbit", "--link")


def check(question: AdviceQuestion, world: World) -> None:
    """Build the baseline's run and those that a user named, and let them go; collective. Raises UsageError."""
    if world.size == 1:
        raise UsageError(
            "one rank has nobody to exchange with; start several: mpisqueeze launch -n 4 advise, or mpirun. A network "
            "that is not here is -n 64 --latency 50us --bandwidth 10gbit"
        )
    texts = [BASELINE, *question.pairs, *question.also]
    entries = world.collectively(lambda: expand([parse_pair(text) for text in texts], [], question.settings))
    check_entries(entries, world, question.target)


class Driver:
    """All ranks, on their way to an advice; its methods are collective.

    Args:
        path: of the folder with all runs, on every rank.
        interrupts: entered.
        advisor: on rank 0.
    """

    def __init__(
        self,
        question: AdviceQuestion,
        world: World,
        path: Path,
        interrupts: Interrupts,
        advisor: Advisor | None,
        view: AdviceWatcher,
    ) -> None:
        self.question, self.world, self.path, self.interrupts = question, world, path, interrupts
        self.advisor, self.view = advisor, view

    def advise(self) -> Signal:
        """Run all that the budget allows; the signal that ended it before, if any.

        Raises UsageError where the budget is too short for a run.
        """
        try:
            if not self._on_root(lambda advisor: advisor.planned):
                self._probe()
                self._calibrate()
                self._on_root(lambda advisor: advisor.plan())
            self._on_root(self.view.planned)
            while (job := self._on_root(lambda advisor: advisor.next())) is not None:
                ended = self._run(job)
                self._on_root(partial(self._book, job, ended))
        except StoppedError as stopped:
            return Signal(stopped.args[0])
        return Signal.NONE

    def _on_root(self, work: Callable[[Advisor], T]) -> T | None:
        advisor = self.advisor
        return self.world.on_root(lambda: work(advisor) if advisor else None)

    def _book(self, job: Job, ended: _DoneJob, advisor: Advisor) -> None:
        assert ended.log is not None
        advisor.book(job, ended.log, ended.took_s, ended.overdue)
        self.view.job_ended(advisor, job, ended.log)

    def _probe(self) -> None:
        """Time the baseline, and its overlapped exchange where the problem allows it."""
        question = self.question

        def begin(advisor: Advisor) -> None:
            others = candidates(question.pairs, question.also, question.settings, question.server)
            advisor.begin(baseline(question.settings), others)

        self._on_root(begin)
        while (job := self._on_root(lambda advisor: advisor.next_probe())) is not None:
            ended = self._run(job)
            self._on_root(partial(self._probed, job, ended))
        self._on_root(lambda advisor: advisor.check_budget())

    def _probed(self, job: Job, ended: _DoneJob, advisor: Advisor) -> None:
        assert ended.log is not None
        advisor.probed(job, ended.log, ended.took_s)

    def _calibrate(self) -> None:
        settings = self.question.settings
        specs, nbytes = self._on_root(lambda advisor: (advisor.compressors, advisor.vector_bytes)) or ([], 0)
        largest = min(max(nbytes, _LEAST), _LARGEST)
        if self.world.virtual:
            self._on_root(lambda advisor: write_json(advisor.calibration_path, self._assumed(specs, largest)))
            return
        request = self.world.collectively(lambda: CalibrationRequest.checked(specs, largest, True, settings))
        with watched(self.world, "a stage of the calibration") as begin:

            def say(stage: str) -> None:
                begin()
                self.view.stage(stage)

            facts = calibrate(request, self.world, say)
        self._on_root(lambda advisor: write_json(advisor.calibration_path, facts))

    def _assumed(self, specs: Sequence[str], largest: int) -> dict[str, Any]:
        """A calibration of this process alone, with the network that virtual workers are given."""
        settings, world = self.question.settings, self.world
        assert settings.link is not None
        request = CalibrationRequest.checked(specs, largest, True, replace(settings, link=None))
        facts = calibrate(request, world.process, self.view.stage)
        return {**facts, "ranks": world.size, "link": assumed_link(settings.link)}

    def _run(self, job: Job) -> _DoneJob:
        """One run. Raises StoppedError on all ranks when a signal ends it, or came before."""
        world, view = self.world, self.view
        self.interrupts.agree(world)
        began = time.perf_counter()
        view.deadline = began + job.stop_s
        view.job_begins(job)
        path = self.path / job.folder
        made = world.collectively(lambda: _without_idle(plan(replace(job.settings, out=path))))
        status, reason, stopped = run_one(made, world, view)
        took = time.perf_counter() - began
        if stopped:
            raise StoppedError(stopped)
        read = partial(log_of, path, made, world.size, job.name, status, reason)
        return _DoneJob(world.collectively(read if world.is_root else lambda: None), took, status == "interrupted")


def _without_idle(made: Plan) -> Plan:
    """The plan with defaults in place of common settings that have no effect on it."""
    if not made.idle:
        return made
    return replace(made, config=replace(made.config, **{name: SETTINGS[name].default for name in made.idle}))
