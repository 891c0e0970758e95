"""Charts as Vega-Lite: one specification for the page, which is interactive, and for files.

Specifications are plain dictionaries (https://vega.github.io/vega-lite/docs/). Names of runs are data in them and never
part of an expression.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpisqueeze.report.charts import Axis, BarChart, Chart, LineChart, Numbers, PointChart, Series, marked, thin
from mpisqueeze.report.labels import LETTER, fold, spread
from mpisqueeze.report.palette import INKS, LIGHT_GROUND, LINES, MARKERS, SEGMENTS
from mpisqueeze.report.scales import Scale, Unit, linear_unit, say

Spec = dict[str, Any]

#: The version of Vega-Lite that specifications are written in.
VEGA_LITE = "6.1"
#: Places along a line's axis that it is thinned to at most, and points of all lines of a chart together.
_PLACES, _BUDGET = 300, 6000
#: Markers along a line, besides the one at its end.
_ALONG = 5
#: Pixels.
HEIGHT, _LINE, _BAR = 300, 17, 24
_NAMES_AT = 26
#: Letters of a name beside a plot and below it.
_BESIDE, _BELOW = 32, 42
#: A name that is farther from its line's end is not led to: too many such lines cross each other.
_LEAD = 60.0
# Neither HTML nor SVG has these characters, and lone surrogates are left of file names in no known encoding.
_UNSPEAKABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_SUPERSCRIPTS = dict(zip("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹", strict=True))


@dataclass(frozen=True)
class Look:
    """Colours, and whether readers can act on a chart."""

    ground: str
    text: str
    muted: str
    rule: str
    lines: Sequence[str]
    segments: Sequence[str]
    inks: Sequence[str]
    interactive: bool = False


PAPER = Look(
    *(LIGHT_GROUND, "#1f2630", "#586271", "#dde2e8"),
    lines=[light for light, _ in LINES],
    segments=[light for light, _ in SEGMENTS],
    inks=[light for light, _ in INKS],
)


def speakable(text: str) -> str:
    """Text without characters that no document can hold."""
    return _UNSPEAKABLE.sub("\ufffd", text)


def chart_spec(chart: Chart, look: Look, width: float) -> Spec:
    """A chart whose plot is `width` pixels wide, with the names of its lines at their ends."""
    if isinstance(chart, BarChart):
        return {**frame(look, []), **_bars(chart, look, width)}
    if isinstance(chart, PointChart):
        return {**frame(look, [speakable(point.name) for point in chart.points]), **_points(chart, look, width)}
    names = [speakable(line.label) for line in chart.lines]
    return {**frame(look, names), **_lines(chart, look, width, _indices([chart]))}


def panels_spec(charts: Sequence[Chart], look: Look, width: float) -> Spec:
    """Charts side by side, each `width` pixels wide, above one legend."""
    lines = [chart for chart in charts if isinstance(chart, LineChart)]
    if len(charts) == 1:
        return chart_spec(charts[0], look, width)
    indices = _indices(lines)
    names = {(line.name, line.style): speakable(line.label) for chart in lines for line in chart.lines}
    views = [_lines(chart, look, width, indices, str(at), len(charts) + 1) for at, chart in enumerate(lines)]
    return {**frame(look, [names[key] for key in indices]), "hconcat": views, "spacing": 28}


def _indices(charts: Sequence[LineChart]) -> dict[tuple[str, int], int]:
    """A number for each line, the same in all charts."""
    keys = dict.fromkeys((line.name, line.style) for chart in charts for line in chart.lines)
    return {key: index for index, key in enumerate(keys)}


def frame(look: Look, names: Sequence[str]) -> Spec:
    """The parts of a specification that all views of a picture share."""
    font = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica Neue, Arial, Liberation Sans, sans-serif"
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "background": "transparent" if look.interactive else look.ground,
        "padding": 2 if look.interactive else 6,
        "params": [{"name": "names", "value": list(names)}, {"name": "narrow", "value": False}],
        "config": {
            "aria": False,
            "font": font,
            "view": {"stroke": None},
            "axis": {
                "labelColor": look.muted, "titleColor": look.muted, "labelFontSize": 13, "titleFontSize": 13,
                "titleFontWeight": "normal", "domainColor": look.muted, "tickColor": look.muted,
                "gridColor": look.rule, "labelPadding": 5, "labelLimit": 300, "labelSeparation": 6,
            },
            "legend": {"labelColor": look.text, "labelFontSize": 13, "labelLimit": 400, "symbolSize": 110,
                       "columnPadding": 24},
            "mark": {"opacity": 1, "tooltip": None},
            "text": {"color": look.text, "fontSize": 13},
        },
    }  # fmt: skip


def position(axis: Axis, scale: Scale, look: Look, channel: str, field: str) -> tuple[Spec, float]:
    """A position, `channel` being x or y, and the factor by which its data are divided."""
    factor, _ = linear_unit(scale, axis.unit)
    drawn: Spec = {
        "title": speakable(axis.title(scale)),
        "labelExpr": _label(axis, scale, look, channel),
        "labelFlush": False,
    }
    if scale.log:
        # With more of them, Vega marks what is no round number.
        drawn["tickCount"] = 10
        drawn["gridColor"] = {
            "condition": {"test": _said(channel, scale, look), "value": look.rule},
            "value": "transparent",
        }
    else:
        few = {"expr": "narrow ? 5 : 9"} if look.interactive else 9
        drawn["tickCount"] = few if channel == "x" else 7
        drawn |= {"tickMinStep": 1} if axis.unit is Unit.COUNT else {}
    if channel == "x":
        drawn["titleAnchor"] = "end"
    else:
        # Above the axis, for no one likes to read upwards.
        drawn |= {"titleAngle": 0, "titleAlign": "left", "titleAnchor": "start", "titleBaseline": "bottom"}
        drawn |= {"titleX": -30, "titleY": -14}
    kind = {"type": "log"} if scale.log else {"type": "linear", "zero": False}
    domain = [scale.low / factor, scale.high / factor]
    return {
        "field": field,
        "type": "quantitative",
        "scale": {**kind, "domain": domain, "nice": False},
        "axis": drawn,
    }, factor


def _said(channel: str, scale: Scale, look: Look) -> str:
    """An expression for the ticks of a logarithmic axis that have a number: all, 1 2 5, 1 3, or powers of ten alone."""
    mantissa = "round(datum.value / pow(10, floor(log(datum.value) / LN10 + 1e-9)))"
    decades = f"{math.log10(scale.high / scale.low):.3g}"
    if look.interactive:
        decades = f"log(domain('{channel}')[1] / domain('{channel}')[0]) / LN10"
    return (
        f"{decades} < 1 ? true : {decades} < 2.3 ? indexof([1, 2, 5], {mantissa}) >= 0 : "
        f"{decades} < 4.3 ? indexof([1, 3], {mantissa}) >= 0 : {mantissa} == 1"
    )


def _label(axis: Axis, scale: Scale, look: Look, channel: str) -> str:
    """An expression for a tick's number: `0.2`, `20 000`, `300 µs`, `10⁻⁹`."""
    grouped = r"replace({}, regexp(',', 'g'), '\u202f')"
    if not scale.log:
        whole = grouped.format("format(datum.value, ',d')")
        counted = f"datum.value == round(datum.value) ? {whole} : ''"
        return counted if axis.unit is Unit.COUNT else grouped.format("datum.label")
    suffix = {Unit.BYTES: "B", Unit.SECONDS: "s", Unit.RATE: "bit/s"}.get(axis.unit)
    plain = grouped.format("format(datum.value, ',.9~g')")
    if suffix is None:
        power = "floor(log(datum.value) / LN10 + 1e-9)"
        mantissa = f"format(datum.value / pow(10, {power}), '.3~g')"
        raised = f"toString({power})"
        for character, small in _SUPERSCRIPTS.items():
            raised = f"replace({raised}, regexp('{character}', 'g'), '{small}')"
        exponential = f"({mantissa} === '1' ? '' : {mantissa} + '·') + '10' + {raised}"
        text = f"datum.value >= 0.00099 && datum.value < 999999 ? {plain} : {exponential}"
    else:
        text = rf"replace(format(datum.value, '.9~s'), regexp('([a-zµ]?)$', 'i'), '\u202f$1') + '{suffix}'"
        if axis.unit is Unit.SECONDS:
            text = rf"datum.value > 999 ? {plain} + '\u202fs' : {text}"
    return f"({_said(channel, scale, look)}) ? ({text}) : ''"


