"""Local steps against N: iterations and virtual time to a target, with an exchange every H steps.

python results/virtual/local_steps.py > results/virtual/local_steps.md
"""

from __future__ import annotations

from tables import compare, head, iterations_to, row, seconds_to, shown

ACCURACY = 0.93
LINK = "latency=50us,bandwidth=1gbit,gap=10us"


def main() -> None:
    head("method", "partition", "N", "H", "iterations", "MB sent", "virtual s")
    for workers in (4, 16, 64):
        for partition in ("iid", "label"):
            runs = compare(
                "sgd", "--sweep", "local-steps=1,4,16", "--workers", f"{workers}", "--partition", partition,
                "--iterations", "240", "--eval-every", "16", "--batch-size", "8", "--link", LINK, "--compute", "5ms",
                "--target", f"test_accuracy={ACCURACY}", "--stop-at-target",
            )  # fmt: skip
            for run in runs:
                to = iterations_to(run, "test_accuracy", ACCURACY, rising=True)
                sent = None if to is None else float(run.columns["bytes_sent"][:to].sum()) / 1e6
                steps = run.config["local_steps"]
                row("sgd", partition, workers, steps, shown(to, 4), shown(sent), shown(seconds_to(run, to)))


if __name__ == "__main__":
    main()
