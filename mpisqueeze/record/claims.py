"""claims.json, which `reproduce` writes: every claim that was tested, with its verdict and its runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mpisqueeze.record import schema
from mpisqueeze.record.reading import RunLog, read_run
from mpisqueeze.record.schema import count, list_of, maybe, number, one_of, read_object, table

CLAIMS = "claims.json"
_TEXT = maybe(schema.text)
_WANTED = {"text": schema.text, "holds": schema.text}
_TESTED = table({**_WANTED, "found": schema.text, "passed": schema.flag})
_UNTESTED = table({**_WANTED, "found": _TEXT, "passed": maybe(schema.flag)})


def _decision(value: Any, where: str) -> None:
    """What was found is there if it was tested."""
    tested = isinstance(value, dict) and (value.get("found") is not None or value.get("passed") is not None)
    (_TESTED if tested else _UNTESTED)(value, where)


_RUN = table(
    {
        **dict.fromkeys(("run", "algorithm", "compressor", "status"), schema.text),
        **dict.fromkeys(("point", "run_folder"), _TEXT),
        "x": number(),
        "seed": count(),
    }
)
_FIGURE = table({"kind": one_of("loss", "sweep"), "y": schema.text}, {"label": schema.text})
_CLAIM = table(
    {
        **dict.fromkeys(("claim", "title", "says", "source"), schema.text),
        **dict.fromkeys(("note", "sweep", "reason"), _TEXT),
        "figure": maybe(_FIGURE),
        "verdict": one_of("PASS", "FAIL", "SKIPPED"),
        "decisions": list_of(_decision),
        "runs": list_of(_RUN),
    },
    {"seconds": maybe(number(0, 1e12))},
)
_REPRODUCTION = table({"claims": list_of(_CLAIM), "scale": schema.text, "ranks": count(1), "status": schema.text})


def read_claims(path: Path) -> dict[str, Any]:
    """The object in a reproduction's folder, its claims under `claims`. Raises UsageError."""
    return read_object(path / CLAIMS, "RUN", _REPRODUCTION)


def claim_logs(path: Path, claim: dict[str, Any]) -> list[RunLog | None]:
    """A claim's runs, read from the reproduction's folder, wherever that is now; None for one that is not there.

    Raises:
        UsageError: a run's folder is damaged.
    """
    logs: list[RunLog | None] = []
    for row in claim["runs"]:
        parts = Path(row["run_folder"] or "").parts
        # As it was written, the folder's path began where the reproduction was started.
        inside = parts[len(parts) - parts[::-1].index(claim["claim"]) :] if claim["claim"] in parts else ()
        folder = path / claim["claim"] / Path(*inside)
        found = bool(inside) and os.path.isfile(folder / "config.json")
        point = f" {row['point']}" if row["point"] else ""
        logs.append(read_run(folder, f"{claim['claim']}: {row['run']}{point}, seed {row['seed']}") if found else None)
    return logs
