"""A forecast as tables and a map for the terminal, and as CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from mpisqueeze.modelling.facts import BANDWIDTHS, LATENCIES, alike
from mpisqueeze.modelling.methods import BASELINE
from mpisqueeze.quantities import duration, format_rate, grouped, ratio, significant, size
from mpisqueeze.report.tables import close_table

#: Ranks that the table of growth shows.
_SHOWN_RANKS = (2, 8, 64, 1024, 16_384, 100_000)
#: Okabe & Ito's colours, which stay apart for colour-blind readers; letters tell them apart without.
COLORS = ("#bbbbbb", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NAME_WIDTH = 26
_UNBOUNDED = 10_000

Row = dict[str, Any]
"""A row of `results`, of `cells` or of `growth`."""


def where_it_wins(between: Sequence[Sequence[float | None]] | None) -> str:
    """`below 3.1 Gbit/s`, `always`, `never`; an em dash for the baseline itself."""
    if between is None:
        return "—"
    return ", ".join(_interval(low, high) for low, high in between) or "never"


def _interval(low: float | None, high: float | None) -> str:
    ends = [format_rate(float(f"{end:.2g}")) for end in (low, high) if end is not None]
    if not ends:
        return "always"
    if len(ends) == 2:
        return " to ".join(ends)
    return f"below {ends[0]}" if low is None else f"above {ends[0]}"


def label(rows: Sequence[Row]) -> str:
    """`csgd, memsgd/onebit`: the name of rows with the same compressor that cost the same."""
    names = ", ".join(dict.fromkeys(row["algorithm"] for row in rows))
    compressor = rows[0]["compressor"]
    return names if compressor == "identity" else f"{names}/{compressor}"


def through(row: Row) -> str:
    """`root`, `sharded`, the graph, or an em dash."""
    return row["server"] or row["topology"] or "—"


# -- the table of methods


@dataclass(frozen=True)
class MethodColumn:
    """A column of the main table.

    Attributes:
        part: `head`, `time` or `wire`. A table that is too wide is shown as two, of times and of bytes, each behind
            the head.
    """

    title: str
    cell: Callable[[Row], str]
    part: str
    style: str = ""


def _columns(facts: dict[str, Any]) -> list[MethodColumn]:
    context = facts["context"]
    iteration = [
        MethodColumn("iteration", lambda row: duration(row["iteration_s"]), "time"),
        MethodColumn("comm", lambda row: f"{100 * row['comm_share']:.0f} %", "time", "dim"),
    ]
    return [
        MethodColumn("through", through, "head"),
        MethodColumn("comm", lambda row: duration(row["comm_s"]), "time"),
        MethodColumn("bound", lambda row: duration(row["bound_s"]), "time", "dim"),
        *(iteration if context["compute_s"] > 0 or context["kernels"] == "measured" else []),
        MethodColumn("speed-up", lambda row: ratio(row["speedup_vs_allreduce"]), "time", "cyan"),
        MethodColumn("beats it", lambda row: where_it_wins(row["wins_between"]), "time"),
        MethodColumn("sent", lambda row: size(row["bytes_per_iteration"]), "wire"),
        MethodColumn("full vectors", lambda row: significant(row["full_vectors_per_iteration"]), "wire"),
        MethodColumn("busiest port", lambda row: size(row["port_bytes"]), "wire"),
        MethodColumn("sections", lambda row: grouped(row["chunks"]), "wire"),
        MethodColumn("tree", lambda row: row["way"] or "—", "wire"),
    ]


def forecast_report(facts: dict[str, Any], console: Console) -> Group:
    """The forecast for a terminal or a log; `console`: whose width decides whether the table is parted."""
    columns, groups = _columns(facts), alike(facts["results"])
    tables = [_methods(columns, groups)]
    if Measurement.get(console, console.options.update_width(_UNBOUNDED), tables[0]).maximum > console.width:
        tables = [
            _methods([column for column in columns if column.part in ("head", part)], groups)
            for part in ("time", "wire")
        ]
    return Group(
        _heading(facts["context"]),
        *tables,
        Text(
            f"modelled, seconds an iteration; bound: bytes of the busiest port over the bandwidth; speed-up: over "
            f"{facts['context']['baseline']}; beats it: at this latency, by bandwidth"
        ),
        *_notes(facts),
        Text(""),
        *_heat_map(facts),
        Text(""),
        _growth(facts),
    )


def _heading(context: dict[str, Any]) -> Text:
    alpha, gap = context["latency_s"], context["gap_s"]
    busy = "" if gap == alpha else f" (port busy {duration(gap)})"
    return Text.assemble(
        ("modelled ", "bold"),
        f"{grouped(context['ranks'])} ranks, d = {grouped(context['dimension'])} {context['dtype']}, "
        f"latency {duration(alpha)}{busy}, bandwidth {format_rate(context['bandwidth'])}, "
        f"compute {duration(context['compute_s'])}",
        f", calibration {context['calibration']}" if context["calibration"] else "",
    )


def _notes(facts: dict[str, Any]) -> list[Text]:
    return [Text(note, style="yellow") for note in facts["context"]["notes"]]


def _methods(columns: Sequence[MethodColumn], groups: Sequence[list[Row]]) -> Table:
    table = close_table()
    names = [label(rows) for rows in groups]
    table.add_column("method", style="bold", max_width=_NAME_WIDTH, min_width=min(_NAME_WIDTH, max(map(len, names))))
    for column in columns:
        left = column.part == "head" or column.title in ("beats it", "tree")
        table.add_column(column.title, justify="left" if left else "right", style=column.style, no_wrap=True)
    for name, rows in zip(names, groups, strict=True):
        table.add_row(Text(name), *(Text(column.cell(rows[0])) for column in columns))
    return table


# -- the map of the fastest


def key_of(row: Row) -> tuple[str, str, str]:
    """The same for rows and cells of one method."""
    return row["algorithm"], row["compressor"], through(row)


def winners(results: Sequence[Row], cells: Sequence[Row]) -> dict[tuple[str, str, str], tuple[str, str, str]]:
    """(letter, colour, name) of each method that is the best somewhere; A is the baseline, the others by first win."""
    groups = alike(results)
    found: dict[tuple[str, str, str], tuple[str, str, str]] = {}
    for cell in [{"algorithm": BASELINE, "server": None, "topology": None, "compressor": "identity"}, *cells]:
        key, index = key_of(cell), len(found)
        if key not in found:
            rows = next((rows for rows in groups if key in map(key_of, rows)), [cell])
            place = "" if through(rows[0]) == "—" else f", {through(rows[0])}"
            found[key] = (LETTERS[index % len(LETTERS)], COLORS[index % len(COLORS)], f"{label(rows)}{place}")
    return found


def _heat_map(facts: dict[str, Any]) -> list[RenderableType]:
    """The best method by bandwidth and latency: a letter and its speed-up over the baseline in each cell."""
    cells, here = facts["cells"], facts["context"]
    legend = winners(facts["results"], cells)
    table = Table(
        box=None, pad_edge=False, padding=(0, 0), title="fastest by latency and bandwidth", title_justify="left",
        title_style="bold",
    )  # fmt: skip
    table.add_column("", justify="right", no_wrap=True)
    for bandwidth in BANDWIDTHS:
        rate = format_rate(bandwidth).replace("bit/s", "").replace(" ", "")
        table.add_column(f" {rate}", justify="left", no_wrap=True, min_width=7)
    across = len(BANDWIDTHS)
    for i, latency in enumerate(LATENCIES):
        line = []
        for cell in cells[i * across : (i + 1) * across]:
            letter, color, _ = legend[key_of(cell)]
            text = letter if letter == "A" else f"{letter} {compact(cell['speedup_vs_allreduce'])}"
            line.append(Text(f" {text:<6}", style=f"#000000 on {color}"))
        table.add_row(Text(f"{_plain_duration(latency)} "), *line)
    position = f"this network: {_plain_duration(here['latency_s'])}, {format_rate(here['bandwidth'])}"
    return [
        table,
        *(Text.assemble((f" {letter} ", f"#000000 on {color}"), f" {name}") for letter, color, name in legend.values()),
        Text(f"{position}; with the same ranks, dimension and compute", style="dim"),
    ]


def _plain_duration(seconds: float) -> str:
    """`10 ms`, without needless zeros."""
    figures, _, unit = duration(seconds).partition(" ")
    return f"{figures.rstrip('0').rstrip('.') if '.' in figures else figures} {unit}"


def compact(value: float) -> str:
    """`3.1×`, `12×`, `2k×`."""
    if value < 9.95:
        return f"{value:.1f}×"
    return f"{value:.0f}×" if value < 1000 else f"{value / 1000:.0f}k×"


def _growth(facts: dict[str, Any]) -> Table:
    """`comm_s` by the number of ranks."""
    lines: dict[tuple[str, str, str], dict[int, Row]] = {}
    for row in facts["growth"]:
        lines.setdefault(key_of(row), {})[row["ranks"]] = row
    table = close_table("comm by ranks")
    table.add_column("method", style="bold", no_wrap=True)
    table.add_column("through", no_wrap=True)
    for ranks in _SHOWN_RANKS:
        table.add_column(f"N = {grouped(ranks)}" if ranks == _SHOWN_RANKS[0] else grouped(ranks), justify="right")
    for rows in lines.values():
        first = next(iter(rows.values()))
        table.add_row(label([first]), through(first), *(duration(rows[ranks]["comm_s"]) for ranks in _SHOWN_RANKS))
    return table


# -- CSV, and runs that were checked


def plain_rows(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """`results` for a spreadsheet; an interval of `wins_between` as `low-high`, empty where it has no end."""
    rows = [dict(row) for row in facts["results"]]
    for row in rows:
        if "wins_between" in row:
            ends = [["" if end is None else f"{end:.4g}" for end in pair] for pair in row["wins_between"] or []]
            row["wins_between"] = " ".join(map("-".join, ends))
    return rows


def check_report(facts: dict[str, Any]) -> Group:
    """Measured beside modelled, for a terminal or a log."""
    table = close_table()
    table.add_column("run", style="bold", overflow="fold")
    for title in ("through", "N", "link"):
        table.add_column(title, justify="right" if title == "N" else "left", overflow="fold")
    whole = any(row["iteration_s"] is not None for row in facts["results"])
    figures = ("comm", "iteration") if whole else ("comm",)
    for figure in figures:
        for title in (figure, "modelled", ""):
            table.add_column(title, justify="right", no_wrap=True, style="" if title else "cyan")
    for row in facts["results"]:
        # `1ms, 100mbit` for `latency=1ms,bandwidth=100mbit`.
        link = row["link"].replace("latency=", "").replace("bandwidth=", "").replace("gap=", "gap ").replace(",", ", ")
        cells = []
        for figure in figures:
            off = row[f"{figure}_difference_percent"]
            cells += [duration(row[f"measured_{figure}_s"]), duration(row[f"{figure}_s"])]
            cells.append("—" if off is None else f"{off:+.0f} %")
        table.add_row(row["run"], through(row), grouped(row["ranks"]), link, *cells)
    about = (
        "comm, iteration: measured, the slowest rank's median; modelled: what the cost model says of it, and by "
        "how much that is off; it knows no waiting for a core or a slow neighbour"
    )
    return Group(table, Text(about), *_notes(facts))
