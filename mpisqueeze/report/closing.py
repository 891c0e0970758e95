"""The closing tables of one run, from its summary alone: they need no MPI."""

from __future__ import annotations

import os
import shlex
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mpisqueeze.quantities import counted, duration, ratio, significant, size
from mpisqueeze.record.figures import TIMES
from mpisqueeze.record.summary import workers_of
from mpisqueeze.report.tables import STATUS, defined, make_table


def closing(summary: dict[str, Any]) -> Group:
    """Bytes against plain SGD, where the time went, what came out."""
    parts: list[Any] = [traffic_table(summary), time_table(summary)] if summary["iterations"] else []
    result = Text.assemble(STATUS[summary["status"]])
    result.append(f" after {counted(summary['iterations'], 'iteration')}")
    if summary["wall_s"] is not None:
        result.append(f" in {duration(summary['wall_s'])}")
    if summary.get("virtual") and summary["elapsed_s"] is not None:
        result.append(f", {duration(summary['elapsed_s'])} by the virtual clock")
    if summary["final_loss"] is not None:
        result.append(f", loss {significant(summary['final_loss'], 4)}")
    for key, value in (summary["evaluation"] or {}).items():
        if isinstance(value, int | float):
            result.append(f", {key} {significant(value, 4)}")
    parts.append(result)
    if summary["reason"]:
        parts.append(Text(summary["reason"].splitlines()[0], style="red"))
    parts += [_line(f"warning: {warning}", "yellow") for warning in summary.get("warnings") or []]
    parts.append(_line(f"run folder: {summary['run_folder']}", "dim"))
    how = _to_go_on(summary)
    return Group(*parts, *([_line(how, "dim")] if how else []))


def _line(text: str, style: str) -> Text:
    return Text(text, style, no_wrap=True, overflow="ignore")


def _to_go_on(summary: dict[str, Any]) -> str:
    """The command that resumes a run which was stopped, or what it lacks for that; empty for others."""
    folder, stopped = summary["run_folder"], summary["status"] in ("interrupted", "failed", "killed")
    if not stopped or not folder or not os.path.isdir(folder):
        return ""
    if not os.path.isdir(os.path.join(folder, "checkpoint")):
        return "no checkpoint to go on from: --checkpoint-every saves them"
    launch = f"launch -n {summary['ranks']} " if summary["ranks"] > 1 else ""
    return f"to go on: mpisqueeze {launch}train --resume {shlex.quote(folder)}"


def traffic_table(summary: dict[str, Any]) -> Table:
    """The traffic beside that of plain sgd, and what was saved of the whole."""
    table = make_table(caption=traffic_note(summary), caption_justify="left")
    table.add_column(traffic_title(summary))
    table.add_column(Text(f"{summary['algorithm']} {summary['compressor']}"), justify="right", style="bold")
    table.add_column("plain sgd", justify="right")
    table.add_column("saved", justify="right", style="green")
    saved = summary["percent_saved_vs_sgd"]
    fewer = "—" if saved is None else f"{ratio(summary['ratio_vs_sgd'])} fewer, {saved:.1f} %"
    for what, own, plain in traffic(summary):
        table.add_row(what, own, plain, fewer)
        fewer = ""
    return table


def traffic(summary: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(what, of this run, of plain sgd over the same iterations) of the whole run, and of an iteration."""
    done, sent, plain = summary["iterations"], summary["bytes_sent"], summary["sgd_bytes_sent"]
    rows = [("whole run", size(sent), size(plain))]
    if summary.get("groups"):
        rows.append(("  inside groups, besides", size(summary["bytes_local"]), ""))
    interfaces = summary.get("interface_bytes_by_host")
    if interfaces:
        rows.append(("  at the hosts' interfaces", size(sum(host["bytes_sent"] for host in interfaces)), ""))
    if done:
        among = summary.get("groups") or workers_of(summary)
        vectors = shown(summary["full_vectors_per_iteration"]), significant(2.0 * (among - 1))
        rows += [("an iteration", size(sent / done), size(plain / done)), ("full vectors an iteration", *vectors)]
    if summary["full_vectors_formula"]:
        c = f"{summary['full_vectors_formula']}, c = {shown(summary['compression'])}"
        rows.append(("the talk's count, N workers", c, "2N"))
    return rows


def traffic_title(summary: dict[str, Any]) -> str:
    """The heading of `traffic`, which says whether its bytes are counted, and where."""
    handed = " between virtual workers" if summary.get("virtual") else " handed to MPI"
    return f"bytes{defined(summary['bytes']) or handed}"


def traffic_note(summary: dict[str, Any]) -> str:
    """The note below `traffic`, on the figures that are not counted by the run."""
    notes = ["plain sgd: by definition"]
    if defined(summary["bytes"]):
        notes = ["what MPI_Allreduce moves is the MPI library's choice"]
    if summary.get("groups"):
        notes.append(f"N is the {summary['groups']} groups; what is inside them is by definition")
    if summary.get("interface_bytes_by_host"):
        notes.append("interfaces: as the kernel counts, headers included")
    return "; ".join(notes)


def shown(value: float | None) -> str:
    """A number, or a dash for what a run does not know."""
    return "—" if value is None else significant(value)


def time_table(summary: dict[str, Any]) -> Table:
    """Median and p99 of each phase, of its slowest rank."""
    times = summary["times"]
    table = make_table()
    link = summary.get("link", "real")
    heads = {"real": "time of the slowest rank", "virtual": "virtual time of the slowest worker"}
    table.add_column(Text(heads.get(link, f"time of the slowest rank ({link} link)")))
    table.add_column("median", justify="right", style="bold")
    table.add_column("p99", justify="right")
    for name, label in TIMES.items():
        table.add_row(label, duration(times[name]["median"]), duration(times[name]["p99"]))
    if summary["warmup"]:
        table.caption = f"without {summary['warmup']} warm-up iterations"
        table.caption_justify = "left"
    return table
