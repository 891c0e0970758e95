"""DoubleSqueeze: error feedback on the workers and on the server."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Gradient, Setup, feedback_doubt
from mpisqueeze.algorithms.centralized import RootAlgorithm


class DoubleSqueeze(RootAlgorithm):
    """Worker: v = g + δ, q = C(v), δ ← v − q. Server: v̄ = mean q + δ̄, p = C(v̄), δ̄ ← v̄ − p. All: x ← x − γp.

    Source: Tang, Yu, Lian, Zhang & Liu, arXiv 1905.05957, Algorithm 1.

    State: δ_r (d) on each rank, δ̄ (d) on rank 0.
    """

    name = "doublesqueeze"
    summary = "error feedback on workers and server, compressed both ways"
    formula = "2cN"

    def __init__(self, setup: Setup) -> None:
        self.server = setup.server_codec()
        super().__init__(setup, setup.worker_codec(), self.server)
        self.delta = setup.zeros()
        self.delta_bar = setup.zeros() if self.is_root else None

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        self.up.encode_feedback(gradient(x), self.delta, self.exchange.up)
        mean = self.mean_at_root()
        if self.is_root:
            self.server.encode_feedback(mean, self.delta_bar, self.exchange.down)
        self.descend(x, self.answer(), lr)

    def residual(self) -> Any:
        return self.delta

    def doubts(self) -> list[str]:
        return feedback_doubt(self, self.up)
