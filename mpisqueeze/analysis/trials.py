"""The choice among trials that differ by a setting."""

from __future__ import annotations

from collections.abc import Sequence

from mpisqueeze.analysis.ranking import Target, cost_until, curve_of, evaluated, lead, reached
from mpisqueeze.record.reading import RunLog


def best_trial(runs: Sequence[RunLog], target: Target | None, paced: bool = True) -> int | None:
    """The index of the best of some runs; None where none of them ended well.

    It is the one that met the target in the least time; where none did, the one whose last evaluation of the target's
    metric is nearest to it or, without a metric, whose smoothed training loss at the end is least.

    Args:
        paced: False where all of them take as long for an iteration: the least time is then that of the fewest
            iterations, which hold no noise of the clock.
    """
    merits = {at: merit for at, run in enumerate(runs) if (merit := _merit(run, target, paced)) is not None}
    return min(merits, key=merits.__getitem__, default=None)


def _merit(run: RunLog, target: Target | None, paced: bool) -> tuple[int, float] | None:
    """The less, the better; None for a run that shows no way to the target."""
    if run.summary["status"] != "ok":
        return None
    curve = curve_of(run)
    hit = reached(run, curve, target)
    if hit is not None:
        return 0, cost_until(curve.seconds, hit) if paced else hit
    if target is None or not target.name:
        return None if curve.final is None else (1, curve.final)
    _, values = evaluated(run, target.name)
    return (1, -float(lead(values, target)[-1])) if values.size else None
