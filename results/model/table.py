"""Hold `predict` against runs in labs and on emulated links: `python results/model/table.py`, about eight minutes.

For N = 2 and 4 hosts and two rates it calibrates once, runs every method with a short and a long vector, and has
`predict --check` model them from that calibration. It wants an otherwise idle machine. What `--folder` has already is
not measured again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

RANKS, RATES, DIMENSIONS = (2, 4), ("100mbit", "1gbit"), (300_000, 2_097_152)
COMPRESSORS = ("onebit", "qsgd:4")
#: The methods through a root or along a ring, and those that are sharded.
METHODS = {
    "root": ("allreduce", "sgd", "dpsgd", "memsgd/onebit", "doublesqueeze/onebit", "deepsqueeze/qsgd:4"),
    "sharded": ("sgd", "memsgd/onebit", "doublesqueeze/onebit"),
}
BITS = {"100mbit": 1e8, "1gbit": 1e9}
#: Seconds for the iterations of `sgd` through a root; latency of the emulated links.
BUDGET_S, LATENCY = 5.0, "100us"
#: Per cent that no method's error may exceed, and their median.
MOST, USUAL = 15.0, 7.0


def mpisqueeze(*arguments: str) -> str:
    """Run a command and give what it prints."""
    done = subprocess.run([sys.executable, "-m", "mpisqueeze", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"mpisqueeze {' '.join(arguments)}: {done.returncode}\n{done.stderr}")
    return done.stdout


def rows(kind: str, ranks: int, rate: str, folder: Path) -> Iterator[dict[str, Any]]:
    """What was measured and modelled on one network."""
    start, link = ["lab", "-n", str(ranks), "--rate", rate], []
    if kind == "emulated":
        start, link = ["launch", "-n", str(ranks)], ["--link", f"latency={LATENCY},bandwidth={rate}"]
    calibration = folder / "calibration.json"
    if not calibration.exists():
        folder.mkdir(parents=True, exist_ok=True)
        chosen = [word for spec in COMPRESSORS for word in ("--compressor", spec)]
        mpisqueeze(*start, "calibrate", *chosen, *link, "--out", str(calibration))
    for dimension, (server, methods) in product(DIMENSIONS, METHODS.items()):
        runs = folder / f"{dimension}-{server}"
        if not runs.exists():
            one = 2 * (ranks - 1) * 32 * dimension / BITS[rate]
            iterations = str(int(max(8, min(60, BUDGET_S / one))))
            quiet = ["--eval-every", "0", "--consensus-every", "0", "--iterations", iterations]
            run = ["compare", *methods, "--server", server, "--problem", f"quadratic:{dimension}", *quiet, *link]
            mpisqueeze(*start, *run, "--out", str(runs))
        checked = json.loads(
            mpisqueeze("predict", "--check", str(runs), "--calibration", str(calibration), "--json", "-")
        )
        for row in checked["results"]:
            yield {"kind": kind, "rate": rate, **row}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    parser.add_argument("--only", choices=("lab", "emulated"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        kinds = [arguments.only] if arguments.only else ["lab", "emulated"]
        print(f"{'network':20} {'N':>2} {'d':>9}  {'method':22} {'through':8}", end="")
        print(f"{'comm, ms':>9} {'modelled':>9} {'%':>5}  {'iteration':>9} {'modelled':>9} {'%':>5}")
        errors: dict[str, list[float]] = {"comm": [], "iteration": []}
        for kind, ranks, rate in product(kinds, RANKS, RATES):
            for row in rows(kind, ranks, rate, folder / f"{kind}-{ranks}-{rate}"):
                through = row["server"] or row["topology"] or "—"
                method = row["algorithm"] + ("" if row["compressor"] == "identity" else f"/{row['compressor']}")
                print(f"{kind + ', ' + rate:20} {ranks:2} {row['dimension']:9}  {method:22} {through:8}", end="")
                for name, found in errors.items():
                    measured, modelled = 1e3 * row[f"measured_{name}_s"], 1e3 * row[f"{name}_s"]
                    found.append(100 * (modelled / measured - 1))
                    print(f"{measured:9.2f} {modelled:9.2f} {found[-1]:+5.0f}", end="  ")
                print(flush=True)
    for name, found in errors.items():
        sizes = [abs(error) for error in found]
        within = sum(size <= MOST for size in sizes)
        print(
            f"{name}: median error {statistics.median(sizes):.1f} % (aim: {USUAL:g}), worst {max(sizes):.1f} %; "
            f"{within} of {len(sizes)} within {MOST:g} %"
        )


if __name__ == "__main__":
    main()
