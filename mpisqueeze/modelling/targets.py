"""The iterations that finished runs needed to a target, for a model that has only the time of one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mpisqueeze.analysis.ranking import BROKEN, Target, check_evaluated, rank_runs
from mpisqueeze.errors import UsageError
from mpisqueeze.modelling.methods import BASELINE, Method, Shapes
from mpisqueeze.parts import registry
from mpisqueeze.record.reading import RunLog, read_runs
from mpisqueeze.record.summary import workers_of

#: Algorithms with the baseline's iterates, whose runs tell its iterations.
_SAME = (BASELINE, "sgd")
#: Settings in which runs of one method may differ and still are repetitions of each other.
_REPEATED = ("seed", "out")


@dataclass(frozen=True)
class NeededIterations:
    """The iterations that runs needed.

    Attributes:
        methods: of the runs, with the baseline at the front.
        iterations: of each method to the target; infinite where it was missed.
        ranks, dimension, dtype: of the runs.
        compute_s: of a gradient, the median over the runs; None where no iteration was measured.
        shapes: of the parameters, where the runs tell them.
    """

    methods: list[Method]
    iterations: list[float]
    target: Target
    ranks: int
    dimension: int
    dtype: str
    compute_s: float | None
    shapes: Shapes | None = None


def measure(paths: Sequence[Path], target: Target | None) -> NeededIterations:
    """Count the iterations to the target, the default one where none is given.

    Runs of a method that differ by the seed count as their median, and the best of its other settings counts.

    Raises:
        UsageError: the runs differ in ranks, model or dtype, have no target or no baseline, or are damaged.
    """
    try:
        runs, _ = read_runs(paths)
    except UsageError as error:
        raise UsageError(error.message, "--runs") from None
    runs = [run for run in runs if run.config]
    check_evaluated(runs, target)
    for name in ("ranks", "dimension", "dtype", "problem", "data"):
        found = list(dict.fromkeys({**run.config, "ranks": workers_of(run.config)}.get(name) for run in runs))
        if len(found) > 1:
            raise UsageError(f"the runs differ in {name}: {', '.join(map(str, found))}", "--runs")
    ranking = rank_runs(runs, target) if runs else None
    if ranking is None or ranking.target is None:
        raise UsageError("no run ended well, so that there is no target", "--runs")
    needed: dict[tuple[str | int | None, ...], dict[str, list[float]]] = {}
    methods: dict[tuple[str | int | None, ...], Method] = {}
    for run in runs:
        # A run that broke down later has shown no way to get there.
        broken = run.summary["status"] in BROKEN
        count = None if broken else ranking.row(run.name)["iterations_to_target"]
        settings = json.dumps({key: value for key, value in run.config.items() if key not in _REPEATED})
        for method in _told(run):
            shape = (method.server, method.topology, method.every, method.group)
            key = (method.algorithm.spec, method.compressor.spec, *shape)
            methods.setdefault(key, method)
            needed.setdefault(key, {}).setdefault(settings, []).append(math.inf if count is None else count)
    iterations = {key: min(map(median, needed[key].values())) for key in methods}
    order = sorted(methods, key=lambda key: not _is_baseline(methods[key]))
    if not _is_baseline(methods[order[0]]) or math.isinf(iterations[order[0]]):
        raise UsageError(f"no run of {' or '.join(_SAME)} reached {ranking.target}, which others are held against",
                         "--runs")  # fmt: skip
    times = [run.summary["times"]["compute_s"]["median"] for run in runs]
    known = [seconds for seconds in times if seconds is not None]
    config = runs[0].config
    return NeededIterations(
        [methods[key] for key in order], [iterations[key] for key in order], ranking.target,
        workers_of(config), config["dimension"], config["dtype"], median(known) if known else None,
        config.get("shapes"),
    )  # fmt: skip


def _is_baseline(method: Method) -> bool:
    return method.algorithm.spec == BASELINE and method.every == method.group == 1


def _told(run: RunLog) -> list[Method]:
    """The methods whose iterations a run tells: its own, and with it the baseline where their iterates agree."""
    method = Method.ran(run.config)
    if method.algorithm.name not in _SAME or method.every > 1 or _is_baseline(method):
        return [method]
    baseline = Method.of(registry.algorithms.find(BASELINE), registry.compressors.find("identity"), "root", "ring")
    return [baseline, method]
