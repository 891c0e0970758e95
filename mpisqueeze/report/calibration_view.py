"""A calibration's measurements, for a terminal or a log."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mpisqueeze import __version__
from mpisqueeze.quantities import counted, duration, format_rate, grouped, ratio, significant
from mpisqueeze.report.tables import make_list, make_table

#: Message sizes to show: each power of 16.
_SHOWN = {16**k for k in range(8)}


def calibration_report(facts: dict[str, Any]) -> Group:
    """calibration.json's object as a panel and two tables."""
    parts: list[RenderableType] = [_panel(facts)]
    if facts["link"]:
        parts.append(_messages(facts))
    parts.append(_kernels(facts))
    return Group(*parts)


def _panel(facts: dict[str, Any]) -> Panel:
    memory, link = facts["memory"], facts["link"]
    library = (facts["environment"].get("mpi_library") or "unknown").partition(",")[0]
    entries: list[tuple[str, str | Text]] = [
        ("MPI", f"{library}, {counted(facts['ranks'], 'rank')} on {counted(facts['hosts'], 'host')}")
    ]
    if link is None:
        unknown = "not measured: one rank sends nothing; run it under mpirun"
        entries.append(("network", Text(unknown, style="yellow")))
    else:
        kind = {"real": "real", "lab": "of a lab", "emulated": f"emulated, {link['given']}"}[link["kind"]]
        fit = link["fit"]
        entries += [
            ("network", f"{kind}; between ranks {link['ranks'][0]} and {link['ranks'][1]}"),
            ("latency α", f"{duration(link['alpha_s'])}, of which a port is busy {duration(link['gap_s'])}"),
            (
                "bandwidth",
                f"{_rate(link['bandwidth'])}, into one rank from all others {_rate(link['incast_bandwidth'])}; "
                f"both directions at once take {ratio(link['duplex_ratio'])} one",
            ),
            (
                "fit",
                f"α + mβ off by {100 * fit['median_relative_error']:.0f} % (median) and "
                f"{100 * fit['max_relative_error']:.0f} % (most) over {fit['points']} sizes",
            ),
        ]
        if link["stopped_at"]:
            entries.append(("", f"no larger messages than {_bytes(link['stopped_at'])}: they take too long"))
    add, copy = significant(memory["add_gb_s"]), significant(memory["copy_gb_s"])
    entries.append(("memory", f"in-place add {add} GB/s, copy {copy} GB/s a rank, all ranks at once"))
    title = f"mpisqueeze {__version__} calibrate"
    return Panel(make_list(entries), title=title, title_align="left", box=box.ROUNDED, expand=False)


def _rate(bandwidth: float | None) -> str:
    return "unlimited" if bandwidth is None else format_rate(float(f"{bandwidth:.3g}"))


def _messages(facts: dict[str, Any]) -> Table:
    """One-way times by size beside what the line says."""
    link = facts["link"]
    table = make_table()
    for title in ("message", "one way", "±", "α + mβ", "into rank 0, each", "allreduce"):
        table.add_column(title, justify="right")
    byte_s = 8 / link["bandwidth"] if link["bandwidth"] else 0.0
    flood = {point["size"]: point["per_message_s"] for point in link["incast"]}
    together = {row["size"]: row["time_s"] for row in facts["allreduce"] or []}
    mine = [point for point in link["ping_pong"] if point["ranks"] == link["ranks"]]
    for point in mine:
        if point["size"] in _SHOWN or point is mine[-1]:
            table.add_row(
                _bytes(point["size"]),
                duration(point["time_s"]),
                f"{100 * point['spread']:.0f} %",
                duration(link["alpha_s"] + point["size"] * byte_s),
                duration(flood.get(point["size"])),
                duration(together.get(point["size"])),
            )
    return table


def _bytes(nbytes: int) -> str:
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= factor and nbytes % factor == 0:
            return f"{nbytes // factor} {unit}"
    return f"{grouped(nbytes)} B"


def _kernels(facts: dict[str, Any]) -> Table:
    """ns an element, of the slowest rank while all compress."""
    table = make_table()
    table.add_column("ns an element", style="bold")
    for title in ("encode, feedback", "±", "encode", "±", "decode, add", "±", "payload"):
        table.add_column(title, justify="right", style="dim" if title == "±" else "")
    for row in facts["kernels"]:
        cells = []
        for key in ("encode", "plain_encode", "decode_add"):
            cells += [significant(1e9 * row[f"{key}_s_per_element"]), f"{100 * row[f'{key}_spread']:.0f} %"]
        bits = 8 * row["payload_bytes"] / row["elements"]
        table.add_row(row["compressor"], *cells, f"{significant(bits)} bits")
    return table
