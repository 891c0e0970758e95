"""Comparisons of virtual workers, and Markdown tables of them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from mpisqueeze.errors import ExitCode
from mpisqueeze.launch import program
from mpisqueeze.record.reading import RunLog, read_runs


def compare(*words: str) -> list[RunLog]:
    """The runs of `mpisqueeze compare` with these options, in their order."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "runs"
        done = subprocess.run([*program(), "compare", *words, "--out", f"{folder}"], stdout=sys.stderr, check=False)
        if done.returncode not in (ExitCode.OK, ExitCode.DIVERGED):
            done.check_returncode()
        return read_runs([folder])[0]


def head(*names: str) -> None:
    """Print the head of a table, whose first two columns hold words."""
    row(*names)
    row(*("---" if at < 2 else "--:" for at in range(len(names))))


def row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def iterations_to(run: RunLog, name: str, value: float, rising: bool = False) -> int | None:
    """The iteration of the first evaluation that meets a target, None where none does."""
    met = (line for line in run.evaluations if (line[name] >= value if rising else line[name] <= value))
    first = next(met, None)
    return None if first is None else int(first["iteration"])


def seconds_to(run: RunLog, iteration: int | None) -> float | None:
    """Virtual seconds up to the end of an iteration."""
    if not iteration:
        return None if iteration is None else 0.0
    return float(run.columns["elapsed_s"][iteration - 1])


def shown(value: float | None, digits: int = 3) -> str:
    return "—" if value is None else f"{value:.{digits}g}"
