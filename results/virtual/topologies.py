"""D-PSGD on a ring, a torus, an exponential graph and its one-peer form, with about one class of digits on each worker.

    python results/virtual/topologies.py > results/virtual/topologies.md

On a ring the spectral gap falls as 1/N², and with it what an iteration brings the workers together.
"""

from __future__ import annotations

from tables import compare, head, iterations_to, row, shown

from mpisqueeze.topology import Topology

ACCURACY = 0.9
LINK = "latency=50us,bandwidth=1gbit,gap=10us"


def main() -> None:
    heads = ("graph", "payloads a worker", "N", "1 − ρ", f"iterations to {ACCURACY:.0%}", "test accuracy after 150")
    head(*heads, "mean ‖x_i − x̄‖²", "virtual ms an iteration")
    for workers in (16, 64, 256):
        runs = compare(
            "dpsgd", "--sweep", "topology=ring,torus,exponential,one-peer", "--workers", f"{workers}",
            "--partition", "label", "--batch-size", "4", "--iterations", "150", "--eval-every", "5", "--link", LINK,
            "--compute", "5ms",
        )  # fmt: skip
        for run in runs:
            graph = str(run.config["topology"])
            topology = Topology(graph, workers)
            gap, degree = shown(topology.spectrum().gap), topology.degree(0)
            to = iterations_to(run, "test_accuracy", ACCURACY, rising=True)
            last, consensus = run.evaluations[-1], float(run.columns["consensus"][-1])
            pace = 1e3 * run.summary["elapsed_s_per_iteration"]
            row(
                graph,
                degree,
                workers,
                gap,
                shown(to, 4),
                f"{last['test_accuracy']:.3f}",
                shown(consensus),
                f"{pace:.2f}",
            )


if __name__ == "__main__":
    main()
