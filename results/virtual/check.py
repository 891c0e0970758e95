"""Iterations of virtual workers beside those of real ranks, on an emulated link or between the hosts of a lab.

    python results/virtual/check.py [RANKS…] > results/virtual/check.md
    python results/virtual/check.py --lab [RANKS…] > results/virtual/check-lab.md

Runs `mpisqueeze compare` on N ranks and, with `--workers N`, on virtual workers, with the same options in a temporary
folder, and prints a Markdown table. `mpisqueeze launch` starts the ranks with the virtual workers' `--link`; those of
`mpisqueeze lab` have links that `calibrate` has measured there for the virtual workers. The gradient takes its time
asleep, so that ranks that share cores do not slow each other down, which virtual workers do not model.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mpisqueeze.launch import program
from mpisqueeze.record.calibration import read_calibration
from mpisqueeze.record.reading import RunLog, read_runs

ASLEEP = Path(__file__).with_name("asleep.py").resolve()
METHODS = ("sgd", "allreduce", "doublesqueeze/onebit", "memsgd/topk:0.01", "dpsgd", "choco/topk:0.01")
SHARDED = ("sgd", "doublesqueeze/onebit")
OPTIONS = ("--problem", f"{ASLEEP}:Asleep", "--warmup", "10", "--eval-every", "0", "--seed", "1")
LINK = ("--link", "latency=10ms,bandwidth=50mbit,gap=2ms")
LAB = ("--rate", "50mbit")


def main() -> None:
    arguments = sys.argv[1:]
    lab = "--lab" in arguments
    links = []
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
    for ranks in [int(text) for text in arguments if text != "--lab"] or [2, 4]:
        start, emulated, link = ["launch", "-n", f"{ranks}"], LINK, LINK
        if lab:
            start, emulated = ["lab", "-n", f"{ranks}", *LAB], ()
            link = "--link", measured(start)
            links.append(f"{ranks} hosts {link[1]}")
        for pairs, server in ((METHODS, "root"), (SHARDED, "sharded")):
            compare = ["compare", *pairs, "--server", server, "--iterations", "20" if lab else "30", *OPTIONS]
            for real, virtual in both([*start, *compare, *emulated], [*compare, "--workers", f"{ranks}", *link]):
                times = [1e3 * run.summary["elapsed_s_per_iteration"] for run in (real, virtual)]
                comm = [1e3 * run.summary["times"]["comm_s"]["median"] for run in (real, virtual)]
                error = times[1] / times[0] - 1
                worst = max(worst, abs(error))
                # In a lab, ranks choose sections by a link that they estimate themselves.
                counts = ("bytes_sent",) if lab else ("bytes_sent", "messages")
                counted = [[run.summary[name] for name in counts] for run in (real, virtual)]
                cells = [f"{figure:.2f}" for figure in times] + [f"{100 * error:+.1f} %"]
                cells += [f"{figure:.2f}" for figure in comm] + ["yes" if counted[0] == counted[1] else "NO"]
                print(row(f"{ranks}", real.label, server, *cells), flush=True)
    print(f"\nThe largest error is {100 * worst:.1f} %.")
    if links:
        print(f"`lab {' '.join(LAB)}`, as `calibrate` measured it: {'; '.join(links)}.")


def measured(start: list[str]) -> str:
    """The link of a lab that is started by these words, as `--link` takes it."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "calibration.json"
        words = [*program(), *start, "calibrate", "--compressor", "identity", "--max-size", "1Mi", "--out", f"{file}"]
        subprocess.run(words, check=True, stdout=sys.stderr)
        link = read_calibration(file).link
    assert link is not None
    return f"latency={1e6 * link.latency:.0f}us,gap={1e6 * link.gap:.0f}us,bandwidth={8e-6 / link.byte_s:.2f}mbit"


def both(real: list[str], virtual: list[str]) -> Iterator[tuple[RunLog, RunLog]]:
    """The runs of two comparisons, in pairs."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name, command in (("real", real), ("virtual", virtual)):
            words = [*program(), *command, "--out", name]
            subprocess.run(words, cwd=folder, check=True, stdout=sys.stderr)
        yield from zip(read_runs([folder / "real"])[0], read_runs([folder / "virtual"])[0], strict=True)


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
