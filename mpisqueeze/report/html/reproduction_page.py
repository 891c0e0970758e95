"""The page of a reproduction: `reproduce`'s claims.json, with a plot of each claim and what its runs came to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mpisqueeze.quantities import counted, duration, significant, size
from mpisqueeze.record.claims import claim_logs
from mpisqueeze.record.reading import RunLog
from mpisqueeze.report.claim_charts import claim_chart
from mpisqueeze.report.html.blocks import Block, Cell, Folded, Page, Paragraph, Plot, Section, Table
from mpisqueeze.report.html.claims import Claim, Decision, claims_page
from mpisqueeze.report.html.provenance import environment


def reproduction_page(path: Path, about: dict[str, Any]) -> Page:
    """The page of all claims.

    Args:
        path: of the reproduction, in which its runs are.
        about: claims.json's object.

    Raises:
        UsageError: a run's folder is damaged.
    """
    claims, logs = [], []
    for claim in about["claims"]:
        found = claim_logs(path, claim)
        claims.append(_claim(claim, found))
        logs += [log for log in found if log is not None]
    after = [Section("Environment", environment(logs))] if logs else []
    running = {"running": "; not finished", "interrupted": "; interrupted"}.get(about["status"], "")
    lead = f"{counted(about['ranks'], 'rank')}, {about['scale']} scale, {counted(len(logs), 'run')}{running}"
    return claims_page("The claims, put to the test", lead, claims, after)


def _claim(claim: dict[str, Any], logs: list[RunLog | None]) -> Claim:
    blocks: list[Block] = []
    chart = claim_chart(claim, logs)
    if chart is not None:
        blocks.append(Plot(chart))
    missing = sum(log is None for log in logs)
    if missing:
        blocks.append(Paragraph(f"{counted(missing, 'run folder')} of {len(logs)} not found.", "note"))
    if claim["note"]:
        blocks.append(Paragraph(claim["note"], "note"))
    if claim["runs"]:
        title = counted(len(claim["runs"]), "run")
        took = f" in {duration(claim['seconds'])}" if claim.get("seconds") else ""
        blocks.append(Folded(f"{title}{took}", [_runs(claim)]))
    decisions = [
        Decision(decision["text"], decision["found"] or decision["holds"], decision["passed"])
        for decision in claim["decisions"]
    ]
    return Claim(
        claim["claim"], claim["title"], claim["says"], claim["verdict"], decisions, claim["reason"] or "",
        claim["source"], blocks,
    )  # fmt: skip


def _runs(claim: dict[str, Any]) -> Table:
    """A row a run."""
    swept = [claim["sweep"]] if claim["sweep"] else []
    titles = ["run", "method", "seed", *swept, "training loss", "test accuracy", "bytes an iteration", "iteration"]
    rows: list[list[Cell | str]] = []
    for row in claim["runs"]:
        method = row["algorithm"] + ("" if row["compressor"] == "identity" else f"/{row['compressor']}")
        badge = "" if row["status"] == "ok" else row["status"]
        rows.append(
            [Cell(row["run"], badge=badge), method, str(row["seed"]), *([f"{row['x']:g}"] if swept else []),
             *(_shown(row.get(key), show) for key, show in (("loss", significant), ("test_accuracy", _four),
                                                            ("bytes", size), ("iteration_s", duration)))]
        )  # fmt: skip
    return Table(titles, rows, left=(0, 1))


def _shown(value: Any, show: Any) -> str:
    return "—" if not isinstance(value, int | float) else show(value)


def _four(value: float) -> str:
    return significant(value, 4)
