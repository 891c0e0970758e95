"""Charts as files for papers, drawn by matplotlib, which nothing else here needs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpisqueeze.errors import UsageError
from mpisqueeze.report.charts import BarChart, Chart, LineChart, Series, thin
from mpisqueeze.report.palette import LINES, SEGMENTS
from mpisqueeze.report.scales import Scale, marks

FORMATS = (".png", ".svg", ".pdf")
#: As on a page, with which the colours are shared, too.
_MARKERS = ("o", "s", "^", "D", "v", "P", "*", "X", "h")
_HATCHES = ("", "///", "---", "\\\\\\", "...", "|||")
_PLACES = 800
#: Inches.
_PANEL = (4.0, 3.3)
_ONE = (5.6, 3.6)
#: Points a letter of the size that ticks have, and the gap between two of them.
_LETTER, _GAP = 5.5, 8.0


def check_plot(target: str) -> None:
    """Raise UsageError unless `target` is a kind of file that can be drawn and matplotlib is there."""
    if Path(target).suffix.lower() not in FORMATS:
        raise UsageError(f"{target} must end in {', '.join(FORMATS)}", "--plot")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise UsageError(f"needs matplotlib ({error}): pip install 'mpisqueeze[plot]'", "--plot") from None


def draw(charts: Sequence[Chart], target: str) -> None:
    """Draw charts side by side, under one legend, into a .png, .svg or .pdf file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = _PANEL if len(charts) > 1 else _ONE
    entries = max(len(chart.segments) if isinstance(chart, BarChart) else len(chart.lines) for chart in charts)
    columns = min(2 + len(charts), max(1, entries))
    height += 0.22 * math.ceil(entries / columns)
    if isinstance(charts[0], BarChart):
        names = [_folded(bar.name) for bar in charts[0].bars]
        height += max(0.0, sum(0.12 + 0.2 * len(lines) for lines in names) - 1.6)
        width += 0.08 * max((len(line) for lines in names for line in lines), default=0)
    figure = Figure(figsize=(width * len(charts), height), layout="constrained", dpi=200)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(charts), squeeze=False)[0]
    handles: list[Any] = []
    for index, (panel, chart) in enumerate(zip(panels, charts, strict=True)):
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_axisbelow(True)
        panel.grid(True, color="0.9", linewidth=0.6)
        drawn = _bars(panel, chart) if isinstance(chart, BarChart) else _lines(panel, chart, width)
        # Side by side, the lines are the same ones.
        handles = handles or drawn
        if index and isinstance(chart, LineChart) and chart.y == charts[0].y:  # type: ignore[union-attr]
            panel.set_ylabel("")
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    metadata = {"Date": None} if target.lower().endswith(".svg") else None
    # A legend of long names is wider than the panels.
    figure.savefig(target, metadata=metadata, bbox_inches="tight")


def _lines(panel: Any, chart: LineChart, width: float) -> list[Any]:
    """The lines that the legend has, in the order of their ends."""
    x, y = chart.scales()
    panel.set(xlim=(x.low, x.high), ylim=(y.low, y.high), xscale="log" if x.log else "linear",
              yscale="log" if y.log else "linear")  # fmt: skip
    below = marks(x, chart.x.unit, 72 * (width - 0.8), lambda text: _LETTER * len(text) + _GAP)
    side = marks(y, chart.y.unit, 200.0, lambda text: 22.0, 8)
    for axis, scale, found, label in (
        (panel.xaxis, x, below, chart.x.label),
        (panel.yaxis, y, side, chart.y.label),
    ):
        axis.set_ticks([_value(scale, place) for place, _ in found.ticks], [text for _, text in found.ticks])
        axis.set_ticks([_value(scale, place) for place in found.minor], minor=True)
        axis.set_tick_params(which="minor", labelbottom=False, labelleft=False)
        axis.set_label_text(f"{label} ({found.unit})" if found.unit else label)
    for value, name in chart.levels:
        panel.axhline(value, color="0.45", linewidth=0.8, linestyle=(0, (1, 2)))
        panel.annotate(name, (1, value), xycoords=("axes fraction", "data"), xytext=(-2, 2),
                       textcoords="offset points", ha="right", fontsize=7, color="0.35")  # fmt: skip
    handles = {}
    for order, series in enumerate(sorted(chart.series, key=lambda series: series.kind != "faint")):
        (handle,) = panel.plot(*_thinned(series, x), **_style(series, order, len(chart.series)))
        if series.kind == "line":
            handles[id(series)] = handle
    if not any((np.isfinite(s.y) & ((s.x > 0) | (not x.log))).any() for s in chart.series):
        panel.text(0.5, 0.5, "nothing to show", transform=panel.transAxes, ha="center", color="0.35")
    return [handles[id(series)] for series in chart.in_end_order()]


