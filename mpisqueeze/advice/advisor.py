"""Rank 0's side of an advice: what runs next, what was found out, and the two files that tell it.

`race.json` is replaced after each run and has all that a killed advice needs to go on. `advice.json` is the result.
"""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from mpisqueeze import __version__
from mpisqueeze.advice.candidates import Candidate, method_of, modelled, overlapping
from mpisqueeze.advice.race import FINAL, NO_ROOM, RATE, WHOLE_RATE, Race, RaceRun, lasted_s
from mpisqueeze.advice.race import RACE as RACED
from mpisqueeze.advice.scheme import ENOUGH, MOST, Pace, Scheme, plan_race
from mpisqueeze.advice.sentences import Around, sentences, too_short
from mpisqueeze.advice.verdict import GAIN, Verdict
from mpisqueeze.analysis.ranking import Target
from mpisqueeze.errors import RankFailureError, UsageError
from mpisqueeze.files import check_whole, inside
from mpisqueeze.modelling.forecast import Forecast
from mpisqueeze.modelling.targets import NeededIterations
from mpisqueeze.record.calibration import Calibration, read_calibration
from mpisqueeze.record.decoding import read_object
from mpisqueeze.record.folder import RunFolder, slug
from mpisqueeze.record.reading import SMOOTHED, RunLog, read_run
from mpisqueeze.record.types import SCHEMA_VERSION, RaceFile
from mpisqueeze.runs.seeding import seeds_apart
from mpisqueeze.settings import SETTINGS, Settings

RACE, ADVICE, CALIBRATION, PAGE = "race.json", "advice.json", "calibration.json", "report.html"
#: A run's folder within the advice's.
_FOLDER = re.compile(r"\d{3,}-")
#: The part of the budget, and the seconds, kept for what comes after the runs: verdict, files and page.
_RESERVE, _RESERVE_S = 0.03, 1.0
#: Seconds that a process takes to come here, at most.
_START_S = 120.0
#: A probe's part of the budget, s at least and at most.
_PROBE, _PROBE_LEAST_S, _PROBE_MOST_S = 0.015, 0.3, 10.0
#: Whether the first, second, … probe overlaps its exchange with the gradient, where that is possible.
_TURNS = (False, False, True, True, False)
#: Evaluations of a whole run: at least and at most, and the part of its time that they may take.
_FEWEST, _MANY, _PART = 25, 50, 0.2


@dataclass(frozen=True)
class AdviceQuestion:
    """The options of `advise`, checked.

    Attributes:
        settings: common to all runs; its length is that of a whole run.
        pairs: to race in place of all; `also`: beside them.
        server: `root` or `sharded` for all; None: whichever is faster.
        budget_s: s.
        seeds: that count, the most of them.
        target: None: by the baseline.
        exact: the length of runs was given, and is not shortened.
    """

    settings: Settings
    pairs: tuple[str, ...]
    also: tuple[str, ...]
    server: str | None
    budget_s: float
    seeds: tuple[int, ...]
    target: Target | None
    exact: bool

    def as_json(self) -> dict[str, Any]:
        changed = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self.settings).items()
            if value != SETTINGS[name].default
        }
        target = self.target.as_json() if self.target else None
        return {**asdict(self), "settings": changed, "target": target}

    @staticmethod
    def of(about: dict[str, Any]) -> AdviceQuestion:
        """The question as race.json has it. Raises UsageError."""
        return AdviceQuestion(
            **{
                **about,
                "settings": Settings.of(about["settings"]),
                "target": Target.given(about["target"]),
                **{name: tuple(about[name]) for name in ("pairs", "also", "seeds")},
            }
        )


@dataclass(frozen=True)
class Job:
    """A run that all ranks are to do.

    Attributes:
        name: of its method, for people.
        settings: of the run, but for its folder.
        folder: its name within the advice's.
        stop_s: s after which it is to be ended.
        about: what it is for, in words.
        trial: of the race; None: a probe.
    """

    name: str
    settings: Settings
    folder: str
    stop_s: float
    about: str
    trial: RaceRun | None = None
    overlap: bool = False


