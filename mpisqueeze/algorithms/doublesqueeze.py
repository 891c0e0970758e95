"""DoubleSqueeze: error feedback on the workers and on the server."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import feedback_doubt
from mpisqueeze.algorithms.centralized import ServerAlgorithm, server_vector, worker_vector
from mpisqueeze.algorithms.sections import Section


class DoubleSqueeze(ServerAlgorithm):
    """Worker: v = g + δ, q = C(v), δ ← v − q. Server: v̄ = mean q + δ̄, p = C(v̄), δ̄ ← v̄ − p. All: x ← x − γp.

    Source: Tang, Yu, Lian, Zhang & Liu, arXiv 1905.05957, Algorithm 1.

    State: δ_r (d) on each rank, δ̄ on the server, as long as its part.
    """

    name = "doublesqueeze"
    summary = "error feedback on workers and server, compressed both ways"
    formula = "2cN"

    delta = worker_vector()
    delta_bar = server_vector()

    def send(self, section: Section) -> None:
        """q = C(g + δ), δ ← g + δ − q."""
        section.encode_feedback(section.g, section.delta)

    def answer(self, section: Section) -> None:
        """p = C(mean q + δ̄), δ̄ ← mean q + δ̄ − p."""
        section.encode_feedback(section.mean, section.delta_bar)

    def apply(self, section: Section) -> None:
        """x ← x − γp."""
        section.descend(self.lr)

    def residual(self) -> Any:
        return self.delta

    def doubts(self) -> list[str]:
        return feedback_doubt(self, self.codec)