def _thinned(series: Series, x: Scale) -> tuple[Any, Any]:
    index = thin(series.x, series.y, x, _PLACES)
    return series.x[index], series.y[index]


def _style(series: Series, order: int, count: int) -> dict[str, Any]:
    color, shape = LINES[series.style % len(LINES)][0], _MARKERS[series.style % len(_MARKERS)]
    if series.kind == "faint":
        return {"color": color, "linewidth": 0.6, "alpha": 0.3}
    marker = {"color": color, "marker": shape, "markersize": 5 if shape in "osD" else 6.5}
    if series.kind == "points":
        outline = {"markerfacecolor": "white", "markeredgewidth": 1.6, "clip_on": False, "zorder": 3}
        return {**marker, **outline, "markersize": 8, "linestyle": "none"}
    edge = {"markeredgecolor": "white", "markeredgewidth": 0.6}
    # Of each line at other places, so that lines that coincide show all their markers.
    every = (0.18 * (order + 0.5) / max(1, count), 0.18)
    return {**marker, **edge, "linewidth": 1.4, "markevery": every, "label": series.label}


def _bars(panel: Any, chart: BarChart) -> list[Any]:
    import matplotlib

    matplotlib.rcParams["hatch.linewidth"] = 0.6
    names = ["\n".join(_folded(bar.name)) for bar in chart.bars]
    scale = chart.scale()
    below = marks(scale, chart.x.unit, 250.0, lambda text: _LETTER * len(text) + _GAP)
    panel.set_xlim(scale.low, scale.high)
    panel.xaxis.set_ticks([_value(scale, place) for place, _ in below.ticks], [text for _, text in below.ticks])
    panel.set_xlabel(f"{chart.x.label} ({below.unit})")
    panel.grid(False, axis="y")
    rows = range(len(names))
    ends = np.zeros(len(names))
    handles = []
    for index, segment in enumerate(chart.segments):
        lengths = np.array([bar.parts[index] for bar in chart.bars])
        style = index % len(SEGMENTS)
        handles.append(
            panel.barh(rows, lengths, left=ends, height=0.62, color=SEGMENTS[style][0], hatch=_HATCHES[style],
                       edgecolor="0.15", linewidth=0.0, label=segment)
        )  # fmt: skip
        ends += lengths
    for row, bar in enumerate(chart.bars):
        if bar.mark is not None:
            handles[len(chart.segments) :] = panel.plot(
                [bar.mark] * 2, [row - 0.42, row + 0.42], color="0.05", linewidth=1.8, label=chart.mark
            )
    panel.set_yticks(rows, names)
    panel.tick_params(axis="y", length=0)
    panel.set_ylim(len(names) - 0.4, -0.6)
    return handles


def _folded(name: str) -> list[str]:
    return textwrap.wrap(name, 36, break_on_hyphens=False)


def _value(scale: Scale, place: float) -> float:
    """What falls there."""
    if scale.log:
        return float(scale.low * (scale.high / scale.low) ** place)
    return scale.low + place * (scale.high - scale.low)