class BudgetClock:
    """The time of the budget: that of this process, so that starting it counts, and of earlier ones of this advice."""

    def __init__(self, budget_s: float, earlier_s: float = 0.0) -> None:
        self.budget_s, self._earlier_s = budget_s, earlier_s
        began, now = psutil.Process().create_time(), time.time()
        # A process that is older did something else before.
        self._began = began if 0 <= now - began < _START_S else now

    @property
    def spent_s(self) -> float:
        return self._earlier_s + time.time() - self._began

    @property
    def left_s(self) -> float:
        """Seconds for runs."""
        return self.budget_s - self.spent_s - _RESERVE * self.budget_s - _RESERVE_S


class Advisor:
    """An advice on rank 0.

    Args:
        folder: its folder, held.
        ranks: how many take part.
        past: race.json's object, of which this advice goes on; None: it begins.

    Raises:
        UsageError: a run that is in it is damaged.

    Attributes:
        candidates: all methods, the baseline first, then those that are raced.
        race: None before it is planned.
        calibration: of the network; None before it was measured.
    """

    def __init__(
        self,
        question: AdviceQuestion,
        folder: RunFolder,
        ranks: int,
        clock: BudgetClock,
        past: dict[str, Any] | None = None,
    ) -> None:
        self.question, self.folder, self.ranks, self.clock = question, folder, ranks, clock
        self.candidates: list[Candidate] = []
        self.race: Race | None = None
        self.network, self.dimension, self.per_epoch, self.compute_s = "", 0, 1, 0.0
        self.short_of: int | None = None
        self._between = 1
        self._probes: list[tuple[bool, RunLog, Pace]] = []
        self._booked: list[dict[str, Any]] = []
        self._logs: list[RunLog] = []
        self.calibration: Calibration | None = None
        self._count = 0
        if past and past["scheme"]:
            self._restore(past)
        self.write("running")

    def _restore(self, past: dict[str, Any]) -> None:
        """Take up what was planned and run."""
        self.candidates = [Candidate(**{**about, "servers": tuple(about["servers"])}) for about in past["methods"]]
        for name in ("network", "dimension", "per_epoch", "compute_s", "short_of"):
            setattr(self, name, past[name])
        self._between = past["evaluated_every"]
        self.calibration = read_calibration(self.calibration_path)
        self._start(Scheme(**past["scheme"]), [Pace(**pace) for pace in past["paces"]])
        for booked in finished(past):
            path = self.folder.path / booked["folder"]
            trial = RaceRun(**{name: booked[name] for name in ("method", "purpose", "lr", "seed", "iterations")})
            log = read_run(path, self.candidates[trial.method].name)
            self._count = max(self._count, int(booked["folder"].partition("-")[0]))
            self._book(trial, log, booked["folder"], booked["took_s"], booked["hopeless"])

    # -- before the race

    @property
    def virtual(self) -> bool:
        """The workers are virtual ones, and times are the model's."""
        return self.question.settings.workers is not None

    @property
    def planned(self) -> bool:
        return self.race is not None

    def begin(self, base: Candidate, others: Sequence[Candidate]) -> None:
        """Begin with these methods. Raises UsageError where there is none beside the baseline."""
        if not any(candidate.dropped_because is None for candidate in others):
            raise UsageError("name a method beside the baseline, or none for all", "PAIR")
        self.candidates = [base, *others]
        self._plain, self._overlapping = base, overlapping(base, self.question.settings)

    def next_probe(self) -> Job | None:
        """The next short run of the baseline.

        In the first things are loaded; the others are timed, in turns with overlapping ones where there can be some.
        """
        settings = self.question.settings
        seconds = min(max(_PROBE * self.question.budget_s, _PROBE_LEAST_S), _PROBE_MOST_S)
        turns = _TURNS if self._overlapping != self._plain else _TURNS[:2]
        if len(self._probes) == len(turns):
            return None
        overlap = turns[len(self._probes)]
        base = self._overlapping if overlap else self._plain
        made = replace(settings, **base.settings, eval_every=0, consensus_every=0)
        return self._job(base.label, made, "probe", seconds, "time of a gradient and an exchange", overlap=overlap)

    def probed(self, job: Job, log: RunLog, took_s: float) -> None:
        """Book a probe. Raises RankFailureError where it failed, as any other run would."""
        summary = log.summary
        done, wall_s, virtual = summary["iterations"], summary["wall_s"] or 0.0, self.virtual
        if not done:
            raise RankFailureError(f"the first run of {job.name} failed: {summary['reason']}")
        # It is evaluated twice, before and after.
        iterated = lasted_s(log, virtual)
        evaluation = max(0.0, wall_s - iterated) / 2
        pace = Pace(max(0.0, took_s - wall_s), iterated / done, evaluation, done)
        self._probes.append((job.overlap, log, pace))
        self.network, self.dimension, self.per_epoch = log.network, summary["dimension"], log.per_epoch
        if not job.overlap:
            self.compute_s = summary["times"]["compute_s"]["median"] or 0.0
        if len(self._probes) > 1:
            self.candidates[0] = self._overlapping if self._fastest[0] else self._plain

    @property
    def _fastest(self) -> tuple[bool, RunLog, Pace]:
        return min(self._probes[1:], key=lambda probe: self._elapsed_each(probe[1]))

    @staticmethod
    def _elapsed_each(log: RunLog) -> float:
        """Time (s) of an iteration, by the run's own clock."""
        return log.summary["elapsed_s"] / log.summary["iterations"]

    @property
    def _pace(self) -> Pace:
        """The baseline's pace, with evaluations as the race has them."""
        _, log, pace = self._fastest
        most = _MANY if not pace.evaluation else _PART * log.planned * pace.iteration / pace.evaluation
        return replace(pace, between=max(1, math.ceil(log.planned / min(_MANY, max(_FEWEST, most)))))

    @property
    def _lengths(self) -> tuple[int, int]:
        """Iterations of a whole run, at most and at least."""
        whole = self._probes[0][1].planned
        return whole, whole if self.question.exact else min(whole, max(self.per_epoch, whole // 4))

    def check_budget(self) -> None:
        """Raise UsageError where the budget is too short for a run."""
        _, least = self._lengths
        needed = self._pace.run(least)
        if needed > self.clock.left_s:
            raise UsageError(too_short(needed, self.clock.left_s), "--budget")

    @property
    def calibration_path(self) -> Path:
        return self.folder.path / CALIBRATION

    @property
    def vector_bytes(self) -> int:
        """Bytes of a full vector."""
        return self.dimension * np.dtype(self.question.settings.dtype).itemsize

    @property
    def compressors(self) -> list[str]:
        """The compressors whose kernels the model needs."""
        specs = [candidate.settings.get("compressor") for candidate in self.candidates if not candidate.dropped_because]
        return list(dict.fromkeys(["identity", *(spec for spec in specs if spec)]))

    def plan(self) -> None:
        """Model the methods and choose those that the budget has room for."""
        base, *others = self.candidates
        question = self.question
        self.calibration = read_calibration(self.calibration_path)
        others = modelled(others, question.settings, self.ranks, self.dimension, self.compute_s, self.calibration)
        if base.settings.get("overlap"):
            others = [other if other.dropped_because else overlapping(other, question.settings) for other in others]
        able = [other for other in others if other.dropped_because is None]
        able = _varied(able)
        pace = self._pace
        # The model's time of an iteration over the baseline's, by what the baseline's took. Messages of virtual workers
        # take no time here.
        slower = [1.0 if self.virtual else other.modelled or 1.0 for other in able]
        paces = [pace, *(replace(pace, iteration=pace.iteration * factor) for factor in slower)]
        whole, least = self._lengths
        scheme = plan_race(paces, self.clock.left_s, whole, least)
        self.short_of = whole if scheme.iterations < whole else None
        # Shorter runs have as many evaluations.
        self._between = max(1, pace.between * scheme.iterations // whole)
        paces = [replace(each, between=self._between) for each in paces]
        raced, rest = able[:MOST], able[MOST:]
        reason = f"the model puts it behind the {MOST} nearest"
        out = [*(replace(other, dropped_because=reason) for other in rest), *(o for o in others if o.dropped_because)]
        self.candidates = [base, *raced, *out]
        self._start(scheme, paces[: len(raced) + 1])
        self.write("running")

    def _start(self, scheme: Scheme, paces: Sequence[Pace]) -> None:
        raced = self.candidates[: len(paces)]
        seeds = self.question.seeds
        self.race = Race(
            [candidate.name for candidate in raced], paces, [candidate.lr for candidate in raced], scheme, seeds,
            seeds_apart(seeds, ENOUGH + 1), self.question.target, [candidate.modelled for candidate in raced],
            self.virtual,
        )  # fmt: skip

    # -- the race

    def next(self) -> Job | None:
        """The next run of the race, None where it is over."""
        race = self.race
        assert race is not None
        left = self.clock.left_s
        trial = race.next(left)
        if trial is None:
            return None
        candidate = self.candidates[trial.method]
        settings = self.settings_of(candidate, trial.lr, trial.seed, trial.iterations)
        kind = "rate" if trial.purpose in (RATE, WHOLE_RATE) else trial.purpose
        about = f"rate {trial.lr:g}" if kind == "rate" else f"{kind}, seed {trial.seed}"
        name = f"{slug(candidate.name)}-{kind}-{trial.lr:g}-seed-{trial.seed}"
        if trial.purpose == RATE:
            name += "-short"
        return self._job(candidate.label, settings, name, min(left, race.limit_s(trial)), about, trial)

    def settings_of(self, candidate: Candidate, lr: float, seed: int, iterations: int) -> Settings:
        """The settings of a run, but for its folder."""
        return replace(
            self.question.settings, **candidate.settings, lr=lr, seed=seed, iterations=iterations, epochs=None,
            eval_every=min(self._between, iterations), consensus_every=0,
        )  # fmt: skip

    def _job(
        self, name: str, settings: Settings, folder: str, stop_s: float, about: str, trial: RaceRun | None = None,
        overlap: bool = False,
    ) -> Job:  # fmt: skip
        self._count += 1
        return Job(name, settings, f"{self._count:03}-{folder}", stop_s, about, trial, overlap)

    def book(self, job: Job, log: RunLog | None, took_s: float, overdue: bool) -> None:
        """Book a run of the race, and write it down."""
        race = self.race
        assert race is not None
        assert log is not None
        assert job.trial is not None
        hopeless = overdue and job.stop_s == race.limit_s(job.trial)
        self._book(job.trial, log, job.folder, took_s, hopeless)
        self.write("running")

    def _book(self, trial: RaceRun, log: RunLog, folder: str, took_s: float, hopeless: bool) -> None:
        assert self.race is not None
        self.race.add(trial, log, took_s, hopeless)
        entry = {"folder": folder, **asdict(trial), "took_s": took_s, "hopeless": hopeless}
        self._booked.append({**entry, "status": log.summary["status"]})
        self._logs.append(log)

    @property
    def counted(self) -> list[tuple[str, int, RunLog]]:
        """(method's name, seed, run) of the runs that are evidence, first the baseline's, the others' partners."""
        race = self.race
        found = [
            (booked, log) for booked, log in zip(self._booked, self._logs, strict=True)
            if race and booked["purpose"] in (RACED, FINAL)
            and (booked["method"] == 0 or booked["seed"] in race.seeds_of(booked["method"]))
        ]  # fmt: skip
        found.sort(key=lambda item: (item[0]["method"], item[0]["seed"]))
        return [(self.candidates[booked["method"]].name, booked["seed"], log) for booked, log in found]

    # -- what it tells

    def verdict(self) -> Verdict:
        return self.race.verdict() if self.race else Verdict(None, None, {})

    def facts(self, interrupted: bool = False) -> dict[str, Any]:
        """advice.json's object."""
        race, verdict = self.race, self.verdict()
        best = None if verdict.best is None else verdict.evidence[verdict.best]
        target = race.target if race else self.question.target
        break_even, above, agrees = self._break_even(verdict)
        around = Around(
            labels=[candidate.label for candidate in self.candidates],
            named=[index for index, candidate in enumerate(self.candidates) if candidate.named],
            break_even=break_even,
            pays_off_above=above,
            model_agrees=agrees,
            virtual_bytes=any(log.summary["bytes"] != "counted" for _, log, _ in self._probes)
            or any(
                run.summary["bytes"] != "counted" for name, _, run in self.counted if name == self.candidates[0].name
            ),
            short_of=self.short_of,
            interrupted=interrupted,
            virtual=self.network if self.virtual else "",
        )
        return {
            "schema_version": SCHEMA_VERSION,
            "mpisqueeze": __version__,
            "status": "interrupted" if interrupted else "done",
            "ranks": self.ranks,
            "pays_off": verdict.pays_off,
            "baseline": self.candidates[0].name if self.candidates else None,
            "best": self.candidates[verdict.best].name if verdict.best is not None else None,
            "target": target.as_json() if target else None,
            "target_is": target.source if target else None,
            "ratio": {name: _ends(getattr(best, name, None)) for name in ("time", "bytes")},
            "final": {
                name or SMOOTHED: {"baseline": pair[0], "best": pair[1]}
                for name, pair in (best.final.items() if best else ())
            },
            "break_even_bandwidth": break_even,
            "compute_s": self.compute_s,
            "network": self.network,
            "virtual": self.virtual,
            "sentences": sentences(race, verdict, around) if race else ["Nothing could be told: no race had begun."],
            "candidates": [self.candidate(index) for index in range(len(self.candidates))],
            "budget_s": self.question.budget_s,
            "spent_s": self.clock.spent_s,
        }

    def candidate(self, index: int) -> dict[str, Any]:
        """A method as advice.json has it."""
        race, candidate = self.race, self.candidates[index]
        raced = race is not None and index <= race.admitted
        waits = race is not None and race.admitted < index < len(race.names)
        rate = race.rate(index) if race and raced else None
        settings = {name: value for name, value in candidate.settings.items() if value is not None}
        found = race.evidence(index) if race and raced and race.target else None
        return {
            "name": candidate.name,
            "label": candidate.label,
            "settings": {**settings, **({} if rate is None else {"lr": rate})},
            "seeds": race.seeds_of(index) if race and raced else [],
            "dropped_because": (race.dropped.get(index) if race and raced else NO_ROOM if waits else None)
            or candidate.dropped_because,
            "modelled": candidate.modelled,
            "relative": _ends(found.time if found and index else None),
            "final": {name or SMOOTHED: pair[1] for name, pair in (found.final.items() if found else ())},
            "rates": sorted(
                {trial.lr for trial in race.runs if trial.method == index and trial.purpose in (RATE, WHOLE_RATE)}
            )
            if race and raced
            else [],
            "runs": [booked["folder"] for booked in self._booked if booked["method"] == index],
            "command": self.command(candidate, rate) if settings else None,
        }

    def command(self, candidate: Candidate, rate: float | None) -> str:
        """The command that runs a method once as the race did."""
        iterations = self.race.scheme.iterations if self.race else 1
        settings = self.settings_of(
            candidate, candidate.lr if rate is None else rate, self.question.seeds[0], iterations
        )
        words = [
            word
            for name, value in asdict(settings).items()
            if name == "algorithm" or (name != "out" and value != SETTINGS[name].default)
            for word in SETTINGS[name].typed(value)
        ]
        lab = json.loads(os.environ.get("MPISQUEEZE_LAB") or "null")
        start = ["mpisqueeze"] if self.virtual else ["mpirun", "-n", str(self.ranks), "mpisqueeze"]
        if lab:
            delay = ["--delay", f"{lab['delay']:g}s"] if lab.get("delay") else []
            start = ["mpisqueeze", "lab", "-n", str(self.ranks), "--rate", f"{lab['rate'] / 1e6:g}mbit", *delay]
        return shlex.join([*start, "train", *words])

    def _break_even(self, verdict: Verdict) -> tuple[float | None, bool, bool]:
        """(bits a second at which the best method and the baseline take the same time, the method wins above it, the
        model and the clock agree on who wins here)."""
        race, calibration = self.race, self.calibration
        if race is None or verdict.best is None or calibration is None or calibration.link is None or not race.target:
            return None, False, True
        found = verdict.evidence[verdict.best]
        base, own = found.iterations
        if base is None or own is None:
            return None, False, True
        settings, target = self.question.settings, race.target
        try:
            methods = [method_of(self.candidates[index], settings) for index in (0, verdict.best)]
            needed = NeededIterations(
                methods, [base, own], target, self.ranks, self.dimension, settings.dtype, self.compute_s
            )
            made = Forecast(
                methods, self.ranks, self.dimension, settings.dtype, calibration.link, self.compute_s, calibration,
                measured=needed,
            )  # fmt: skip
        except UsageError:
            return None, False, True
        ratio, model = found.time.ratio or 1.0, 1 / made.speedup(1)
        if (ratio < 1) != (model < 1) and max(ratio / model, model / ratio) > 1 + GAIN:
            return None, False, False
        wins = made.wins(1)
        above = bool(wins.between) and wins.between[-1][1] is None
        return wins.break_even, above, True

    def write(self, status: str) -> None:
        """Replace race.json."""
        race = self.race
        self.folder.write_json(
            RACE,
            {
                "schema_version": SCHEMA_VERSION,
                "mpisqueeze": __version__,
                "status": status,
                "ranks": self.ranks,
                "question": self.question.as_json(),
                "spent_s": self.clock.spent_s,
                "network": self.network,
                "dimension": self.dimension,
                "per_epoch": self.per_epoch,
                "compute_s": self.compute_s,
                "evaluated_every": self._between,
                "short_of": self.short_of,
                "methods": [asdict(candidate) for candidate in self.candidates] if race else [],
                "scheme": asdict(race.scheme) if race else None,
                "paces": [asdict(pace) for pace in race.paces] if race else [],
                "booked": self._booked,
            },
        )

    def finish(self, interrupted: bool) -> dict[str, Any]:
        """Write advice.json; its object."""
        facts = self.facts(interrupted)
        self.folder.write_json(ADVICE, facts)
        self.write("interrupted" if interrupted else "done")
        return facts


def _varied(able: Sequence[Candidate]) -> list[Candidate]:
    """The ones that a user named first, then the best of each algorithm, then the second best of each, and so on."""
    seen: Counter[Any] = Counter()
    turns = []
    for candidate in able:
        turns.append(seen[candidate.settings["algorithm"]])
        seen[candidate.settings["algorithm"]] += 1
    order = sorted(range(len(able)), key=lambda index: (not able[index].named, turns[index]))
    return [able[index] for index in order]


def past_of(path: Path, ranks: int) -> dict[str, Any]:
    """race.json's object in the folder of an advice that is to go on.

    Raises:
        UsageError: there is none, it is damaged, or had another number of ranks.
    """
    if not os.path.isfile(path / RACE):
        raise UsageError(f"{path} is no folder of advise: it has no {RACE}", "--resume")
    check_whole(path, "--resume")
    about = read_object(path / RACE, "--resume", RaceFile)
    for booked in about["booked"]:
        inside(path, booked["folder"], "--resume")
    if about["question"]["settings"].get("workers") is None and about["ranks"] != ranks:
        raise UsageError(f"{path} was begun on {about['ranks']} ranks, and these are {ranks}", "--resume")
    return about


def asked_before(past: dict[str, Any], budget_s: float | None) -> AdviceQuestion:
    """The question of an advice that goes on, with another budget where one is given. Raises UsageError."""
    question = AdviceQuestion.of(past["question"])
    return question if budget_s is None else replace(question, budget_s=budget_s)


def finished(past: dict[str, Any]) -> list[dict[str, Any]]:
    """The booked runs that are not to be run again."""
    return [booked for booked in past["booked"] if booked["hopeless"] or booked["status"] in ("ok", "diverged")]


def remove_unfinished(path: Path, past: dict[str, Any]) -> None:
    """Remove the folders of runs that were cut short, or failed, which are to be run again."""
    known = {booked["folder"] for booked in finished(past)}
    for child in path.iterdir():
        if child.is_dir() and _FOLDER.match(child.name) and child.name not in known:
            shutil.rmtree(child)


def _ends(found: Any) -> dict[str, float | None]:
    """The `ratio` object of an interval, or of none."""
    return {name: getattr(found, name, None) for name in ("ratio", "low", "high")}
