"""MEM-SGD (EC-SGD): error feedback on the workers."""

from __future__ import annotations

from typing import Annotated, Any

from mpisqueeze.algorithms.base import Setup, feedback_doubt
from mpisqueeze.algorithms.centralized import ServerAlgorithm, worker_vector
from mpisqueeze.algorithms.sections import Section
from mpisqueeze.errors import UsageError
from mpisqueeze.language import choice


class MemSGD(ServerAlgorithm):
    """Each worker adds what compression lost to its next gradient.

    `memsgd:lr=outside` (γ outside the memory, the default): v = g + δ, q = C(v), δ ← v − q, x ← x − γ·mean q.
    `memsgd:lr=inside` (γ inside; Stich, Cordonnier & Jaggi, arXiv 1809.07599, Algorithm 1):
    v = γg + δ, q = C(v), δ ← v − q, x ← x − mean q.

    State: δ_r (d) on each rank.
    """

    name = "memsgd"
    summary = "error feedback on the workers, full vectors down: memsgd[:lr=outside|inside]"
    formula = "N(1+c)"
    compresses_down = False
    linear = True

    delta = worker_vector()

    def __init__(self, setup: Setup, *, lr: Annotated[str, choice("outside", "inside")] = "outside") -> None:
        super().__init__(setup)
        self.inside = lr == "inside"
        if self.inside and setup.optimizer and not setup.optimizer.linear:
            what = f"{setup.optimizer.name} would divide out the γ that memsgd:lr=inside sends"
            raise UsageError(what, "--optimizer")

    def send(self, section: Section) -> None:
        """q = C(g + δ), δ ← g + δ − q; with γ inside, of γg."""
        if self.inside:
            section.g *= self.lr
        section.encode_feedback(section.g, section.delta)

    def answer(self, section: Section) -> None:
        """p = mean q."""
        section.encode(section.mean)

    def apply(self, section: Section) -> None:
        """x ← x − γp; with γ inside, x ← x − p."""
        section.descend(1.0 if self.inside else self.lr)

    def residual(self) -> Any:
        return self.delta

    def doubts(self) -> list[str]:
        return feedback_doubt(self, self.codec)
