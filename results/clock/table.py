"""Elapsed time beside sums of iterations and a clock outside of the runs, on ranks of which some are slow at random.

    python results/clock/table.py [ITERATIONS] > results/clock/table.md

Runs `mpisqueeze launch -n 6 compare` for each problem of uneven.py in a temporary folder, and prints a Markdown table.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from mpisqueeze.launch import program
from mpisqueeze.record.reading import read_runs

UNEVEN = Path(__file__).with_name("uneven.py").resolve()
METHODS = ("sgd", "allreduce", "dpsgd")
RANKS = 6


def main() -> None:
    iterations = sys.argv[1] if len(sys.argv) > 1 else "200"
    heads = ("slow ranks", "method", "barrier", "sum of `iteration_s`", "`elapsed_s`", "outer clock", "sum / clock",
             "elapsed / clock", "ms an iteration")  # fmt: skip
    print(row(*heads))
    print(row(*("---" if head in heads[:3] else "--:" for head in heads)))
    for problem, slow in (("OneSlow", "one, at random"), ("SomeSlow", "each with p = 0.2")):
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            command = [*program(), "launch", "-n", f"{RANKS}", "compare", *METHODS, "--sweep", "barrier=true,false"]
            options = ["--iterations", iterations, "--eval-every", "0", "--lr", "0.01", "--out", "run"]
            command += ["--problem", f"{UNEVEN}:{problem}", *options]
            subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
            runs, _ = read_runs([folder / "run"])
            began = [noted(folder / f"began-{rank}") for rank in range(RANKS)]
            for run, first, last in zip(runs, map(min, *began), noted(folder / "ended"), strict=True):
                total, elapsed = run.columns["iteration_s"].sum(), run.columns["elapsed_s"][-1]
                outer, pace = last - first, 1e3 * run.summary["elapsed_s_per_iteration"]
                times = (f"{seconds:.2f} s" for seconds in (total, elapsed, outer))
                ratios = f"{total / outer:.2f}", f"{elapsed / outer:.3f}"
                barrier = "yes" if run.config["barrier"] else "no"
                print(row(slow, run.summary["algorithm"], barrier, *times, *ratios, f"{pace:.1f}"), flush=True)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def noted(path: Path) -> list[float]:
    return [float(line) for line in path.read_text().splitlines()]


if __name__ == "__main__":
    main()
