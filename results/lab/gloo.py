"""PyTorch's gloo all-reduce of full vectors beside this program's exchange, on the same hosts, in turns.

    mpisqueeze lab -n 4 --rate 100mbit --exec -- python results/lab/gloo.py [DIMENSION] [REPEATS]

Needs the extra `torch`. Every rank times from a barrier to its own end; a time is the slowest rank's. The exchange is
all of `doublesqueeze`/`onebit` but the gradient and the update: encode, exchange, server, decode. Prints medians.
"""

from __future__ import annotations

import os
import socket
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
import torch.distributed as dist

from mpisqueeze.algorithms.base import Setup
from mpisqueeze.algorithms.doublesqueeze import DoubleSqueeze
from mpisqueeze.algorithms.sections import Section
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.interface import VARIABLE
from mpisqueeze.comm.world import World
from mpisqueeze.devices.device import Device
from mpisqueeze.parts import registry
from mpisqueeze.quantities import parse_size
from mpisqueeze.topology import Topology


def exchange(world: World, dimension: int, server: str) -> Callable[[np.ndarray], None]:
    """`doublesqueeze`/`onebit` through `server`, as the training loop does it."""
    part = registry.compressors.find("onebit")
    network = Network(world, Device())
    setup = Setup(
        network,
        dimension,
        np.dtype(np.float32),
        1,
        lambda length, seed: part.cls(length, np, np.float32, seed, **part.options),
        Topology("ring", world.size),
        server=server,
    )

    class Answer(DoubleSqueeze):
        """Its answer, in place of a step."""

        def apply(self, section: Section) -> None:
            section.decode(section.x)

    algorithm = Answer(setup)

    p = np.zeros(dimension, np.float32)

    def run(g: np.ndarray) -> None:
        network.iteration += 1
        algorithm.step(p, lambda _: g, 1.0)

    return run


def timed(world: World, work: Callable[[], object]) -> float:
    """Seconds of the slowest rank."""
    world.comm.Barrier()
    began = time.perf_counter()
    work()
    return max(world.comm.allgather(time.perf_counter() - began))


def main() -> None:
    dimension = parse_size(sys.argv[1]) if len(sys.argv) > 1 else 11_173_962
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    world = World()
    torch.set_num_threads(1)
    if VARIABLE in os.environ:
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ[VARIABLE]
    with socket.socket() as free:
        free.bind(("", 0))
        where = world.comm.bcast((socket.gethostname(), free.getsockname()[1]))
    dist.init_process_group("gloo", f"tcp://{where[0]}:{where[1]}", rank=world.rank, world_size=world.size)
    gradient = np.random.default_rng(world.rank).standard_normal(dimension).astype(np.float32)
    vector = torch.from_numpy(gradient.copy())
    sharded, root = (exchange(world, dimension, server) for server in ("sharded", "root"))
    rows: dict[str, Callable[[], object]] = {
        "gloo all-reduce, fp32": lambda: dist.all_reduce(vector),
        "doublesqueeze/onebit, sharded": lambda: sharded(gradient),
        "doublesqueeze/onebit, root": lambda: root(gradient),
    }
    times: dict[str, list[float]] = {name: [] for name in rows}
    for repeat in range(repeats + 1):
        for name, work in rows.items():
            seconds = timed(world, work)
            if repeat:
                times[name].append(seconds)
    dist.destroy_process_group()
    if world.is_root:
        medians = {name: statistics.median(values) for name, values in times.items()}
        first = next(iter(medians.values()))
        print(f"{world.size} hosts, d = {dimension}, torch {torch.__version__}, median of {repeats}, slowest rank")
        for name, seconds in medians.items():
            spread = f"{min(times[name]):.4f} to {max(times[name]):.4f}"
            print(f"{name:32s} {seconds:9.4f} s  ({spread})  {first / seconds:6.1f} x")


if __name__ == "__main__":
    main()
