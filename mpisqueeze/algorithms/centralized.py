"""What the algorithms that go through a root have in common."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Algorithm, Codec, Setup
from mpisqueeze.comm.counters import Phase
from mpisqueeze.comm.root import RootExchange


class RootAlgorithm(Algorithm):
    """Rank 0 is a worker and the server too.

    Args:
        up: what every rank sends with.
        down: what the server answers with; None for full vectors, summed and received in the buffer that MPI is handed.

    Memory a rank: one vector, the root's accumulator and everybody's decoded answer.
    """

    def __init__(self, setup: Setup, up: Codec, down: Codec | None) -> None:
        super().__init__(setup)
        full_vector = setup.dimension * setup.dtype.itemsize
        self.up, self.down = up, down
        self.exchange = RootExchange(setup.network, up.payload_bytes, down.payload_bytes if down else full_vector)
        self.is_root = setup.rank == 0
        self._vector = setup.zeros() if down else self.exchange.down.view(setup.dtype)

    def mean_at_root(self) -> Any:
        """Send `exchange.up` to the root. There: the mean (d) of all ranks' decoded payloads, added in rank order."""
        vector = self._vector
        decode = self.up.decode
        for payload in self.exchange.gather():
            decode(payload, vector)
            decode = self.up.decode_add
        if self.is_root:
            vector /= self.setup.size
            self.setup.network.clock.lap(Phase.DECODE)
        return vector

    def answer(self) -> Any:
        """Broadcast the server's payload, or else its mean; the vector (d) that all ranks get."""
        payload = self.exchange.broadcast()
        if self.down:
            self.down.decode(payload, self._vector)
        return self._vector

    def descend(self, x: Any, direction: Any, lr: float) -> None:
        """x ← x − lr·direction; `direction` is overwritten."""
        if lr != 1.0:
            direction *= direction.dtype.type(lr)
        x -= direction
        self.setup.network.clock.lap(Phase.UPDATE)

    @property
    def payload_bytes(self) -> int:
        return self.up.payload_bytes

    def bytes_per_iteration(self) -> int:
        return (self.setup.size - 1) * (self.exchange.up.nbytes + self.exchange.down.nbytes)

    def close(self) -> None:
        self.exchange.close()
