"""The map of the fastest methods as a figure, finer than the terminal's."""

from __future__ import annotations

from typing import Any

from mpisqueeze.modelling.facts import BANDWIDTHS, LATENCIES, map_cells
from mpisqueeze.modelling.forecast import Forecast
from mpisqueeze.quantities import duration, grouped
from mpisqueeze.report.predict_view import key_of, winners

_GRID = 33


def draw_map(forecast: Forecast, facts: dict[str, Any], target: str) -> None:
    """Draw the map into a .png, .svg or .pdf file."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    bandwidths = np.geomspace(BANDWIDTHS[0], BANDWIDTHS[-1], _GRID)
    latencies = np.geomspace(LATENCIES[0], LATENCIES[-1], _GRID)
    cells = map_cells(forecast, bandwidths.tolist(), latencies.tolist())
    legend = winners(facts["results"], cells)
    order = {key: index for index, key in enumerate(legend)}
    index = np.array([order[key_of(cell)] for cell in cells]).reshape(_GRID, _GRID)
    gain = np.array([cell["speedup_vs_allreduce"] for cell in cells]).reshape(_GRID, _GRID)
    figure = Figure(figsize=(8, 4.6 + 0.2 * len(legend)), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    panel = figure.subplots()
    context = facts["context"]
    panel.set(
        xscale="log", yscale="log", xlabel="bandwidth (bit/s)", ylabel="latency α (s)",
        xlim=(BANDWIDTHS[0], BANDWIDTHS[-1]), ylim=(LATENCIES[0], LATENCIES[-1]),
        title=f"modelled: fastest on {grouped(context['ranks'])} ranks, d = {grouped(context['dimension'])}, "
        f"compute {duration(context['compute_s'])}\nlines: speed-up over {context['baseline']}",
    )  # fmt: skip
    colors = [color for _, color, _ in legend.values()]
    panel.pcolormesh(
        bandwidths, latencies, index, cmap=ListedColormap(colors), vmin=-0.5, vmax=len(colors) - 0.5, shading="nearest"
    )
    levels = [level for level in (2, 5, 10, 20, 50, 100, 1000) if gain.min() < level < gain.max()]
    if levels:
        lines = panel.contour(bandwidths, latencies, gain, levels=levels, colors="0.2", linewidths=0.8)
        panel.clabel(lines, fmt=lambda value: f"{value:g}×", fontsize=8)
    panel.plot(
        np.clip(context["bandwidth"], BANDWIDTHS[0], BANDWIDTHS[-1]),
        np.clip(context["latency_s"], LATENCIES[0], LATENCIES[-1]),
        "k*", markersize=11, label="this network",
    )  # fmt: skip
    panel.title.set_fontsize(10)
    handles = [Patch(color=color, label=f"{letter}  {name}") for letter, color, name in legend.values()]
    # A letter within each region, for readers without colours.
    for key, (letter, _, _) in legend.items():
        rows, columns = np.nonzero(index == order[key])
        if rows.size:
            at = np.argmin((rows - np.median(rows)) ** 2 + (columns - np.median(columns)) ** 2)
            panel.text(bandwidths[columns[at]], latencies[rows[at]], letter, ha="center", va="center", weight="bold")
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
    metadata = {"Date": None} if target.lower().endswith(".svg") else None
    figure.savefig(target, metadata=metadata, bbox_inches="tight")
