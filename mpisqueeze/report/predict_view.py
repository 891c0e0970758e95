"""A forecast as tables and a map for the terminal, and as CSV."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mpisqueeze.analysis.ranking import Target
from mpisqueeze.modelling.facts import BANDWIDTHS, LATENCIES, alike
from mpisqueeze.modelling.methods import BASELINE
from mpisqueeze.quantities import duration, format_rate, grouped, ratio, significant, size
from mpisqueeze.report.tables import Fitting, TableColumn

#: Ranks that the table of growth shows.
_SHOWN_RANKS = (2, 8, 64, 1024, 16_384, 100_000)
#: Okabe & Ito's colours, which stay apart for colour-blind readers; letters tell them apart without.
COLORS = ("#bbbbbb", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NAME_WIDTH = 26

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
    names = ", ".join(dict.fromkeys(row["algorithm"] + _unlike_the_baseline(row) for row in rows))
    compressor = rows[0]["compressor"]
    return names if compressor == "identity" else f"{names}/{compressor}"


def _unlike_the_baseline(row: Row) -> str:
    """The difference from the baseline, for the same algorithm with local steps or in groups."""
    found = [f"H = {row['local_steps']}"] if row["local_steps"] > 1 else []
    found += ["groups"] if row["group"] > 1 else []
    return f" ({', '.join(found)})" if found and row["algorithm"] == BASELINE else ""


def through(row: Row) -> str:
    """`root`, `sharded`, the graph, or an em dash."""
    return row["server"] or row["topology"] or "—"


# -- the table of methods


def _columns(facts: dict[str, Any]) -> list[TableColumn]:
    """The columns of the main table, each row of which is the rows of methods that cost the same."""
    context = facts["context"]

    def column(title: str, cell: Callable[[Row], str], part: str, style: str = "", left: bool = False) -> TableColumn:
        return TableColumn(title, lambda rows: cell(rows[0]), left=left, style=style, part=part)

    iteration = [
        column("iteration", lambda row: duration(row["iteration_s"]), "time"),
        column("comm", lambda row: f"{100 * row['comm_share']:.0f} %", "time", "dim"),
    ]
    to_target = [
        column("iterations", lambda row: _or_missed(row["iterations_to_target"], "{:.10g}".format), "time"),
        column("to target", lambda row: _or_missed(row["time_to_target_s"], duration), "time"),
    ]
    kernels = [column("kernels", lambda row: duration(kernels_s(row)), "time")]
    return [
        TableColumn("method", label, _NAME_WIDTH, left=True, style="bold", folds=True),
        column("through", through, "", left=True),
        column("comm", lambda row: duration(row["comm_s"]), "time"),
        *([column("inside", lambda row: duration(row["inside_s"]), "time")] if _any(facts, "inside_s") else []),
        column("bound", lambda row: duration(row["bound_s"]), "time", "dim"),
        *(kernels if any(map(kernels_s, facts["results"])) else []),
        *(iteration if context["compute_s"] > 0 or context["kernels"] == "measured" else []),
        *(to_target if context["target"] else []),
        column("speed-up", lambda row: ratio(row["speedup_vs_allreduce"]), "gain", "cyan"),
        column("beats it", lambda row: where_it_wins(row["wins_between"]), "gain", left=True),
        column("sent", lambda row: size(row["bytes_per_iteration"]), "wire"),
        column("full vectors", lambda row: significant(row["full_vectors_per_iteration"]), "wire"),
        column("busiest port", lambda row: size(row["port_bytes"]), "wire"),
        column("sections", lambda row: grouped(row["chunks"]), "wire"),
        column("tree", lambda row: row["way"] or "—", "wire", left=True),
    ]


def _any(facts: dict[str, Any], key: str) -> bool:
    """Some method has the figure."""
    return any(row[key] for row in facts["results"])


def _or_missed(value: float | None, show: Callable[[float], str]) -> str:
    return "missed" if value is None else show(value)


def kernels_s(row: Row) -> float:
    """Seconds of encoding, decoding and the update, a server's included, hidden behind messages or not."""
    return row["encode_s"] + row["decode_s"] + row["update_s"]


def forecast_report(facts: dict[str, Any]) -> Group:
    """The forecast for a terminal or a log."""
    target = facts["context"]["target"]
    what = "modelled, seconds an iteration"
    if target:
        what = f"modelled, iterations measured; target: {Target.given(target)} ({facts['context']['target_is']})"
    if facts["context"]["local_steps"] > 1:
        what += "; comm and kernels of an exchange, the rest on average over the local steps"
    return Group(
        _heading(facts["context"]),
        Fitting(_columns(facts), alike(facts["results"])),
        Text(
            f"{what}; bound: bytes of the busiest port over the bandwidth; {_sum_of(facts)}speed-up: over "
            f"{facts['context']['baseline']}; beats it: at this latency, by bandwidth"
        ),
        *_notes(facts),
        Text(""),
        *_heat_map(facts),
        Text(""),
        _growth(facts),
    )


