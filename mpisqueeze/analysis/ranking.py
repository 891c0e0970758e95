"""Comparing finished runs: smoothed losses, a target loss, what it cost to get there, and who did it for least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpisqueeze.analysis.columns import BROKEN, NUMBERS, RECORDED, Column, columns_of
from mpisqueeze.quantities import duration, ratio, significant, size
from mpisqueeze.record.figures import TIMES, Floats
from mpisqueeze.record.reading import RunLog

#: The default target is the loss where the first run has made this part of its whole progress.
PROGRESS = 0.95
#: The smoothing window is an epoch, but at most this part of the run.
WINDOW_PART = 10

#: Runs are ranked within these groups, in this order.
_ORDER = {"ok": 0, "interrupted": 1, "killed": 1, "diverged": 2, "failed": 3, "skipped": 4}


@dataclass(frozen=True)
class Curve:
    """A run's loss and what it cost, per iteration (T,).

    Attributes:
        loss: smoothed by a trailing mean over `window` iterations.
        bytes_sent: of all ranks, up to and with the iteration.
        seconds: `elapsed_s`, the last rank's clock after the iteration; warm-up included.
    """

    window: int
    loss: Floats
    bytes_sent: Floats
    seconds: Floats

    @property
    def final(self) -> float | None:
        """The smoothed loss after the last iteration; None without one, or if it is not finite."""
        return float(self.loss[-1]) if self.loss.size and math.isfinite(self.loss[-1]) else None

    def reaches(self, target: float | None) -> int | None:
        """The index of the first iteration whose smoothed loss is at most `target`; None if there is none."""
        if target is None:
            return None
        hits = np.flatnonzero(self.loss <= target)
        return int(hits[0]) if hits.size else None


@dataclass(frozen=True)
class Ranking:
    """Runs compared.

    Attributes:
        target_loss: the loss that costs are counted to; None if no run gave one.
        target_is: where it comes from, for people.
        windows: the smallest and the largest smoothing window, in iterations.
        rows: an object a run, best first: `position name status reason smoothed_loss final_loss evaluation iterations
            bytes_to_target time_to_target_s iterations_to_target`, the keys of RECORDED (medians without warm-up),
            `relative` (of each relative column, the value over the first run's) and `run_folder`.
        reference: the first run's name.
        gossips: some of the runs are decentralized.
        summed: names of runs of older versions, whose times are sums of `iteration_s`.
    """

    target_loss: float | None
    target_is: str
    windows: tuple[int, int]
    rows: list[dict[str, Any]]
    reference: str
    gossips: bool
    summed: list[str]

    def as_json(self) -> dict[str, Any]:
        return {
            "target_loss": self.target_loss,
            "target_is": self.target_is,
            "smoothing": self.smoothing,
            "reference": self.reference,
            "ranking": self.rows,
        }

    @property
    def smoothing(self) -> str:
        low, high = self.windows
        if high == 1:
            return "loss of the last iteration"
        return f"mean loss of the last {low if low == high else f'{low} to {high}'} iterations"

    @property
    def doubt_on_times(self) -> str:
        """A sentence on runs that recorded no elapsed time; empty where all did."""
        if not self.summed:
            return ""
        return f"No elapsed time was recorded, and times are sums of the slowest rank's: {', '.join(self.summed)}."

    @property
    def columns(self) -> list[Column]:
        """The columns with a heading that its rows fill."""
        return columns_of(self.rows, self.target_loss is not None)

    def row(self, name: str) -> dict[str, Any]:
        return next(row for row in self.rows if row["name"] == name)


def window_of(planned: int, per_epoch: int) -> int:
    """Iterations that the smoothing averages: an epoch, in which each sample counts once, but at most a tenth of the
    run."""
    return max(1, min(per_epoch, planned // WINDOW_PART))


def smooth(loss: Floats, window: int) -> Floats:
    """The mean (T,) of each iteration's loss and the `window` − 1 before it, of as many as there are at the start."""
    # Sums from and up to the borders of blocks of `window`: differences would carry a spike's rounding errors along.
    blocks = np.pad(loss, (0, -loss.size % window)).reshape(-1, window)
    smoothed = np.cumsum(blocks, axis=1).reshape(-1)[: loss.size]
    before = np.cumsum(blocks[:, ::-1], axis=1)[:, ::-1]
    # A window that begins with a block is that block.
    before[:, 0] = 0.0
    smoothed[window - 1 :] += before.reshape(-1)[: max(0, loss.size - window + 1)]
    smoothed[: window - 1] /= np.arange(1, min(window - 1, loss.size) + 1)
    smoothed[window - 1 :] /= window
    return smoothed


def curve_of(run: RunLog) -> Curve:
    """The run's loss against what it cost."""
    window = window_of(run.planned, run.per_epoch)
    columns = run.columns
    with np.errstate(all="ignore"):
        loss = smooth(columns["loss"], window)
    return Curve(window, loss, np.cumsum(columns["bytes_sent"]), columns["elapsed_s"])


def default_target(curve: Curve) -> float | None:
    """The loss where a run has made 95 % of its progress from the first iteration to its end."""
    if curve.final is None or not math.isfinite(curve.loss[0]):
        return None
    return curve.final + (1 - PROGRESS) * max(0.0, float(curve.loss[0]) - curve.final)


def rank_runs(runs: Sequence[RunLog], target_loss: float | None = None) -> Ranking:
    """Compare at least one run; the first one is what the others are measured against.

    Args:
        target_loss: None for `default_target` of the first run that ended well.
    """
    curves = {run.name: curve_of(run) for run in runs}
    target_is = "given"
    if target_loss is None:
        ended = [run.name for run in runs if run.summary["status"] == "ok"]
        target_loss = default_target(curves[ended[0]]) if ended else None
        target_is = f"{100 * PROGRESS:g} % of the progress of {ended[0]}" if target_loss is not None else "none"
    rows = [_row(run, curves[run.name], target_loss) for run in runs]
    first = rows[0]
    for row in rows:
        row["relative"] = {
            column.key: _relative(row[column.key], first[column.key]) for column in NUMBERS if column.relative
        }
    rows.sort(key=lambda row: (_ORDER[row["status"]], _sortable(row["smoothed_loss"])))
    windows = [curves[run.name].window for run in runs if curves[run.name].loss.size] or [1]
    for position, row in enumerate(rows, 1):
        row["position"] = position
    gossips, summed = any(run.gossips for run in runs), [run.name for run in runs if run.summed]
    return Ranking(target_loss, target_is, (min(windows), max(windows)), rows, runs[0].name, gossips, summed)


def _row(run: RunLog, curve: Curve, target: float | None) -> dict[str, Any]:
    summary, hit = run.summary, curve.reaches(target)
    return {
        "position": 0,
        "name": run.name,
        "status": summary["status"],
        "reason": summary["reason"],
        "smoothed_loss": curve.final,
        "final_loss": summary["final_loss"],
        "evaluation": summary["evaluation"] or {},
        "iterations": summary["iterations"],
        "bytes_to_target": None if hit is None else int(curve.bytes_sent[hit]),
        "time_to_target_s": None if hit is None else float(curve.seconds[hit]),
        "iterations_to_target": None if hit is None else hit + 1,
        **{
            column.key: summary["times"][name]["median"] if name in TIMES else summary.get(column.key)
            for name, column in RECORDED.items()
        },
        "run_folder": summary["run_folder"],
    }


def _relative(value: float | None, first: float | None) -> float | None:
    return value / first if value is not None and first else None


def _sortable(value: float | None) -> float:
    return math.inf if value is None else value


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
        relative: over the first run's cost; None if the winner is the first run, or if that did not get there.
    """

    title: str
    row: dict[str, Any]
    cost: str
    relative: float | None


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
        known = best is not reference and reference[figure]
        found.append(Winner(title, best, show(best[figure]), best[figure] / reference[figure] if known else None))
    return found


def verdict(ranking: Ranking) -> list[str]:
    """A sentence each on the run that reached the target loss with the fewest bytes, and in the least time."""
    if ranking.target_loss is None:
        return ["No run ended well, so that there is no target loss to compare costs at; give --target-loss."]
    where = f"the target loss {significant(ranking.target_loss, 4)}"
    reference = ranking.row(ranking.reference)
    sentences = []
    for winner in winners(ranking):
        sentence = f"{winner.title} to {where}: {winner.row['name']}, {winner.cost}"
        if winner.relative is not None:
            sentence += f", {ratio(winner.relative)} that of {reference['name']}"
        elif winner.row is not reference and reference["bytes_to_target"] is None:
            sentence += f"; {reference['name']} did not reach it"
        sentences.append(f"{sentence}.")
    return sentences or [f"No run reached {where}."]
