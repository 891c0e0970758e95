"""SGD by MPI_Allreduce."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Algorithm, Gradient, Setup
from mpisqueeze.comm.allreduce import AllreduceExchange
from mpisqueeze.comm.world import Signal
from mpisqueeze.compressors.base import NonFiniteError
from mpisqueeze.compressors.identity import Identity


class Total(Identity):
    """The sum of all ranks' gradients, which none of them has looked at before."""

    def nonfinite_message(self) -> str:
        return "the sum of all ranks' gradients holds a NaN or an infinity"


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
        self._size = setup.size
        self.exchange = AllreduceExchange(setup.network, setup.dimension, setup.dtype)
        self._total = Total(setup.dimension, setup.network.device.xp, setup.dtype, 0)
        setup.network.device.adopt(self._total)

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        self.exchange.sum(gradient(x))
        try:
            self._total.decode_add(self.exchange.total, x, -lr / self._size)
        except NonFiniteError as error:
            self.setup.network.complain(Signal.NONFINITE, str(error))

    def bytes_per_iteration(self) -> int:
        return self.exchange.total_bytes

    def doubts(self) -> list[str]:
        return checksum_doubts(self.setup)

    def close(self) -> None:
        self.exchange.close()


def checksum_doubts(setup: Setup) -> list[str]:
    """The doubt about checksums where MPI_Allreduce sends the messages."""
    network = setup.network
    # Over an emulated link it goes in messages of our own.
    if network.checksum and not network.emulated and setup.size > 1:
        return ["--checksum checks nothing here: the messages of MPI_Allreduce are the library's own"]
    return []
