"""Linear speed-up: iterations to a target against N, each with the fastest of a grid of step sizes.

    python results/virtual/speedup.py > results/virtual/speedup.md

The noise of gradients leaves x at a distance² of about γσ²d/N, so that N workers may take N times the step size, and
reach a target in an N-th of the iterations, as long as the curvature allows it: the talks' O(1/√(nT)).
"""

from __future__ import annotations

from tables import compare, head, iterations_to, row, shown

WORKERS = (1, 4, 16, 64, 256)
METHODS = ("sgd", "doublesqueeze/onebit", "dpsgd")
#: Step sizes over N, the distance to be reached from 10 or so, and the most iterations of one worker.
RATES, DISTANCE, MOST = (1.25e-4, 2.5e-4, 5e-4, 1e-3, 2e-3), 2.0, 32768


def main() -> None:
    head("method", "graph", "N", "γ", "iterations", "N × iterations", "speed-up")
    alone: dict[str, int] = {}
    for workers in WORKERS:
        runs = compare(
            *METHODS, "--sweep", f"lr={','.join(f'{rate * workers:g}' for rate in RATES)}", "--workers", f"{workers}",
            "--problem", "quadratic:100,condition=2,noise=10,spread=0.5", "--topology", "exponential",
            "--iterations", f"{max(64, MOST // workers)}", "--eval-every", f"{max(1, 64 // workers)}",
            "--consensus-every", "0", "--target", f"distance={DISTANCE}", "--stop-at-target",
        )  # fmt: skip
        for label in dict.fromkeys(run.label for run in runs):
            mine = [run for run in runs if run.label == label]
            reached = [(found, run) for run in mine if (found := iterations_to(run, "distance", DISTANCE)) is not None]
            graph = "exponential" if mine[0].gossips else "—"
            if not reached:
                row(label, graph, workers, "—", "—", "—", "—")
                continue
            found, best = min(reached, key=lambda item: item[0])
            alone.setdefault(label, found)
            gained = shown(alone[label] / found)
            row(label, graph, workers, f"{best.config['lr']:g}", found, found * workers, gained)


if __name__ == "__main__":
    main()
