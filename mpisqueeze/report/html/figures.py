"""The charts of a page: each as a picture, as a specification for the browser, and as a table."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import zlib
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mpisqueeze.report.charts import BarChart, Chart, LineChart, PointChart
from mpisqueeze.report.html.numbers import numbers_of
from mpisqueeze.report.palette import INKS, LINES, SEGMENTS
from mpisqueeze.report.scales import linear_unit, say
from mpisqueeze.report.vega import VEGA_LITE, Look, Spec, chart_spec, names_width, speakable

#: Pixels that a page has for a chart, and that numbers take beside it.
_WIDTH, _NUMBERS = 1000.0, 70.0


#: Colours are those of the style sheet, so that a chart follows the reader's choice of light or dark.
_STILL = Look(
    *("var(--ground)", "var(--text)", "var(--muted)", "var(--rule)"),
    lines=[f"var(--c{index})" for index in range(len(LINES))],
    segments=[f"var(--b{index})" for index in range(len(SEGMENTS))],
    inks=[f"var(--i{index})" for index in range(len(INKS))],
)
_LIVE = replace(_STILL, interactive=True)


def drawn(chart: Chart, key: str) -> dict[str, Any]:
    """A chart as the template takes it: `about` it, `described` in words, `still` (SVG), `spec` (Vega) and `numbers`.

    Args:
        key: its id on the page.
    """
    import vl_convert
    from markupsafe import Markup

    width = _WIDTH - _NUMBERS - 1.15 * names_width(chart)
    options: dict[str, Any] = {"vl_version": VEGA_LITE}
    still = chart_spec(chart, _STILL, width)
    # The reader's font may be wider than the one that is measured here.
    spare = 0.15 * names_width(chart)
    side = "left" if isinstance(chart, BarChart) else "right"
    still["padding"] = {**dict.fromkeys(("left", "top", "bottom", "right"), 6), side: 6 + spare}
    picture = vl_convert.vegalite_to_svg(still, **options, allowed_base_urls=[])
    spec: Spec = vl_convert.vegalite_to_vega(chart_spec(chart, _LIVE, width), **options)
    del spec["$schema"]
    spec["usermeta"] = {**spec.get("usermeta", {}), **_units(chart)}
    return {
        "key": key,
        "about": _about(chart),
        "described": speakable(_described(chart)),
        "still": Markup(_inlined(picture, key)),
        "spec": Markup(json.dumps(spec, separators=(",", ":")).replace("<", "\\u003c")),
        "numbers": numbers_of(chart),
    }


def vega() -> tuple[str, str]:
    """Vega as a script, and the same compressed for a page; kept in the user's cache since bundling takes a second."""
    import vl_convert

    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "mpisqueeze")
    kept = cache / f"vega-{VEGA_LITE}-of-{version('vl-convert-python')}.js.gz"
    with suppress(OSError, EOFError, zlib.error):
        packed = kept.read_bytes()
        if bundle := gzip.decompress(packed).decode():
            return bundle, base64.b64encode(packed).decode()
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    packed = gzip.compress(bundle.encode(), mtime=0)
    with suppress(OSError):
        cache.mkdir(parents=True, exist_ok=True)
        beside = kept.with_suffix(f".{os.getpid()}")
        beside.write_bytes(packed)
        beside.replace(kept)
    return bundle, base64.b64encode(packed).decode()


def _about(chart: Chart) -> str:
    said = [chart.caption]
    if isinstance(chart, LineChart):
        said += (
            ["Shaded is what lies between the lowest seed and the highest."]
            if any(s.band for s in chart.series)
            else []
        )
        said += [f"Outlined marks are measured: {chart.measured}."] if chart.measured else []
    return " ".join(filter(None, said))


def _described(chart: Chart) -> str:
    if isinstance(chart, BarChart):
        return f"{chart.title}: {len(chart.bars)} bars. The numbers are in the table."
    if isinstance(chart, PointChart):
        return f"{chart.y.label} over {chart.x.label}: {len(chart.points)} points. The numbers are in the table."
    lines = chart.in_end_order()
    ends = "; ".join(f"{line.label} ends at {say(line.end, chart.y.unit)}" for line in lines)
    return f"{chart.y.label} over {chart.x.label}, {len(lines)} lines from the top down: {ends}."


def _units(chart: Chart) -> dict[str, Any]:
    """Units of the axes and the factors that their data were divided by, for values under the pointer."""
    if not isinstance(chart, LineChart):
        return {"lines": False}
    scales = zip(("x", "y"), (chart.x, chart.y), chart.scales(), strict=True)
    axes = {name: {"unit": axis.unit.value, "factor": linear_unit(scale, axis.unit)[0]} for name, axis, scale in scales}
    return {"lines": True, **axes}


def _inlined(picture: str, key: str) -> str:
    """An SVG that can stand in a page with others: ids of its own, the page's width, and short coordinates."""
    picture = picture.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', "")
    picture = re.sub(r'(id="|url\(#)', rf"\g<1>{key}", picture)
    picture = re.sub(r' (?:d|transform)="[^"]*"', lambda found: re.sub(r"(\.\d)\d+", r"\1", found[0]), picture)
    return re.sub(r'<svg ([^>]*?)width="[\d.]+" height="[\d.]+"', r"<svg \1", picture, count=1)