def _table(rows: Sequence[tuple[int, Numbers, Numbers]], name: str) -> Spec:
    """Points as columns of each series, null where it is interrupted, and their unfolding."""
    values = [
        {"i": index, "s": number, "x": _digits(x, 6), "y": _digits(y, 6)} for number, (index, x, y) in enumerate(rows)
    ]
    return {"data": {"name": name, "values": values}, "transform": [{"flatten": ["x", "y"]}]}


def _bands(
    chart: LineChart, x: Scale, across: float, y: Scale, up: float, indices: dict[tuple[str, int], int], places: int
) -> list[Spec]:
    """The data of the shaded ground behind lines, if there is any."""
    values = []
    for number, series in enumerate(chart.series):
        if series.band:
            kept = thin(series.x, series.y, x, places)
            # A logarithmic axis has no place for a 0.
            low, high = (np.maximum(edge[kept], y.low if y.log else -np.inf) / up for edge in series.band)
            index = indices.get((series.name, series.style), 0)
            values.append({"i": index, "s": number, "x": _digits(series.x[kept] / across, 6),
                           "low": _digits(low, 6), "high": _digits(high, 6)})  # fmt: skip
    unfold = [{"flatten": ["x", "low", "high"]}]
    return [{"data": {"name": "bands", "values": values}, "transform": unfold}] if values else []


