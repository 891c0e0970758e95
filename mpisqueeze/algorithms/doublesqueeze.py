"""DoubleSqueeze: error feedback on the workers and on the server."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Gradient, Setup, feedback_doubt
from mpisqueeze.algorithms.centralized import ServerAlgorithm


class DoubleSqueeze(ServerAlgorithm):
    """Worker: v = g + δ, q = C(v), δ ← v − q. Server: v̄ = mean q + δ̄, p = C(v̄), δ̄ ← v̄ − p. All: x ← x − γp.

    Source: Tang, Yu, Lian, Zhang & Liu, arXiv 1905.05957, Algorithm 1.

    State: δ_r (d) on each rank, δ̄ on the server, as long as its part.
    """

    name = "doublesqueeze"
    summary = "error feedback on workers and server, compressed both ways"
    memory = ("delta", "delta_bar")
    formula = "2cN"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.delta = setup.zeros()
        self.delta_bar = self.server_memory()

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        self.follow(x, lr, gradient, self.delta, self.delta_bar)

    def residual(self) -> Any:
        return self.delta

    def doubts(self) -> list[str]:
        return feedback_doubt(self, self.codec)
