"""SGD by MPI_Allreduce."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Algorithm, Gradient, Setup
from mpisqueeze.comm.allreduce import AllreduceExchange
from mpisqueeze.devices.clock import Phase


class Allreduce(Algorithm):
    """x ← x − γ·mean g_r, the mean by MPI_Allreduce: what a user would otherwise pick."""

    name = "allreduce"
    summary = "SGD by MPI_Allreduce, the usual baseline"
    route = "allreduce"
    compresses = False
    formula = "2(N−1), no server"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.exchange = AllreduceExchange(setup.network, setup.dimension, setup.dtype)
        self.identity = setup.identity_codec()

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        network = self.setup.network
        self.identity.encode(gradient(x), self.exchange.payload)
        total = self.exchange.sum()
        total /= self.setup.size
        network.clock.lap(Phase.DECODE)
        total *= total.dtype.type(lr)
        x -= total
        network.clock.lap(Phase.UPDATE)

    def bytes_per_iteration(self) -> int:
        return self.exchange.total_bytes

    def doubts(self) -> list[str]:
        network = self.setup.network
        # Over an emulated link it goes in messages of our own.
        if network.checksum and not network.emulated and self.setup.size > 1:
            return ["--checksum checks nothing here: the messages of MPI_Allreduce are the library's own"]
        return []

    def close(self) -> None:
        self.exchange.close()
