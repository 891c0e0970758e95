"""The page of a reproduction: `reproduce`'s claims.json as a table of verdicts, and a section for each claim."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpisqueeze.quantities import counted, duration, grouped, significant, size
from mpisqueeze.record.claims import claim_logs
from mpisqueeze.record.reading import RunLog
from mpisqueeze.report.claim_charts import claim_chart
from mpisqueeze.report.claims_view import count_of
from mpisqueeze.report.html.blocks import Chapter, Page, Table, TableCell
from mpisqueeze.report.html.provenance import environment

_OUTCOMES = {True: "holds", False: "does not hold", None: "not told apart"}


def reproduction_page(path: Path, about: dict[str, Any]) -> Page:
    """The page of all claims.

    Args:
        path: the reproduction's folder, in which its runs are.
        about: claims.json's object.

    Raises:
        UsageError: a run's folder is damaged.
    """
    claims = about["claims"]
    found = [claim_logs(path, claim) for claim in claims]
    logs = [log for logs in found for log in logs if log is not None]
    rows: list[list[TableCell | str]] = [
        [
            TableCell(claim["claim"], link=claim["claim"]),
            TableCell("", verdict=claim["verdict"]),
            claim["title"],
            _deciding(claim),
        ]
        for claim in claims
    ]
    table = Table(["claim", "verdict", "what it says", "what decides"], rows, left=(0, 1, 2, 3))
    sections = [
        Chapter("Verdicts", "verdicts", {"count": count_of(claims, about["asked"]), "verdicts": table}),
        *(_section(claim, runs) for claim, runs in zip(claims, found, strict=True)),
        *([Chapter("Environment", "environment", environment(logs))] if logs else []),
    ]
    running = {"running": "; not finished", "interrupted": "; interrupted"}.get(about["status"], "")
    workers = about.get("workers")
    whose = counted(workers, "virtual worker") if workers else counted(about["ranks"], "rank")
    lead = f"{whose}, {about['scale']} scale, {counted(len(logs), 'run')}{running}"
    failed = sum(claim["verdict"] == "FAIL" for claim in claims)
    badge = f"{failed} of {len(claims)} fail" if failed else ""
    return Page("The claims, put to the test", lead, sections, badge)


def _deciding(claim: dict[str, Any]) -> str:
    """The first decision that does not hold, or else the first one, with how many there are besides."""
    decisions = claim["decisions"]
    if claim["verdict"] == "SKIPPED" or not decisions:
        return claim["reason"] or "—"
    passed = [decision["passed"] for decision in decisions]
    first = decisions[next((passed.index(state) for state in (False, None) if state in passed), 0)]
    others = len(decisions) - 1
    return (first["found"] or first["holds"]) + (f"; {counted(others, 'other')} below" if others else "")


def _section(claim: dict[str, Any], logs: Sequence[RunLog | None]) -> Chapter:
    rows = [
        [
            decision["text"],
            decision["found"] or decision["holds"],
            TableCell(
                "not tested" if decision["found"] is None else _OUTCOMES[decision["passed"]],
                best=decision["passed"] is False,
            ),
        ]
        for decision in claim["decisions"]
    ]
    facts = {
        "claim": {"seconds": None, "workers": None, **claim},
        "decisions": Table(["what decides", "found", "outcome"], rows, left=(0, 1, 2)),
        "missing": sum(log is None for log in logs),
        "runs": _runs(claim),
    }
    chart = claim_chart(claim, logs)
    return Chapter(claim["claim"], "claim", facts, [chart] if chart else [])


def _runs(claim: dict[str, Any]) -> Table:
    """A row a run."""
    swept = [claim["sweep"]] if claim["sweep"] else []
    # A run that does not get to its target has ∞, which a file writes as null.
    aims = any(row.get("iterations_to_target") is not None for row in claim["runs"])
    target = ["iterations to target"] if aims else []
    figures = ["training loss", "test accuracy", "bytes an iteration", "iteration"]
    titles = ["run", "method", "seed", *swept, *target, *figures]
    rows: list[list[TableCell | str]] = []
    for row in claim["runs"]:
        method = row["algorithm"] + ("" if row["compressor"] == "identity" else f"/{row['compressor']}")
        badge = "" if row["status"] == "ok" else row["status"]
        shown: list[tuple[str, Any]] = [
            *([("iterations_to_target", grouped)] if aims else []), ("loss", significant), ("test_accuracy", _four),
            ("bytes", size), ("iteration_s", duration),
        ]  # fmt: skip
        rows.append(
            [TableCell(row["run"], badge=badge), method, str(row["seed"]), *([f"{row['x']:g}"] if swept else []),
             *(_shown(row.get(key), show) for key, show in shown)]
        )  # fmt: skip
    return Table(titles, rows, left=(0, 1))


def _shown(value: Any, show: Any) -> str:
    return "—" if not isinstance(value, int | float) else show(value)


def _four(value: float) -> str:
    return significant(value, 4)
