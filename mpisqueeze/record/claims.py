"""claims.json, which `reproduce` writes: every claim that was tested, with its verdict and its runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, TypedDict

from mpisqueeze.errors import UsageError
from mpisqueeze.files import inside, own
from mpisqueeze.record.decoding import Count, Number, Positive, Seconds, read_object
from mpisqueeze.record.reading import RunLog, read_run

CLAIMS = "claims.json"


class DecisionFacts(TypedDict):
    """A condition of a claim: in words, as an expression, with its numbers in place, and whether it holds.

    The last two are None where the claim was not tested, and the last one also where its seeds do not tell.
    """

    text: str
    holds: str
    found: str | None
    passed: bool | None


class _RunFacts(TypedDict):
    run: str
    point: str | None
    x: Number
    seed: Count
    algorithm: str
    compressor: str
    status: str
    run_folder: str | None


class _Kind(TypedDict):
    kind: Literal["loss", "sweep"]
    y: str


class ChartFacts(_Kind, total=False):
    """The chart of a claim: losses, or a figure `y` over the values of the sweep, of the named runs or of all.

    `log`: both axes of a sweep are logarithmic.
    """

    label: str
    log: bool
    runs: list[str]


class _Claim(TypedDict):
    claim: str
    title: str
    says: str
    source: str
    note: str | None
    sweep: str | None
    reason: str | None
    figure: ChartFacts | None
    verdict: Literal["PASS", "FAIL", "NOT DISTINGUISHABLE", "SKIPPED"]
    decisions: list[DecisionFacts]
    runs: list[_RunFacts]


class ClaimFacts(_Claim, total=False):
    """A claim with its verdict; its runs have the figures that decisions may name, too.

    `workers`: the most virtual workers that it brings itself, None where it has none.
    """

    seconds: Seconds | None
    workers: Positive | None


class _Asked(TypedDict, total=False):
    asked: Count
    workers: Positive | None


class Claims(_Asked):
    """claims.json; `asked` is the number of claims that were to be tested, `workers` that of virtual workers in place
    of ranks."""

    claims: list[ClaimFacts]
    scale: str
    ranks: Positive
    status: str


def read_claims(path: Path) -> dict[str, Any]:
    """The object in a reproduction's folder, its claims under `claims`. Raises UsageError."""
    about = read_object(own(path / CLAIMS, "RUN"), "RUN", Claims)
    for i, claim in enumerate(about["claims"]):
        for j, decision in enumerate(claim["decisions"]):
            found, passed = decision["found"], decision["passed"]
            # A claim whose seeds do not tell does not pass.
            missing = ("found", "text") if found is None and passed is not None else None
            if found is not None and passed is None and claim["verdict"] == "PASS":
                missing = ("passed", "true or false")
            if missing:
                where = f"claims[{i}].decisions[{j}].{missing[0]}"
                raise UsageError(f"{path / CLAIMS} has None as {where!r}, not {missing[1]}", "RUN")
    # Older versions did not write it.
    about.setdefault("asked", len(about["claims"]))
    return about


def claim_logs(path: Path, claim: dict[str, Any]) -> list[RunLog | None]:
    """A claim's runs, read from the reproduction's folder, wherever that is now; None for one that is not there.

    Raises:
        UsageError: a run's folder is damaged.
    """
    logs: list[RunLog | None] = []
    for row in claim["runs"]:
        parts = Path(row["run_folder"] or "").parts
        # As it was written, the folder's path began where the reproduction was started.
        rest = parts[len(parts) - parts[::-1].index(claim["claim"]) :] if claim["claim"] in parts else ()
        folder = inside(path, str(Path(claim["claim"], *rest)), "RUN")
        found = bool(rest) and os.path.isfile(folder / "config.json")
        point = f" {row['point']}" if row["point"] else ""
        logs.append(read_run(folder, f"{claim['claim']}: {row['run']}{point}, seed {row['seed']}") if found else None)
    return logs
