"""D-PSGD with naive compression, which does not work."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Gradient, Setup
from mpisqueeze.algorithms.decentralized import GossipAlgorithm


class NaiveDPSGD(GossipAlgorithm):
    """x_i ← Σ_j W_ij C(x_j) − γ g_i, the own model compressed too.

    The models themselves are compressed, so that the error does not vanish as they converge (Tang et al.,
    arXiv 1803.06443, §3).
    """

    name = "dpsgd-naive"
    summary = "gossip of compressed models: naive compression, for comparison"
    fails_with = "lossy"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, setup.worker_codec())

    def doubts(self) -> list[str]:
        if self.codec.compressor.name == "identity":
            return []
        return ["dpsgd-naive does not converge: the error of compressed models does not vanish (arXiv 1803.06443, §3)"]

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        self.exchange.expect()
        self.codec.encode(x, self.exchange.out)
        self.exchange.send(overlap=True)
        g = gradient(x)
        self.check_finite(g)
        self.booked()
        self.mix(x, self.w)
        self.add_weighted(x, -x.dtype.type(lr), g)
        self.booked()
