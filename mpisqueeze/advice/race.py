"""A race: which run comes next, given those that are done, and what they tell of each method so far.

Nothing here runs anything or knows the time: who carries the runs out asks for the next one with the seconds that are
left, and books it with its log. A race that is asked again after the same bookings gives the same answer, so that one
that was killed goes on from its run folders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpisqueeze.advice.scheme import CLOSEST, ENOUGH, FEW, RATES, STEP, WHOLE, Pace, Scheme, tuning_s
from mpisqueeze.advice.verdict import GAIN, Findings, Verdict, decide
from mpisqueeze.analysis.columns import BROKEN, rises
from mpisqueeze.analysis.intervals import FEWEST, difference, median, paired, seeds_needed
from mpisqueeze.analysis.ranking import PROGRESS, Target, cost_until, curve_of, evaluated, reached
from mpisqueeze.quantities import significant
from mpisqueeze.record.reading import RunLog

#: The purposes of a run: a first trial of a rate, a whole trial of one of the best rates, a seed by which the finalist
#: is chosen, or one of the final.
RATE, WHOLE_RATE, RACE, FINAL = "rate", "whole rate", "race", "final"
#: The metrics that a target is set on, the first one that is evaluated.
_METRICS = ("test_accuracy", "test_loss", "objective")
#: Why a method has not been tried.
NO_ROOM = "the budget has no room to tune it"
#: Last evaluations whose median is the level that a run has reached.
_LAST = 3
#: A method whose tuned run takes so many times the baseline's time is dropped, unless it is one of the closest.
HOPELESS = 2.0
#: The most finals: each names a winner by chance in one of 40.
FINALS = 2
#: A method's run is stopped after so many times the baseline's whole run.
SLOWEST = 5.0


@dataclass(frozen=True)
class RaceRun:
    """A run of the race.

    Attributes:
        method: its index; 0 is the baseline.
        purpose: RATE, WHOLE_RATE, RACE or FINAL.
    """

    method: int
    purpose: str
    lr: float
    seed: int
    iterations: int


@dataclass(frozen=True)
class Final:
    """A method held against the baseline on seeds of their own.

    Attributes:
        start, count: its seeds, as they lie in those that count.
    """

    method: int
    start: int
    count: int


@dataclass(frozen=True)
class Cost:
    """A run's cost up to the target; None where it missed it."""

    seconds: float | None
    nbytes: float | None
    iterations: int | None


def cost_of(run: RunLog, target: Target) -> Cost:
    """A run's cost; one that broke down later has shown no way to the target."""
    curve = curve_of(run)
    hit = None if run.summary["status"] in BROKEN else reached(run, curve, target)
    if hit is None:
        return Cost(None, None, None)
    return Cost(cost_until(curve.seconds, hit), cost_until(curve.bytes_sent, hit), hit)


def lasted_s(run: RunLog, virtual: bool) -> float:
    """Time (s) here that the iterations of a run took; of virtual workers with the evaluations between them."""
    return run.summary["wall_s" if virtual else "elapsed_s"] or 0.0


def metric_of(run: RunLog) -> str:
    """The metric that a target is set on; empty for the smoothed training loss."""
    known = run.summary["evaluation"] or {}
    return next((name for name in (*_METRICS, *known) if isinstance(known.get(name), int | float)), "")


def target_of(run: RunLog, name: str) -> Target | None:
    """The level where a run has made 95 % of its progress, rounded to its easier side; None where it made none."""
    metric = metric_of(run)
    values = evaluated(run, metric)[1] if metric else curve_of(run).loss
    values = values[np.isfinite(values)]
    if values.size < 2:
        return None
    first, last = float(values[0]), float(np.median(values[-_LAST:])) if metric else float(values[-1])
    up = rising(run, metric)
    if first == last or (last > first) != up:
        return None
    level = last + (1 - PROGRESS) * (first - last)
    # A hundredth of the progress is as fine as a level has to be.
    step = 10.0 ** math.floor(math.log10(abs(last - first)) - 1)
    rounded = float(f"{(math.floor if up else math.ceil)(level / step) * step:.12g}")
    return Target(metric, rounded, f"{100 * PROGRESS:g} % of the progress of {name}, the least of its runs")


