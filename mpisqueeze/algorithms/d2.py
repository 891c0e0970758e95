"""D²: gossip SGD that does not suffer from different data on different ranks."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Gradient, Setup
from mpisqueeze.algorithms.decentralized import GossipAlgorithm


class D2(GossipAlgorithm):
    """x₁ = W(x₀ − γ g₀); then x⁺ = W(2x − x_prev − γ g + γ_prev g_prev).

    Source: Tang, Lian, Yan, Zhang & Liu, arXiv 1803.07068, Algorithm 1. It needs λ_min(W) > −1/3: on an even ring take
    `--self-weight 0.5`. Where γ changes, each gradient keeps the γ that it was taken with.

    State: x_prev and γ g_prev (d each).
    """

    name = "d2"
    summary = "gossip SGD with variance reduction over ranks, full vectors"
    memory = ("x_prev", "g_prev", "_started")
    compresses = False
    formula = "2N on a ring"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, setup.identity_codec())
        self.x_prev = setup.zeros()
        self.g_prev = setup.zeros()
        self._moved = setup.zeros()
        self._started = False

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        self.exchange.expect()
        g = gradient(x)
        g *= x.dtype.type(lr)
        if self._started:
            moved = self._moved
            self.setup.network.device.xp.subtract(x, self.x_prev, out=moved)
            self.x_prev[:] = x
            x += moved
            x += self.g_prev
        else:
            self.x_prev[:] = x
            self._started = True
        x -= g
        self.g_prev[:] = g
        self.combine(x)

    def doubts(self) -> list[str]:
        smallest = self.setup.topology.spectrum().smallest
        if smallest > -1 / 3 + 1e-9:
            return []
        return [
            f"d2 needs λ_min(W) > −1/3, and here it is {smallest:.3g}; take --self-weight 0.5 "
            "(arXiv 1803.07068, Assumption 1)"
        ]
