"""The tables of a virtual cluster: times against what the links allow, and bytes counted against bytes on the wire."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mpisqueeze.quantities import counted, duration, format_rate, ratio, significant, size
from mpisqueeze.report.tables import DEFINED, STATUS, TableColumn, close_table, defined, filled

_KEYS = ("bytes_sent", "bytes_received")


def lab_report(facts: dict[str, Any]) -> Group:
    """`lab`'s JSON object as tables: a row a run, then a table of the hosts for each rate."""
    parts: list[RenderableType] = [_heading(facts["context"])]
    if facts["results"]:
        parts.append(_times(facts["results"]))
        parts.append(
            Text(
                "medians; exchange: encode, comm and decode; bound: bytes through the busiest port, but for the burst "
                "that an idle port passes at once, / rate; ×: exchange over bound"
            )
        )
        if any(defined(run["bytes"]) for run in facts["results"]):
            least = "the least that some port carries in any all-reduce, whatever MPI_Allreduce moves"
            parts.append(Text(f"{DEFINED} by definition: {least}"))
    traffic = [command for command in facts["commands"] if command["hosts"]]
    for command in traffic:
        if len(facts["commands"]) > 1:
            parts.append(Text(f"\n{format_rate(command['rate'])}", "bold"))
        parts.append(_hosts(command["hosts"], [run for run in facts["results"] if run["rate"] == command["rate"]]))
    if traffic:
        counts = "with acknowledgements, barriers, and a header for each frame of several packets"
        parts.append(Text(f"eth0: the host's own interface, as its kernel counts it: {counts}"))
        parts.append(Text("at eth0: bytes of the busiest in an iteration / rate; command: from start to end"))
    return Group(*parts)


def _heading(context: dict[str, Any]) -> Text:
    rates = ", ".join(format_rate(rate) for rate in context["rate"])
    delay = f", {duration(context['delay'])} from host to host" if context["delay"] else ""
    hosts = counted(context["hosts"], "host")
    return Text.assemble(("lab", "bold"), f": {hosts}, {rates} each way, MTU {context['mtu']}{delay}")


def _times(results: Sequence[dict[str, Any]]) -> Table:
    """The time of an exchange, and the least that its busiest port needs."""

    def status(run: dict[str, Any]) -> Text:
        return Text(run["status"], STATUS[run["status"]][1])

    broken = any(run["status"] != "ok" for run in results)
    metered = any(run["interface_bound_s"] is not None for run in results)
    columns = [
        TableColumn("rate", lambda run: format_rate(run["rate"]), left=True),
        TableColumn("algorithm", itemgetter("algorithm"), left=True, style="bold", folds=True),
        TableColumn("server", lambda run: run["server"] or "—", left=True, folds=True),
        TableColumn("compressor", itemgetter("compressor"), 10, left=True, folds=True),
        *([TableColumn("status", status, left=True)] if broken else []),
        TableColumn("N", lambda run: str(run["ranks"])),
        TableColumn("comm", lambda run: duration(run["comm_s"])),
        TableColumn("exchange", lambda run: duration(run["exchange_s"])),
        TableColumn("bound", lambda run: duration(run["bound_s"]) + (DEFINED if defined(run["bytes"]) else "")),
        *([TableColumn("at eth0", lambda run: duration(run["interface_bound_s"]))] if metered else []),
        TableColumn("×", lambda run: ratio(run["ratio"]), style="cyan"),
        TableColumn("loss", lambda run: "—" if run["final_loss"] is None else significant(run["final_loss"], 4)),
    ]
    return filled(close_table(), columns, results)


def _hosts(hosts: Sequence[dict[str, Any]], runs: Sequence[dict[str, Any]]) -> Table:
    """The bytes at each host's interface while the command ran, beside those that its rank counted in iterations."""
    table = close_table()
    # Bytes by definition would be no check of those that were counted.
    runs = [run for run in runs if not defined(run["bytes"])] or runs
    table.add_column("\nhost", style="bold")
    for title in ("command:\neth0 sent", "\nreceived"):
        table.add_column(title, justify="right")
    columns = [*_KEYS, *(f"interface_{key}" for key in _KEYS)]
    known = {key: bool(runs) and all(host[key] is not None for run in runs for host in run["hosts"]) for key in columns}
    counts = known["bytes_sent"] and known["bytes_received"]
    measured = counts and known["interface_bytes_sent"] and known["interface_bytes_received"]
    mark = DEFINED if any(defined(run["bytes"]) for run in runs) else ""
    for title in ("iterations:\ncounted sent", "\ncounted received") if counts else ():
        table.add_column(title + mark, justify="right")
        for other in ("\neth0", "\nmore") if measured else ():
            table.add_column(other, justify="right", style="cyan" if other == "\nmore" else "")
    for entry in hosts:
        cells = [size(entry[key]) for key in _KEYS]
        own = [run["hosts"][entry["rank"]] for run in runs]
        for key in _KEYS if counts else ():
            count = sum(host[key] for host in own)
            cells.append(size(count))
            if measured:
                wire = sum(host[f"interface_{key}"] for host in own)
                cells += [size(wire), f"{100 * (wire / count - 1):.1f} %" if count else "—"]
        table.add_row(entry["host"], *cells)
    return table
