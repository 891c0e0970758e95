"""A calibration's measurements, for a terminal or a log."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from mpisqueeze.costs.link import network_name
from mpisqueeze.quantities import counted, duration, format_rate, grouped, ratio, significant
from mpisqueeze.record.environment import crowding, ranks_on_hosts
from mpisqueeze.report.tables import Fitting, TableColumn, filled, make_table, panel

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
    entries: list[tuple[str, str | Text]] = [("MPI", ranks_on_hosts(facts["environment"]))]
    entries += [("", Text(warning, style="yellow")) for warning in crowding(facts["environment"])]
    if link is None:
        unknown = "not measured: one rank sends nothing; run it under mpirun"
        entries.append(("network", Text(unknown, style="yellow")))
    else:
        pair = next(pair for pair in link["pairs"] if pair["ranks"] == link["ranks"])
        hosts = 1 if pair["same_host"] else facts["hosts"]
        kind = network_name(link["kind"], hosts, given=link["given"])
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
        processor = link["processor"]
        work = f"{duration(processor['message_s'])} and {significant(1e9 * processor['byte_s'])} ns a byte"
        shared = f"{counted(processor['ranks'], 'rank')} on {counted(processor['cores'], 'core')}"
        entries.append(
            ("processor", f"a message takes {work}; {shared}, awake {duration(processor['wake_s'])} later if all wait")
        )
        if link["stopped_at"]:
            entries.append(("", f"no larger messages than {_bytes(link['stopped_at'])}: they take too long"))
    add, copy = significant(memory["add_gb_s"]), significant(memory["copy_gb_s"])
    entries.append(("memory", f"in-place add {add} GB/s, copy {copy} GB/s a rank, all ranks at once"))
    return panel("calibrate", entries)


def _rate(bandwidth: float | None) -> str:
    return "unlimited" if bandwidth is None else format_rate(float(f"{bandwidth:.3g}"))


def _messages(facts: dict[str, Any]) -> Table:
    """One-way times by size beside what the line says."""
    link = facts["link"]
    byte_s = 8 / link["bandwidth"] if link["bandwidth"] else 0.0
    flood = {point["size"]: point["per_message_s"] for point in link["incast"]}
    together = {row["size"]: row["time_s"] for row in facts["allreduce"] or []}
    mine = [point for point in link["ping_pong"] if point["ranks"] == link["ranks"]]
    columns = [
        TableColumn("message", lambda point: _bytes(point["size"])),
        TableColumn("one way", lambda point: duration(point["time_s"])),
        TableColumn("±", lambda point: f"{100 * point['spread']:.0f} %"),
        TableColumn("α + mβ", lambda point: duration(link["alpha_s"] + point["size"] * byte_s)),
        TableColumn("into rank 0, each", lambda point: duration(flood.get(point["size"]))),
        TableColumn("allreduce", lambda point: duration(together.get(point["size"]))),
    ]
    return filled(make_table(), columns, [point for point in mine if point["size"] in _SHOWN or point is mine[-1]])


def _bytes(nbytes: int) -> str:
    for unit, factor in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= factor and nbytes % factor == 0:
            return f"{nbytes // factor} {unit}"
    return f"{grouped(nbytes)} B"


def _kernels(facts: dict[str, Any]) -> Fitting:
    """ns an element, of the slowest rank while all compress."""
    columns = [TableColumn("ns an element", itemgetter("compressor"), left=True, style="bold")]
    for title, key in (("encode, feedback", "encode"), ("encode", "plain_encode"), ("decode, add", "decode_add")):
        columns += _kernel(title, key)
    columns.append(
        TableColumn(
            "payload", lambda row: f"{significant(8 * row['payload_bytes'] / row['elements'])} bits", part="all"
        )
    )
    return Fitting(columns, facts["kernels"])


def _kernel(title: str, key: str) -> list[TableColumn]:
    return [
        TableColumn(title, lambda row: significant(1e9 * row[f"{key}_s_per_element"]), part="all"),
        TableColumn("±", lambda row: f"{100 * row[f'{key}_spread']:.0f} %", style="dim", part="all", joined=True),
    ]
