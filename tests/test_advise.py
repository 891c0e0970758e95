"""The race behind `advise`, with simulated runs: what it tries, when it ends, what it recommends, what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from mpisqueeze.advice.race import FINAL, RACE, RATE, WHOLE_RATE, Final, Race, RaceRun
from mpisqueeze.advice.scheme import ENOUGH, FEW, MOST, Pace, Scheme, plan_race, race_s
from mpisqueeze.advice.sentences import Around, sentences
from mpisqueeze.advice.verdict import Findings, decide
from mpisqueeze.analysis.intervals import difference, paired
from mpisqueeze.analysis.ranking import Target
from mpisqueeze.cli.app import run
from mpisqueeze.record.figures import no_columns
from mpisqueeze.record.reading import RunLog

Simulate = Callable[[RaceRun], RunLog]


@dataclass(frozen=True)
class Method:
    """A method to simulate.

    Attributes:
        iteration_s: an iteration's time; `noise` of it differs from run to run.
        top: the accuracy that it ends at, give or take `spread` by seed.
        best: its best rate; it diverges from 30 times that on.
    """

    iteration_s: float = 0.01
    top: float = 0.95
    best: float = 0.3
    noise: float = 0.05
    spread: float = 0.003
    nbytes: float = 1000.0


def simulated(method: Method, trial: RaceRun, number: int) -> RunLog:
    random = np.random.default_rng([number, trial.seed, trial.iterations, round(1e6 * trial.lr)])
    # The seed alone decides how well a method trains, and chance how long it takes.
    fortune = np.random.default_rng([trial.seed, 99]).normal() + np.random.default_rng([number, trial.seed]).normal()
    pace = method.iteration_s * math.exp(method.noise * random.normal())
    t = np.arange(1, trial.iterations + 1)
    slow = 20 * math.exp(abs(math.log(trial.lr / method.best)))
    top = method.top + method.spread * fortune

    def accuracy(iteration: float) -> float:
        return 0.1 + (top - 0.1) * (1 - math.exp(-iteration / slow))

    every = max(1, trial.iterations // 50)
    evaluations = [
        {"iteration": int(i), "epoch": 0.0, "test_accuracy": accuracy(i)} for i in range(0, trial.iterations + 1, every)
    ]
    status = "diverged" if trial.lr > 30 * method.best else "ok"
    columns = no_columns() | {
        "loss": 2.3 * np.exp(-t / slow), "elapsed_s": pace * t, "bytes_sent": np.full(t.size, method.nbytes),
    }  # fmt: skip
    summary = {
        "status": status, "iterations": trial.iterations, "elapsed_s": pace * trial.iterations, "reason": None,
        "evaluation": {"test_accuracy": evaluations[-1]["test_accuracy"]}, "final_loss": float(columns["loss"][-1]),
        "bytes": "counted", "wall_s": pace * trial.iterations,
    }  # fmt: skip
    return RunLog("run", None, summary, trial.iterations, 10, columns, evaluations)


#: Seeds by which the finalist is chosen.
APART = range(901, 901 + ENOUGH)
PACE = Pace(begin=0.2, iteration=0.01, evaluation=0.001, between=4)


def make(methods: Sequence[Method], scheme: Scheme, seeds: int = 10, paces: Sequence[Pace] = ()) -> Race:
    names = ["allreduce", *(f"method{number}" for number in range(1, len(methods)))]
    paces = paces or [replace(PACE, iteration=method.iteration_s) for method in methods]
    return Race(names, paces, [0.3] * len(methods), scheme, range(1, seeds + 1), [0, *APART])


def play(race: Race, methods: Sequence[Method], budget_s: float, salt: int = 0) -> float:
    """Run a race to its end; the seconds that it took."""
    spent = 0.0
    while (trial := race.next(budget_s - spent)) is not None:
        log = simulated(methods[trial.method], trial, trial.method + 100 * salt)
        took = 0.2 + log.summary["elapsed_s"] + 0.001 * len(log.evaluations)
        spent += took
        race.add(trial, log, took)
        assert len(race.runs) < 1000
    return spent


WHOLE = Scheme(iterations=200, rates=5, methods=2, seconds=0.0)


def test_a_faster_method_pays_off_and_is_told_by_how_much() -> None:
    """Twice as fast an iteration, a 32nd of the bytes, another best rate; a slower method beside it is dropped."""
    methods = [Method(), Method(0.005, best=0.9, nbytes=31.25), Method(0.03)]
    race = make(methods, WHOLE)
    spent = play(race, methods, 1000)
    verdict = race.verdict()
    assert (verdict.pays_off, verdict.best) == (True, 1)
    found = verdict.evidence[1]
    assert found.time.ratio == pytest.approx(0.5, rel=0.1)
    assert found.time.low < 0.5 * 1.1
    assert found.time.high < 0.6
    assert found.bytes.ratio == pytest.approx(1 / 32, rel=0.1)
    assert race.rate(0) == 0.3
    assert race.rate(1) == 0.9
    first = sentences(race, verdict, Around(["allreduce", "quick", "slow"], break_even=3.1e9))[:3]
    assert first[0].startswith("Pays off: quick reaches ")
    assert " × the time of allreduce (95 % interval " in first[0]
    assert "no loss of test accuracy that 5 seeds can tell" in first[0]
    assert "× fewer bytes" in first[0]
    assert first[1].startswith("It was chosen among 2 methods, where it took 0.")
    assert first[1].endswith(" × on 3 other seeds; the 5 seeds had no part in that.")
    assert first[2].startswith("It stops paying off above 3.1 Gbit/s")
    # It ends once that is known, and not when the time does.
    assert spent < 200
    assert len(race.seeds_of(1)) == ENOUGH
    assert len(race.seeds_of(2)) <= FEW


def test_every_method_tries_as_many_rates_on_a_seed_of_its_own() -> None:
    """Also where the best one lies beyond all that were to be tried."""
    methods = [Method(), Method(0.009, best=0.01), Method(0.009, best=8.1)]
    race = make(methods, WHOLE)
    play(race, methods, 1000)
    for method in range(3):
        trials = [trial for trial in race.runs if trial.method == method and trial.purpose in (RATE, WHOLE_RATE)]
        assert [trial.purpose for trial in trials].count(RATE) == 5
        assert [trial.purpose for trial in trials].count(WHOLE_RATE) == 2
        assert {trial.seed for trial in trials} == {0}
    seeds = {purpose: {trial.seed for trial in race.runs if trial.purpose == purpose} for purpose in (RACE, FINAL)}
    assert 0 not in seeds[RACE] | seeds[FINAL]
    assert not seeds[RACE] & seeds[FINAL]
    assert race.rate(1) == pytest.approx(0.0111, rel=0.01), "a third of the smallest of the five"
    assert race.rate(2) == pytest.approx(8.1), "three times the largest of the five"
    assert race.at_an_end(2)
    assert not race.at_an_end(0)


def test_runs_go_in_turns() -> None:
    methods = [Method(), Method(0.009), Method(0.0095)]
    race = make(methods, WHOLE)
    play(race, methods, 1000)
    turns = [(trial.seed, trial.method) for trial in race.runs if trial.purpose == RACE]
    assert turns[:6] == [(901, 0), (901, 1), (901, 2), (902, 2), (902, 1), (902, 0)]
    last = [(trial.seed, trial.method) for trial in race.runs if trial.purpose == FINAL]
    assert last[:4] in ([(1, 0), (1, 1), (2, 1), (2, 0)], [(1, 0), (1, 2), (2, 2), (2, 0)])


def test_a_method_that_loses_accuracy_is_not_recommended() -> None:
    """It reaches the target in a third of the time, and ends below the baseline."""
    methods = [Method(), Method(0.003, top=0.935)]
    race = make(methods, replace(WHOLE, methods=1))
    play(race, methods, 1000)
    verdict = race.verdict()
    assert verdict.evidence[1].faster
    assert verdict.evidence[1].worse
    assert (verdict.pays_off, verdict.best) == (False, None)
    said = sentences(race, verdict, Around(["allreduce", "quick"]))
    assert said[0].startswith("Nothing pays off here")
    assert any(text.startswith("Not recommended: quick takes 0.3") and "a loss that" in text for text in said)


def test_a_method_that_misses_the_target_does_not_win() -> None:
    methods = [Method(), Method(0.003, top=0.8)]
    race = make(methods, replace(WHOLE, methods=1))
    play(race, methods, 1000)
    assert "missed test_accuracy" in race.dropped[1]
    assert not race.seeds_of(1)
    verdict = race.verdict()
    assert verdict.best is None
    assert verdict.pays_off is not True
    said = sentences(race, verdict, Around(["allreduce", "quick"], named=[1]))
    assert any(text.startswith("Not raced: quick, as it missed") for text in said)


def test_methods_held_against_themselves_win_by_chance_at_most() -> None:
    """The best of six copies of the baseline leads the race nearly always; few finals of 40 name it a winner."""
    answers, led = [], 0
    for salt in range(40):
        methods = [Method(noise=0.1)] * 7
        race = make(methods, Scheme(120, 1, 6, 0.0), seeds=20)
        play(race, methods, 1000, salt)
        verdict = race.verdict()
        answers.append(verdict.pays_off)
        led += any((race.in_race(final.method).time.ratio or 1) < 1 for final in race.told[:1])
    assert answers.count(True) <= 5
    assert led > 30


def test_a_final_has_the_seeds_that_were_settled_before_it() -> None:
    """As many as the race lets one expect to suffice, whatever the first of them show."""
    methods = [Method(noise=0.1), Method(0.006, noise=0.1)]
    race = make(methods, Scheme(120, 1, 1, 0.0), seeds=60)
    settled: list[Final] = []
    while (trial := race.next(1000)) is not None:
        log = simulated(methods[trial.method], trial, trial.method)
        race.add(trial, log, log.summary["elapsed_s"])
        settled += [race.finals[-1]] if len(race.finals) > len(settled) else []
    assert settled == race.finals
    assert ENOUGH <= settled[0].count < 60, settled
    assert len(race.seeds_of(1)) == settled[-1].count == race.verdict().evidence[1].seeds


def test_a_final_that_leaves_it_open_is_followed_by_another() -> None:
    """On seeds of its own, with which the first one's are not mixed; a third there is not."""
    methods = [Method(noise=0.3), Method(0.0085, noise=0.3)]
    salts = [salt for salt in range(8) if len(_finals(methods, salt).finals) == 2]
    assert salts
    race = _finals(methods, salts[0])
    first, second = race.finals
    assert second.start == first.start + first.count
    last = {trial.seed for trial in race.runs if trial.purpose == FINAL and trial.method}
    assert last == {*range(1, second.start + second.count + 1)}
    assert race.seeds_of(1) == [*range(second.start + 1, second.start + second.count + 1)]
    said = sentences(race, race.verdict(), Around(["allreduce", "quick"]))
    assert any(text.startswith("Another final was of quick: ") for text in said)


