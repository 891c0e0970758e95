"""claims.json, which `reproduce` writes: every claim that was tested, with its verdict and its runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpisqueeze.errors import UsageError
from mpisqueeze.record.reading import RunLog, read_run

CLAIMS = "claims.json"
_CLAIM = ("claim", "title", "says", "source", "note", "sweep", "figure", "verdict", "reason", "decisions", "runs")
_DECISION = ("text", "holds", "found", "passed")
_RUN = ("run", "point", "x", "seed", "algorithm", "compressor", "status", "run_folder")


def read_claims(path: Path) -> dict[str, Any]:
    """The object in a reproduction's folder, its claims under `claims`. Raises UsageError."""
    file = path / CLAIMS
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}", "RUN") from None
    except ValueError as error:
        raise UsageError(f"{file} is not JSON: {error}", "RUN") from None
    _expect(file, about, ("claims", "scale", "ranks", "status"))
    for claim in _objects(file, about["claims"]):
        _expect(file, claim, _CLAIM)
        for decision in _objects(file, claim["decisions"]):
            _expect(file, decision, _DECISION)
        for run in _objects(file, claim["runs"]):
            _expect(file, run, _RUN)
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
        inside = parts[len(parts) - parts[::-1].index(claim["claim"]) :] if claim["claim"] in parts else ()
        folder = path / claim["claim"] / Path(*inside)
        found = bool(inside) and (folder / "config.json").is_file()
        point = f" {row['point']}" if row["point"] else ""
        logs.append(read_run(folder, f"{claim['claim']}: {row['run']}{point}, seed {row['seed']}") if found else None)
    return logs


def _objects(file: Path, value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise UsageError(f"{file} holds {str(value)[:40]!r} where a list belongs", "RUN")
    return value


def _expect(file: Path, value: Any, keys: Sequence[str]) -> None:
    if not isinstance(value, dict):
        raise UsageError(f"{file} holds {str(value)[:40]!r} where an object belongs", "RUN")
    missing = [key for key in keys if key not in value]
    if missing:
        raise UsageError(f"{file} has no {missing[0]!r}", "RUN")