def _digits(values: Numbers, count: int) -> list[float | None]:
    return [float(f"{value:.{count}g}") if np.isfinite(value) else None for value in values.tolist()]


def layer(mark: str, style: Spec, rows: Any = None, *, name: Any = "", transform: Any = None, **encoding: Any) -> Spec:
    """A layer of marks, which may hang over the plot unless their style clips them."""
    data: Spec = {} if rows is None else {"data": {"values": rows, **({"name": name} if name else {})}}
    data |= {"transform": transform} if transform else {}
    return {**data, "mark": {"type": mark, "clip": False, **style}, "encoding": encoding}


def nominal(field: str, **more: Any) -> Spec:
    """An encoding by names or numbers of things."""
    return {"field": field, "type": "nominal", **more}


def _lines(
    chart: LineChart, look: Look, width: float, indices: dict[tuple[str, int], int], key: str = "", columns: int = 0
) -> Spec:
    """One view of lines; with a legend of `columns` in place of names at the ends where that is not 0."""
    x_scale, y_scale = chart.scales()
    x, across = position(chart.x, x_scale, look, "x", "x")
    y, up = position(chart.y, y_scale, look, "y", "y")
    count = max(1, len(indices))
    places = min(_PLACES, max(30, _BUDGET // (3 * max(1, len(chart.series)))))
    tables: dict[str, list[tuple[int, Numbers, Numbers]]] = {"faint": [], "line": [], "marks": [], "points": []}
    for series in chart.series:
        index = indices.get((series.name, series.style), 0)
        heights = series.y
        if y_scale.log:
            # A logarithmic axis has no place for a 0, which is below all that it shows.
            heights = np.where(heights > 0, heights, np.where(np.isnan(heights), np.nan, y_scale.low / 1e9))
        heights = np.where(np.isposinf(heights), np.nan, heights)
        kept = thin(series.x, series.y, x_scale, places)
        tables[series.kind].append((index, series.x[kept] / across, heights[kept] / up))
        if series.kind == "line":
            at = marked(series, x_scale, y_scale, _ALONG, (index + 0.5) / count)
            tables["marks"].append((index, series.x[at] / across, heights[at] / up))
    colors = [look.lines[style % len(look.lines)] for _, style in indices] or [look.text]
    shapes = [MARKERS[style % len(MARKERS)] for _, style in indices] or [MARKERS[0]]
    legend: Spec | None = None
    if columns:
        legend = {"orient": "bottom", "title": None, "columns": columns, "symbolOpacity": 1}
        legend["labelExpr"] = "names[datum.value]"
    color, shape = (
        nominal("i", scale={"domain": list(range(count)), "range": values}, legend=legend)
        for values in (colors, shapes)
    )
    stroke = {"clip": True, "strokeJoin": "round", "invalid": "break-paths-filter-domains"}
    bands = _bands(chart, x_scale, across, y_scale, up, indices, places)
    line = {"x": x, "y": y, "color": color, "detail": {"field": "s"}, "order": {"value": 0}}
    point = {"x": x, "y": y, "color": color, "shape": shape, "opacity": _opacity(look, 1, marks=True)}
    layers: list[Spec] = [
        {
            **data,
            **layer(
                "area",
                {"clip": True, "line": False, "invalid": "break-paths-filter-domains"},
                x=x,
                y={**y, "field": "low"},
                y2={"field": "high"},
                color=color,
                detail={"field": "s"},
                opacity=_opacity(look, 0.16),
            ),
        }
        for data in bands
    ]
    layers += [
        {**_table(tables[kind], key + kind), **layer(mark, style, **encoding)}
        for kind, mark, style, encoding in (
            ("faint", "line", {**stroke, "strokeWidth": 1}, {**line, "opacity": _opacity(look, 0.28)}),
            ("line", "line", {**stroke, "strokeWidth": 1.9}, {**line, "opacity": _opacity(look, 1)}),
            ("marks", "point", {"filled": True, "size": 120, "stroke": look.ground, "strokeWidth": 1}, point),
            ("points", "point", {"fill": look.ground, "size": 150, "strokeWidth": 2}, point),
        )
        if tables[kind] or kind == "marks"
    ]  # fmt: skip
    if not any(np.isfinite(series.y).any() for series in chart.series):
        middle = {"x": {"value": width / 2}, "y": {"value": HEIGHT / 2}}
        layers.append(layer("text", {"text": "nothing to show", "color": look.muted}, [{}], **middle))
    layers += _levels(chart, look, width, y, up)
    if not columns:
        layers += _names(chart, look, indices, x_scale, y_scale, color, shape)
    if look.interactive:
        drag = "[pointerdown[event.pointerType !== 'touch'], window:pointerup] > window:pointermove!"
        select = {"type": "interval", "translate": drag, "zoom": "wheel![event.ctrlKey || event.metaKey]"}
        layers[0]["params"] = [{"name": "zoom", "bind": "scales", "select": select}]
    return {"width": width, "height": HEIGHT, "layer": layers}


def _points(chart: PointChart, look: Look, width: float) -> Spec:
    """Points with bars for their intervals, rules through the first one, and a legend below."""
    x_scale, y_scale = chart.scales()
    x, across = position(chart.x, x_scale, look, "x", "x")
    y, up = position(chart.y, y_scale, look, "y", "y")
    count = range(len(chart.points))
    rows = []
    for index, point in enumerate(chart.points):
        at, high = point.said(chart.x.unit, chart.y.unit)
        row: Spec = {"i": index, "x": point.x / across, "y": point.y / up}
        row |= {"words": speakable(f"{point.name}: {chart.x.label} {at}, {chart.y.label} {high}")}
        row |= {"from": point.across[0] / across, "to": point.across[1] / across} if point.across else {}
        row |= {"low": point.up[0] / up, "high": point.up[1] / up} if point.up else {}
        rows.append(row)
    columns: Any = {"expr": "narrow ? 1 : 3"} if look.interactive else 3
    legend = {"orient": "bottom", "title": None, "columns": columns, "symbolOpacity": 1, "offset": 14}
    legend["labelExpr"] = "names[datum.value]"
    styles = [point.style for point in chart.points]
    colors, shapes = ([chosen[style % len(chosen)] for style in styles] for chosen in (look.lines, MARKERS))
    color, shape = (
        nominal("i", scale={"domain": [*count], "range": values}, legend=legend) for values in (colors, shapes)
    )
    bar, rule = {"strokeWidth": 2, "clip": True}, {"strokeDash": [2, 4], "color": look.muted, "clip": True}
    place = {"color": color, "tooltip": nominal("words")}
    layers = [
        layer("rule", rule, rows[:1], x=x),
        layer("rule", rule, rows[:1], y=y),
        layer("rule", bar, [row for row in rows if "to" in row], x={**x, "field": "from"}, x2={"field": "to"}, y=y,
              **place),
        layer("rule", bar, [row for row in rows if "low" in row], x=x, y={**y, "field": "low"}, y2={"field": "high"},
              **place),
        layer("point", {"filled": True, "size": 150, "stroke": look.ground, "strokeWidth": 1}, rows, x=x, y=y,
              shape=shape, **place),
    ]  # fmt: skip
    return {"width": width, "height": HEIGHT, "layer": layers}


def _opacity(look: Look, value: float, marks: bool = False) -> Spec:
    """Opacity `value`, but nothing of a line that a reader has hidden, nor of marks that have left the plot."""
    if not look.interactive:
        return {"value": value}
    across, up = "scale('x', datum.x)", "scale('y', datum.y)"
    left = f"{across} < -1 || {across} > width + 1 || {up} < -1 || {up} > height + 1"
    hidden = {"param": "hidden", "empty": False, "value": 0}
    return {"condition": [hidden, {"test": left, "value": 0}] if marks else hidden, "value": value}


def _levels(chart: LineChart, look: Look, width: float, y: Spec, factor: float) -> list[Spec]:
    """Horizontal lines with their names at the right, on a halo since other lines pass there."""
    if not chart.levels:
        return []
    rows = [{"y": value / factor, "name": speakable(name)} for value, name in chart.levels]
    words = {"align": "right", "dx": -4, "dy": -8, "color": look.muted, "fontSize": 12, "clip": True}
    halo = {"stroke": look.ground, "strokeWidth": 4, "strokeJoin": "round"}
    right = {"value": {"expr": "width"} if look.interactive else width}
    return [
        layer("rule", {"strokeDash": [2, 4], "color": look.muted, "clip": True}, rows, y=y),
        *(layer("text", {**words, **more}, rows, x=right, y=y, text={"field": "name"}) for more in (halo, {})),
    ]


def _end(series: Series, x: Scale, y: Scale) -> tuple[float, float]:
    """The end of a line within its plot, from 0 to 1 across and down."""
    across = x.place(series.x)
    finite = np.flatnonzero(np.isfinite(series.y) & np.isfinite(across))
    if not finite.size:
        return 0.0, 1.0
    down = 1 - y.place(series.y[finite[-1:]])[0]
    return float(np.clip(across[finite[-1]], 0, 1)), float(np.clip(np.nan_to_num(down, nan=1.0), 0, 1))


def _names(
    chart: LineChart, look: Look, indices: dict[tuple[str, int], int], x: Scale, y: Scale, color: Spec, shape: Spec
) -> list[Spec]:
    """Names at the right in the order of the lines' ends, led to where they are near; below a narrow plot.

    A click on a name hides its line, and another one shows it again.
    """
    lines = chart.in_end_order()
    ends = [_end(line, x, y) for line in lines]
    folded = [[fold(speakable(line.label), letters) for letters in (_BESIDE, _BELOW)] for line in lines]
    heights = [_LINE * len(wide) + 2.0 for wide, _ in folded]
    middles = spread([HEIGHT * down for _, down in ends], heights, 0.0, max(float(HEIGHT), sum(heights)))
    rows, below = [], HEIGHT + 66.0
    for line, (across, down), middle, (wide, narrow) in zip(lines, ends, middles, folded, strict=True):
        near = across > 0.99 and abs(HEIGHT * down - middle) < _LEAD
        rows.append({
            "i": indices[line.name, line.style], "wide": wide, "narrow": narrow, "beside": round(middle, 1),
            "below": below + _LINE * (len(narrow) - 1) / 2, "end": round(HEIGHT * down, 1) if near else None,
        })  # fmt: skip
        below += _LINE * len(narrow) + 7
    at = {"x": {"value": {"expr": f"(narrow ? 8 : width + {_NAMES_AT})"}}, "y": _pixels("at")}
    faded = {"condition": {"param": "hidden", "empty": False, "value": 0.3}, "value": 1}
    opacity = faded if look.interactive else {"value": 1}
    reach: Spec = {"test": "isValid(datum.end) && !narrow", "value": 0.6}
    if look.interactive:
        reach["test"] += " && !isDefined(zoom.x) && !isDefined(zoom.y)"
    words: Spec = {"align": "left", "baseline": "middle", "dx": 12, "lineHeight": _LINE}
    words["dy"] = {"expr": f"-{_LINE / 2} * (length(datum.text) - 1)"}
    calculated = [
        {"calculate": f"narrow ? datum.{narrow} : datum.{wide}", "as": name}
        for name, wide, narrow in (("at", "beside", "below"), ("text", "wide", "narrow"))
    ]
    leads = layer(
        "rule", {"strokeWidth": 1}, rows, name="ends", color=color, opacity={"condition": reach, "value": 0},
        x={"value": {"expr": "width + 6"}}, x2={"value": {"expr": f"width + {_NAMES_AT - 8}"}},
        y=_pixels("end"), y2={"field": "beside"},
    )  # fmt: skip
    signs = layer(
        "point", {"filled": True, "size": 120}, rows, name="ends", transform=calculated, color=color, shape=shape,
        opacity=opacity, **at,
    )  # fmt: skip
    texts = layer("text", words, rows, name="ends", transform=calculated, text=nominal("text"), opacity=opacity, **at)
    if look.interactive:
        select = {"type": "point", "fields": ["i"], "on": "@names_marks:click", "toggle": "true", "clear": False}
        texts["mark"]["cursor"] = "pointer"
        texts |= {"name": "names", "params": [{"name": "hidden", "select": select}]}
    return [leads, signs, texts]


def _pixels(field: str) -> Spec:
    """A height that is given in pixels."""
    return {"field": field, "type": "quantitative", "scale": None, "axis": None}


def names_width(chart: Chart) -> float:
    """Roughly the pixels that names take beside a plot."""
    if isinstance(chart, PointChart):
        return 0.0
    if isinstance(chart, BarChart):
        names = [line for bar in chart.bars for line in fold(bar.name, _BESIDE)]
        return LETTER * max(map(len, names), default=0)
    texts = [line for series in chart.lines for line in fold(series.label, _BESIDE)]
    return _NAMES_AT + 20 + LETTER * max(map(len, texts), default=0)


def _bars(chart: BarChart, look: Look, width: float) -> Spec:
    """Stacked bars: a legend above, the names of long segments inside, and the mark as a stroke across each bar.

    Names stand beside their bars, or in a narrow plot above them, which has to be higher for it: `narrow_height`.
    """
    scale = chart.scale()
    x, factor = position(chart.x, scale, look, "x", "from")
    rows, marks = [], []
    for index, bar in enumerate(chart.bars):
        begin = 0.0
        for segment, (name, value) in enumerate(zip(chart.segments, bar.parts, strict=True)):
            short, said = name.partition(" ")[0].rstrip(","), say(value, chart.x.unit)
            rows.append({
                "bar": index, "segment": name, "from": begin / factor, "to": (begin + value) / factor,
                "middle": (begin + value / 2) / factor, "ink": look.inks[segment % len(look.inks)],
                "share": value / scale.high, "short": short, "long": f"{short} {said}",
                "words": speakable(f"{bar.name}: {name} {said}"),
            })  # fmt: skip
            begin += value
        if bar.mark is not None:
            words = f"{bar.name}: {chart.mark} {say(bar.mark, chart.x.unit)}"
            marks.append({"bar": index, "from": bar.mark / factor, "words": speakable(words), "segment": chart.mark})
    colors = [look.segments[index % len(look.segments)] for index in range(len(chart.segments))]
    segments = [*chart.segments, *([chart.mark] if chart.mark else [])]
    legend: Spec = {"orient": "top", "title": None, "symbolType": "square"}
    legend["columns"] = {"expr": "narrow ? 2 : 4"} if look.interactive else 4
    color = nominal("segment", scale={"domain": segments, "range": [*colors, look.text]}, legend=legend)
    names = [fold(speakable(bar.name), _BESIDE) for bar in chart.bars]
    above = [{"bar": index, "name": speakable(bar.name)[:_BELOW]} for index, bar in enumerate(chart.bars)]
    y = nominal("bar", scale={"padding": 0}, axis={
        "title": None, "domain": False, "ticks": False, "labelLineHeight": 16, "labelColor": look.text,
        "labelExpr": "narrow ? '' : folded[datum.value]",
    })  # fmt: skip
    step = max(_BAR + 14, *(16 * len(texts) + 10 for texts in names), 0)
    room = f"width * datum.share - 12 > {0.9 * LETTER:.3g} * length"
    inside = {"calculate": f"{room}(datum.long) ? datum.long : {room}(datum.short) ? datum.short : ''", "as": "inside"}
    place = {"x": x, "y": y, "color": color, "tooltip": nominal("words")}
    layers = [
        layer("bar", {"stroke": look.ground, "strokeWidth": 0.7, "size": _BAR}, rows, x2={"field": "to"}, **place),
        layer(
            "text", {"fontSize": 12}, rows, transform=[inside], x={**x, "field": "middle"}, y=y, text=nominal("inside"),
            color=nominal("ink", scale=None),
        ),
        layer("tick", {"thickness": 2.5, "size": _BAR + 8}, marks, **place),
    ]  # fmt: skip
    if look.interactive:
        shown = {"condition": {"test": "narrow", "value": 1}, "value": 0}
        style = {"fontSize": 12, "align": "left", "dy": -_BAR / 2 - 8}
        layers.append(layer("text", style, above, x={"value": 0}, y=y, text=nominal("name"), opacity=shown))
    return {
        "params": [{"name": "narrow", "value": False}, {"name": "folded", "value": names}],
        "usermeta": {"narrow_height": len(chart.bars) * (_BAR + 34)},
        "width": width,
        "height": max(1, len(chart.bars)) * step,
        "layer": layers,
    }
