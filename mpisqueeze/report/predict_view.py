"""`predict`: a forecast as one object, as tables and a map for the terminal, as CSV and as a figure."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mpisqueeze import __version__
from mpisqueeze.files import write_text
from mpisqueeze.modelling.checking import Checked
from mpisqueeze.modelling.predict import BASELINE, Cell, Forecast, Prediction, Wins
from mpisqueeze.quantities import duration, format_rate, grouped, ratio, significant, size

SCHEMA_VERSION = 1
#: What the map shows: bits a second across, seconds down.
BANDWIDTHS = (1e7, 2.5e7, 1e8, 2.5e8, 1e9, 2.5e9, 1e10, 2.5e10, 1e11, 4e11)
LATENCIES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
#: Ranks that the terminal's table of growth shows.
_SHOWN_RANKS = (2, 8, 64, 1024, 16_384, 100_000)
#: Okabe & Ito's colours, which stay apart for colour-blind readers; letters tell them apart without.
COLORS = ("#bbbbbb", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NAME_WIDTH = 26
_UNBOUNDED = 10_000
_GRID = 33


def forecast_facts(forecast: Forecast, calibration: str | None, compute_given: bool) -> dict[str, Any]:
    """The object that `--json` writes: all of it modelled, nothing measured but the rates that it starts from."""
    link = forecast.link
    notes = []
    if not compute_given:
        notes.append("compute time not included: give --compute")
    if calibration is None:
        notes.append("kernel time not included: give --calibration")
    elif not forecast.measured:
        missing = ", ".join(forecast.missing)
        notes.append(
            f"kernel time not included: {calibration} has none of {missing} for {forecast.dtype}; "
            "measure it with calibrate --compressor"
        )
    return {
        "schema_version": SCHEMA_VERSION,
        "mpisqueeze": __version__,
        "modelled": True,
        "context": {
            "ranks": forecast.ranks,
            "dimension": forecast.dimension,
            "dtype": forecast.dtype,
            "latency_s": link.latency + link.gap,
            "gap_s": link.gap,
            "bandwidth": 8 / link.byte_s,
            "compute_s": forecast.compute_s,
            "kernels": "measured" if forecast.measured else "not included",
            "calibration": calibration,
            "baseline": BASELINE,
            "notes": notes,
        },
        "results": ranked([_row(forecast, index) for index in range(len(forecast.results))]),
        "cells": [_cell(forecast.cell(bandwidth, latency)) for latency in LATENCIES for bandwidth in BANDWIDTHS],
        "growth": [_growth(prediction) for prediction in forecast.growth()],
    }


def ranked(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By time, then as they came."""
    return sorted(rows, key=lambda row: row["iteration_s"])


def names_of(prediction: Prediction) -> dict[str, Any]:
    """Who a prediction is about."""
    method = prediction.method
    return {
        "algorithm": method.algorithm.label,
        "server": method.server,
        "topology": method.topology,
        "compressor": method.compressor_name,
        "ranks": prediction.traffic.ranks,
    }


def costs_of(prediction: Prediction) -> dict[str, Any]:
    """Its time and what it is made of, in seconds and bytes."""
    schedule, coding = prediction.schedule, prediction.coding
    return {
        "comm_s": prediction.wire_s,
        "bound_s": prediction.bound_s,
        "encode_s": coding.encode,
        "decode_s": coding.decode,
        "exchange_s": prediction.exchange_s,
        "update_s": coding.update,
        "compute_s": prediction.compute_s,
        "iteration_s": prediction.iteration_s,
        "comm_share": prediction.wire_s / prediction.iteration_s if prediction.iteration_s else 0.0,
        "bytes_per_iteration": prediction.traffic.total,
        "port_bytes": schedule.port_bytes,
        "chunks": schedule.chunks,
        "way": schedule.way or None,
    }


def _row(forecast: Forecast, index: int) -> dict[str, Any]:
    prediction = forecast.results[index]
    won = forecast.wins(index) if index else Wins([])
    full = forecast.dimension * (8 if forecast.dtype == "float64" else 4)
    return {
        **names_of(prediction),
        **costs_of(prediction),
        "full_vectors_per_iteration": prediction.traffic.total / full,
        "speedup_vs_allreduce": forecast.speedup(prediction),
        "break_even_bandwidth": won.break_even,
        "wins_between": [list(interval) for interval in won.between] if index else None,
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "bandwidth": cell.bandwidth,
        "latency_s": cell.latency_s,
        **names_of(cell.best),
        "comm_s": cell.best.wire_s,
        "iteration_s": cell.best.iteration_s,
        "speedup_vs_allreduce": cell.speedup,
    }


def _growth(prediction: Prediction) -> dict[str, Any]:
    return {
        **names_of(prediction),
        "comm_s": prediction.wire_s,
        "bound_s": prediction.bound_s,
        "chunks": prediction.schedule.chunks,
        "way": prediction.schedule.way or None,
    }


