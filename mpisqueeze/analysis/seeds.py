"""Comparing pairs over several seeds: medians, and ratios to the first pair that are paired by seed."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mpisqueeze.analysis.columns import BROKEN, NUMBERS, rises
from mpisqueeze.analysis.differences import differences, emulated
from mpisqueeze.analysis.intervals import FEWEST, LEVEL, Difference, Ratio, difference, median, paired
from mpisqueeze.analysis.ranking import (
    PROGRESS,
    Curve,
    Ranking,
    Target,
    curve_of,
    level_of,
    often_evaluated,
    reach_of,
    row_of,
    sort_rows,
)
from mpisqueeze.quantities import counted, duration, ratio, significant, size
from mpisqueeze.record.reading import SMOOTHED, RunLog
from mpisqueeze.record.types import PooledPair, Spread, Status
from mpisqueeze.settings import SETTINGS

#: Costs up to the target, of which None is ∞.
TO_TARGET = ("time_to_target_s", "bytes_to_target", "iterations_to_target")
#: Statuses of runs that say nothing of their method: they were stopped, or have not begun.
UNFINISHED = ("interrupted", "killed", "skipped")
#: The phase of runs that choose settings, on seeds that no counted run uses.
TUNE = "tune"
#: Settings in which runs may differ and are pooled all the same: they change neither steps nor times.
_ASIDE = ("seed", "out", "log", "per_rank", "save_model", "checkpoint_every", "timeout")
#: A swept seed in a run's name, and the number of one of several pairs of a name.
_SEED, _NUMBER = re.compile(r" seed=\S+"), re.compile(r" #(\d+)$")
#: Costs in which there are winners: key, what the least is called, what the cost is called, and how it is written.
COSTS: tuple[tuple[str, str, str, Callable[[float], str]], ...] = (
    ("time_to_target_s", "Least time", "time", duration),
    ("bytes_to_target", "Fewest bytes", "bytes", size),
)


@dataclass(frozen=True)
class SeededPair:
    """A pair, an algorithm and its compressor under certain settings, over its seeds.

    Attributes:
        name: different for each.
        numbered: (seed, run) of the runs that finished, well or badly.
        seeds: ascending, each once: of several runs on a seed, medians count.
        status: of each seed; of several runs on a seed the first that is not `ok`.
        each: of each seed, figures by the keys of a ranking's rows, and evaluated metrics by their names; None for
            what a run has not, and for everything of runs that broke down.
        metrics: those that were evaluated.
        relative: of each relative column, and of `iterations_to_target`, to the first pair's over their common seeds.
        differences: of the smoothed loss and of each metric, from the first pair's over their common seeds.
    """

    name: str
    numbered: list[tuple[int, RunLog]]
    seeds: list[int]
    status: list[Status]
    each: dict[str, list[float | None]]
    metrics: list[str]
    relative: dict[str, Ratio]
    differences: dict[str, Difference]

    @property
    def runs(self) -> list[RunLog]:
        return [run for _, run in self.numbered]

    def runs_of(self, seed: int) -> list[RunLog]:
        return [run for number, run in self.numbered if number == seed]

    @property
    def shown_to_fail(self) -> bool:
        return any(run.summary.get("shown_to_fail") for run in self.runs)

    @property
    def missed(self) -> int:
        """Seeds that did not get to the target."""
        return self.each[TO_TARGET[0]].count(None)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of its runs but for the seed, and the algorithm's own parameters."""
        config = self.runs[0].config
        own = config.get("parts", {}).get("algorithm", {}).get("parameters", {})
        settings = {name: config[name] for name in SETTINGS if name not in _ASIDE and config.get(name) is not None}
        return {**own, **settings}

    def middle(self, key: str) -> float | None:
        """The median over seeds of a figure or a metric, of which None is worse than any number."""
        values = self.each[key]
        if rises(key):
            lowest = median([None if value is None else -value for value in values])
            return None if lowest is None else -lowest
        return median(values)

    def spread(self, key: str) -> Spread:
        values = self.each[key]
        return {"median": self.middle(key), "each": values, "missed": values.count(None)}

    def row(self) -> dict[str, Any]:
        """The medians as a row of a ranking."""
        summary = self.runs[0].summary
        return {
            "position": 0,
            "name": self.name,
            "method": self.name,
            "status": "ok" if "ok" in self.status else self.status[0],
            "reason": next((run.summary["reason"] for run in self.runs if run.summary["reason"]), None),
            "shown_to_fail": self.shown_to_fail,
            "bytes": summary["bytes"],
            "virtual": self.runs[0].virtual,
            "evaluation": {metric: self.middle(metric) for metric in self.metrics},
            **{key: self.middle(key) for key in self.each if key not in self.metrics},
            "relative": {key: found.ratio for key, found in self.relative.items()},
        }

    def as_json(self) -> PooledPair:
        return {
            "name": self.name,
            "settings": self.settings,
            "seeds": self.seeds,
            "status": self.status,
            "missed": self.missed,
            "shown_to_fail": self.shown_to_fail,
            "bytes": self.runs[0].summary["bytes"],
            "virtual": self.runs[0].virtual,
            "time_to_target_s": self.spread("time_to_target_s"),
            "bytes_to_target": self.spread("bytes_to_target"),
            "iterations_to_target": self.spread("iterations_to_target"),
            "bytes_sent": self.spread("bytes_sent"),
            "elapsed_s_per_iteration": self.spread("elapsed_s_per_iteration"),
            "final": {metric: self.spread(metric) for metric in (SMOOTHED, *self.metrics)},
            "relative": {key: found.as_json() for key, found in self.relative.items()},
            "difference": {key: found.as_json() for key, found in self.differences.items()},
            "run_folders": [run.summary["run_folder"] for run in self.runs],
        }


