"""Loss against iterations, bytes and time, drawn by matplotlib, which nothing else here needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpisqueeze.errors import UsageError
from mpisqueeze.record.reading import Column, RunLog
from mpisqueeze.report.ranking import Curve, Ranking, curve_of

FORMATS = (".png", ".svg", ".pdf")
#: Okabe & Ito's colours, which stay apart for colour-blind readers; dashes tell them apart in grey.
_COLORS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES = ("-", "--", "-.", ":")
_POINTS = 2000
#: Losses that span a larger factor than this get a logarithmic axis.
_LOG_FROM = 20.0
#: A diverging loss is cut off at so many times the largest loss of the runs that ended well.
_HEADROOM = 1.5


def check_plot(target: str) -> None:
    """Raise UsageError unless `target` is a kind of file that can be drawn and matplotlib is there."""
    if Path(target).suffix.lower() not in FORMATS:
        raise UsageError(f"{target} must end in {', '.join(FORMATS)}", "--plot")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(f"needs matplotlib ({error}): pip install 'mpisqueeze[plot]'", "--plot") from None


def draw(runs: Sequence[RunLog], ranking: Ranking, target: str) -> None:
    """Draw three panels, a line a run and one legend, into a .png, .svg or .pdf file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = [(run, curve_of(run)) for run in runs]
    drawn = [(run, curve) for run, curve in drawn if curve.loss.size]
    if not drawn:
        raise UsageError("no run has an iteration to draw", "--plot")
    columns = min(4, len(drawn))
    figure = Figure(figsize=(11, 3.6 + 0.22 * math.ceil(len(drawn) / columns)), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 3, sharey=True)
    handles: list[Any] = []
    for i, (run, curve) in enumerate(drawn):
        style = {
            "color": _COLORS[i % len(_COLORS)],
            # Seven colours and four dashes have no common factor: 28 lines differ.
            "linestyle": _DASHES[i % len(_DASHES)],
            "linewidth": 1.6,
            "label": run.name if run.summary["status"] == "ok" else f"{run.name} ({run.summary['status']})",
        }
        keep = _kept(curve)
        for panel, costs in zip(panels, _costs(curve), strict=True):
            visible = keep[costs[keep] > 0]
            (line,) = panel.plot(costs[visible], curve.loss[visible], **style)
        handles.append(line)
    _axes(panels, [curve for _, curve in drawn], _sound(drawn), ranking)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    metadata = {"Date": None} if target.lower().endswith(".svg") else None
    # A legend of long names is wider than the panels.
    figure.savefig(target, metadata=metadata, bbox_inches="tight")


def _costs(curve: Curve) -> tuple[Column, Column, Column]:
    return np.arange(1.0, curve.loss.size + 1), curve.bytes_sent, curve.seconds


def _kept(curve: Curve) -> Any:
    """Indices of at most `_POINTS` iterations, evenly spread, the last one among them."""
    return np.unique(np.linspace(0, curve.loss.size - 1, min(_POINTS, curve.loss.size)).round().astype(int))


def _sound(drawn: Sequence[tuple[RunLog, Curve]]) -> Column:
    """The finite losses of the runs that did not diverge, or of all if every run did."""
    sound = [curve.loss for run, curve in drawn if run.summary["status"] not in ("diverged", "failed")]
    losses = np.concatenate(sound or [curve.loss for _, curve in drawn])
    return losses[np.isfinite(losses)]


def _axes(panels: Any, curves: Sequence[Curve], losses: Column, ranking: Ranking) -> None:
    for panel, label in zip(panels, ("iteration", "bytes sent by all ranks", "time (s)"), strict=True):
        panel.set_xlabel(label)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(True, color="0.9", linewidth=0.6)
        if ranking.target_loss is not None:
            panel.axhline(ranking.target_loss, color="0.5", linewidth=0.8, linestyle=(0, (1, 2)))
    if any(curve.bytes_sent[-1] > 0 for curve in curves):
        panels[1].set_xscale("log")
    else:
        panels[1].text(0.5, 0.5, "one rank sends no bytes", transform=panels[1].transAxes, ha="center")
    for panel in (panels[0], panels[2]):
        panel.set_xlim(left=0)
    if losses.size:
        low, high = float(losses.min()), float(losses.max())
        if low > 0 and high / low > _LOG_FROM:
            panels[0].set_yscale("log")
            panels[0].set_ylim(low / 1.2, high * _HEADROOM)
        elif high > low:
            panels[0].set_ylim(low - 0.05 * (high - low), low + (high - low) * _HEADROOM)
    panels[0].set_ylabel(f"training loss\n({ranking.smoothing})")
