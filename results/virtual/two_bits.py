"""Gossip at 2 bits against N, graph and gossip step η: test loss after 60 iterations, where D-PSGD's is a small one.

    python results/virtual/two_bits.py [WORKERS…] > results/virtual/two_bits.md

The network and the methods are those of the claim `two-bits`, with more steps η, and one seed.
"""

from __future__ import annotations

import sys

from tables import compare, head, row, shown

METHODS = (
    "dpsgd",
    "choco:eta=0.1/uniform:2,bucket=0",
    "choco:eta=0.3/uniform:2,bucket=0",
    "deepsqueeze:eta=0.05/uniform:2,bucket=0",
    "deepsqueeze:eta=0.1/uniform:2,bucket=0",
    "dcd/uniform:2,bucket=0",
    "dpsgd-naive/uniform:2,bucket=0",
)


def main() -> None:
    counts = sys.argv[1:] or ["8", "32", "128"]
    cases = [(graph, partition) for graph in ("exponential", "ring") for partition in ("iid", "label")]
    head("method", "N", *(f"{graph}, {partition}" for graph, partition in cases))
    for workers in counts:
        runs = compare(
            *METHODS, "--sweep", "topology=exponential,ring", "--sweep", "partition=iid,label", "--workers", workers,
            "--problem", "mlp:32", "--batch-size", "4", "--lr", "0.3", "--iterations", "60", "--eval-every", "0",
            "--consensus-every", "0",
        )  # fmt: skip
        for label in dict.fromkeys(run.label for run in runs):
            at = {(run.config["topology"], run.config["partition"]): run for run in runs if run.label == label}
            losses = [at[case].summary["test_loss"] for case in cases]
            row(
                label.removesuffix("/uniform:2,bucket=0"),
                workers,
                *("diverged" if loss is None else shown(loss) for loss in losses),
            )


if __name__ == "__main__":
    main()
