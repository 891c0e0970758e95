"""What the framework costs: iterations of `sgd`, of `allreduce` and of local steps that exchange nothing, beside the
same loops by hand in mpi4py, in one run.

    mpirun -n 2 python results/overhead/compare.py [DIMENSION] [ITERATIONS] [REPEATS]

All loops take the same problem, gradient included, and take turns REPEATS times. The framework's loop records every
iteration and writes its run folder meanwhile (to a temporary folder). Prints medians over the repeats. `run.sh` makes
the tables of this folder.
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
from mpisqueeze.kernels import kernels_for
from mpisqueeze.quantities import parse_size
from mpisqueeze.runs.plan import plan
from mpisqueeze.runs.training import train
from mpisqueeze.runs.view import View
from mpisqueeze.settings import Settings

LR = 0.1
#: What each loop by hand does after the gradient.
LOCAL = "local steps"
LOOPS = {"sgd": "Gather + mean + Bcast + update", "allreduce": "Allreduce + update", LOCAL: "update"}


def by_hand(algorithm: str, dimension: int, iterations: int) -> float:
    """Seconds an iteration: Gather, mean, Bcast and update; Allreduce in place and update in one pass; or update."""
    comm = MPI.COMM_WORLD
    rank, size = comm.rank, comm.size
    add = kernels_for(np, np.float32).copy_decode
    part = plan(Settings(algorithm="sgd", problem=f"quadratic:{dimension}")).problem
    problem = part.cls(rank, size, 1, np, np.dtype(np.float32), **part.options)
    x = problem.initial_point()
    gathered = np.empty((size, dimension), np.float32) if rank == 0 else None
    mean = np.empty(dimension, np.float32)
    comm.Barrier()
    began = time.perf_counter()
    for t in range(1, iterations + 1):
        _, g = problem.gradient(x, t)
        if algorithm == LOCAL:
            add(g.view(np.uint8), x, True, -LR)
            continue
        if algorithm == "allreduce":
            comm.Allreduce(MPI.IN_PLACE, g, MPI.SUM)
            add(g.view(np.uint8), x, True, -LR / size)
            continue
        comm.Gather(g, gathered, 0)
        if gathered is not None:
            np.mean(gathered, axis=0, out=mean)
        comm.Bcast(mean, 0)
        add(mean.view(np.uint8), x, True, -LR)
    comm.Barrier()
    return (time.perf_counter() - began) / iterations


def by_framework(world: World, algorithm: str, dimension: int, iterations: int, folder: Path) -> tuple[float, float]:
    """(seconds an iteration of the whole loop, median `iteration_s`)."""
    config = Settings(
        algorithm="sgd" if algorithm == LOCAL else algorithm,
        compressor="identity",
        local_steps=iterations if algorithm == LOCAL else 1,
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
    times: dict[str, list[tuple[float, float, float]]] = {algorithm: [] for algorithm in LOOPS}
    with tempfile.TemporaryDirectory() as scratch:
        for repeat in range(repeats):
            for algorithm, found in times.items():
                hand = by_hand(algorithm, dimension, iterations)
                folder = Path(scratch) / f"{algorithm}{repeat}"
                found.append((hand, *by_framework(world, algorithm, dimension, iterations, folder)))
    if not world.is_root:
        return
    print(f"{world.size} ranks, d = {dimension}, {repeats} x {iterations} iterations, medians")
    for algorithm, found in times.items():
        hand, whole, inner = (statistics.median(values) for values in zip(*found, strict=True))
        print(f"  by hand, gradient + {LOOPS[algorithm]:32s}: {hand * 1e6:8.2f} us an iteration")
        for label, value in (("its iteration_s", inner), ("whole loop with its log", whole)):
            over = f"ratio {value / hand:.2f}, {1e6 * (value - hand):+.1f} us"
            print(f"  {f'{algorithm}, {label}':52s}: {value * 1e6:8.2f} us an iteration, {over}")


if __name__ == "__main__":
    main()