def _sum_of(facts: dict[str, Any]) -> str:
    """The parts of an iteration, where kernels were measured."""
    if facts["context"]["kernels"] != "measured":
        return ""
    return "kernels: encode, decode, update; iteration: compute, comm and kernels, less what sections hide; "


def _heading(context: dict[str, Any]) -> Text:
    alpha, gap = context["latency_s"], context["gap_s"]
    busy = "" if gap == alpha else f" (port busy {duration(gap)})"
    return Text.assemble(
        ("modelled ", "bold"),
        f"{grouped(context['ranks'])} ranks, d = {grouped(context['dimension'])} {context['dtype']}, "
        f"latency {duration(alpha)}{busy}, bandwidth {format_rate(context['bandwidth'])}, "
        f"compute {duration(context['compute_s'])}",
        f", {context['local_steps']} local steps" if context["local_steps"] > 1 else "",
        f", groups of {context['group']}" if context["group"] > 1 else "",
        f", calibration {context['calibration']}" if context["calibration"] else "",
    )


def _notes(facts: dict[str, Any]) -> list[Text]:
    return [Text(note, style="yellow") for note in facts["context"]["notes"]]


# -- the map of the fastest


def key_of(row: Row) -> tuple[str, ...]:
    """The same for rows and cells of one method."""
    return f"{row['algorithm']}{_unlike_the_baseline(row)}", row["compressor"], through(row)


def winners(results: Sequence[Row], cells: Sequence[Row]) -> dict[tuple[str, ...], tuple[str, str, str]]:
    """(letter, colour, name) of each method that is the best somewhere; A is the baseline, the others by first win."""
    groups = alike(results)
    found: dict[tuple[str, ...], tuple[str, str, str]] = {}
    baseline = {"algorithm": BASELINE, "server": None, "topology": None, "compressor": "identity"}
    for cell in [{**baseline, "local_steps": 1, "group": 1}, *cells]:
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
        box=None, pad_edge=False, padding=(0, 0), title=f"fastest{to_the_target(here)} by latency and bandwidth",
        title_justify="left", title_style="bold",
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


def to_the_target(context: dict[str, Any]) -> str:
    """The words that say what is fastest, if it is not the iteration."""
    return " to the target" if context["target"] else ""


def compact(value: float) -> str:
    """`3.1×`, `12×`, `2k×`."""
    if value < 9.95:
        return f"{value:.1f}×"
    return f"{value:.0f}×" if value < 1000 else f"{value / 1000:.0f}k×"


def _growth(facts: dict[str, Any]) -> Fitting:
    """`comm_s` by the number of ranks."""
    least = _SHOWN_RANKS[0]
    lines: dict[tuple[str, ...], dict[int, Row]] = {}
    for row in facts["growth"]:
        lines.setdefault(key_of(row), {})[row["ranks"]] = row

    def comm(ranks: int) -> TableColumn:
        title = f"N = {grouped(ranks)}" if ranks == least else grouped(ranks)
        return TableColumn(title, lambda rows: duration(rows[ranks]["comm_s"]), part="ranks")

    columns = [
        TableColumn("method", lambda rows: label([rows[least]]), _NAME_WIDTH, left=True, style="bold", folds=True),
        TableColumn("through", lambda rows: through(rows[least]), left=True),
        *map(comm, _SHOWN_RANKS),
    ]
    return Fitting(columns, list(lines.values()), "comm by ranks")


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

    def link(row: Row) -> str:
        """`1ms, 100mbit` for `latency=1ms,bandwidth=100mbit`."""
        text = row["link"].replace("latency=", "").replace("bandwidth=", "").replace("gap=", "gap ")
        return re.sub(", *", ", ", text)

    columns = [
        TableColumn("run", itemgetter("run"), left=True, style="bold", folds=True),
        TableColumn("through", through, left=True, folds=True),
        TableColumn("N", lambda row: grouped(row["ranks"]), folds=True),
        TableColumn("link", link, left=True, folds=True),
    ]
    whole = any(row["iteration_s"] is not None for row in facts["results"])
    for figure in ("comm", "iteration") if whole else ("comm",):
        columns += _checked(figure)
    about = (
        "comm, iteration: measured, the slowest rank's median; modelled: what the cost model says of it, and by "
        "how much that is off; it knows no slow neighbour and no other program"
    )
    return Group(Fitting(columns, facts["results"]), Text(about), *_notes(facts))


def _checked(figure: str) -> list[TableColumn]:
    """The columns of a figure: measured, modelled, and by how much the model is off."""

    def off(row: Row) -> str:
        percent = row[f"{figure}_difference_percent"]
        return "—" if percent is None else f"{percent:+.0f} %"

    return [
        TableColumn(figure, lambda row: duration(row[f"measured_{figure}_s"]), part=figure),
        TableColumn("modelled", lambda row: duration(row[f"{figure}_s"]), part=figure),
        TableColumn("", off, style="cyan", part=figure),
    ]
