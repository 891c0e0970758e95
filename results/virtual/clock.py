"""The simulated clock alone, without training: how long it takes, and what stragglers cost with and without a barrier.

    python results/virtual/clock.py [ITERATIONS] > results/virtual/clock.md

Prints a Markdown table: an iteration of each exchange with gradients of 20 ms, with and without a delay of 100 ms that
a gradient has with a probability of 1 %, and the processor time of both simulations on this machine.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from programs import Seconds, after_barriers, gossip, sharded, through_root

from mpisqueeze.costs.exchanges import Schedule
from mpisqueeze.costs.exchanges import through_root as root_cost
from mpisqueeze.costs.link import parse_link
from mpisqueeze.topology import Topology
from mpisqueeze.virtual.jitter import parse_jitter

LINK = parse_link("latency=50us,bandwidth=10gbit,gap=10us")
LATE = parse_jitter("constant:100ms,probability=1%")
#: Bytes of a vector of a million float32, and those of its signs.
FULL, SIGNS = 4_000_000, 128_912
RANKS = (16, 64, 256)


def main() -> None:
    iterations = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    print(row("N", "exchange", "payload", "an iteration, ms", "with stragglers, ms", f"s for 2 × {iterations}"))
    print(row("--:", "---", "--:", "--:", "--:", "--:"))
    for size in RANKS:
        delays = np.array([[LATE(1, worker, t) for worker in range(size)] for t in range(iterations)])
        for name, nbytes, simulate in exchanges(size):
            began = time.process_time()
            even, late = (simulate(0.02 + extra)[-1].max() / iterations for extra in (0 * delays, delays))
            took = time.process_time() - began
            print(
                row(f"{size}", name, f"{nbytes}", *(f"{1e3 * s:.2f}" for s in (even, late)), f"{took:.1f}"), flush=True
            )


def exchanges(size: int) -> list[tuple[str, int, Callable[[Seconds], Seconds]]]:
    """(name, bytes of a payload, (T, N) times of gradients → (T, N) ends of iterations)."""
    found: list[tuple[str, int, Callable[[Seconds], Seconds]]] = []
    for nbytes in (FULL, SIGNS):
        way, sections = fastest(size, nbytes)
        for name, program in (
            (f"root, {way} of {sections}", through_root(way, nbytes, nbytes, sections)),
            ("sharded", sharded(nbytes, nbytes)),
        ):
            found.append((name, nbytes, partial(after_barriers, program, LINK)))
    for graph in ("ring", "exponential"):
        topology = Topology(graph, size)
        neighbours = [topology.neighbours(worker) for worker in range(size)]
        found.append((graph, FULL, partial(gossip, neighbours, FULL, LINK)))
    return found


def fastest(size: int, nbytes: int) -> tuple[str, int]:
    """The tree and the number of sections by the cost model."""
    options: list[tuple[Schedule, str, int]] = [
        (root_cost(LINK, size, nbytes, nbytes, sections, way), way, sections)
        for way in ("flat", "binary", "chain")
        for sections in (1, 2, 4, 8, 16, 32)
    ]
    _, way, sections = min(options, key=lambda option: option[0].seconds)
    return way, sections


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