@dataclass(frozen=True)
class Win:
    """A pair that an interval holds apart from the first pair, as it needs less to get to the target.

    Attributes:
        title: `Least time` or `Fewest bytes`.
        cost: its median, in words.
        said: how it stands to the first pair, in words.
        level: names of pairs that are not distinguishable from it.
    """

    title: str
    pair: SeededPair
    cost: str
    said: str
    level: list[str]


@dataclass(frozen=True)
class Pooled:
    """Pairs compared over seeds.

    Attributes:
        ranking: of the medians: target, rows best first, columns, and what is to be said of all runs.
        pairs: by name, the first pair first.
        chosen: names of settings that were tuned.
        unfinished: runs that are left out, by pair.
    """

    ranking: Ranking
    pairs: Mapping[str, SeededPair]
    chosen: Sequence[str]
    unfinished: Mapping[str, int]

    @property
    def target(self) -> Target | None:
        return self.ranking.target

    @property
    def first(self) -> SeededPair:
        return self.pairs[self.ranking.reference]

    @property
    def ordered(self) -> list[SeededPair]:
        """The pairs in the order of the ranking."""
        return [self.pairs[row["name"]] for row in self.ranking.rows]

    @property
    def others(self) -> list[SeededPair]:
        """The pairs but for the first one."""
        return [pair for pair in self.pairs.values() if pair.name != self.ranking.reference]

    def as_json(self) -> list[PooledPair]:
        """An object a pair, in the order given."""
        return [pair.as_json() for pair in self.pairs.values()]

    def facts(self) -> dict[str, Any]:
        """The comparison as compare.json has it, with `pairs` in place of a ranking of runs."""
        about = self.ranking.as_json()
        del about["ranking"]
        return {**about, "level": LEVEL, "verdict": self.verdict(), "pairs": self.as_json()}

    @property
    def stopped(self) -> bool:
        """Runs ended at the target, so that their final metrics tell of the target and not of the method."""
        return any(run.summary.get("stopped_at_target") for pair in self.pairs.values() for run in pair.runs)

    def told(self, pair: SeededPair, key: str) -> str:
        """The standing of a pair's cost to the first pair's: `less`, `more`, `alike`, or `unknown` without an interval.

        Where all seeds of one got to the target and none of the other's, that tells them apart if a permutation test
        of as many seeds can (Fisher's exact test).
        """
        found = pair.relative[key]
        if found.distinguishable is None:
            ends, apart = (found.missed, found.reference_missed), math.comb(2 * found.of, found.of) * (1 - LEVEL) >= 2
            return {(0, found.of): "less", (found.of, 0): "more"}.get(ends, "unknown") if apart else "unknown"
        if not found.distinguishable or found.ratio is None:
            return "alike"
        return "less" if found.ratio < 1 else "more"

    def wins(self) -> list[Win]:
        """The pairs that get to the target in less time and with fewer bytes than the first one, as intervals tell."""
        found = []
        for key, title, _, show in COSTS:
            able = [pair for pair in self.others if not pair.shown_to_fail and self.told(pair, key) == "less"]
            if able:
                best = min(able, key=lambda pair: _less(pair, key))
                level = [pair.name for pair in able if pair is not best and not _apart(best, pair, key)]
                middle = best.middle(key)
                cost = "—" if middle is None else show(middle)
                if key == "bytes_to_target" and best.runs[0].summary["bytes"] != "counted":
                    cost += f" {best.runs[0].summary['bytes']}"
                if key == "time_to_target_s" and best.runs[0].virtual:
                    cost += " (virtual)"
                found.append(Win(title, best, cost, self.said(best, key), level))
        return found

    def said(self, pair: SeededPair, key: str) -> str:
        """A pair's cost over the first pair's: `0.431× that of sgd (95 % interval 0.380 to 0.500, 5 seeds)`."""
        found, first = pair.relative[key], self.first.name
        if found.ratio is None:
            return f"{_reached(found.of - found.missed, found.of)}, {first} in {found.of - found.reference_missed}"
        return f"{ratio(found.ratio)} that of {first} ({interval_of(found)}{counted(found.pairs, 'seed')})"

    def verdict(self) -> list[str]:
        """Sentences on who gets to the target for less than the first pair, and who cannot be told apart from it."""
        if not self.pairs:
            return ["No run has finished."]
        if self.target is None:
            return [
                "No run ended well, so that there is no target to compare costs at; give --target or --target-loss."
            ]
        where, first = f"the target {self.target}", self.first
        missed = [
            f"{pair.name} missed {where} in {pair.missed} of {counted(len(pair.seeds), 'seed')}"
            for pair in self.pairs.values()
            if pair.missed
        ]
        sentences = [f"{'; '.join(missed)}: no ratio, and no win."] if missed else []
        common = max((pair.relative[TO_TARGET[0]].of for pair in self.others), default=len(first.seeds))
        if common < FEWEST:
            few = f"{counted(common, 'seed')} in common" if self.others else counted(common, "seed")
            return [f"With {few} there is no interval, and nobody wins: it takes {FEWEST} seeds at least.", *sentences]
        wins = {win.title: win for win in self.wins()}
        for key, title, cost, _ in COSTS if self.others else ():
            alike = [pair for pair in self.others if self.told(pair, key) == "alike"]
            if win := wins.get(title):
                level = f"; not distinguishable from it: {', '.join(win.level)}" if win.level else ""
                sentences.append(f"{title} to {where}: {win.pair.name}, {win.cost}, {win.said}{level}.")
            elif not first.missed:
                few = counted(len(first.seeds), "seed")
                less = "in less time" if key == TO_TARGET[0] else "with fewer bytes"
                sentences.append(f"No pair gets to {where} {less} than {first.name} that {few} can tell.")
            if alike:
                shown = [
                    f"{pair.name} ({ratio(pair.relative[key].ratio)}, {_interval(pair.relative[key])})"
                    for pair in alike
                ]
                title = f"{cost[0].upper()}{cost[1:]} to target not distinguishable from {first.name}"
                sentences.append(f"{title}: {', '.join(shown)}.")
        sentences += self._prices({win.pair.name: win.pair for win in wins.values()}.values())
        failing = [pair.name for pair in self.others if pair.shown_to_fail]
        if failing:
            sentences.append(f"Shown to fail, and not among the winners: {', '.join(failing)}.")
        return sentences

    def _prices(self, winners: Any) -> Iterator[str]:
        """A sentence on each winner's final metric beside the first pair's."""
        metric = self.ranking.metric
        for pair in () if self.stopped else winners:
            found = pair.differences.get(metric)
            if found is None or found.low is None or found.high is None:
                continue
            mine, theirs = (_four(each.middle(metric)) for each in (pair, self.first))
            told = "differs from" if found.distinguishable else "is not distinguishable from"
            yield (
                f"Final {metric.replace('_', ' ')} of {pair.name}, {mine}, {told} {self.first.name}'s, {theirs} "
                f"(difference {_signed(found.difference)}, {100 * LEVEL:g} % interval {_signed(found.low)} to "
                f"{_signed(found.high)})."
            )


