"""The gossip algorithms: every rank has a model of its own, and neighbours exchange payloads."""

from __future__ import annotations

from itertools import chain
from typing import Annotated, Any, ClassVar

from mpisqueeze.algorithms.base import Algorithm, Codec, Setup
from mpisqueeze.comm.neighbours import NeighbourExchange
from mpisqueeze.comm.world import Signal
from mpisqueeze.compressors.base import is_finite
from mpisqueeze.devices.clock import Phase
from mpisqueeze.kernels import kernels_for
from mpisqueeze.language import real

#: η, or None for the compressor's default.
GossipStep = Annotated[float | None, real(0, accepts="a positive number", open_low=True)]


class GossipAlgorithm(Algorithm):
    """Every rank i has its own x_i and exchanges payloads with each of its neighbours j, of weight W_ij.

    Args:
        codec: compresses what a rank sends.

    Attributes:
        payloads: number of payloads to each neighbour.
        w: W_ii.
        shares: W_ij in the order of the exchange's neighbours.

    """

    route: ClassVar[str] = "neighbours"
    centralized: ClassVar[bool] = False
    formula: ClassVar[str] = "2cN on a ring"
    payloads: ClassVar[int] = 1

    def __init__(self, setup: Setup, codec: Codec) -> None:
        super().__init__(setup)
        self.codec = codec
        self.w, edges = setup.topology.weights(setup.rank)
        dtype = setup.dtype.type
        self.w, self.shares = dtype(self.w), [dtype(weight) for _, weight in edges]
        self._rounds: list[NeighbourExchange] = []
        for round_ in range(setup.topology.rounds):
            sources, targets = setup.topology.peers(setup.rank, round_)
            first = self._rounds[0] if self._rounds else None
            made = NeighbourExchange(
                setup.network, sources, codec.payload_bytes, payloads=self.payloads, targets=targets, sharing=first
            )
            self._rounds.append(made)
        self._kernels = kernels_for(setup.network.device.xp, setup.dtype)

    @property
    def exchange(self) -> NeighbourExchange:
        """The exchange of this iteration."""
        return self._rounds[self.setup.network.iteration % len(self._rounds)]

    def add_weighted(self, total: Any, weight: Any, vector: Any) -> None:
        """total ← total + weight·vector; `vector` is kept."""
        self._kernels.axpy(total, weight, vector)

    def check_finite(self, g: Any) -> None:
        """Complain of a NaN in a gradient that is not encoded before it reaches x."""
        if not is_finite(g, self.setup.network.device.xp):
            self.setup.network.complain(Signal.NONFINITE, "an element of the gradient was NaN or infinite")

    def add_decoded(self, total: Any) -> None:
        """total ← total + Σ_j W_ij D(payload of j), over the neighbours, in their order."""
        for index, payload in self.exchange.receive():
            self.codec.decode_add(payload, total, self.shares[index])

    def mix(self, out: Any, own: Any, eta: Any = None, scratch: Any = None) -> None:
        """out ← Σ_j w_j D(payload of j), or with η out + η Σ_j w_j D(payload of j), once all payloads are there.

        This rank's own payload is the first, of weight `own`; the others are the neighbours', of weight W_ij. In one
        pass where the compressor has a kernel for it; else with η the sum takes the place of `scratch`.
        """
        codec, weights = self.codec, (own, *self.shares)
        payloads = chain([self.exchange.out], (payload for _, payload in self.exchange.receive()))
        if codec.combines:
            codec.combine([*payloads], out, weights, 0.0 if eta is None else eta)
            return
        codec.add_up(payloads, out if eta is None else scratch, weights)
        if eta is not None:
            self.add_weighted(out, eta, scratch)
            self.booked()

    def combine(self, x: Any) -> None:
        """x_i ← Σ_j W_ij x_j, sent by the codec."""
        self.booked()
        self.codec.encode(x, self.exchange.out)
        self.exchange.send()
        self.mix(x, self.w)

    def booked(self) -> None:
        """Book the time since the last lap as update_s."""
        self.setup.network.clock.lap(Phase.UPDATE)

    @property
    def payload_bytes(self) -> int:
        return self.payloads * self.codec.payload_bytes

    def bytes_per_iteration(self) -> int:
        topology = self.setup.topology
        return sum(topology.degree(i) for i in range(self.setup.size)) * self.payload_bytes

    def close(self) -> None:
        for exchange in self._rounds:
            exchange.close()
