"""Problems whose gradient comes in parts, and goes wrong on one rank behind some of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import faulty
import numpy as np
from parts import make_algorithm

from mpisqueeze.comm.emulated import CAPACITY
from mpisqueeze.comm.world import World

D, WHEN = 4096, 5


class InQuarters:
    """½‖x − r‖², its gradient told of in quarters, the last one first; `fault` spoils the third of rank 1, once."""

    fault_at = D // 4

    def __init__(self, rank: int, size: int, seed: int, xp: Any, dtype: Any) -> None:
        self.rank, self.dtype, self.dimension = rank, np.dtype(dtype), D

    def initial_point(self) -> Any:
        return np.zeros(D, self.dtype)

    def gradient(self, x: Any, iteration: int) -> tuple[float, Any]:
        return self.gradient_in_parts(x, iteration, lambda g, start: None)

    def gradient_in_parts(self, x: Any, iteration: int, ready: Callable[[Any, int], None]) -> tuple[float, Any]:
        g, faulty = np.full(D, np.nan, self.dtype), iteration == WHEN and self.rank == 1
        for start in range(D - D // 4, -1, -D // 4):
            g[start : start + D // 4] = x[start : start + D // 4] - self.rank
            if faulty and start == self.fault_at:
                self.fault(g[start:])
            ready(g, start)
        return self.loss(faulty), g

    def loss(self, faulty: bool) -> float:
        return 1.0

    def evaluate(self, x: Any) -> dict[str, float]:
        return {"mean": float(x.mean())}

    def fault(self, g: Any) -> None:
        """Nothing is wrong here."""


class Raises(InQuarters):
    fault = faulty.Raises.fault


class RaisesBefore(Raises):
    """Before it has told of anything, while others wait behind their first quarter."""

    fault_at = D - D // 4


class NotANumber(InQuarters):
    fault = faulty.NotANumber.fault


class LossIsNotANumber(InQuarters):
    def loss(self, faulty: bool) -> float:
        return np.nan if faulty else 1.0


class Rises(InQuarters):
    """Against the contract: tells of the first quarter before the second."""

    def gradient_in_parts(self, x: Any, iteration: int, ready: Callable[[Any, int], None]) -> tuple[float, Any]:
        g = x - self.rank
        ready(g, D // 4)
        ready(g, D // 2)
        return 1.0, g


class Sleeps(InQuarters):
    fault = faulty.Sleeps.fault


class Dies(InQuarters):
    fault = faulty.Dies.fault


class Damages(InQuarters):
    fault = faulty.Damages.fault


class Interrupted(InQuarters):
    def fault(self, g: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)


def torch_net(rank: int, size: int, seed: int) -> Any:
    """A network with a parameter in its middle that the loss does not depend on, on random data."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(20, 300)
            self.idle = nn.Parameter(torch.ones(100))
            self.norm = nn.BatchNorm1d(300)
            self.second = nn.Linear(300, 300)
            self.last = nn.Linear(300, 3)

        def forward(self, a: Any) -> Any:
            a = torch.relu(self.norm(self.first(a)))
            return self.last(torch.relu(self.second(self.second(a))))

    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(256, 20, generator=generator)
    targets = torch.randint(0, 3, (256,), generator=generator)
    return Net(), (inputs, targets), nn.functional.cross_entropy


def before_the_gradient_ends(server: str) -> None:
    """Between two quarters of a gradient, sections leave and are answered; the gradient waits for both.

    What the last to fill of a server's buffers and of a worker's wait for is left alone until the gradient is there.
    """
    world = World()
    algorithm = make_algorithm("csgd", "identity", D, np.float32, world, chunk=D, overlap=True, server=server)
    counter = algorithm.setup.network.counter
    # Bytes (sent, received), at the least, when so many quarters have been told of. The root answers three of them;
    # sharded, rank 1 serves the first two, and answers one.
    expected = {
        "root": [[(D, D), (2 * D, 2 * D), (3 * D, 3 * D)], [(D, D), (2 * D, 2 * D), (3 * D, 3 * D)]],
        "sharded": [[(D, 0), (2 * D, 0), (2 * D, 0), (3 * D, D)], [(0, 0), (D, D), (2 * D, D), (3 * D, D)]],
    }[server][world.rank]
    done = 0

    def gradient(x: Any, ready: Callable[[Any, int], None]) -> Any:
        nonlocal done
        g = np.full(D, np.nan, np.float32)
        for quarter in range(4):
            start = D - (quarter + 1) * D // 4
            g[start : start + D // 4] = 1
            ready(g, start)
            if quarter < len(expected):
                deadline = time.monotonic() + 30
                sent, received = expected[quarter]
                while counter.bytes_sent < sent or counter.bytes_received < received:
                    assert time.monotonic() < deadline, (quarter, counter.bytes_sent, counter.bytes_received)
                    ready(g, start)
        done = counter.bytes_received
        return g

    x = np.zeros(D, np.float32)
    algorithm.step(x, gradient, 1.0)
    algorithm.close()
    assert (x == -1).all()
    assert done < counter.bytes_received == 4 * D


def more_sections_than_a_link_holds() -> None:
    """Nobody waits for what he himself keeps others from: both directions of a link are full."""
    world, d = World(), 64 * 3 * CAPACITY
    link = "latency=10us,bandwidth=100gbit"
    algorithm = make_algorithm("csgd", "identity", d, np.float32, world, chunk=256, link=link, overlap=True)
    assert algorithm.schedule.sections == 3 * CAPACITY

    def gradient(x: Any, ready: Callable[[Any, int], None]) -> Any:
        g = np.ones(d, np.float32)
        ready(g, 64)
        return g

    x = np.zeros(d, np.float32)
    algorithm.step(x, gradient, 1.0)
    algorithm.close()
    assert (x == -1).all()