def _finals(methods: Sequence[Method], salt: int) -> Race:
    race = make(methods, Scheme(120, 1, 1, 0.0), seeds=100)
    play(race, methods, 10000, salt)
    return race


def test_a_race_alone_names_no_winner() -> None:
    """Without the time for a final the leader is told, and that it has not been confirmed."""
    methods = [Method(), Method(0.005)]
    race = make(methods, Scheme(200, 1, 1, 0.0))
    for trial in [
        RaceRun(0, WHOLE_RATE, 0.3, 0, 200),
        *(RaceRun(m, RACE, 0.3, s, 200) for s in APART[:3] for m in (0, 1)),
    ]:
        race.add(trial, simulated(methods[trial.method], trial, trial.method), 2.2)
    verdict = race.verdict()
    assert (verdict.pays_off, verdict.best) == (None, 1)
    assert verdict.evidence[1].faster
    (first, *_) = sentences(race, verdict, Around(["allreduce", "quick"]))
    assert first.startswith("Not told: quick takes 0.478 × the time of allreduce")
    assert first.endswith("in the race that chose it, and there was no time for seeds of its own.")


def test_a_race_keeps_its_time_though_it_knows_nothing_of_paces() -> None:
    """Runs take three times what was expected; what it cannot try is dropped with that reason."""
    methods = [Method(0.03), Method(0.02), Method(0.025), Method(0.05)]
    for budget in (2, 10, 30, 100):
        race = make(methods, replace(WHOLE, methods=3), paces=[PACE] * 4)
        # A run that is begun before its pace is known may take longer; the rest keeps within.
        assert play(race, methods, budget) < budget + 5
    race = make(methods, replace(WHOLE, methods=3), paces=[PACE] * 4)
    play(race, methods, 60)
    assert any("budget" in reason for reason in race.dropped.values())
    verdict = race.verdict()
    said = sentences(race, verdict, Around(["allreduce", "a", "b", "c"]))
    assert any(text.startswith("The budget had no room for ") for text in said)