def where_it_wins(between: Sequence[Sequence[float | None]] | None) -> str:
    """`below 3.1 Gbit/s`, `always`, `never`; an em dash for the baseline itself."""
    if between is None:
        return "—"
    if not between:
        return "never"
    parts = []
    for low, high in between:
        if low is None and high is None:
            return "always"
        if low is None:
            parts.append(f"below {_rate(high)}")
        elif high is None:
            parts.append(f"above {_rate(low)}")
        else:
            parts.append(f"{_rate(low)} to {_rate(high)}")
    return ", ".join(parts)


def _rate(bandwidth: float | None) -> str:
    return "—" if bandwidth is None else format_rate(float(f"{bandwidth:.2g}"))


def label(rows: Sequence[dict[str, Any]]) -> str:
    """`csgd, memsgd/onebit`: rows with the same compressor that cost the same."""
    names = ", ".join(dict.fromkeys(row["algorithm"] for row in rows))
    compressor = rows[0]["compressor"]
    return names if compressor == "identity" else f"{names}/{compressor}"


def grouped_rows(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Rows side by side that differ by nothing but the algorithm's name."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        # An all-reduce of full vectors is not a gossip of them, though a number may agree.
        key = (row["server"], row["topology"], row["compressor"], row["iteration_s"], row["bytes_per_iteration"])
        groups.setdefault(key, []).append(row)
    return list(groups.values())


def through(row: dict[str, Any]) -> str:
    """`root`, `sharded`, the graph, or an em dash."""
    return row["server"] or row["topology"] or "—"


@dataclass(frozen=True)
class Column:
    """A column of the main table, which parts where it is too wide: `time` and `wire`, each behind `head`."""

    title: str
    cell: Callable[[list[dict[str, Any]]], str]
    kind: str
    style: str = ""


def _columns(facts: dict[str, Any]) -> list[Column]:
    context = facts["context"]
    more = context["compute_s"] > 0 or context["kernels"] == "measured"
    columns = [
        Column("method", label, "head", "bold"),
        Column("through", lambda rows: through(rows[0]), "head"),
        Column("comm", lambda rows: duration(rows[0]["comm_s"]), "time"),
        Column("bound", lambda rows: duration(rows[0]["bound_s"]), "time", "dim"),
    ]
    if more:
        columns += [
            Column("iteration", lambda rows: duration(rows[0]["iteration_s"]), "time"),
            Column("comm", lambda rows: f"{100 * rows[0]['comm_share']:.0f} %", "time", "dim"),
        ]
    return [
        *columns,
        Column("speed-up", lambda rows: ratio(rows[0]["speedup_vs_allreduce"]), "time", "cyan"),
        Column("beats it", lambda rows: where_it_wins(rows[0]["wins_between"]), "time"),
        Column("sent", lambda rows: size(rows[0]["bytes_per_iteration"]), "wire"),
        Column("full vectors", lambda rows: significant(rows[0]["full_vectors_per_iteration"]), "wire"),
        Column("busiest port", lambda rows: size(rows[0]["port_bytes"]), "wire"),
        Column("sections", lambda rows: grouped(rows[0]["chunks"]), "wire"),
        Column("tree", lambda rows: rows[0]["way"] or "—", "wire"),
    ]


def forecast_report(facts: dict[str, Any], console: Console) -> Group:
    """What `forecast_facts` says, for a terminal or a log."""
    columns, groups = _columns(facts), grouped_rows(facts["results"])
    whole = _table(columns, groups)
    tables: list[RenderableType] = [whole]
    if Measurement.get(console, console.options.update_width(_UNBOUNDED), whole).maximum > console.width:
        tables = [
            _table([column for column in columns if column.kind in ("head", kind)], groups) for kind in ("time", "wire")
        ]
    return Group(
        _heading(facts),
        *tables,
        Text(
            f"modelled, seconds an iteration; bound: bytes of the busiest port over the bandwidth; speed-up: over "
            f"{facts['context']['baseline']}; beats it: at this latency, by bandwidth"
        ),
        *(Text(note, style="yellow") for note in facts["context"]["notes"]),
        *heat_map(facts),
        *_growth_table(facts),
    )


def _heading(facts: dict[str, Any]) -> Text:
    context = facts["context"]
    alpha, gap = context["latency_s"], context["gap_s"]
    busy = "" if gap == alpha else f" (port busy {duration(gap)})"
    text = Text.assemble(
        ("modelled ", "bold"),
        f"{grouped(context['ranks'])} ranks, d = {grouped(context['dimension'])} {context['dtype']}, "
        f"latency {duration(alpha)}{busy}, bandwidth {format_rate(context['bandwidth'])}, "
        f"compute {duration(context['compute_s'])}",
    )
    if context["calibration"]:
        text.append(f", calibration {context['calibration']}")
    return text


def _table(columns: Sequence[Column], groups: Sequence[list[dict[str, Any]]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    longest = max(len(label(rows)) for rows in groups)
    for column in columns:
        name = column.title == "method"
        table.add_column(
            column.title,
            justify="left" if column.kind == "head" or column.title in ("beats it", "tree") else "right",
            style=column.style,
            no_wrap=not name,
            max_width=_NAME_WIDTH if name else None,
            min_width=min(_NAME_WIDTH, longest) if name else None,
        )
    for rows in groups:
        table.add_row(*(Text(column.cell(rows)) for column in columns))
    return table


def winners(facts: dict[str, Any]) -> dict[tuple[str, str, str], tuple[str, str, str]]:
    """(letter, colour, name) of each method that is the best somewhere; A is the baseline, the others by first win."""
    found: dict[tuple[str, str, str], tuple[str, str, str]] = {}
    for cell in [{"algorithm": BASELINE, "server": None, "topology": None, "compressor": "identity"}, *facts["cells"]]:
        key = _key(cell)
        if key not in found:
            index = len(found)
            found[key] = (LETTERS[index % len(LETTERS)], COLORS[index % len(COLORS)], _long_name(facts, cell))
    return found


def _key(cell: dict[str, Any]) -> tuple[str, str, str]:
    return cell["algorithm"], cell["compressor"], through(cell)


def _long_name(facts: dict[str, Any], cell: dict[str, Any]) -> str:
    """With all methods that cost the same."""
    for rows in grouped_rows(facts["results"]):
        if any(_key(row) == _key(cell) for row in rows):
            place = "" if through(rows[0]) == "—" else f", {through(rows[0])}"
            return f"{label(rows)}{place}"
    return str(cell["algorithm"])


def heat_map(facts: dict[str, Any]) -> list[RenderableType]:
    """The best method by bandwidth and latency: a letter and its speed-up over the baseline in each cell."""
    legend = winners(facts)
    table = Table(
        box=None, pad_edge=False, padding=(0, 0), title="fastest by latency and bandwidth", title_justify="left",
        title_style="bold",
    )  # fmt: skip
    table.add_column("", justify="right", no_wrap=True)
    for bandwidth in BANDWIDTHS:
        table.add_column(_short_rate(bandwidth), justify="left", no_wrap=True, min_width=7)
    for i, latency in enumerate(LATENCIES):
        cells = facts["cells"][i * len(BANDWIDTHS) : (i + 1) * len(BANDWIDTHS)]
        line = []
        for cell in cells:
            letter, color, _ = legend[_key(cell)]
            text = letter if letter == "A" else f"{letter} {_compact(cell['speedup_vs_allreduce'])}"
            line.append(Text(f" {text:<6}", style=f"#000000 on {color}"))
        table.add_row(Text(f"{_plain_duration(latency)} "), *line)
    entries = []
    for letter, color, name in legend.values():
        entries.append(Text.assemble((f" {letter} ", f"#000000 on {color}"), f" {name}"))
    here = facts["context"]
    position = f"this network: {_plain_duration(here['latency_s'])}, {format_rate(here['bandwidth'])}"
    return [Text(""), table, *entries, Text(f"{position}; with the same ranks, dimension and compute", style="dim")]


def _short_rate(bandwidth: float) -> str:
    text = format_rate(bandwidth)
    return " " + text.replace("bit/s", "").replace(" ", "")


def _plain_duration(seconds: float) -> str:
    """`10 ms`, without needless zeros."""
    figures, _, unit = duration(seconds).partition(" ")
    return f"{figures.rstrip('0').rstrip('.') if '.' in figures else figures} {unit}"


def _compact(value: float) -> str:
    """`3.1×`, `12×`, `2k×`."""
    if value < 9.95:
        return f"{value:.1f}×"
    return f"{value:.0f}×" if value < 1000 else f"{value / 1000:.0f}k×"


def _growth_table(facts: dict[str, Any]) -> list[RenderableType]:
    """`comm_s` by the number of ranks."""
    lines: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for row in facts["growth"]:
        lines.setdefault(_key(row), {})[row["ranks"]] = row
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), title="comm by ranks", title_justify="left",
        title_style="bold",
    )  # fmt: skip
    table.add_column("method", style="bold", no_wrap=True)
    table.add_column("through", no_wrap=True)
    for ranks in _SHOWN_RANKS:
        table.add_column(f"N = {grouped(ranks)}" if ranks == _SHOWN_RANKS[0] else grouped(ranks), justify="right")
    for rows in lines.values():
        first = next(iter(rows.values()))
        table.add_row(label([first]), through(first), *(duration(rows[ranks]["comm_s"]) for ranks in _SHOWN_RANKS))
    return [Text(""), table]


def write_csv(facts: dict[str, Any], target: str) -> None:
    """Write `results` a line each; an interval of `wins_between` as `low-high`, empty where it has no end."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(facts["results"][0]), lineterminator="\n")
    writer.writeheader()
    for row in facts["results"]:
        between = row.get("wins_between")
        plain = dict(row)
        if "wins_between" in row:
            plain["wins_between"] = " ".join(
                "-".join("" if end is None else f"{end:.4g}" for end in interval) for interval in between or []
            )
        writer.writerow(plain)
    write_text(text.getvalue(), target)


def draw_map(forecast: Forecast, facts: dict[str, Any], target: str) -> None:
    """Draw the map, finer, into a .png, .svg or .pdf file."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    bandwidths = np.geomspace(BANDWIDTHS[0], BANDWIDTHS[-1], _GRID)
    latencies = np.geomspace(LATENCIES[0], LATENCIES[-1], _GRID)
    cells = [[_cell(forecast.cell(float(b), float(a))) for b in bandwidths] for a in latencies]
    legend = winners({**facts, "cells": [cell for line in cells for cell in line]})
    order = {key: index for index, key in enumerate(legend)}
    index = np.array([[order[_key(cell)] for cell in line] for line in cells])
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
    gain = np.array([[cell["speedup_vs_allreduce"] for cell in line] for line in cells])
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


def check_facts(checked: Sequence[Checked], skipped: Sequence[str], calibration: str | None) -> dict[str, Any]:
    """What `predict --check --json` writes: modelled times, and what was measured under `measured_…`."""
    rows = []
    for item in checked:
        prediction, link = item.prediction, item.link
        modelled = prediction.iteration_s if item.kernels else None
        rows.append(
            {
                "run": item.run.name,
                "run_folder": str(item.run.path),
                **names_of(prediction),
                "dimension": prediction.traffic.dimension,
                "link": item.link_text,
                "latency_s": link.latency + link.gap,
                "gap_s": link.gap,
                "bandwidth": 8 / link.byte_s if link.byte_s else None,
                "kernels": "measured" if item.kernels else "not included",
                **costs_of(prediction),
                "comm_s": item.predicted_comm_s,
                "iteration_s": modelled,
                "measured_comm_s": item.comm_s,
                "comm_difference_percent": _percent(item.predicted_comm_s, item.comm_s),
                "measured_iteration_s": item.iteration_s,
                "iteration_difference_percent": None if modelled is None else _percent(modelled, item.iteration_s),
            }
        )
    notes = list(skipped)
    if not all(item.kernels for item in checked):
        notes.append("kernel time not included: give --calibration" if calibration is None else _not_all(calibration))
    return {
        "schema_version": SCHEMA_VERSION,
        "mpisqueeze": __version__,
        "modelled": True,
        "context": {"check": True, "calibration": calibration, "notes": notes},
        "results": rows,
    }


def _not_all(calibration: str) -> str:
    return f"kernel time not included everywhere: {calibration} has not all of these compressors in their dtype"


def _percent(modelled: float, measured: float) -> float | None:
    return 100 * (modelled / measured - 1) if measured else None


def check_report(facts: dict[str, Any]) -> Group:
    """Measured beside modelled, for a terminal or a log."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("run", style="bold", overflow="fold")
    for title in ("through", "N", "link"):
        table.add_column(title, justify="right" if title == "N" else "left", overflow="fold")
    whole = any(row["iteration_s"] is not None for row in facts["results"])
    for title in ("comm", "modelled", "", *(("iteration", "modelled", "") if whole else ())):
        table.add_column(title, justify="right", no_wrap=True, style="cyan" if not title else "")
    for row in facts["results"]:
        cells = [duration(row["measured_comm_s"]), duration(row["comm_s"]), _signed(row["comm_difference_percent"])]
        if whole:
            cells += [duration(row["measured_iteration_s"]), duration(row["iteration_s"])]
            cells.append(_signed(row["iteration_difference_percent"]))
        table.add_row(row["run"], through(row), grouped(row["ranks"]), _short_link(row["link"]), *cells)
    return Group(
        table,
        Text("comm, iteration: measured, the slowest rank's median; modelled: what the cost model says of it, and by "
             "how much that is off; it knows no waiting for a core or a slow neighbour"),
        *(Text(note, style="yellow") for note in facts["context"]["notes"]),
    )  # fmt: skip


def _short_link(text: str) -> str:
    """`1ms, 100mbit` for `latency=1ms,bandwidth=100mbit`."""
    return text.replace("latency=", "").replace("bandwidth=", "").replace("gap=", "gap ").replace(",", ", ")


def _signed(percent: float | None) -> str:
    return "—" if percent is None else f"{percent:+.0f} %"
