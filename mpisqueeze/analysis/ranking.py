"""Comparing finished runs: smoothed losses, a target, what it cost to get there, and who did it for least."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.analysis.columns import (
    BROKEN,
    NUMBERS,
    RECORDED,
    SORTS,
    Column,
    columns_of,
    measured,
    metrics_of,
    rises,
)
from mpisqueeze.analysis.differences import differences, emulated
from mpisqueeze.errors import UsageError
from mpisqueeze.quantities import duration, ratio, significant, size
from mpisqueeze.record.figures import TIMES, Floats
from mpisqueeze.record.reading import SMOOTHED, RunLog
from mpisqueeze.record.types import GivenTarget

#: The default target is where the first run has made this part of its whole progress.
PROGRESS = 0.95
#: The default target is one of these metrics where each run has that many evaluations: fewer round costs coarsely.
LOSSES, EVALUATIONS = ("test_loss", "objective"), 100
#: The smoothing reaches an epoch to either side, but at most this part of the run, and of the iterations before.
WHOLE_PART, EARLY_PART = 20, 8

#: Runs are ranked within these groups, in this order.
_ORDER = {"ok": 0, "interrupted": 1, "killed": 1, "diverged": 2, "failed": 3, "skipped": 4}


@dataclass(frozen=True)
class Target:
    """The loss or metric up to which costs are counted.

    Attributes:
        name: of an evaluated metric; empty for the smoothed training loss.
        value: to reach.
        source: where it comes from, for people.
    """

    name: str
    value: float
    source: str = "given"

    def __str__(self) -> str:
        return self.said(4)

    def said(self, digits: int) -> str:
        """`loss 0.2530`, `test_accuracy 0.9500`."""
        return f"{self.name or 'loss'} {significant(self.value, digits)}"

    @staticmethod
    def given(target: GivenTarget | None) -> Target | None:
        """The target as a file has it."""
        return Target("" if target["name"] == SMOOTHED else target["name"], target["value"]) if target else None

    def as_json(self) -> GivenTarget:
        return {"name": self.name or SMOOTHED, "value": self.value}


@dataclass(frozen=True)
class Curve:
    """A run's loss and what it cost, per iteration (T,).

    Attributes:
        loss: smoothed over `reach` iterations on either side.
        bytes_sent: of all ranks, up to and with the iteration.
        seconds: `elapsed_s`, the last rank's clock after the iteration; warm-up included.
    """

    reach: int
    loss: Floats
    bytes_sent: Floats
    seconds: Floats

    @property
    def final(self) -> float | None:
        """The smoothed loss after the last iteration; None without one, or if it is not finite."""
        return float(self.loss[-1]) if self.loss.size and math.isfinite(self.loss[-1]) else None


@dataclass(frozen=True)
class Ranking:
    """Runs compared.

    Attributes:
        target: what costs are counted to; None if no run gave one.
        reaches: the smallest and the largest reach of the smoothing, in iterations.
        rows: an object a run, best first: `position name method status reason shown_to_fail smoothed_loss final_loss
            evaluation iterations virtual bytes_to_target time_to_target_s iterations_to_target`, the keys of RECORDED
            (medians without warm-up), `relative` (of each relative column, the value over the first run's) and
            `run_folder`.
        reference: the first run's name.
        gossips: some of the runs are decentralized.
        curves: by the run's name.
        summed: names of runs of older versions, whose times are sums of `iteration_s`.
        order: the rows' order, in words.
        differences: sentences on what these runs do not have in common, which leaves no common measure.
        network: the emulated or virtual network that all share; empty where it is real, or where it differs.
        warned: the names of the runs that have a warning, by the warning.
    """

    target: Target | None
    reaches: tuple[int, int]
    rows: list[dict[str, Any]]
    reference: str
    gossips: bool
    curves: Mapping[str, Curve]
    summed: list[str]
    order: str
    differences: list[str]
    network: str
    warned: Mapping[str, list[str]]

    def as_json(self) -> dict[str, Any]:
        return {
            "target": self.target.as_json() if self.target else None,
            "target_is": self.target.source if self.target else None,
            "smoothing": self.smoothing,
            "reference": self.reference,
            "order": self.order,
            "differences": self.differences,
            "ranking": self.rows,
        }

    @property
    def smoothing(self) -> str:
        low, high = self.reaches
        if high == 0:
            return "of the iteration by itself"
        return f"mean over {low if low == high else f'{low} to {high}'} iterations on either side"

    @property
    def metric(self) -> str:
        """The evaluated metric to draw: the target's, else the accuracy or what there is; empty if there is none."""
        return (self.target.name if self.target else "") or next(iter(metrics_of(self.rows)), "")

    @property
    def doubt_on_times(self) -> str:
        """Sentences on runs that recorded no elapsed time, or a virtual one; empty where it was real in all."""
        found = []
        if self.summed:
            found.append(
                f"No elapsed time was recorded, and times are sums of the slowest rank's: {', '.join(self.summed)}."
            )
        names = [row["name"] for row in self.rows if row["virtual"]]
        if names:
            whose = "" if len(names) == len(self.rows) else f" of {', '.join(names)}"
            found.append(f"Times{whose} are virtual: work as measured or given, messages by the cost model.")
        return " ".join(found)

    @property
    def warnings(self) -> list[str]:
        """The runs' warnings, each once, with the names of its runs where others do not have it."""
        every = len(self.rows)
        return [text if len(names) == every else f"{', '.join(names)}: {text}" for text, names in self.warned.items()]

    @property
    def columns(self) -> list[Column]:
        """The columns with a heading that its rows fill."""
        return columns_of(self.rows, self.target is not None, self.metric)

    def row(self, name: str) -> dict[str, Any]:
        return next(row for row in self.rows if row["name"] == name)


def reach_of(planned: int, per_epoch: int) -> int:
    """Iterations that the smoothing reaches to either side: an epoch, in which each sample counts once, but at most a
    20th of the run."""
    return min(per_epoch, planned // WHOLE_PART)


def smooth(loss: Floats, reach: int) -> Floats:
    """The mean (T,) over each iteration and as many before as after it, so that a curve is not late.

    That is `reach` iterations to either side, but no more than an eighth of those before, in which an exponential or
    a power of the iteration hardly bends. Towards the end there are as many after as there are. Values from the first
    that is not finite on stay as they are, and no mean holds them.
    """
    broken = np.flatnonzero(~np.isfinite(loss))
    size = int(broken[0]) if broken.size else loss.size
    # The windows of full length are slices, which are faster than indices.
    begin = min(size, EARLY_PART * reach)
    end = max(begin, size - reach)
    edges, full, start = np.r_[0:begin, end:size], 2 * reach + 1, begin - reach
    sides = np.minimum(reach, edges // EARLY_PART)
    first, length = edges - sides, np.minimum(sides, size - 1 - edges) + sides + 1
    # Each window is a row of blocks, whose lengths are powers of two. Differences of running sums would carry the
    # rounding errors of a spike along.
    total, blocks, width = np.zeros(size), loss[:size], 1
    while width <= min(full, size):
        within = np.flatnonzero(length & width)
        total[edges[within]] += blocks[first[within]]
        first[within] += width
        if full & width and end > begin:
            total[begin:end] += blocks[start : start + end - begin]
            start += width
        blocks, width = blocks[:-width] + blocks[width:], 2 * width
    total[edges] /= length
    total[begin:end] /= full
    return np.concatenate([total, loss[size:]])


def curve_of(run: RunLog) -> Curve:
    """The run's loss against what it cost."""
    reach = reach_of(run.planned, run.per_epoch)
    columns = run.columns
    with np.errstate(all="ignore"):
        loss = smooth(columns["loss"], reach)
    return Curve(reach, loss, np.cumsum(columns["bytes_sent"]), columns["elapsed_s"])


def evaluated(run: RunLog, metric: str) -> tuple[NDArray[np.intp], Floats]:
    """(iterations (E,) after which there was a value, values (E,)) of a run's evaluations of a metric."""
    # A log that was cut off may lack the iterations before its last evaluation.
    done = range(run.columns["loss"].size + 1)
    lines = [line for line in run.evaluations if isinstance(line.get(metric), int | float)]
    lines = [line for line in lines if line.get("iteration", -1) in done]
    at = np.array([line["iteration"] for line in lines], np.intp)
    return at, np.array([line[metric] for line in lines], float)


def default_target(runs: Sequence[RunLog], curves: Mapping[str, Curve]) -> Target | None:
    """The loss where the first run that ended well has made 95 % of its progress from its beginning to its end.

    It is the loss of evaluations where each run that ended well has EVALUATIONS of them, else the smoothed loss.
    """
    ended = [run for run in runs if run.summary["status"] == "ok"]
    if not ended:
        return None
    metric = often_evaluated(ended)
    level = level_of(ended[0], curves[ended[0].name], metric)
    if level is None:
        return None
    source = f"{100 * PROGRESS:g} % of the progress of {ended[0].name}"
    return Target(metric, level, f"{source}, on evaluations" if metric else source)


def often_evaluated(runs: Sequence[RunLog]) -> str:
    """The loss of which each of these runs has EVALUATIONS; empty, which is the smoothed loss, where there is none."""
    enough = (name for name in LOSSES if min(evaluated(run, name)[0].size for run in runs) >= EVALUATIONS)
    return next(enough, "")


def level_of(run: RunLog, curve: Curve, metric: str) -> float | None:
    """The metric, or for an empty one the smoothed loss, where a run has made PROGRESS of its way."""
    values = evaluated(run, metric)[1] if metric else curve.loss
    if not values.size or not math.isfinite(values[-1]):
        return None
    first, last = float(values[0]), float(values[-1])
    return last + (1 - PROGRESS) * max(0.0, first - last)


def check_evaluated(runs: Sequence[RunLog], target: Target | None) -> None:
    """Raise UsageError where no run was evaluated for the target's metric."""
    names = {name for run in runs for line in run.evaluations for name in line} - {"iteration", "epoch"}
    if target and target.name and target.name not in names:
        raise UsageError(f"no run evaluates {target.name!r}; evaluated: {', '.join(sorted(names)) or 'nothing'}",
                         "--target")  # fmt: skip


def reached(run: RunLog, curve: Curve, target: Target | None) -> int | None:
    """The iterations until a run is at the target; None where it never is.

    Nothing is interpolated: the first evaluation, or the first iteration's smoothed loss, that meets it counts.
    """
    if target is None:
        return None
    at, values = np.arange(1, curve.loss.size + 1), curve.loss
    if target.name:
        at, values = evaluated(run, target.name)
    met = lead(values, target) >= 0
    return int(at[met][0]) if met.any() else None


def lead(values: Floats, target: Target) -> Floats:
    """The lead of each of a run's values (E,), the first one first, over the target: 0 and more where it is met.

    An accuracy has to rise to it and a loss to fall; another metric moves there from where it starts.
    """
    name = target.name
    up = rises(name) or (bool(name) and not name.endswith("loss") and bool((values[:1] < target.value).any()))
    return values - target.value if up else target.value - values


def rank_runs(runs: Sequence[RunLog], target: Target | None = None, sort: str = "loss") -> Ranking:
    """Compare at least one run; the first one is what the others are measured against.

    Args:
        target: None for `default_target`.
        sort: a name of SORTS; runs that did not end well follow those that did, but for `given`.
    """
    curves = {run.name: curve_of(run) for run in runs}
    target = target or default_target(runs, curves)
    rows = [row_of(run, curves[run.name], target) for run in runs]
    first = rows[0]
    for row in rows:
        row["relative"] = {
            column.key: _relative(row[column.key], first[column.key]) for column in NUMBERS if column.relative
        }
    order = sort_rows(rows, sort, target)
    reaches = [curves[run.name].reach for run in runs if curves[run.name].loss.size] or [0]
    for position, row in enumerate(rows, 1):
        row["position"] = position
    gossips, summed = any(run.gossips for run in runs), [run.name for run in runs if run.summed]
    warned: dict[str, list[str]] = {}
    for run in runs:
        for text in run.summary.get("warnings") or []:
            warned.setdefault(text, []).append(run.name)
    return Ranking(target, (min(reaches), max(reaches)), rows, runs[0].name, gossips, curves, summed, order,
                   differences(runs), emulated(runs), warned)  # fmt: skip


def sort_rows(rows: list[dict[str, Any]], sort: str, target: Target | None) -> str:
    """Sort the rows of a ranking in place; their order in words."""
    if sort == "given":
        return "in the order given"
    column = SORTS[sort] or measured((target.name if target else "") or next(iter(metrics_of(rows)), ""))
    sign = -1 if column.best == "max" else 1

    def place(row: dict[str, Any]) -> tuple[int, bool, float]:
        value = row[column.key] if column.key in row else row["evaluation"].get(column.key)
        known = isinstance(value, int | float)
        return _ORDER[row["status"]], not known, sign * value if known else 0.0

    rows.sort(key=place)
    unwell = "; runs that did not finish come last" if len({_ORDER[row["status"]] for row in rows}) > 1 else ""
    if not column.title:
        return f"in the order given, as no run was evaluated{unwell}"
    title = "time of an iteration" if sort == "time" else column.title
    return f"by {title}, best first{unwell}"


def method_of(run: RunLog) -> str:
    """The algorithm without its parameters, and the compressor: the same for all runs of a sweep over settings."""
    algorithm = run.config.get("parts", {}).get("algorithm", {}).get("name", run.summary.get("algorithm"))
    return f"{algorithm}/{run.summary.get('compressor')}"


def row_of(run: RunLog, curve: Curve, target: Target | None) -> dict[str, Any]:
    """A run's row of a ranking, without what takes other runs."""
    summary, hit = run.summary, reached(run, curve, target)
    return {
        "position": 0,
        "name": run.name,
        "method": method_of(run),
        "status": summary["status"],
        "reason": summary["reason"],
        "shown_to_fail": bool(summary.get("shown_to_fail")),
        "smoothed_loss": curve.final,
        "final_loss": summary["final_loss"],
        "evaluation": summary["evaluation"] or {},
        "iterations": summary["iterations"],
        "bytes": summary["bytes"],
        "virtual": run.virtual,
        "bytes_to_target": None if hit is None else int(cost_until(curve.bytes_sent, hit)),
        "time_to_target_s": None if hit is None else cost_until(curve.seconds, hit),
        "iterations_to_target": hit,
        **{
            column.key: summary["times"][name]["median"] if name in TIMES else summary.get(column.key)
            for name, column in RECORDED.items()
        },
        "run_folder": summary["run_folder"],
    }


def cost_until(so_far: Floats, iterations: int) -> float:
    """The cost of a run's first iterations; nothing before the first."""
    return float(so_far[iterations - 1]) if iterations else 0.0


def _relative(value: float | None, first: float | None) -> float | None:
    return value / first if value is not None and first else None


def summaries_of(runs: Sequence[RunLog], ranking: Ranking) -> list[dict[str, Any]]:
    """Each run's summary.json with its `name`, `smoothed_loss`, `bytes_to_target` and `time_to_target_s`; order of
    the runs."""
    added = ("smoothed_loss", "bytes_to_target", "time_to_target_s")
    return [{"name": run.name, **run.summary, **{key: ranking.row(run.name)[key] for key in added}} for run in runs]


@dataclass(frozen=True)
class Winner:
    """The run that reached the target loss for least.

    Attributes:
        title: `Fewest bytes` or `Least time`.
        row: the winner's row of the ranking.
        cost: bytes or time, in words.
        relative: over the cost of `against`; None if the winner is the first run, or if its method did not get there.
        against: the name of the run that it is held against: the first one, or where the winner is of another method
            the best of the first one's, so that nobody's best of several is held against another's first try.
        tries: how many runs of the winner's method there are, and how many of the other's.
    """

    title: str
    row: dict[str, Any]
    cost: str
    relative: float | None
    against: str
    tries: tuple[int, int]

    @property
    def beats(self) -> str:
        """`, 0.213× that of sgd lr=0.3 (each the best of 2)`; empty without a ratio."""
        if self.relative is None:
            return ""
        mine, other = self.tries
        how = (
            f"each the best of {mine}"
            if mine == other
            else f"the best of {mine} against {'the best of ' * (other > 1)}{other}"
        )
        return f", {ratio(self.relative)} that of {self.against}" + (f" ({how})" if max(self.tries) > 1 else "")


def winners(ranking: Ranking) -> list[Winner]:
    """The runs that reached the target loss with the fewest bytes and in the least time; none where no run did."""
    # A run that broke down later has shown no way to get there.
    able = [row for row in ranking.rows if row["bytes_to_target"] is not None and row["status"] not in BROKEN]
    if not able:
        return []
    reference = ranking.row(ranking.reference)
    found = []
    for figure, title, show in (
        ("bytes_to_target", "Fewest bytes", size),
        ("time_to_target_s", "Least time", duration),
    ):
        best = min(able, key=lambda row: row[figure])
        against, tries = reference, (1, 1)
        if best["method"] != reference["method"]:
            rivals = [row for row in able if row["method"] == reference["method"]]
            against = min(rivals, key=lambda row: row[figure], default=reference)
            mine, other = (_tried(ranking, row["method"]) for row in (best, reference))
            tries = (mine, other)
        known = best is not reference and against[figure]
        cost = show(best[figure])
        if figure == "bytes_to_target" and best["bytes"] != "counted":
            cost += f" {best['bytes']}"
        if figure == "time_to_target_s" and best["virtual"]:
            cost += " (virtual)"
        relative = best[figure] / against[figure] if known else None
        found.append(Winner(title, best, cost, relative, against["name"], tries))
    return found


def _tried(ranking: Ranking, method: str) -> int:
    return sum(row["method"] == method for row in ranking.rows)


def verdict(ranking: Ranking) -> list[str]:
    """A sentence each on the run that reached the target loss with the fewest bytes, and in the least time."""
    if ranking.target is None:
        return ["No run ended well, so that there is no target to compare costs at; give --target or --target-loss."]
    where = f"the target {ranking.target}"
    reference = ranking.row(ranking.reference)
    sentences = []
    for winner in winners(ranking):
        sentence = f"{winner.title} to {where}: {winner.row['name']}, {winner.cost}{winner.beats}"
        if winner.row is not reference and reference["bytes_to_target"] is None:
            sentence += f"; {reference['name']} did not reach it"
        sentences.append(f"{sentence}.")
    return sentences or [f"No run reached {where}."]
