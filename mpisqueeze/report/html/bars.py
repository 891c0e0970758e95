"""Stacked bars as SVG: segments are told apart by pattern as well as colour, and by their names where they fit."""

from __future__ import annotations

from mpisqueeze.report.charts import Bar, BarChart
from mpisqueeze.report.html.frame import Frame, axes, axis_label
from mpisqueeze.report.html.labels import fold, text_width
from mpisqueeze.report.html.markup import Markup, join, number, tag
from mpisqueeze.report.palette import SEGMENTS
from mpisqueeze.report.scales import Scale, marks, say

_LINE = 17.0
_THICK = 24.0
_GAP = 14.0
#: Part of a segment's name that is free on either side of it.
_AROUND = 7.0


def bar_chart(chart: BarChart, key: str) -> Markup:
    """Both drawings of a chart, for a wide window and a narrow one.

    Args:
        key: distinguishes ids on the page.
    """
    return join([_draw(chart, f"{key}w", "wide"), _draw(chart, f"{key}n", "narrow")])


def _draw(chart: BarChart, key: str, layout: str) -> Markup:
    wide = layout == "wide"
    width = 1000.0 if wide else 400.0
    room = 270.0 if wide else width - 20
    names = [fold(bar.name, room) for bar in chart.bars]
    widest = max((text_width(text) for texts in names for text in texts), default=0.0)
    left = min(room, widest) + 12 if wide else 4.0
    # Beside the bar where there is room, else above it.
    heights = [max(_THICK, _LINE * len(t)) if wide else _THICK + _LINE * len(t) + 2 for t in names]
    legend, top = _legend(chart, left, width)
    frame = Frame(left, top, width - 14, top + sum(heights) + _GAP * len(heights))
    scale = chart.scale()
    below = marks(scale, chart.x.unit, frame.width, lambda text: text_width(text) + 12, 8)
    body = [*axes(frame, below, None, axis_label(chart.x.label, below), "", width)]
    y = frame.top + _GAP / 2
    for bar, texts, height in zip(chart.bars, names, heights, strict=True):
        first = y + (height - _LINE * len(texts)) / 2 if wide else y - 2
        for index, text in enumerate(texts):
            at = first + _LINE * (index + 0.5) + 4.5
            body.append(tag("text", text, x=left - 10 if wide else left, y=at, class_="name end" if wide else "name"))
        thick = y + (height - _THICK) / 2 if wide else y + height - _THICK
        body += _row(chart, bar, scale, frame, thick)
        y += height + _GAP
    return tag(
        "svg",
        tag("title", chart.title, id=f"{key}t"),
        tag("desc", f"{chart.caption} The numbers are in the table.", id=f"{key}d"),
        *legend,
        *body,
        class_=f"chart bars {layout}",
        viewBox=f"0 0 {number(width)} {number(frame.bottom + 48)}",
        role="img",
        aria_labelledby=f"{key}t {key}d",
    )


def _row(chart: BarChart, bar: Bar, scale: Scale, frame: Frame, top: float) -> list[Markup]:
    parts: list[Markup] = []
    begin = 0.0
    for index, (name, value) in enumerate(zip(chart.segments, bar.parts, strict=True)):
        x, end = frame.x(scale.at(begin)), frame.x(scale.at(begin + value))
        begin += value
        words = f"{bar.name}: {name} {say(value, chart.x.unit)}"
        parts.append(segment(x, top, end - x, index, words))
        short = name.partition(" ")[0].rstrip(",")
        for text in (f"{short} {say(value, chart.x.unit)}", short):
            if text_width(text) + 2 * _AROUND <= end - x:
                # On a plate, for letters on a pattern are hard to read.
                plate = text_width(text) * 0.94 + 10
                middle = (x + end) / 2
                parts.append(tag("rect", x=middle - plate / 2, y=top + 3.5, width=plate, height=_THICK - 7, rx=3,
                                 class_="plate"))  # fmt: skip
                parts.append(tag("text", text, x=middle, y=top + _THICK / 2 + 4.5, class_="inside middle"))
                break
    if bar.mark is not None:
        at = number(frame.x(scale.at(bar.mark)))
        words = f"{bar.name}: {chart.mark} {say(bar.mark, chart.x.unit)}"
        # Not across the bar, where names are.
        line = f"M{at} {number(top - 5)}v8M{at} {number(top + _THICK - 3)}v8"
        parts.append(tag("path", tag("title", words), d=line, class_="total"))
    return parts


def segment(x: float, top: float, width: float, index: int, words: str) -> Markup:
    """A coloured rectangle with its pattern on top, and `words` where the pointer rests on it."""
    box = {"x": x, "y": top, "width": max(0.0, width), "height": _THICK}
    style = index % len(SEGMENTS)
    return tag(
        "g",
        tag("title", words),
        tag("rect", **box, class_=f"b{style}"),
        *([tag("rect", **box, fill=f"url(#hatch{style})")] if style else []),
    )


def _legend(chart: BarChart, left: float, width: float) -> tuple[list[Markup], float]:
    """Segments in their order, then the mark; and the height that it takes."""
    parts: list[Markup] = []
    names = [*chart.segments, *([chart.mark] if chart.mark else [])]
    widths = [text_width(name) * 0.95 + 44 for name in names]
    start = left if left + sum(widths) <= width else 4.0
    x, y = start, 4.0
    for index, (name, wide) in enumerate(zip(names, widths, strict=True)):
        if x + wide > width and x > start:
            x, y = start, y + 24
        if index < len(chart.segments):
            style = index % len(SEGMENTS)
            box = {"x": x, "y": y, "width": 20.0, "height": 14.0}
            parts.append(tag("rect", **box, class_=f"b{style}"))
            parts += [tag("rect", **box, fill=f"url(#hatch{style})")] if style else []
        else:
            parts.append(tag("path", d=f"M{number(x + 10)} {number(y - 1)}v16", class_="total"))
        parts.append(tag("text", name, x=x + 26, y=y + 11.5, class_="tick"))
        x += wide
    return parts, y + 30


def patterns() -> Markup:
    """The definitions that `segment` refers to, once a page; the first segment is plain."""
    shapes = {
        1: (8, "M0 8L8 0M-2 2L2 -2M6 10L10 6"),
        2: (5, "M0 2.5H5"),
        3: (8, "M0 0L8 8M-2 6L2 10M6 -2L10 2"),
        4: (6, "M2.4 3a.6 .6 0 1 0 1.2 0a.6 .6 0 1 0 -1.2 0"),
        5: (5, "M2.5 0V5"),
    }
    return join(
        [
            tag("pattern", tag("path", d=d, class_="hatch"), id=f"hatch{index}", width=size, height=size,
                patternUnits="userSpaceOnUse")
            for index, (size, d) in shapes.items()
        ]
    )  # fmt: skip
