"""Time to target at N = 64 on 1, 10 and 25 Gbit/s, of the methods of the preset `field`.

    python results/virtual/targets.py [WORKERS] > results/virtual/targets.md

A multilayer perceptron of 335 114 parameters on digits, whose gradient takes 2 ms.
"""

from __future__ import annotations

import sys

from tables import compare, head, iterations_to, row, seconds_to, shown

ACCURACY = 0.93
RATES = ("1gbit", "10gbit", "25gbit")


def main() -> None:
    workers = sys.argv[1] if len(sys.argv) > 1 else "64"
    head("method", "server", "iterations to the target", *(f"virtual s to it, {rate}" for rate in RATES), "ms each")
    runs = [
        compare(
            "--preset", "field", "--workers", workers, "--problem", "mlp:512x512", "--batch-size", "8", "--lr", "0.1",
            "--server", "sharded", "--topology", "exponential", "--iterations", "80", "--eval-every", "4",
            "--consensus-every", "0", "--link", f"latency=20us,bandwidth={rate},gap=5us", "--compute", "2ms",
            "--target", f"test_accuracy={ACCURACY}", "--stop-at-target",
        )
        for rate in RATES
    ]  # fmt: skip
    for each in zip(*runs, strict=True):
        found = [iterations_to(run, "test_accuracy", ACCURACY, rising=True) for run in each]
        times = [seconds_to(run, iteration) for run, iteration in zip(each, found, strict=True)]
        pace = " / ".join(shown(1e3 * run.summary["elapsed_s_per_iteration"]) for run in each)
        row(each[0].label, each[0].summary["server"] or "—", shown(found[0], 4), *map(shown, times), pace)


if __name__ == "__main__":
    main()