def test_a_race_that_was_killed_goes_on_with_the_same_run() -> None:
    methods = [Method(), Method(0.005), Method(0.008)]
    race = make(methods, WHOLE)
    done: list[tuple[RaceRun, RunLog, float]] = []
    while len(done) < 27 and (trial := race.next(500)) is not None:
        log = simulated(methods[trial.method], trial, trial.method)
        done.append((trial, log, 1.0))
        race.add(*done[-1])
    again = make(methods, WHOLE)
    for item in done:
        again.add(*item)
    assert again.next(500) == race.next(500) is not None
    assert again.target == race.target


def test_a_given_target_is_kept() -> None:
    methods = [Method(), Method(0.005)]
    race = Race(["allreduce", "quick"], [PACE] * 2, [0.3] * 2, replace(WHOLE, methods=1), [1, 2, 3], [0, *APART],
                Target("test_accuracy", 0.5))  # fmt: skip
    play(race, methods, 1000)
    assert race.target == Target("test_accuracy", 0.5)
    assert race.verdict().pays_off
    unmet = Race(["allreduce", "quick"], [PACE] * 2, [0.3] * 2, replace(WHOLE, methods=1), [1, 2, 3], [0, *APART],
                 Target("test_accuracy", 0.999))  # fmt: skip
    play(unmet, methods, 1000)
    assert unmet.baseline_missed
    assert {trial.method for trial in unmet.runs} == {0}
    (first, *_) = sentences(unmet, unmet.verdict(), Around(["allreduce", "quick"]))
    assert first == (
        "Nothing could be told: allreduce did not reach 99.9 % test accuracy in 200 iterations; give an easier "
        "--target, or longer runs."
    )


