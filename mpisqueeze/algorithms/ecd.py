"""ECD-PSGD: extrapolation compression."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Gradient, Setup, bias_doubt
from mpisqueeze.algorithms.decentralized import GossipAlgorithm


class ECD(GossipAlgorithm):
    """x⁺ = Σ_j W_ij y_j − γ g_i; z = (1 − t/2) x + (t/2) x⁺; send C(z); y_j ← (1 − 2/t) y_j + (2/t) C(z_j).

    Source: Tang, Gan, Zhang, Zhang & Liu, arXiv 1803.06443, Algorithm 2; t = 1, 2, …. y_j estimates x_j with an error
    that falls as 1/t where that of C is bounded; z itself grows with t, so that C's range must follow.

    State: y_j (d) for each neighbour and for the rank itself.
    """

    name = "ecd"
    summary = "gossip of compressed extrapolations, estimates of the neighbours"
    memory = ("y", "y_own", "_started")
    default_compressor = "uniform:8"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, setup.worker_codec())
        self.y = [setup.zeros() for _ in self.shares]
        self.y_own = setup.zeros()
        self._started = False

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        if not self._started:
            for estimate in (*self.y, self.y_own):
                estimate[:] = x
            self._started = True
        scalar, t = x.dtype.type, self.setup.network.iteration
        self.exchange.expect()
        g = gradient(x)
        g *= -scalar(lr)
        self.add_weighted(g, self.w, self.y_own)
        for weight, estimate in zip(self.shares, self.y, strict=True):
            self.add_weighted(g, weight, estimate)
        # g is x⁺ now; x becomes z while x⁺ waits in its place.
        x *= scalar(1 - t / 2)
        self.add_weighted(x, scalar(t / 2), g)
        self.booked()
        self.codec.encode(x, self.exchange.out)
        x[:] = g
        self.exchange.send()
        self._estimate(self.y_own, self.exchange.out, t)
        for index, payload in self.exchange.receive():
            self._estimate(self.y[index], payload, t)

    def _estimate(self, y: Any, payload: Any, t: int) -> None:
        """y ← (1 − 2/t) y + (2/t) D(payload)."""
        y *= y.dtype.type(1 - 2 / t)
        self.codec.decode_add(payload, y, 2 / t)

    def doubts(self) -> list[str]:
        return bias_doubt(self, self.codec, "arXiv 1803.06443, Assumption 1.5")
