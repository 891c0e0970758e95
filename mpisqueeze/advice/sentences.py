"""The verdict in plain sentences, the answer first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mpisqueeze.advice.race import Race
from mpisqueeze.advice.scheme import RATES
from mpisqueeze.advice.verdict import GAIN, Findings, Verdict
from mpisqueeze.analysis.columns import rises
from mpisqueeze.analysis.intervals import FEWEST, Ratio
from mpisqueeze.analysis.ranking import Target
from mpisqueeze.quantities import counted, duration, format_rate, significant


@dataclass(frozen=True)
class Around:
    """The facts beside the race.

    Attributes:
        labels: of the methods, as people are to read them; the baseline's first.
        named: indices of the methods that a user asked for.
        break_even: bits a second at which the best method stops, or begins, to pay off; None: nowhere.
        pays_off_above: it pays off above it, and not below.
        model_agrees: the cost model and the clock agree on who is faster here.
        virtual_bytes: the baseline's bytes are by definition.
        short_of: iterations that a run would have had if the budget had been long enough, or None.
        interrupted: a signal ended the race.
        virtual: the network that virtual workers had, in words; empty for ranks that were there.
    """

    labels: Sequence[str]
    named: Sequence[int] = ()
    break_even: float | None = None
    pays_off_above: bool = False
    model_agrees: bool = True
    virtual_bytes: bool = False
    short_of: int | None = None
    interrupted: bool = False
    virtual: str = ""


def sentences(race: Race, verdict: Verdict, around: Around) -> list[str]:
    """The answer, what it depends on, why other methods are not recommended, and what the budget left open."""
    found = [_answer(race, verdict, around), *_chosen(race, verdict, around)]
    found += _break_even(verdict, around)
    found += _not_recommended(race, verdict, around)
    found += _open(race, verdict, around)
    if around.virtual:
        found[0] = f"On {around.virtual}: {found[0][0].lower()}{found[0][1:]}"
        found.append(
            "All times are virtual: work as measured here or given, messages by the cost model. Losses and bytes are "
            "those of real ranks."
        )
    return found


def _answer(race: Race, verdict: Verdict, around: Around) -> str:
    base, target = around.labels[0], race.target
    if target is None:
        tried = bool(race.runs)
        reason = f"{base} made no progress at any rate that was tried" if tried else f"no run of {base} ended in time"
        return f"Nothing could be told: {reason}, so that there is no target to compare at."
    goal = described(target)
    if race.baseline_missed:
        runs = counted(race.scheme.iterations, "iteration")
        return f"Nothing could be told: {base} did not reach {goal} in {runs}; give an easier --target, or longer runs."
    if verdict.best is None:
        return _nobody(race, verdict, around, goal)
    best = verdict.evidence[verdict.best]
    name, times = around.labels[verdict.best], best.time
    takes = f"takes {significant(times.ratio or 0)} × the time of {base} to {goal} ({interval(times, best.seeds)})"
    nearest = f"the nearest, {name}, {takes}"
    if verdict.pays_off:
        costs = _and(_bytes(best, around), _quality(race, best))
        return (
            f"Pays off: {name} reaches {goal} in {significant(times.ratio or 0)} × the time of {base} "
            f"({interval(times, best.seeds)}), {costs}."
        )
    if verdict.pays_off is False:
        return f"Nothing pays off here: {nearest}; a gain of {100 * GAIN:g} % or more is excluded."
    if best.no_gain:
        return f"Not told: of the methods that there was time for, {nearest}; others may pay off."
    final = race.final_of(verdict.best)
    if final is None:
        late = "" if around.interrupted or race.finals else ", and there was no time for seeds of its own"
        return f"Not told: {name} {takes} in the race that chose it{late}."
    more = "" if around.interrupted else " More seeds, in a larger --budget, may tell."
    if final.start + best.seeds == len(race.seeds):
        more = " More --seeds may tell."
    return f"Not told apart: {name} {takes}.{more}"


def _chosen(race: Race, verdict: Verdict, around: Around) -> Iterator[str]:
    """Sentences on how the best method came into its final, and on other finals."""
    final = race.final_of(verdict.best)
    if final is not None:
        first, own = race.in_race(final.method), race.evidence(final.method)
        methods = sum(1 for method in race.methods if race.seeds_of(method))
        among = f"It was chosen among {counted(methods, 'method')}" if methods > 1 else "It had been raced"
        took = "" if first.time.ratio is None else f", where it took {significant(first.time.ratio)} ×"
        least = f"the {counted(own.seeds, 'seed')} had no part in that"
        if own.seeds < final.count:
            least += f", and were to be {final.count}"
        yield f"{among}{took} on {counted(first.seeds, 'other seed')}; {least}."
    for other in race.told:
        found = race.in_final(other)
        if other != final and found.time.ratio is not None:
            label, told = around.labels[other.method], interval(found.time, found.seeds)
            yield f"Another final was of {label}: {significant(found.time.ratio)} × ({told})."


def _nobody(race: Race, verdict: Verdict, around: Around, goal: str) -> str:
    base = around.labels[0]
    if verdict.pays_off is False:
        ratios = {method: found.time.ratio for method, found in verdict.evidence.items() if found.time.ratio}
        if not ratios:
            return f"Nothing pays off here: no method that was raced reaches {goal} on every seed."
        nearest = min(ratios, key=ratios.__getitem__)
        found, word = verdict.evidence[nearest], "but" if ratios[nearest] < 1 else "and"
        return (
            f"Nothing pays off here: the nearest, {around.labels[nearest]}, takes {significant(ratios[nearest])} × the "
            f"time of {base} to {goal} ({interval(found.time, found.seeds)}), {word} "
            f"its final {metric_name(race.target)} is worse."
        )
    lost = max((found.time.reference_missed for found in verdict.evidence.values()), default=0)
    if lost:
        seeds = counted(lost, "seed")
        return f"Nothing could be told: {base} itself missed {goal} on {seeds}; an easier --target may tell."
    if verdict.evidence and all(found.no_gain for found in verdict.evidence.values()):
        return f"Not told: of the methods that there was time for, none reached {goal} without a loss; others may."
    tuned = [method for method in race.methods if race.rate(method) is not None or method in race.dropped]
    if tuned and all(method in race.dropped for method in race.methods):
        return f"Nothing was found to pay off: every other method was dropped before it was raced to {goal}."
    return f"Nothing could be told: no other method was raced against {base} to {goal} before the time was over."


def interval(found: Ratio, seeds: int) -> str:
    """`95 % interval 0.380 to 0.500, 5 seeds`."""
    if found.low is None or found.high is None:
        return f"{counted(seeds, 'seed')}, and an interval takes {FEWEST}"
    return f"95 % interval {significant(found.low)} to {significant(found.high)}, {counted(seeds, 'seed')}"


def described(target: Target) -> str:
    """`97 % test accuracy`, `loss 0.253`."""
    if rises(target.name):
        return f"{100 * target.value:g} % {target.name.replace('_', ' ')}"
    return f"{(target.name or 'training loss').replace('_', ' ')} {significant(target.value)}"


def _bytes(best: Findings, around: Around) -> str:
    found = best.bytes.ratio
    if found is None or not found:
        return "with bytes that are not known"
    by_definition = " (the baseline's are by definition)" if around.virtual_bytes else ""
    if found < 1:
        return f"with {significant(1 / found)} × fewer bytes{by_definition}"
    return f"with {significant(found)} × the bytes{by_definition}"


def _quality(race: Race, best: Findings) -> str:
    name = metric_name(race.target)
    if best.loss.low is None:
        return f"and whether it loses any {name} takes {FEWEST} seeds to tell"
    if best.loss.distinguishable and (best.loss.difference or 0) < 0:
        return f"and a better final {name}"
    if best.loss.distinguishable:
        return f"and a final {name} that is worse by less than 1 % of its progress"
    return f"and no loss of {name} that {counted(best.seeds, 'seed')} can tell"


def _and(first: str, second: str) -> str:
    return f"{first} {second}"


def metric_name(target: Target | None) -> str:
    """`test accuracy`, `training loss`."""
    return ((target.name if target else "") or "training loss").replace("_", " ")


def _break_even(verdict: Verdict, around: Around) -> Iterator[str]:
    if verdict.best is None:
        return
    name = around.labels[verdict.best]
    if not around.model_agrees:
        yield "The cost model does not agree with the clock on who is faster here, and no break-even bandwidth is told."
        return
    if around.break_even is None:
        if verdict.pays_off:
            yield f"By the model there is no bandwidth at which {name} stops paying off at this compute time."
        elif verdict.pays_off is False:
            yield f"By the model there is no bandwidth at which {name} would pay off at this latency and compute time."
        return
    rate, side = format_rate(around.break_even), "above" if around.pays_off_above else "below"
    if verdict.pays_off:
        other = "below" if around.pays_off_above else "above"
        yield f"It stops paying off {other} {rate} at this latency and compute time (modelled)."
    else:
        yield f"By the model, {name} pays off {side} {rate} at this latency and compute time."


def _not_recommended(race: Race, verdict: Verdict, around: Around) -> Iterator[str]:
    """A sentence on each method that is faster and loses, or misses, and on each that a user named and was dropped."""
    name = metric_name(race.target)
    for method, found in verdict.evidence.items():
        label = around.labels[method]
        if found.missed:
            reached = found.time.of - found.time.missed
            ended = f"; {found.broken} diverged or failed" if found.broken else ""
            seeds = counted(found.time.of, "seed")
            yield f"Not recommended: {label} reached the target on {reached} of {seeds}{ended}."
        elif found.worse:
            base, own = found.final.get(race.target.name if race.target else "", (None, None))
            times = found.time.ratio
            word = "but" if times is not None and times < 1 else "and"
            quick = "" if times is None else f" takes {significant(times)} × the time, {word}"
            yield (
                f"Not recommended: {label}{quick} ends at {name} {_figure(own)} where {around.labels[0]} ends at "
                f"{_figure(base)}, a loss that {counted(found.seeds, 'seed')} tell from chance."
            )
    for method in around.named:
        if method in race.dropped and method not in verdict.evidence:
            yield f"Not raced: {around.labels[method]}, as {race.dropped[method]}."


def _figure(value: float | None) -> str:
    return "—" if value is None else significant(value, 4)


def _open(race: Race, verdict: Verdict, around: Around) -> Iterator[str]:
    """Sentences on the target, and on what the budget left open."""
    if around.interrupted:
        yield "It was interrupted; this is the verdict of the runs that had ended."
    if race.target is not None:
        yield f"Target: {described(race.target)}, {race.target.source}."
    if race.scheme.rates > 1 and verdict.best is not None and race.rate(verdict.best) != race.rate(0):
        own, base, name = race.rate(verdict.best), race.rate(0), around.labels[verdict.best]
        yield (
            f"Learning rates: {own:g} for {name}, {base:g} for {around.labels[0]}, each the best that it tried on one "
            "seed."
        )
    if race.scheme.rates == 1:
        yield "The budget had no time to tune learning rates: every method has its usual one."
    elif race.scheme.rates < max(RATES):
        yield f"For the budget, each method tried {race.scheme.rates} learning rates in place of {max(RATES)}."
    for method in (0, *verdict.evidence):
        if race.scheme.rates > 1 and race.at_an_end(method):
            rate, label = race.rate(method), around.labels[method]
            yield f"The best rate of {label}, {rate:g}, is at an end of those tried; a better one may lie beyond."
    for method in race.methods:
        if race.shown_to_fail(method):
            yield f"{around.labels[method]} is shown to fail, and was tried as you named it."
    if around.short_of is not None:
        yield (
            f"For the budget, runs have {counted(race.scheme.iterations, 'iteration')} in place of {around.short_of}; "
            "longer ones may tell otherwise."
        )
    untold = [around.labels[method] for method in race.untried]
    if race.needless and not verdict.pays_off:
        names = ", ".join(around.labels[method] for method in race.needless)
        yield f"Not tried, as an iteration saves less than {100 * GAIN:g} % by the model: {names}."
    if untold and not verdict.pays_off:
        yield f"The budget had no room for {', '.join(untold)}."


def too_short(run_s: float, left_s: float) -> str:
    """The error about a budget that is too short for a single run."""
    return (
        f"is too short: one run takes {duration(run_s)}, and {duration(max(0.0, left_s))} are left for runs; "
        f"give several times as much, or shorter runs by --epochs"
    )
