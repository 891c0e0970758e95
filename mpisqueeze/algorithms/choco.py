"""CHOCO-SGD: compressed gossip towards estimates that all neighbours share."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Gradient, Setup, feedback_doubt
from mpisqueeze.algorithms.decentralized import GossipAlgorithm, GossipStep


class Choco(GossipAlgorithm):
    """h = x_i − γ g_i; q_i = C(h − x̂_i); x̂_i ← x̂_i + q_i; s_i ← s_i + Σ_j W_ij q_j; x_i ← h + η (s_i − x̂_i).

    Source: Koloskova, Stich & Jaggi, arXiv 1902.00340, Algorithm 6 (the memory-efficient form). C may be biased.
    `choco:eta=0.3` sets η; it defaults to `Setup.gossip_step`.

    State: x̂_i and s_i (d each), both 0 at the start; s_i = Σ_j W_ij x̂_j.
    """

    name = "choco"
    summary = "gossip of compressed differences to shared estimates: choco[:eta=η]"
    memory = ("x_hat", "s")

    def __init__(self, setup: Setup, *, eta: GossipStep = None) -> None:
        super().__init__(setup, setup.worker_codec())
        self.x_hat = setup.zeros()
        self.s = setup.zeros()
        self.eta = setup.gossip_step() if eta is None else eta

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        scalar = x.dtype.type
        self.exchange.expect()
        g = gradient(x)
        self.add_weighted(x, -scalar(lr), g)
        difference = g
        self.setup.network.device.xp.subtract(x, self.x_hat, out=difference)
        self.booked()
        self.codec.encode(difference, self.exchange.out)
        self.exchange.send()
        self.codec.decode_add(self.exchange.out, self.x_hat)
        self.codec.decode_add(self.exchange.out, self.s, self.w)
        self.add_decoded(self.s)
        step = difference
        self.setup.network.device.xp.subtract(self.s, self.x_hat, out=step)
        self.add_weighted(x, scalar(self.eta), step)
        self.booked()

    def doubts(self) -> list[str]:
        return feedback_doubt(self, self.codec)
