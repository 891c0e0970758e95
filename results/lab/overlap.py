"""What `--overlap` gains: `python results/lab/overlap.py [REPEATS]` runs the two comparisons of overlap.txt in the lab.

Each repeat is one command that runs every algorithm without and with `--overlap`, one after the other. Printed: medians
over repeats of each run's medians (ms, of the slowest rank), and each repeat's ratio of iterations. CIFAR-10 is looked
for as `mpisqueeze` does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median

PAIRS = {
    "paced": "sgd csgd/qsgd:4 doublesqueeze/onebit --problem results/lab/paced.py:Paced --lr 0.1",
    "resnet20": "sgd doublesqueeze/onebit --problem resnet20 --data cifar10 --samples 2000 --test-samples 100 "
    "--batch-size 16",
}
TIMES = ("compute_s", "comm_s", "iteration_s")


def command(pairs: str) -> list[str]:
    sweep = "--iterations 12 --eval-every 0 --sweep overlap=false,true"
    return f"mpisqueeze lab -n 4 --rate 100mbit compare {pairs} {sweep}".split()


def run(arguments: list[str]) -> dict[tuple[str, bool], dict[str, float]]:
    """The medians of one comparison's runs, by algorithm and whether it overlapped."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*arguments, "--out", f"{folder}/runs"], check=True, stdout=subprocess.DEVNULL)
        for path in sorted(Path(folder).rglob("summary.json")):
            config = json.loads((path.parent / "config.json").read_text())
            times = json.loads(path.read_text())["times"]
            found[config["algorithm"], config["overlap"]] = {name: times[name]["median"] * 1e3 for name in TIMES}
    return found


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for name, pairs in PAIRS.items():
        print(f"{name}\n{' '.join(command(pairs))}\n")
        before, runs = os.getloadavg()[0], defaultdict(list)
        for _ in range(repeats):
            for key, times in run(command(pairs)).items():
                runs[key].append(times)
        print(f"{'':16}{'without --overlap':^30}  {'with':^30}")
        print(f"{'':16}{'compute   comm   iteration':>30}  {'compute   comm   iteration':>30}   ratio")
        for algorithm in dict.fromkeys(algorithm for algorithm, _ in runs):
            sides = [runs[algorithm, overlap] for overlap in (False, True)]
            cells = [[median(times[kind] for times in side) for kind in TIMES] for side in sides]
            text = "  ".join(f"{c:13.1f} {m:6.1f} {i:9.1f}" for c, m, i in cells)
            ratios = " ".join(f"{b['iteration_s'] / a['iteration_s']:.2f}" for a, b in zip(*sides, strict=True))
            print(f"{algorithm:16}{text}   {cells[1][2] / cells[0][2]:.2f}  ({ratios})")
        print(f"\nLoad average {before:.1f} before, {os.getloadavg()[0]:.1f} after.\n", flush=True)


if __name__ == "__main__":
    main()
