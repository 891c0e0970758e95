"""The exchange of `powersgd` with the shapes of ResNet-18 against the bound of its bytes.

    mpisqueeze lab -n 4 --rate 1gbit --exec -- python results/lab/powersgd.py [RANK] [REPEATS]

Needs the extra `torch`, for the shapes. A time is the slowest rank's: what a step books as communication, each of its
two sums after a barrier; and MPI_Allreduce of as many bytes by itself. Bound: 2(N − 1)/N of the bytes over the rate,
less what an idle port passes in a burst. Headers of Ethernet, IP and TCP alone make 1.046 times it.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time

import numpy as np
from mpi4py import MPI

from mpisqueeze.algorithms.base import Setup
from mpisqueeze.algorithms.powersgd import PowerSGD
from mpisqueeze.bench.exchanges import gradient_of
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.world import World
from mpisqueeze.devices.clock import Phase
from mpisqueeze.devices.device import Device
from mpisqueeze.lab.shaping import Links
from mpisqueeze.parts import registry
from mpisqueeze.problems.neural import architectures
from mpisqueeze.quantities import format_rate
from mpisqueeze.topology import Topology

WARMUP = 3
FLOAT32 = np.dtype(np.float32)


def slowest(comm: MPI.Comm, seconds: list[float]) -> tuple[str, float]:
    """The median and the fastest of the slowest rank's times in ms, and the median in s."""
    times = np.array(seconds[WARMUP:])
    comm.Allreduce(MPI.IN_PLACE, times, MPI.MAX)
    return f"{1e3 * statistics.median(times):7.2f} {1e3 * times.min():8.2f}", float(np.median(times))


def main() -> None:
    rank, repeats = [int(text) for text in sys.argv[1:]] + [2, 30][len(sys.argv) - 1 :]
    world = World()
    comm, network = world.comm, Network(world, Device())
    shapes = [tuple(parameter.shape) for parameter in architectures.resnet18(3, 32, 32, 10).parameters()]
    dimension = sum(map(math.prod, shapes))
    make = registry.compressors.find("identity").cls
    graph = Topology("ring", world.size)
    setup = Setup(network, dimension, FLOAT32, 1, lambda n, s: make(n, np, FLOAT32, s), graph, shapes=shapes)
    algorithm, x = PowerSGD(setup, rank=rank), np.zeros(dimension, np.float32)
    g = gradient_of(world.rank, dimension, FLOAT32)
    vectors = [np.zeros(n, np.float32) for n in PowerSGD.summed(shapes, rank=rank)]
    booked, steps, alone = [], [], []
    for _ in range(WARMUP + repeats):
        network.iteration += 1
        comm.Barrier()
        began = network.clock.start()
        algorithm.step(x, lambda _: g, 0.1)
        steps.append(network.clock.stop(Phase.UPDATE) - began)
        booked.append(network.clock.seconds[Phase.COMM])
        seconds = 0.0
        for vector in vectors:
            comm.Barrier()
            began = time.perf_counter()
            comm.Allreduce(MPI.IN_PLACE, vector, MPI.SUM)
            seconds += time.perf_counter() - began
        alone.append(seconds)
    made = [slowest(comm, times) for times in (booked, alone, steps)]
    algorithm.close()
    if not world.is_root:
        return
    rate = json.loads(os.environ["MPISQUEEZE_LAB"])["rate"]
    nbytes = 4 * sum(vector.size for vector in vectors)
    bound = 8 * max(0.0, 2 * (world.size - 1) / world.size * nbytes - Links(world.size, rate).burst) / rate
    lengths = ", ".join(f"{4 * vector.size:_}".replace("_", " ") for vector in vectors)
    print(
        f"{world.size} ranks, {format_rate(rate)}, powersgd:{rank}, ResNet-18: sums of {lengths} bytes, {repeats} times"
    )
    print(f"{'bound':38s} {1e3 * bound:7.2f}")
    print(f"{'':38s}  median  fastest ms   x bound")
    for name, (text, median) in zip(("exchange", "MPI_Allreduce of as many, alone", "step"), made, strict=True):
        print(f"{name:38s} {text}     {median / bound:8.2f}")


if __name__ == "__main__":
    main()
