"""SGD by MPI_Allreduce."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Algorithm, Gradient, Setup
from mpisqueeze.comm.allreduce import AllreduceExchange


class Allreduce(Algorithm):
    """x ← x − (γ/N)·Σ g_r, the sum by MPI_Allreduce: what a user would otherwise pick.

    It is summed in place of the gradient, and x is moved in one pass, so that the baseline is as fast as a loop written
    by hand. No rank looks at its gradient alone: a NaN is found in the sum, by all ranks.
    """

    name = "allreduce"
    summary = "SGD by MPI_Allreduce, the usual baseline"
    route = "allreduce"
    compresses = False
    formula = "2(N−1), no server"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.exchange = AllreduceExchange(setup.network, setup.dimension, setup.dtype)
        self._descent = setup.descent("the sum of all ranks' gradients holds a NaN or an infinity")

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        total = self.exchange.sum(gradient(x))
        self._descent.move(x, total, lr, count=self.setup.size)

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
