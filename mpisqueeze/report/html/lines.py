"""Line charts as SVG: colours by the page's style sheet, and every line with a marker and a name of its own.

Each chart is drawn twice, for a wide window and for a narrow one, since letters must not shrink with the window; the
style sheet shows one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mpisqueeze.report.charts import LineChart, Numbers, Series, thin
from mpisqueeze.report.html.frame import Frame, axes, axis_label
from mpisqueeze.report.html.labels import fold, spread, text_width
from mpisqueeze.report.html.markup import Markup, join, number, tag
from mpisqueeze.report.html.shapes import color, marker
from mpisqueeze.report.scales import Scale, marks, say

#: Places along a line's axis that it is thinned to, and points of all lines of a chart together.
_PLACES = {"wide": 300, "narrow": 150}
_BUDGET = {"wide": 6000, "narrow": 3000}
#: Markers along a line, besides the one at its end.
_MARKERS_ALONG = 5
#: A line of no more points than this has a marker at each.
_FEW = 8
_LINE = 17.0
#: Right of a narrow plot, for half of the last number.
_EDGE = 28.0
#: A name that is farther from its line's end is not led to: too many such lines cross each other.
_LEAD = 60.0


def line_chart(chart: LineChart, key: str) -> Markup:
    """Both drawings of a chart.

    Args:
        key: distinguishes ids on the page.
    """
    return join([_wide(chart, f"{key}w"), _narrow(chart, f"{key}n")])


def _wide(chart: LineChart, key: str) -> Markup:
    """Names stand at the right, beside the ends of their lines as far as there is room."""
    lines = chart.in_end_order()
    width, room = 1000.0, 270.0
    folded = [fold(line.label, room - 40) for line in lines]
    names = max((text_width(text) for texts in folded for text in texts), default=0.0)
    right = width - min(room, names + 66)
    heights = [_LINE * len(texts) + 2 for texts in folded]
    height = max(300.0, sum(heights))
    x, y = chart.scales()
    frame, body = _panel(chart, x, y, right, height, 16.0, key, "wide")
    wanted = [_end(line, x, y, frame)[1] for line in lines]
    middles = spread(wanted, heights, frame.top, frame.bottom)
    legend: list[str] = []
    for line, texts, middle in zip(lines, folded, middles, strict=True):
        end = _end(line, x, y, frame)
        at = right + 26
        if end[0] > right - 4 and abs(middle - end[1]) < _LEAD:
            legend.append(tag("path", d=f"M{number(end[0] + 6)} {number(end[1])}L{number(at - 8)} {number(middle)}",
                              class_=f"lead-line {color(line.style)}"))  # fmt: skip
        legend.append(_name(line, texts, at, middle))
    return _svg(chart, body, legend, width, frame.bottom + 48, frame, x, y, "wide", key)


def _narrow(chart: LineChart, key: str) -> Markup:
    """Names stand below, in the order of the lines' ends."""
    lines = chart.in_end_order()
    width = 400.0
    x, y = chart.scales()
    frame, body = _panel(chart, x, y, width - _EDGE, 230.0, 10.0, key, "narrow")
    legend: list[str] = []
    top = frame.bottom + 62
    for line in lines:
        texts = fold(line.label, width - 110)
        top += _LINE * len(texts)
        legend.append(_name(line, texts, 18.0, top - _LINE * len(texts) / 2 - _LINE / 2 + 6))
        top += 5
    return _svg(chart, body, legend, width, top, frame, x, y, "narrow", key)


