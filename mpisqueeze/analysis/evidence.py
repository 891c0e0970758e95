"""Evidence for claims: the figures of their runs that decisions name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from mpisqueeze.analysis.ranking import curve_of
from mpisqueeze.errors import UsageError
from mpisqueeze.record.figures import Floats, per_iteration
from mpisqueeze.record.reading import RunLog
from mpisqueeze.record.summary import workers_of
from mpisqueeze.topology import Topology

#: Seconds an iteration by the clock.
PACE = per_iteration("elapsed_s")


class Measure(NamedTuple):
    """A figure of one run, and what axes and tables call it."""

    label: str
    of: Callable[[RunLog], float | None]


def _summary(key: str, label: str) -> Measure:
    return Measure(label, lambda run: run.summary.get(key))


def _time(key: str, label: str) -> Measure:
    return Measure(label, lambda run: run.summary["times"][key]["median"])


def _consensus(run: RunLog) -> float | None:
    """Mean over the last tenth of the iterations in which it was measured."""
    values = run.columns["consensus"]
    values = values[~np.isnan(values)]
    return float(values[-max(1, values.size // 10) :].mean()) if values.size else None


def _spectral_gap(run: RunLog) -> float | None:
    """1 − ρ of the graph's W; None without one, or where it is not known."""
    topology = run.config.get("topology")
    if topology is None:
        return None
    try:
        return Topology(topology, workers_of(run.config), run.config["self_weight"]).spectrum().gap
    except UsageError:
        return None


def _to_target(cost: Callable[[RunLog], float | None]) -> Callable[[RunLog], float | None]:
    """The cost of a run that ends at its target; ∞ where it does not get there, None for a run without a target."""

    def of(run: RunLog) -> float | None:
        if run.config.get("stop_at") is None:
            return None
        return cost(run) if run.summary.get("stopped_at_target") else math.inf

    return of


def _epoch(run: RunLog) -> float | None:
    seconds = run.summary[PACE]
    return None if seconds is None else seconds * run.per_epoch


#: Medians are without warm-up; bytes and full vectors are of all ranks together.
FIGURES: dict[str, Measure] = {
    "loss": Measure("training loss, smoothed", lambda run: curve_of(run).final),
    "start": Measure(
        "training loss of the first iteration",
        lambda run: float(run.columns["loss"][0]) if run.columns["loss"].size else None,
    ),
    "test_loss": _summary("test_loss", "test loss"),
    "test_accuracy": _summary("test_accuracy", "test accuracy"),
    "distance": Measure(
        "distance of the mean model to the minimum", lambda run: (run.summary["evaluation"] or {}).get("distance")
    ),
    "consensus": Measure("mean ‖x_i − x̄‖², towards the end", _consensus),
    "diverged": Measure("diverged (part of the seeds)", lambda run: float(run.summary["status"] == "diverged")),
    "full_vectors": _summary("full_vectors_per_iteration", "full vectors an iteration"),
    "bytes": _summary("bytes_sent_per_iteration", "bytes an iteration"),
    "c": _summary("compression", "payload over full vector, c"),
    "iterations_to_target": Measure("iterations to the target", _to_target(lambda run: run.columns["loss"].size)),
    "bytes_to_target": Measure("bytes to the target", _to_target(lambda run: run.summary["bytes_sent"])),
    "spectral_gap": Measure("spectral gap, 1 − ρ", _spectral_gap),
    "iteration_s": _summary(PACE, "time of an iteration (s)"),
    "comm_s": _time("comm_s", "time of an exchange (s)"),
    "epoch_s": Measure("time of an epoch (s)", _epoch),
}


class Evidence:
    """The runs of a claim, all of its seeds and points.

    Args:
        logs: by the run's name, then by point, then by seed.
        x: of each point.
        ranks: N at each point.
    """

    def __init__(
        self, logs: Mapping[str, Sequence[Sequence[RunLog]]], x: Sequence[float] | Floats, ranks: Sequence[int]
    ) -> None:
        self.logs, self.x, self._ranks = logs, np.array(x), ranks
        first = next(iter(logs.values()))[0][0]
        size = np.array(ranks, float) if len(set(ranks)) > 1 else float(ranks[0])
        self.constants: Mapping[str, Any] = {"N": size, "d": float(first.summary["dimension"] or math.nan)}

    @cached_property
    def seeds(self) -> Sequence[Evidence]:
        """The evidence of each seed by itself; nothing where there is one."""
        count = len(next(iter(self.logs.values()))[0])
        return [
            Evidence({run: [[logs[k]] for logs in points] for run, points in self.logs.items()}, self.x, self._ranks)
            for k in range(count if count > 1 else 0)
        ]

    def figure(self, run: str, name: str) -> Any:
        """The median over seeds, of `diverged` the mean: a float, or (P,) over P > 1 points; NaN if there is none."""
        value = FIGURES[name].of
        found = []
        for seeds in self.logs[run]:
            numbers = [value(log) for log in seeds]
            middle = np.mean if name == "diverged" else np.median
            found.append(float(middle([math.nan if number is None else number for number in numbers])))
        return found[0] if len(found) == 1 else np.array(found)

    def slope(self, values: Any) -> float:
        """The slope of the least-squares line through a figure's points; NaN for fewer than two of them."""
        values = np.atleast_1d(values)
        if values.size < 2 or not np.isfinite(values).all():
            return math.nan
        return float(np.polyfit(self.x, values, 1)[0])

    def gap(self, one: str, other: str) -> float:
        """Mean over iterations of the distance between two runs' smoothed losses, over the first one's whole progress.

        The median over seeds, at the first point; infinite where one of them diverged.
        """
        gaps = []
        for mine, theirs in zip(self.logs[one][0], self.logs[other][0], strict=True):
            a, b = curve_of(mine).loss, curve_of(theirs).loss
            if not (a.size == b.size and a.size and np.isfinite(a).all() and np.isfinite(b).all()):
                gaps.append(math.inf)
                continue
            gaps.append(float(np.abs(a - b).mean() / (a[0] - a[-1])))
        return float(np.median(gaps))
