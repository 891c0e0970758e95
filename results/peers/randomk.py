"""A step of shared random-k by MPI_Allreduce beside the loop that one would write for it, in turns on the same vectors.

    mpirun -n 2 python results/peers/randomk.py [--ratio R] [--rounds COUNT] [SIZE…]

By hand: gather k elements, MPI_Allreduce of them, scatter the mean into x; with error feedback, v = g + δ before and
v = 0 at those k behind. The positions are known beforehand there, and drawn in each step here, by all ranks alike; a
third row of each draws them by NumPy's generator. A time is the slowest rank's; ×: over the loop's, in this run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from mpi4py import MPI
from table import Others, header, show

from mpisqueeze.algorithms.base import Setup
from mpisqueeze.algorithms.csgd import CSGD
from mpisqueeze.algorithms.memsgd import MemSGD
from mpisqueeze.bench.exchanges import LR, Stage
from mpisqueeze.bench.kernels import make_compressor
from mpisqueeze.bench.timing import no_garbage_collection, rotated
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.world import World
from mpisqueeze.devices.device import Device
from mpisqueeze.kernels.random import random_positions
from mpisqueeze.parts import registry
from mpisqueeze.quantities import counted, parse_size
from mpisqueeze.report.bench_view import numbers
from mpisqueeze.settings import ALLREDUCE
from mpisqueeze.topology import Topology

FLOAT32 = np.dtype(np.float32)
WARMUP = 3


def by_hand(stage: Stage, count: int, memory: bool, draws: bool) -> Callable[[], None]:
    """The loop's step; `draws`: positions by NumPy in each one."""
    comm, g, x = stage.network.world.comm, stage.gradient, stage.start.copy()
    delta, values, factor = np.zeros_like(x), np.empty(count, FLOAT32), np.float32(-LR / stage.ranks)
    positions, generator = random_positions(1, count, stage.size), np.random.default_rng(1)

    def step() -> None:
        where = generator.choice(stage.size, count, replace=False, shuffle=False) if draws else positions
        if memory:
            np.add(delta, g, out=delta)
        np.take(delta if memory else g, where, out=values, mode="clip")
        if memory:
            delta[where] = 0
        comm.Allreduce(MPI.IN_PLACE, values, MPI.SUM)
        np.multiply(values, factor, out=values)
        x[where] += values

    return step


def ours(stage: Stage, spec: str, memory: bool) -> Callable[[], None]:
    """A step of `memsgd`, or of `csgd`, which has no memory."""
    part, network = registry.compressors.find(spec), stage.network

    def make(dimension: int, seed: int):
        return make_compressor(part, dimension, np, FLOAT32, seed)

    graph = Topology("ring", stage.ranks)
    setup = Setup(network, stage.size, FLOAT32, 1, make, graph, server=ALLREDUCE)
    algorithm, x, g = (MemSGD if memory else CSGD)(setup), stage.start.copy(), stage.gradient.copy()

    def step() -> None:
        network.iteration += 1
        algorithm.step(x, lambda _: g, LR)

    return step


def measure(network: Network, size: int, ratio: str, rounds: int) -> list[list[str]]:
    """The table's lines of one size, on rank 0; collective."""
    stage, comm = Stage(network, size, FLOAT32), network.world.comm
    spec = f"randomk:{ratio},shared"
    count = make_compressor(registry.compressors.find(spec), size, np, FLOAT32, 1).k
    rows: list[tuple[str, Callable[[], None], list[float]]] = []
    for memory, name in ((True, "memsgd"), (False, "csgd")):
        rows += [
            (f"{name}, by hand, positions known", by_hand(stage, count, memory, False), []),
            (f"{name}/{spec}", ours(stage, spec, memory), []),
            (f"{name}, by hand, positions by NumPy", by_hand(stage, count, memory, True), []),
        ]
    with no_garbage_collection():
        for number in range(-WARMUP, rounds):
            for _, step, seconds in rotated(rows, number):
                comm.Barrier()
                began = time.perf_counter()
                step()
                if number >= 0:
                    seconds.append(time.perf_counter() - began)
    lines, found = [], []
    for _, _, seconds in rows:
        times = np.array(seconds)
        comm.Allreduce(MPI.IN_PLACE, times, MPI.MAX)
        found.append((float(np.median(times)), float(times.min())))
    for index, (name, _, _) in enumerate(rows):
        base = found[index // 3 * 3]
        cells = [f"{1e6 * value:.1f}" for value in found[index]]
        cells += [f"{value / over:.2f}" for value, over in zip(found[index], base, strict=True)]
        lines.append([name, numbers(size), *cells])
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sizes", nargs="*", default=["256Ki", "1Mi", "4Mi"], help="elements of a vector")
    parser.add_argument("--ratio", default="0.01", help="of the elements that are sent")
    parser.add_argument("--rounds", type=int, default=60)
    arguments = parser.parse_args()
    world = World()
    lines = header(world.size, MPI.Get_library_version().split(",")[0].strip()) if world.is_root else []
    # Ranks meet where a time begins, and not once more within it.
    network, others, table = Network(world, Device(), barrier=False), Others(), []
    for size in arguments.sizes:
        table += measure(network, parse_size(size), arguments.ratio, arguments.rounds)
    computed = world.comm.allreduce(others.mine())
    if not world.is_root:
        return
    meanwhile = others.line(computed)
    ranks = f"{world.size} ranks on {counted(world.hosts, 'host')}"
    print("\n".join([*lines, f"# {ranks}, {arguments.rounds} rounds in turns", meanwhile]))
    show(["step", "size", "p50 µs", "fastest", "×", "× of fastest"], table)


if __name__ == "__main__":
    main()
