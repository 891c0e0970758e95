"""What the framework costs: its `sgd` iteration beside the same gather + bcast written by hand in mpi4py, in one run.

    mpirun -n 2 python results/overhead/compare.py [DIMENSION] [ITERATIONS] [REPEATS]

Both loops take the same problem, gradient included, and alternate REPEATS times. The framework's loop records every
iteration and writes its run folder meanwhile (to a temporary folder). Prints medians over the repeats.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

from mpisqueeze.comm.world import World
from mpisqueeze.quantities import parse_size
from mpisqueeze.runs.plan import plan
from mpisqueeze.runs.training import train
from mpisqueeze.runs.view import View
from mpisqueeze.settings import Settings

LR = 0.1


def by_hand(dimension: int, iterations: int) -> float:
    """Seconds an iteration of gather, mean, bcast, update."""
    comm = MPI.COMM_WORLD
    rank, size = comm.rank, comm.size
    part = plan(Settings(algorithm="sgd", problem=f"quadratic:{dimension}")).problem
    problem = part.cls(rank, size, 1, np, np.dtype(np.float32), **part.options)
    x = problem.initial_point()
    gathered = np.empty((size, dimension), np.float32) if rank == 0 else None
    mean = np.empty(dimension, np.float32)
    comm.Barrier()
    began = time.perf_counter()
    for t in range(1, iterations + 1):
        _, g = problem.gradient(x, t)
        comm.Gather(g, gathered, 0)
        if gathered is not None:
            np.mean(gathered, axis=0, out=mean)
        comm.Bcast(mean, 0)
        mean *= np.float32(LR)
        x -= mean
    comm.Barrier()
    return (time.perf_counter() - began) / iterations


def by_framework(world: World, dimension: int, iterations: int, folder: Path) -> tuple[float, float]:
    """(seconds an iteration of the whole loop, median `iteration_s`)."""
    config = Settings(
        algorithm="sgd",
        compressor="identity",
        problem=f"quadratic:{dimension}",
        iterations=iterations,
        lr=LR,
        out=folder,
    )
    summary = train(plan(config), world, View())
    return summary["wall_s"] / iterations, summary["times"]["iteration_s"]["median"]


def main() -> None:
    arguments = [parse_size(text) for text in sys.argv[1:]]
    dimension, iterations, repeats = arguments + [4096, 4000, 7][len(arguments) :]
    world = World()
    hand, whole, inner = [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(repeats):
            hand.append(by_hand(dimension, iterations))
            loop, iteration = by_framework(world, dimension, iterations, Path(scratch) / str(repeat))
            whole.append(loop)
            inner.append(iteration)
    if world.is_root:
        base = statistics.median(hand)
        print(f"{world.size} ranks, d = {dimension}, {repeats} x {iterations} iterations, medians")
        print(f"  by hand, gradient + Gather + mean + Bcast + update: {base * 1e6:8.2f} us an iteration")
        for label, times in (("mpisqueeze, its iteration_s", inner), ("mpisqueeze, whole loop with its log", whole)):
            value = statistics.median(times)
            print(f"  {label:50s}: {value * 1e6:8.2f} us an iteration, ratio {value / base:.2f}")


if __name__ == "__main__":
    main()
