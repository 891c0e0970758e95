"""DeepSqueeze: gossip with error compensation."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Gradient, Setup, feedback_doubt
from mpisqueeze.algorithms.decentralized import GossipAlgorithm, GossipStep


class DeepSqueeze(GossipAlgorithm):
    """h = x_i − γ g_i; v = h + δ_i; send C(v); δ_i ← v − C(v); x_i ← h + η Σ_j (W_ij − 1{i=j}) C(v_j), self included.

    Source: Tang, Lian, Qiu, Yuan, Zhang, Zhang & Liu, arXiv 1907.07346, Algorithm 1. C may be biased.
    `deepsqueeze:eta=0.3` sets η; it defaults to `Setup.gossip_step`.

    State: δ_i (d).
    """

    name = "deepsqueeze"
    summary = "gossip of compressed models with error feedback: deepsqueeze[:eta=η]"
    memory = ("delta",)

    def __init__(self, setup: Setup, *, eta: GossipStep = None) -> None:
        super().__init__(setup, setup.worker_codec())
        self.delta = setup.zeros()
        self.eta = setup.gossip_step() if eta is None else eta

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        scalar = x.dtype.type
        self.exchange.expect()
        g = gradient(x)
        self.add_weighted(x, -scalar(lr), g)
        self.booked()
        self.codec.encode_feedback(x, self.delta, self.exchange.out)
        self.exchange.send()
        self.mix(x, self.w - scalar(1), eta=scalar(self.eta), scratch=g)

    def residual(self) -> Any:
        return self.delta

    def doubts(self) -> list[str]:
        return feedback_doubt(self, self.codec)