class Race:
    """The runs that are done, and the next one.

    It has two parts. In the first, methods are tuned and raced over a few seeds, and the most promising one is the
    finalist. In the second, it is held against the baseline on seeds of their own, and these alone decide whether it
    pays off: the best of many, or whoever was looked at again and again until it led, would seem faster than it is.
    How many seeds that takes is settled before the first of them. A final that leaves it open is followed by another,
    on further seeds, if there is time.

    Args:
        names: of the methods; the first is the baseline. Those beyond the scheme's number take part if there is time.
        paces: of each, as far as is known before it ran.
        lrs: the usual rate of each.
        seeds: that count, in their order: the most of them that the finalist gets.
        apart: ENOUGH + 1 others: for rates, and for the choice of the finalist.
        target: given by the user, or None.
        modelled: the time of an iteration over the baseline's by the model; None where it does not know the method.
        virtual: the workers are virtual ones, so that how long a run takes here says nothing about its method.

    Attributes:
        runs: by their trials.
        dropped: why a method takes part no further, by its index.
    """

    def __init__(
        self,
        names: Sequence[str],
        paces: Sequence[Pace],
        lrs: Sequence[float],
        scheme: Scheme,
        seeds: Sequence[int],
        apart: Sequence[int],
        target: Target | None = None,
        modelled: Sequence[float | None] = (),
        virtual: bool = False,
    ) -> None:
        self.names, self.paces, self.lrs, self.scheme = list(names), list(paces), list(lrs), scheme
        self._modelled = [*modelled] or [None] * len(self.names)
        self._virtual = virtual
        self.seeds, self._given = list(seeds), target
        self.tuning_seed, *self._racing = apart
        self.runs: dict[RaceRun, RunLog] = {}
        self.dropped: dict[int, str] = {}
        #: How many methods beside the baseline take part.
        self.admitted = min(scheme.methods, len(self.names) - 1)
        self._target: Target | None = target
        #: The finals that have begun.
        self.finals: list[Final] = []
        self._costs: dict[RaceRun, Cost] = {}
        self._finals: dict[RaceRun, dict[str, float]] = {}

    # -- what comes next

    def next(self, left_s: float) -> RaceRun | None:
        """The next run; None where nothing is left to be found out, or nothing fits into the time.

        Where none of those that were planned promises to pay off, further methods take part as long as there is time
        for them.
        """
        while True:
            for trial in self._wanted(left_s):
                if self.seconds(trial) <= left_s:
                    return trial
                if trial.purpose in (RATE, WHOLE_RATE) and trial.method:
                    self.dropped.setdefault(trial.method, NO_ROOM)
            further = len(self.methods) + 1
            if further >= len(self.names) or self._next_final() or not self._room(further, left_s):
                return None
            self.admitted = further

    def seconds(self, trial: RaceRun) -> float:
        """The time that a run takes, as far as earlier ones tell."""
        return self.paces[trial.method].run(trial.iterations)

    def limit_s(self, trial: RaceRun) -> float:
        """The time after which a run is stopped as hopeless; infinite for the baseline, and on virtual workers."""
        return math.inf if self._virtual or not trial.method else SLOWEST * self.paces[0].run(trial.iterations)

    def add(self, trial: RaceRun, run: RunLog, took_s: float, hopeless: bool = False) -> None:
        """Book a run.

        Args:
            took_s: all of its time, with set-up and evaluations.
            hopeless: it was stopped at `limit_s`.
        """
        if trial.purpose == FINAL and not any(trial.seed in self._seeds_in(final) for final in self.finals):
            # A final's runs move the target, and with it what the race has told.
            self.finals += [final] if (final := self._next_final()) else []
        self.runs[trial] = run
        self.admitted = max(self.admitted, trial.method)
        done, elapsed = run.summary["iterations"], lasted_s(run, self._virtual)
        if done:
            pace = self.paces[trial.method]
            begin = max(0.0, took_s - elapsed - (not self._virtual) * len(run.evaluations) * pace.evaluation)
            self.paces[trial.method] = replace(pace, iteration=elapsed / done, begin=begin)
        if hopeless:
            self.dropped[trial.method] = f"a run takes more than {SLOWEST:g} × the time of the baseline's"
        if self._given is None and trial.method == 0:
            self._set_target()

    def _wanted(self, left_s: float) -> Iterator[RaceRun]:
        """The runs that are still to come, the first one first, as far as those that are done tell."""
        yield from self._tuning(0)
        if self.rate(0) is None or self.target is None or self.baseline_missed:
            return
        for method in self.methods:
            if method not in self.dropped and self._room_to_tune(method, left_s):
                yield from self._tuning(method)
        self._drop_hopeless()
        if not self.finals:
            yield from self._turns(RACE, self._racing, self._in_question, left_s, self._final_s)
        for final in [*self.finals, self._next_final()]:
            if final:
                turns = [[final.method]] * final.count
                yield from self._turns(FINAL, self._seeds_in(final), turns.__getitem__, left_s)

    def _turns(
        self, purpose: str, seeds: Sequence[int], who: Callable[[int], list[int]], left_s: float, kept_s: float = 0.0
    ) -> Iterator[RaceRun]:
        """The runs that are still to come of the baseline and others, seed by seed, in turns.

        Args:
            who: gives the others that seed number 0, 1, … is for; nobody: this was the last one.
            kept_s: that seeds after the first one are to leave, s.
        """
        for number, seed in enumerate(seeds):
            turn = [0, *who(number)]
            if len(turn) == 1:
                return
            trials = [
                RaceRun(method, purpose, self.rate(method) or 0.0, seed, self.scheme.iterations) for method in turn
            ]
            # Nobody's run counts without the baseline's.
            kept = 0.0 if trials[0] in self.runs else self.seconds(trials[0])
            kept += kept_s if number else 0.0
            if kept > left_s:
                return
            for trial in trials[:: -1 if number % 2 else 1]:
                if trial in self.runs:
                    continue
                if trial.method == 0:
                    # Alone it would tell nothing.
                    if any(other in self.runs or self.seconds(other) + kept <= left_s for other in trials[1:]):
                        yield trial
                elif self.seconds(trial) + kept <= left_s:
                    yield trial

    @property
    def methods(self) -> list[int]:
        """The methods beside the baseline that take part so far."""
        return list(range(1, self.admitted + 1))

    def _tuning(self, method: int) -> Iterator[RaceRun]:
        """The trials of a method's rates that are still to come."""
        whole, seed = self.scheme.iterations, self.tuning_seed
        if self.scheme.rates == 1:
            if method == 0 and not self._trials(0, WHOLE_RATE):
                yield RaceRun(0, WHOLE_RATE, self.lrs[0], seed, whole)
            return
        for factor in RATES[self.scheme.rates]:
            trial = RaceRun(method, RATE, rounded(self.lrs[method] * factor), seed, self.scheme.short)
            if trial not in self.runs:
                yield trial
        for lr in self._best_rates(method):
            trial = RaceRun(method, WHOLE_RATE, lr, seed, whole)
            if trial not in self.runs:
                yield trial

    def _room_to_tune(self, method: int, left_s: float) -> bool:
        """True if the method's rates are being tried, or can be; otherwise it is dropped."""
        if self.scheme.rates == 1 or self._trials(method, RATE) or self._room(method, left_s):
            return True
        self.dropped[method] = NO_ROOM
        return False

    def _room(self, method: int, left_s: float) -> bool:
        """True if there is time to try the method's rates, for FEW seeds of it and of others, and for a final."""
        whole = self.scheme.iterations
        needed = tuning_s(self.paces[method], whole, self.scheme.rates)
        needed += FEWEST * (self.paces[0].run(whole) + self.paces[method].run(whole))
        for other in (0, *self.methods, method):
            if other <= method and other not in self.dropped and (other in (0, method) or self.rate(other) is not None):
                seeds = max(0, FEW - len(self._seeds(other, RACE)))
                needed += seeds * self.paces[other].run(whole)
        return self.target is not None and needed <= left_s

    def _best_rates(self, method: int) -> list[float]:
        """The rates that get a whole run: the best one of the first trials, and the next best.

        Where the best is at an end of the rates, the one beyond it takes the place of the next best.
        """
        trials = sorted(self._trials(method, RATE), key=self._by_metric)
        sound = [trial for trial in trials if not self._broken(trial)]
        if not sound:
            return []
        rates = sorted(trial.lr for trial in trials)
        best = sound[0].lr
        if best == rates[-1]:
            return [best, rounded(best * STEP)]
        if best == rates[0]:
            return [best, rounded(best / STEP)]
        return [trial.lr for trial in sound[:WHOLE]]

    def _drop_hopeless(self) -> None:
        """Drop methods that their best rate has shown to miss the target, or to be much slower than the baseline."""
        target, base = self.target, self._tuned(0)
        if self.scheme.rates == 1 or target is None or base is None:
            return
        base_s = self._cost(base).seconds
        ratios: dict[int, float] = {}
        for method in self.methods:
            tuned = self._tuned(method)
            if method in self.dropped:
                continue
            if tuned is None:
                self.dropped[method] = "no rate that was tried trains with it"
                continue
            seconds = self._cost(tuned).seconds
            if seconds is None:
                said = self._said(self.runs[tuned])
                self.dropped[method] = f"it missed {target.said(3)} at its best rate, {tuned.lr:g}{said}"
            elif base_s:
                ratios[method] = seconds / base_s
        for method in sorted(ratios, key=ratios.__getitem__)[CLOSEST:]:
            if ratios[method] > HOPELESS:
                self.dropped[method] = (
                    f"its best rate, {self.rate(method):g}, took {significant(ratios[method])} × the baseline's time"
                )

    def _said(self, run: RunLog) -> str:
        """Words on how far a run came."""
        if run.summary["status"] in BROKEN:
            return f": it {run.summary['status']}"
        value = (run.summary["evaluation"] or {}).get(self._metric)
        return "" if value is None else f", and ended at {significant(value)}"

    def _in_question(self, number: int) -> list[int]:
        """The methods that get seed `number` of the race, counted from 0."""
        able = [method for method in self.methods if method not in self.dropped and self.rate(method) is not None]
        if number < FEW:
            return able
        found = {method: self._evidence(method, RACE, self._racing[:number]) for method in able}
        known = {m: e.time for m, e in found.items() if e.time.ratio is not None and not e.worse}
        if not known or all(each.no_gain for each in found.values()):
            return []
        order = sorted(known, key=lambda m: known[m].ratio or 0.0)
        best_high = known[order[0]].high or math.inf
        # The rest is slower than the best one, as far as its interval tells.
        close = [method for method in order[:CLOSEST] if (known[method].low or 0.0) <= best_high]
        return close if len(close) > 1 else []

    def _next_final(self) -> Final | None:
        """The final that is to come next; None where there is nothing for it to decide, or there were enough."""
        start = 0
        if self.finals:
            last = self.finals[-1]
            start = last.start + last.count
            done = len(self._common(last.method, FINAL, self._seeds_in(last))) == last.count
            if not done or len(self.finals) == FINALS or self.evidence(last.method).faster:
                return None
        found = {m: self.evidence(m) for m in self.methods if self._seeds(m, RACE)}
        able = {m: each for m, each in found.items() if each.able and not each.no_gain}
        method = min(able, key=lambda m: able[m].time.ratio or 0.0, default=None)
        if method is None or len(self.seeds) - start < (FEWEST if self.finals else 1):
            return None
        time = able[method].time
        # A leader owes a part of its lead to chance.
        expected = math.log(time.ratio or 1.0) / 2
        distance = max(-expected, expected - math.log(1 - GAIN))
        left = len(self.seeds) - start
        return Final(method, start, seeds_needed(time, distance, min(ENOUGH, left), left))

    def _seeds_in(self, final: Final) -> list[int]:
        return self.seeds[final.start : final.start + final.count]

    @property
    def told(self) -> list[Final]:
        """The finals with as many seeds as an interval takes, the last one last."""
        return [f for f in self.finals if len(self._common(f.method, FINAL, self._seeds_in(f))) >= FEWEST]

    def final_of(self, method: int | None) -> Final | None:
        """The last such final of a method; None where it had none."""
        return next((final for final in reversed(self.told) if final.method == method), None)

    @property
    def _final_s(self) -> float:
        """The time of the shortest final that has an interval."""
        able = [self.paces[method] for method in self.methods if method not in self.dropped]
        whole = self.scheme.iterations
        return FEWEST * (self.paces[0].run(whole) + min((pace.run(whole) for pace in able), default=0.0))

    # -- what is known

    @property
    def target(self) -> Target | None:
        return self._target

    @property
    def _metric(self) -> str:
        return self._target.name if self._target else ""

    def rate(self, method: int) -> float | None:
        """The rate that was chosen; None before there is one."""
        if self.scheme.rates == 1:
            return self.lrs[method]
        tuned = self._tuned(method)
        return tuned.lr if tuned else None

    @property
    def baseline_missed(self) -> bool:
        """The baseline's tuned run did not get to the target, which is a user's."""
        tuned = self._tuned(0)
        return self._target is not None and tuned is not None and self._cost(tuned).iterations is None

    def shown_to_fail(self, method: int) -> bool:
        return any(run.summary.get("shown_to_fail") for trial, run in self.runs.items() if trial.method == method)

    def at_an_end(self, method: int) -> bool:
        """The chosen rate is the smallest or the largest of those tried, so that a better one may lie beyond."""
        tried = [trial.lr for trial in self._trials(method, RATE, WHOLE_RATE)]
        return len(tried) > 1 and self.rate(method) in (min(tried), max(tried))

    def seeds_of(self, method: int) -> list[int]:
        """The seeds of the runs that a method's evidence is of."""
        purpose, within = self._decisive(method)
        return [seed for seed in within if seed in self._seeds(method, purpose)]

    def _decisive(self, method: int) -> tuple[str, list[int]]:
        """The part of the race that a method's evidence is of, and its seeds: its last final, where it had one."""
        final = self.final_of(method) if method else next(reversed(self.told), None)
        return (RACE, self._racing) if final is None else (FINAL, self._seeds_in(final))

    def _seeds(self, method: int, purpose: str) -> list[int]:
        return [trial.seed for trial in self._trials(method, purpose) if self._whole(trial)]

    def _common(self, method: int, purpose: str, within: Sequence[int]) -> list[int]:
        """The seeds, of some, that both the baseline and a method have run."""
        both = {*self._seeds(0, purpose)} & {*self._seeds(method, purpose)}
        return [seed for seed in within if seed in both]

    def evidence(self, method: int) -> Findings:
        """The evidence on a method, in pairs with the baseline's runs."""
        return self._evidence(method, *self._decisive(method))

    def in_race(self, method: int) -> Findings:
        """The evidence by which a finalist was chosen."""
        return self._evidence(method, RACE, self._racing)

    def in_final(self, final: Final) -> Findings:
        """The evidence of a final."""
        return self._evidence(final.method, FINAL, self._seeds_in(final))

    def _evidence(self, method: int, purpose: str, within: Sequence[int]) -> Findings:
        """The evidence of a part of the race."""
        target = self.target
        seeds = self._common(method, purpose, within)
        own, base = ([self._run_of(m, purpose, seed) for seed in seeds] for m in (method, 0))
        costs, others = ([self._cost(trial) for trial in trials] for trials in (own, base))
        finals, base_finals = ([self._final(trial) for trial in trials] for trials in (own, base))
        metric = self._metric
        sign = -1.0 if self.rising else 1.0
        names = dict.fromkeys(name for final in (*finals, *base_finals) for name in final)

        def signed(values: Sequence[dict[str, float]]) -> list[float | None]:
            return [None if metric not in final else sign * final[metric] for final in values]

        return Findings(
            name=self.names[method],
            seeds=len(seeds),
            time=paired([cost.seconds for cost in costs], [cost.seconds for cost in others]),
            bytes=paired([cost.nbytes for cost in costs], [cost.nbytes for cost in others]),
            iterations=(median([cost.iterations for cost in others]), median([cost.iterations for cost in costs])),
            final={name: (_median(base_finals, name), _median(finals, name)) for name in names},
            loss=difference(signed(finals), signed(base_finals)),
            # Losses near the end differ by less than anyone would give time for.
            margin=0.0 if rises(metric) or target is None else self._progress() / 100,
            broken=sum(self._broken(trial) for trial in own),
        )

    def verdict(self) -> Verdict:
        """The verdict of all runs. As long as methods wait to be tried it is not that nothing pays off."""
        raced = [method for method in self.methods if self._seeds(method, RACE)]
        found = decide({method: self.evidence(method) for method in raced}, [final.method for final in self.told])
        return replace(found, pays_off=None) if found.pays_off is False and self.untried else found

    @property
    def untried(self) -> list[int]:
        """The methods that there was no time for, and that may save some."""
        return [method for method in self._no_room if not self._saves_nothing(method)]

    @property
    def needless(self) -> list[int]:
        """The methods that there was no time for, and that save none by the model."""
        return [method for method in self._no_room if self._saves_nothing(method)]

    @property
    def _no_room(self) -> list[int]:
        waiting = [method for method, reason in self.dropped.items() if reason == NO_ROOM]
        return sorted([*waiting, *range(self.admitted + 1, len(self.names))])

    def _saves_nothing(self, method: int) -> bool:
        modelled = self._modelled[method]
        return modelled is not None and modelled > 1 - GAIN

    def _run_of(self, method: int, purpose: str, seed: int) -> RaceRun:
        return next(trial for trial in self._trials(method, purpose) if trial.seed == seed)

    def _trials(self, method: int, *purposes: str) -> list[RaceRun]:
        return [trial for trial in self.runs if trial.method == method and trial.purpose in purposes]

    def _whole(self, trial: RaceRun) -> bool:
        """The run came to its end, good or bad; what was stopped tells nothing."""
        return self.runs[trial].summary["status"] not in ("interrupted", "killed", "skipped")

    def _broken(self, trial: RaceRun) -> bool:
        return self.runs[trial].summary["status"] in BROKEN or not self._whole(trial)

    def _tuned(self, method: int) -> RaceRun | None:
        """The whole run at the best rate; None where there is no sound one yet.

        It is the first to the target or, where none is there yet or no rate meets it, the best by the metric.
        """
        trials = [trial for trial in self._trials(method, WHOLE_RATE) if not self._broken(trial)]
        return min(trials, key=self._by_target, default=None)

    def _by_metric(self, trial: RaceRun) -> tuple[Any, ...]:
        """The order of runs by the metric at their end, and by the loss where that is the same."""
        run = self.runs[trial]
        value = self._final(trial).get(metric_of(run), math.inf)
        loss = run.summary["final_loss"]
        sign = -1 if rises(metric_of(run)) else 1
        return self._broken(trial), sign * value, math.inf if loss is None else loss

    def _by_target(self, trial: RaceRun) -> tuple[Any, ...]:
        """The order of runs by their iterations to the target, and by the metric where they miss it."""
        hit = self._cost(trial).iterations if self.target else None
        return (math.inf if hit is None else hit, *self._by_metric(trial))

    def _cost(self, trial: RaceRun) -> Cost:
        assert self._target is not None
        if trial not in self._costs:
            self._costs[trial] = cost_of(self.runs[trial], self._target)
        return self._costs[trial]

    def _final(self, trial: RaceRun) -> dict[str, float]:
        if trial not in self._finals:
            self._finals[trial] = _final(self.runs[trial])
        return self._finals[trial]

    def _set_target(self) -> None:
        """Set the target by the baseline: the easiest of the levels of its best tuned run and of those that count.

        Every run goes to its end, whatever the target, so that it can be set by all of them.
        """
        tuned = min((trial for trial in self._trials(0, WHOLE_RATE) if not self._broken(trial)), key=self._by_metric,
                    default=None)  # fmt: skip
        trials = [trial for trial in self._trials(0, RACE, FINAL) if not self._broken(trial)]
        levels = [target_of(self.runs[trial], self.names[0]) for trial in ([tuned] if tuned else []) + trials]
        found = [level for level in levels if level is not None]
        chosen = None
        if found and tuned:
            up = rising(self.runs[tuned], found[0].name)
            chosen = (min if up else max)(found, key=lambda level: level.value)
        if chosen != self._target:
            self._target = chosen
            self._costs.clear()

    def _progress(self) -> float:
        """The difference of the target's metric between the beginning and the end of the baseline's tuned run."""
        tuned = self._tuned(0)
        if tuned is None:
            return 0.0
        values = evaluated(self.runs[tuned], self._metric)[1] if self._metric else curve_of(self.runs[tuned]).loss
        return abs(float(values[-1] - values[0])) if values.size else 0.0

    @property
    def rising(self) -> bool:
        """The target's metric is better where it is larger."""
        tuned = self._tuned(0)
        return rises(self._metric) if tuned is None else rising(self.runs[tuned], self._metric)


def rising(run: RunLog, metric: str) -> bool:
    """A metric is better where it is larger: an accuracy, or one of a problem's own that rose in this run."""
    if rises(metric) or not metric or metric.endswith("loss") or metric in _METRICS:
        return rises(metric)
    values = evaluated(run, metric)[1]
    return bool(values.size) and bool(values[-1] > values[0])


def rounded(rate: float) -> float:
    """A rate of three significant digits, as people write it."""
    return float(f"{rate:.3g}")


def _final(run: RunLog) -> dict[str, float]:
    """The metrics after a run's last iteration, and its smoothed loss by an empty name."""
    found = {name: value for name, value in (run.summary["evaluation"] or {}).items() if isinstance(value, int | float)}
    loss = curve_of(run).final
    return found | ({} if loss is None else {"": loss})


def _median(finals: Sequence[dict[str, float]], name: str) -> float | None:
    return median([final.get(name) for final in finals])