def interval_of(found: Ratio) -> str:
    """`95 % interval 0.380 to 0.500, `; empty without one."""
    return f"{_interval(found)}, " if found.low is not None else ""


def _interval(found: Ratio) -> str:
    assert found.low is not None
    assert found.high is not None
    return f"{100 * LEVEL:g} % interval {significant(found.low)} to {significant(found.high)}"


def _reached(count: int, of: int) -> str:
    return f"reached in {count} of {counted(of, 'seed')}"


def _four(value: float | None) -> str:
    return "—" if value is None else significant(value, 4)


def _signed(value: float | None) -> str:
    return "—" if value is None else f"{'+' if value > 0 else '−' if value < 0 else ''}{significant(abs(value), 2)}"


def _less(pair: SeededPair, key: str) -> tuple[float, float]:
    """A key whose least is the best: the ratio, and where the first pair has none to give, the median."""
    found, middle = pair.relative[key].ratio, pair.middle(key)
    return (math.inf if found is None else found), (math.inf if middle is None else middle)


def _apart(one: SeededPair, other: SeededPair, key: str) -> bool:
    """An interval holds a cost of two pairs apart."""
    return bool(_paired(one, other, key).distinguishable)


def _paired(pair: SeededPair, first: SeededPair, key: str) -> Ratio:
    return paired(*_common(pair, first, key))