@pytest.mark.parametrize("left", [1, 5, 20, 100, 1000])
def test_a_plan_fits_its_budget(left: float) -> None:
    """Or it is the smallest race there is; with all the time in the world nothing is shortened."""
    paces = [PACE, *(replace(PACE, iteration=0.01 * factor) for factor in np.linspace(0.2, 3, 12))]
    scheme = plan_race(paces, left, 200, 50)
    assert scheme.seconds == race_s(paces[: scheme.methods + 1], scheme.iterations, scheme.rates)
    assert scheme.seconds <= left or (scheme.methods, scheme.rates, scheme.iterations) == (1, 1, 50)
    assert 1 <= scheme.methods <= MOST
    assert 50 <= scheme.iterations <= 200
    assert plan_race(paces, left, 200, 200).iterations == 200
    if left == 1000:
        assert (scheme.methods, scheme.rates, scheme.iterations) == (MOST, 5, 200)


def evidence(
    ratios: Sequence[float | None], losses: Sequence[float] = (0.0, 0.01, -0.01), margin: float = 0.0
) -> Findings:
    time = paired(ratios, [1.0] * len(ratios))
    return Findings("m", len(ratios), time, time, (1.0, 1.0), {}, difference(losses, [0.0] * len(losses)), margin)


def test_the_rule() -> None:
    fast, slow, near = [0.5, 0.52, 0.48], [1.5, 1.6, 1.55], [0.99, 1.0, 1.01]
    unsure, close = [0.7, 1.3, 0.9], [0.97, 0.971, 0.972]
    lost = (0.02, 0.021, 0.022)
    for found, answer, best in (
        ({}, None, None),
        ({1: evidence(fast)}, True, 1),
        ({1: evidence(slow)}, False, 1),
        ({1: evidence(near)}, False, 1),
        ({1: evidence(close)}, True, 1),
        ({1: evidence(unsure)}, None, 1),
        ({1: evidence(fast[:2])}, None, 1),
        ({1: evidence(fast, lost)}, False, None),
        ({1: evidence(fast, lost, margin=0.03)}, True, 1),
        ({1: evidence([0.5, 0.5, None])}, False, None),
        ({1: evidence(slow), 2: evidence(unsure)}, None, 1),
        # What is faster only in the race does not win.
        ({1: evidence(slow), 2: evidence(fast)}, None, 1),
        ({1: evidence(close), 2: evidence(fast)}, True, 1),
    ):
        assert decide(found, []).pays_off is not True
        # The first one is the finalist.
        verdict = decide(found, [1] if found else [])
        assert (verdict.pays_off, verdict.best) == (answer, best), found


def test_bad_input_is_one_line(empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(*words: str) -> str:
        assert run(["advise", *words]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    assert "--bandwidth: is missing" in refused("-n", "64", "--latency", "50us")
    assert "mpisqueeze launch" in refused("--problem", "quadratic:10"), "a single rank has nobody to exchange with"
    assert "--budget: must be a time above 0" in refused("--budget", "0s")
    assert "such as 5ms" in refused("--budget", "long")
    assert "one seed gives no interval" in refused("--seeds", "1")
    assert "names seed 3 twice" in refused("--seeds", "3,3,4")
    assert "no folder of advise" in refused("--resume", "nowhere")
    assert "does not go with --resume" in refused("--resume", "nowhere", "--lr", "0.1")
    assert not [*empty_folder.iterdir()]
