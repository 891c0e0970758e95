"""The plan of a race: how many methods, learning rates and seeds a budget of time has room for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: The learning rates that each method tries are the usual one times these; the nearer ones where time is short.
RATES = {5: (1.0, 1 / 3, 3.0, 1 / 9, 9.0), 3: (1.0, 1 / 3, 3.0), 1: (1.0,)}
#: The step from one rate to the next.
STEP = 3.0
#: A first trial of a rate is this part of a whole run, and so many of the best rates get a whole one.
SHORT, WHOLE = 4, 2
#: Seeds that every method gets, and that the closest get before one of them is chosen; a final has ENOUGH at least.
FEW, ENOUGH = 3, 5
#: Methods beside the baseline: the race has room for so many at most, and wants so many at least.
MOST, WANTED = 8, 3
#: The closest methods, which get the seeds beyond FEW.
CLOSEST = 2


@dataclass(frozen=True)
class Pace:
    """The time that runs of a method take, s.

    Attributes:
        begin: before the first iteration and after the last.
        iteration: of one.
        evaluation: of one.
        between: iterations between evaluations.
    """

    begin: float
    iteration: float
    evaluation: float
    between: int

    def run(self, iterations: int) -> float:
        """A run's whole time, with the evaluations before, during and after it."""
        evaluations = 1 + -(-iterations // max(1, self.between))
        return self.begin + iterations * self.iteration + evaluations * self.evaluation


@dataclass(frozen=True)
class Scheme:
    """The way in which a race is to spend its time.

    Attributes:
        iterations: of a whole run.
        rates: learning rates that each method tries, of RATES; 1: none is tuned.
        methods: that are raced beside the baseline, the first ones.
        seconds: that this takes with ENOUGH seeds in the final, as far as the paces tell.
    """

    iterations: int
    rates: int
    methods: int
    seconds: float

    @property
    def short(self) -> int:
        """Iterations of a first trial of a rate."""
        return max(1, self.iterations // SHORT)


def tuning_s(pace: Pace, iterations: int, rates: int) -> float:
    """The time of a method's trials of learning rates."""
    if rates == 1:
        return 0.0
    return rates * pace.run(max(1, iterations // SHORT)) + WHOLE * pace.run(iterations)


def race_s(paces: Sequence[Pace], iterations: int, rates: int) -> float:
    """The time of a race between these methods, the first of which is the baseline, and of a final of ENOUGH seeds."""
    whole = [pace.run(iterations) for pace in paces]
    tuning = sum(tuning_s(pace, iterations, rates) for pace in paces)
    target = whole[0] if rates == 1 else 0.0
    final = ENOUGH * (whole[0] + max(whole[1:]))
    closest = whole[0] + sum(sorted(whole[1:])[:CLOSEST])
    return tuning + target + FEW * sum(whole) + (ENOUGH - FEW) * closest * (len(paces) > 2) + final


def plan_race(paces: Sequence[Pace], left_s: float, iterations: int, least: int) -> Scheme:
    """The best race that fits into the time that is left.

    Half as long runs and three rates come before fewer than WANTED methods, two methods before still shorter runs, and
    a single one before rates that are not tuned. Where nothing fits, the race is one between the baseline and the
    nearest method, which ends when the time does.

    Args:
        paces: of the baseline and of at least one method, in the order in which methods are to be taken.
        iterations, least: of a whole run, at most and at least.
    """
    for length, rates, fewest in _choices(iterations, least, min(WANTED, len(paces) - 1)):
        for methods in range(min(MOST, len(paces) - 1), fewest - 1, -1):
            seconds = race_s(paces[: methods + 1], length, rates)
            if seconds <= left_s:
                return Scheme(length, rates, methods, seconds)
    return Scheme(least, 1, 1, race_s(paces[:2], least, 1))


def _choices(iterations: int, least: int, wanted: int) -> Iterator[tuple[int, int, int]]:
    """(iterations, rates, fewest methods) of races, the best first."""
    lengths = [length for length in (iterations, iterations // 2, iterations // 4) if length >= least] or [iterations]
    tuned = [(length, rates) for length in lengths for rates in (5, 3)]
    for fewest in dict.fromkeys((wanted, min(wanted, 2))):
        yield from ((*choice, fewest) for choice in tuned if choice[0] in lengths[:2])
    for fewest in dict.fromkeys((wanted, 1)):
        yield from ((*choice, fewest) for choice in tuned)
    yield from ((length, 1, 1) for length in lengths)