def _common(pair: SeededPair, first: SeededPair, key: str) -> tuple[list[float | None], list[float | None]]:
    """A figure of two pairs, on the seeds that both have."""
    mine, theirs = (dict(zip(each.seeds, each.each[key], strict=True)) for each in (pair, first))
    seeds = [seed for seed in first.seeds if seed in mine]
    return [mine[seed] for seed in seeds], [theirs[seed] for seed in seeds]


def pool(
    runs: Sequence[tuple[str, int, RunLog]],
    target: Target | None = None,
    sort: str = "loss",
    chosen: Sequence[str] = (),
) -> Pooled:
    """Compare pairs over their seeds.

    Args:
        runs: (pair's name, seed, run); the first pair is what others are measured against.
        target: None for the loss where the first pair has made 95 % of its progress: the median over its seeds.
        sort: a name of SORTS.
        chosen: names of settings that were tuned, for tables to show.
    """
    ended = [item for item in runs if item[2].summary["status"] not in UNFINISHED]
    unfinished: dict[str, int] = {}
    for name, _, run in runs:
        if run.summary["status"] in UNFINISHED:
            unfinished[name] = unfinished.get(name, 0) + 1
    names = dict.fromkeys(name for name, _, _ in ended)
    reference = next(iter(names), "")
    if target is None:
        target = _default_target(ended)
    metrics = list(dict.fromkeys(metric for _, _, run in ended for metric in run.summary["evaluation"] or {}))
    found = {name: _pair_of(name, [item[1:] for item in ended if item[0] == name], target, metrics) for name in names}
    pairs = {name: _beside(pair, found[reference]) for name, pair in found.items()}
    rows = [pair.row() for pair in pairs.values()]
    order = sort_rows(rows, sort, target)
    for position, row in enumerate(rows, 1):
        row["position"] = position
    logs = [run for _, _, run in ended]
    warned: dict[str, list[str]] = {}
    for name, _, run in ended:
        for text in run.summary.get("warnings") or []:
            if name not in warned.setdefault(text, []):
                warned[text].append(name)
    reaches = [reach_of(run.planned, run.per_epoch) for run in logs if run.columns["loss"].size] or [0]
    ranking = Ranking(
        target, (min(reaches), max(reaches)), rows, reference, any(run.gossips for run in logs), {},
        list(dict.fromkeys(name for name, _, run in ended if run.summed)), order,
        differences([replace(run, name=name) for name, _, run in ended]), emulated(logs), warned,
    )  # fmt: skip
    return Pooled(ranking, pairs, chosen, unfinished)


def _default_target(runs: Sequence[tuple[str, int, RunLog]]) -> Target | None:
    """The loss where the first pair of which a seed ended well has made 95 % of its progress: the median over these."""
    well = [(name, run) for name, _, run in runs if run.summary["status"] == "ok"]
    if not well:
        return None
    first = well[0][0]
    metric = often_evaluated([run for _, run in well])
    levels = [level_of(run, curve_of(run), metric) for name, run in well if name == first]
    known = [level for level in levels if level is not None]
    middle = median(known)
    if middle is None:
        return None
    source = f"{100 * PROGRESS:g} % of the progress of {first}, the median over {counted(len(known), 'seed')}"
    return Target(metric, middle, f"{source}, on evaluations" if metric else source)