def _svg(
    chart: LineChart,
    body: list[str],
    legend: list[str],
    width: float,
    height: float,
    frame: Frame,
    x: Scale,
    y: Scale,
    layout: str,
    key: str,
) -> Markup:
    lines = chart.in_end_order()
    ends = "; ".join(f"{line.label} ends at {say(line.end, chart.y.unit)}" for line in lines)
    about = f"{chart.y.label} over {chart.x.label}, {len(lines)} lines from the top down: {ends}."
    return tag(
        "svg",
        tag("title", chart.title, id=f"{key}t"),
        tag("desc", about, id=f"{key}d"),
        *body,
        *legend,
        tag("g", class_="hover"),
        class_=f"chart {layout}",
        viewBox=f"0 0 {number(width)} {number(height)}",
        role="img",
        aria_labelledby=f"{key}t {key}d",
        data_frame=f"{number(frame.left)} {number(frame.top)} {number(frame.right)} {number(frame.bottom)}",
        data_x=f"{x.low!r} {x.high!r} {'log' if x.log else 'linear'} {chart.x.unit.value}",
        data_y=f"{y.low!r} {y.high!r} {'log' if y.log else 'linear'} {chart.y.unit.value}",
    )


def _panel(
    chart: LineChart, x: Scale, y: Scale, right: float, height: float, gap: float, key: str, layout: str
) -> tuple[Frame, list[str]]:
    """The axes and the lines; the frame's left side depends on the numbers at the axis."""
    top = 34.0
    side = marks(y, chart.y.unit, height, lambda text: 24.0, 8)
    left = max((text_width(text) for _, text in side.ticks), default=0.0) * 0.94 + 14
    frame = Frame(left, top, right, top + height)
    below = marks(x, chart.x.unit, frame.width, lambda text: text_width(text) + gap, 9)
    room = right + _EDGE if layout == "narrow" else math.inf
    labels = axis_label(chart.x.label, below), axis_label(chart.y.label, side)
    body: list[str] = [*axes(frame, below, side, *labels, room)]
    for value, name in chart.levels:
        place = y.at(value)
        if 0 <= place <= 1:
            at = frame.y(place)
            body.append(tag("path", d=f"M{number(left)} {number(at)}H{number(right)}", class_="level"))
            body.append(tag("text", name, x=right - 4, y=at - 5, class_="small end"))
    clip = f"{key}c"
    body.append(tag("clipPath", tag("rect", x=left, y=top - 3, width=frame.width + 3, height=height + 6), id=clip))
    places = min(_PLACES[layout], max(30, _BUDGET[layout] // (3 * max(1, len(chart.series)))))
    drawn = sorted(chart.series, key=lambda series: series.kind != "faint")
    curves = [_curve(series, x, y, frame, places) for series in drawn if series.kind != "points"]
    body.append(tag("g", *curves, clip_path=f"url(#{clip})"))
    count = len(chart.lines)
    for index, series in enumerate(chart.lines):
        body.append(_markers(series, x, y, frame, (index + 0.5) / max(1, count)))
    body += (_points(series, x, y, frame, chart) for series in chart.series if series.kind == "points")
    if not any(np.isfinite(series.y).any() for series in chart.series):
        body.append(tag("text", "nothing to show", x=frame.x(0.5), y=frame.y(0.5), class_="small middle"))
    return frame, body


def _curve(series: Series, x: Scale, y: Scale, frame: Frame, places: int) -> Markup:
    index = thin(series.x, series.y, x, places)
    points = _pixels(series.x[index], series.y[index], x, y, frame)
    faint = series.kind == "faint"
    kind = "faint" if faint else "line"
    return tag("path", d=path(points), class_=f"{kind} {color(series.style)}", data_name=None if faint else series.name)


def _pixels(xs: Numbers, ys: Numbers, x: Scale, y: Scale, frame: Frame) -> Numbers:
    """(K, 2) in pixels; what is far off the picture is brought near it, so that numbers stay short."""
    across = frame.left + x.place(xs) * frame.width
    up = frame.bottom - y.place(ys) * frame.height
    # A loss of 0 has no place on a logarithmic axis: it is below all of them.
    up = np.where(np.isfinite(ys) & ~np.isfinite(up), frame.bottom + 2 * frame.height, up)
    up = np.where(np.isfinite(up), np.clip(up, frame.top - 2 * frame.height, frame.bottom + 2 * frame.height), up)
    return np.stack([across, up], axis=1)


def path(points: Numbers) -> str:
    """A path through points (K, 2), in tenths of a pixel from point to point; interrupted where one is not finite."""
    parts: list[str] = []
    last: tuple[int, int] | None = None
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            last = None
            continue
        at = round(10 * x), round(10 * y)
        if last is None:
            parts.append(f"M{number(at[0] / 10)} {number(at[1] / 10)}")
            # A point by itself shows as a dot.
            parts.append("h0" if len(points) == 1 else "")
        elif at != last:
            parts.append(f"l{_short(at[0] - last[0])}{_apart(at[1] - last[1])}")
        last = at
    return "".join(parts)


def _short(tenths: int) -> str:
    """-3 → `-.3`, 120 → `12`."""
    text = number(tenths / 10)
    return text.replace("0.", ".", 1) if abs(tenths) < 10 and tenths else text


def _apart(tenths: int) -> str:
    text = _short(tenths)
    return text if text.startswith("-") else f" {text}"


def _end(series: Series, x: Scale, y: Scale, frame: Frame) -> tuple[float, float]:
    """Where a line ends, within the frame."""
    finite = np.flatnonzero(np.isfinite(series.y) & np.isfinite(x.place(series.x)))
    if not finite.size:
        return frame.left, frame.bottom
    across, up = _pixels(series.x[finite], series.y[finite], x, y, frame)[-1]
    return float(np.clip(across, frame.left, frame.right)), float(np.clip(up, frame.top, frame.bottom))


def _markers(series: Series, x: Scale, y: Scale, frame: Frame, shift: float) -> Markup:
    """A marker at the end of a line, and a few along it, `shift` (0 to 1) of a step from those of other lines."""
    points = _pixels(series.x, series.y, x, y, frame)
    inside = np.isfinite(points).all(axis=1) & (points[:, 1] >= frame.top - 1) & (points[:, 1] <= frame.bottom + 1)
    inside &= points[:, 0] >= frame.left - 1
    points = points[inside]
    if not points.shape[0]:
        end = _end(series, x, y, frame)
        return tag("path", d=marker(series.style, *end), class_=f"mark {color(series.style)}")
    wanted = frame.left + (np.arange(_MARKERS_ALONG) + shift) / _MARKERS_ALONG * frame.width
    wanted = wanted[(wanted > points[0, 0]) & (wanted < points[-1, 0] - 12)]
    at = np.searchsorted(points[:, 0], wanted)
    chosen = [*(points[i] for i in dict.fromkeys(at.tolist())), points[-1]]
    if len(points) <= _FEW:
        chosen = list(points)
    shapes = "".join(marker(series.style, float(px), float(py)) for px, py in chosen)
    return tag("path", d=shapes, class_=f"mark {color(series.style)}")


def _points(series: Series, x: Scale, y: Scale, frame: Frame, chart: LineChart) -> Markup:
    shapes = []
    for value, height, (px, py) in zip(series.x, series.y, _pixels(series.x, series.y, x, y, frame), strict=True):
        if math.isfinite(py):
            words = f"{series.name}, measured: {say(float(height), chart.y.unit)} at {say(float(value), chart.x.unit)}"
            shapes.append(tag("path", tag("title", words), d=marker(series.style, float(px), float(py), 6.5)))
    return tag("g", *shapes, class_=f"points {color(series.style)}")


def _name(line: Series, texts: Sequence[str], x: float, middle: float) -> Markup:
    first = middle - _LINE * (len(texts) - 1) / 2
    spans = [
        tag("text", text, x=x + 14, y=first + _LINE * index + 4.5, class_="name") for index, text in enumerate(texts)
    ]
    sign = tag("path", d=marker(line.style, x + 2, first), class_=f"mark {color(line.style)}")
    return tag("g", sign, *spans, class_="entry")
