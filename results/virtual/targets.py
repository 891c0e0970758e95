"""Time to target at N = 64 on 1, 10 and 25 Gbit/s, of the methods of the preset `field`, each tuned, over three seeds.

    python results/virtual/targets.py [WORKERS] > results/virtual/targets.md

A multilayer perceptron of 85 002 parameters on digits. Two things are measured apart: the iterations to the target,
which no network changes, and the virtual time of iterations on each network, where a gradient takes 2 ms; coding takes
what it takes here. All methods have as many trials, on a seed of their own.
"""

from __future__ import annotations

import sys
from statistics import median
from typing import NamedTuple

from tables import compare, head, iterations_to, row, shown

from mpisqueeze.record.reading import RunLog
from mpisqueeze.runs.presets import PRESETS

ACCURACY = 0.93
RATES = ("1gbit", "10gbit", "25gbit")
#: Iterations of a run at most.
MOST = 40
PROBLEM = ("--problem", "mlp:256x256", "--batch-size", "8", "--server", "sharded", "--topology", "exponential",
           "--consensus-every", "0")  # fmt: skip
#: Iterations after which 1-bit Adam sends signs.
UNFROZEN = 12
#: Methods whose tuning is another one than a step size near 0.1. The variance of 1-bit Adam is frozen early enough for
#: compressed steps to come; CHOCO's step η has to fit its compressor.
APART = {
    "onebit-adam/onebit": (f"onebit-adam:freeze={UNFROZEN}/onebit", "lr=0.0005:0.004:4"),
    "choco/topk:0.01": ("choco/topk:0.01", "eta=0.03:0.24:4"),
}
USUAL = "lr=0.1:0.8:4"


def main() -> None:
    workers = sys.argv[1] if len(sys.argv) > 1 else "64"
    heads = ("iterations to the target", "of seeds", *(f"virtual s to it, {rate}" for rate in RATES), "ms each")
    head("method", "chosen", *heads)
    usual = [pair for pair in PRESETS["field"] if pair not in APART]
    found = raced(workers, usual, USUAL)
    for pair, tune in APART.values():
        found |= raced(workers, [pair], tune)
    pairs = [APART.get(pair, (pair, ""))[0] for pair in PRESETS["field"]]
    paces = [paced(workers, pairs, rate) for rate in RATES]
    for pair, at in zip(pairs, zip(*paces, strict=True), strict=True):
        chosen, needed = found[pair]
        # Few seeds that miss the target are above the median.
        middle = median(needed)
        to = None if middle == float("inf") else middle
        each = ", ".join("—" if count == float("inf") else f"{count:.0f}" for count in needed)
        times = (shown(None if to is None else pace.seconds(round(to))) for pace in at)
        row(pair, chosen, shown(to), each, *times, " / ".join(shown(1e3 * pace.each) for pace in at))


def raced(workers: str, pairs: list[str], tune: str) -> dict[str, tuple[str, list[float]]]:
    """What each pair chose, and the iterations that each seed needs to the target."""
    runs = compare(
        *pairs, *PROBLEM, "--workers", workers, "--iterations", f"{MOST}", "--eval-every", "2", "--tune", tune,
        "--seeds", "3", "--target", f"test_accuracy={ACCURACY}", "--stop-at-target",
    )  # fmt: skip
    option = tune.partition("=")[0]
    found: dict[str, tuple[str, list[float]]] = {}
    for run in (run for run in runs if run.phase == "race"):
        met = iterations_to(run, "test_accuracy", ACCURACY, rising=True)
        _, needed = found.setdefault(run.pair, (f"{option}={chosen(run, option)}", []))
        needed.append(float("inf") if met is None else float(met))
    return found


def chosen(run: RunLog, option: str) -> str:
    value = run.config.get(option) or run.config["parts"]["algorithm"]["parameters"][option]
    return f"{value:.3g}"


class Pace(NamedTuple):
    """Virtual times (s): after each of the first iterations, and of an iteration after them."""

    first: list[float]
    each: float

    def seconds(self, iterations: int) -> float:
        """The time of so many iterations."""
        known = min(iterations, len(self.first))
        return (self.first[known - 1] if known else 0.0) + (iterations - known) * self.each


def paced(workers: str, pairs: list[str], rate: str) -> list[Pace]:
    """The pace of each pair. It is taken behind the iterations in which the variance of 1-bit Adam is not frozen."""
    runs = compare(
        *pairs, *PROBLEM, "--workers", workers, "--iterations", f"{UNFROZEN + 3}", "--warmup", f"{UNFROZEN}",
        "--eval-every", "0", "--link", f"latency=20us,bandwidth={rate},gap=5us", "--compute", "2ms",
    )  # fmt: skip
    return [Pace(run.columns["elapsed_s"].tolist(), run.summary["elapsed_s_per_iteration"]) for run in runs]


if __name__ == "__main__":
    main()