def _pair_of(
    name: str, runs: Sequence[tuple[int, RunLog]], target: Target | None, metrics: Sequence[str]
) -> SeededPair:
    """A pair by itself."""
    numbered = sorted(runs, key=lambda item: item[0])
    by_seed: dict[int, list[RunLog]] = {}
    for seed, run in numbered:
        by_seed.setdefault(seed, []).append(run)
    own = [metric for metric in metrics if any(metric in (run.summary["evaluation"] or {}) for _, run in runs)]
    keys = (*(column.key for column in NUMBERS), "iterations_to_target", "iterations", *own)
    each: dict[str, list[float | None]] = {key: [] for key in keys}
    status: list[Any] = []
    for repeats in by_seed.values():
        draws = [_draw(run, curve_of(run), target) for run in repeats]
        for key, values in each.items():
            values.append(median([draw.get(key) for draw in draws]))
        status.append(next((run.summary["status"] for run in repeats if run.summary["status"] != "ok"), "ok"))
    return SeededPair(name, numbered, [*by_seed], status, each, own, {}, {})


def _draw(run: RunLog, curve: Curve, target: Target | None) -> dict[str, Any]:
    """A run's figures and metrics; none of one that broke down, which has shown no way to get anywhere."""
    if run.summary["status"] in BROKEN:
        return {}
    row = row_of(run, curve, target)
    numbers = {key: value for key, value in row["evaluation"].items() if isinstance(value, int | float)}
    return {**row, **numbers}


def _beside(pair: SeededPair, first: SeededPair) -> SeededPair:
    """The pair with what it is beside the first one."""
    keys = [*(column.key for column in NUMBERS if column.relative), "iterations_to_target"]
    losses = [metric for metric in (SMOOTHED, *pair.metrics) if metric in first.each]
    return replace(
        pair,
        relative={key: _paired(pair, first, key) for key in keys},
        differences={key: difference(*_common(pair, first, key)) for key in losses},
    )


def by_pair(runs: Sequence[RunLog]) -> list[tuple[str, int, RunLog]]:
    """(pair's name, seed, run) of runs that differ by the seed alone within a pair, from several launches or one.

    Runs of the same settings, network and device are a pair, but for those that a comparison named apart (`sgd #2`).
    Pairs of one name get the settings that tell them apart. Empty where no pair has two seeds.
    """
    counted_runs = [run for run in runs if run.phase != TUNE and isinstance(run.config.get("seed"), int)]
    groups: dict[str, list[RunLog]] = {}
    for run in counted_runs:
        groups.setdefault(_identity(run), []).append(run)
    if all(len({run.config["seed"] for run in group}) < 2 for group in groups.values()):
        return []
    members = [*groups.values()]
    names = [_SEED.sub("", group[0].pair or group[0].label) for group in members]
    for name in {name for name in names if names.count(name) > 1}:
        alike = [at for at, other in enumerate(names) if other == name]
        facts = [{"network": members[at][0].network, **members[at][0].config} for at in alike]
        differing = [key for key in facts[0] if key not in ("parts", *_ASIDE) and
                     any(other.get(key) != facts[0][key] for other in facts)]  # fmt: skip
        for at, own in zip(alike, facts, strict=True):
            names[at] = " ".join([name, *(f"{key.replace('_', '-')}={own.get(key)}" for key in differing)])
    return [
        (name, run.config["seed"], run) for name, group in zip(_distinct(names), members, strict=True) for run in group
    ]


def _distinct(names: Sequence[str]) -> list[str]:
    """Names with numbers behind those that have come before."""
    return [
        name if (before := names[:at].count(name)) == 0 else f"{name} ({before + 1})" for at, name in enumerate(names)
    ]


def _identity(run: RunLog) -> str:
    """All that runs of a pair have in common."""
    settings = {key: value for key, value in run.config.items() if key not in _ASIDE}
    number = _NUMBER.search(_SEED.sub("", run.pair or run.label))
    return repr([number and number[1], run.network, run.environment.get("device"), sorted(settings.items(), key=str)])


def tuned(runs: Sequence[RunLog]) -> list[str]:
    """Names of the settings that trials of a pair tried."""
    trials: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        if run.phase == TUNE:
            own = run.config.get("parts", {}).get("algorithm", {}).get("parameters", {})
            trials.setdefault(run.pair, []).append({**run.config, **own})
    return list(dict.fromkeys(
        key for group in trials.values() for key in group[0] if key not in ("parts", "algorithm", *_ASIDE)
        and any(other.get(key) != group[0][key] for other in group)
    ))  # fmt: skip
