"""Iterations of virtual workers beside those of real ranks on an emulated link.

    python results/virtual/check.py [RANKS…] > results/virtual/check.md

Runs `mpisqueeze launch -n N compare` and `mpisqueeze compare --workers N` with the same options in a temporary folder,
and prints a Markdown table. The gradient takes its time asleep, so that ranks that share cores do not slow each other
down, which virtual workers do not model.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mpisqueeze.launch import program
from mpisqueeze.record.reading import RunLog, read_runs

ASLEEP = Path(__file__).with_name("asleep.py").resolve()
METHODS = ("sgd", "allreduce", "doublesqueeze/onebit", "memsgd/topk:0.01", "dpsgd", "choco/topk:0.01")
SHARDED = ("sgd", "doublesqueeze/onebit")
OPTIONS = ("--problem", f"{ASLEEP}:Asleep", "--link", "latency=10ms,bandwidth=50mbit,gap=2ms", "--iterations", "30",
           "--warmup", "10", "--eval-every", "0", "--seed", "1")  # fmt: skip


def main() -> None:
    heads = (
        "N",
        "method",
        "server",
        "real, ms",
        "virtual, ms",
        "error",
        "real comm, ms",
        "virtual comm, ms",
        "same bytes",
    )
    print(row(*heads))
    print(row(*("---" if head in ("method", "server") else "--:" for head in heads)))
    worst = 0.0
    for ranks in [int(text) for text in sys.argv[1:]] or [2, 4]:
        for pairs, server in ((METHODS, "root"), (SHARDED, "sharded")):
            for real, virtual in both(ranks, *pairs, "--server", server):
                times = [1e3 * run.summary["elapsed_s_per_iteration"] for run in (real, virtual)]
                comm = [1e3 * run.summary["times"]["comm_s"]["median"] for run in (real, virtual)]
                error = times[1] / times[0] - 1
                worst = max(worst, abs(error))
                counted = [(run.summary["bytes_sent"], run.summary["messages"]) for run in (real, virtual)]
                cells = [f"{figure:.2f}" for figure in times] + [f"{100 * error:+.1f} %"]
                cells += [f"{figure:.2f}" for figure in comm] + ["yes" if counted[0] == counted[1] else "NO"]
                print(row(f"{ranks}", real.label, server, *cells), flush=True)
    print(f"\nThe largest error is {100 * worst:.1f} %.")


def both(ranks: int, *words: str) -> Iterator[tuple[RunLog, RunLog]]:
    """The same runs on real ranks and on virtual workers."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        compare = ["compare", *words, *OPTIONS]
        for name, command in (
            ("real", [*program(), "launch", "-n", f"{ranks}", *compare]),
            ("virtual", [*program(), *compare, "--workers", f"{ranks}"]),
        ):
            subprocess.run([*command, "--out", name], cwd=folder, check=True, stdout=sys.stderr)
        yield from zip(read_runs([folder / "real"])[0], read_runs([folder / "virtual"])[0], strict=True)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
