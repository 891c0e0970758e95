"""`predict --plot`: the fastest method by latency and bandwidth, as a map."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpisqueeze.modelling.facts import BANDWIDTHS, LATENCIES, map_cells
from mpisqueeze.modelling.forecast import Forecast
from mpisqueeze.quantities import duration, grouped
from mpisqueeze.report.charts import Axis
from mpisqueeze.report.palette import MARKERS
from mpisqueeze.report.plot import draw_spec
from mpisqueeze.report.predict_view import compact, key_of, to_the_target, winners
from mpisqueeze.report.scales import Scale, Unit
from mpisqueeze.report.vega import PAPER, Spec, frame, layer, nominal, position, speakable

#: Cells across and down, and the distance between two that have their speed-up written in.
_GRID, _EVERY = 33, 4
_WIDTH, _HEIGHT = 560, 400


def draw_map(forecast: Forecast, facts: dict[str, Any], target: str) -> None:
    """Draw the terminal's map, finer, into a .png, .svg or .pdf file."""
    bandwidths = np.geomspace(BANDWIDTHS[0], BANDWIDTHS[-1], _GRID)
    latencies = np.geomspace(LATENCIES[0], LATENCIES[-1], _GRID)
    cells = map_cells(forecast, bandwidths.tolist(), latencies.tolist())
    legend = winners(facts["results"], cells)
    order = {key: index for index, key in enumerate(legend)}
    across, up = (float(values[1] / values[0]) ** 0.5 for values in (bandwidths, latencies))
    rows = []
    for number, cell in enumerate(cells):
        i, j = divmod(number, _GRID)
        index, (x, y) = order[key_of(cell)], (cell["bandwidth"], cell["latency_s"])
        said = f"{list(legend.values())[index][0]} {compact(cell['speedup_vs_allreduce'])}"
        rows.append({
            "i": index, "x": x, "y": y, "left": x / across, "right": x * across, "low": y / up, "high": y * up,
            "said": said if i % _EVERY == j % _EVERY == _EVERY // 2 else "",
        })  # fmt: skip
    draw_spec(_spec(rows, [*legend.values()], facts["context"]), target)


def _spec(rows: list[dict[str, Any]], legend: list[tuple[str, str, str]], context: dict[str, Any]) -> Spec:
    """The map in Vega-Lite.

    Args:
        legend: (letter, colour, name) of each method.
    """
    x, _ = position(Axis("bandwidth", Unit.RATE, True), Scale(BANDWIDTHS[0], BANDWIDTHS[-1], True), PAPER, "x", "x")
    y, _ = position(Axis("latency α", Unit.SECONDS, True), Scale(LATENCIES[0], LATENCIES[-1], True), PAPER, "y", "y")
    names = [speakable(f"{letter}  {name}") for letter, _, name in legend]
    legend_at = {"orient": "bottom", "title": None, "columns": 2, "symbolType": "square", "symbolOpacity": 1}
    colors = {"domain": list(range(len(legend))), "range": [color for _, color, _ in legend]}
    color = nominal("i", scale=colors, legend={**legend_at, "labelExpr": "names[datum.value]"})
    here = {
        "x": min(max(context["bandwidth"], BANDWIDTHS[0]), BANDWIDTHS[-1]),
        "y": min(max(context["latency_s"], LATENCIES[0]), LATENCIES[-1]),
    }
    title = (
        f"modelled: fastest{to_the_target(context)} on {grouped(context['ranks'])} ranks, "
        f"d = {grouped(context['dimension'])}, compute {duration(context['compute_s'])}"
    )
    return {
        **frame(PAPER, names),
        "title": {"text": title, "subtitle": f"numbers: speed-up over {context['baseline']}; star: this network",
                  "anchor": "start", "fontSize": 14, "fontWeight": "normal", "subtitleFontSize": 12, "offset": 24},
        "width": _WIDTH,
        "height": _HEIGHT,
        "layer": [
            layer(
                "rect", {"clip": True}, rows, x={**x, "field": "left"}, x2={"field": "right"}, y={**y, "field": "low"},
                y2={"field": "high"}, color=color,
            ),
            layer(
                "text", {"fontSize": 12, "color": "#000000"}, [row for row in rows if row["said"]], x=x, y=y,
                text=nominal("said"),
            ),
            layer(
                "point", {"shape": MARKERS[6], "size": 220, "filled": True, "color": "#000000", "stroke": "#ffffff",
                          "strokeWidth": 1}, [here], x=x, y=y,
            ),
        ],
    }  # fmt: skip
