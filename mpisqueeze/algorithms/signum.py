"""Signum: the signs of momentum, and their majority."""

from __future__ import annotations

from typing import Annotated

from mpisqueeze.algorithms.base import Setup
from mpisqueeze.algorithms.centralized import ServerAlgorithm, worker_vector
from mpisqueeze.algorithms.sections import Section
from mpisqueeze.language import real


class Signum(ServerAlgorithm):
    """Worker: m ← βm + (1 − β)g, q = sign(m). Server: p = sign(Σ q), a tie is +1. All: x ← x − γp.

    Source: Bernstein, Wang, Azizzadenesheli & Anandkumar, arXiv 1802.04434, Algorithm 2, with the majority vote of its
    §3.3. A payload holds a bit for each element and no scale.

    State: m_r (d) on each rank.
    """

    name = "signum"
    default_lr = 1e-3
    summary = "signs of momentum, the majority of which is the step: signum[:BETA]; d/8 bytes each way"
    formula = "2cN"
    compresses = False
    fixed_compressor = "onebit:scale=none"
    own_momentum = True
    ignores = ("momentum", "betas", "eps")
    falling_lr = True
    passes = (1, 0)

    m = worker_vector()

    def __init__(
        self, setup: Setup, *, beta: Annotated[float, real(0, 1, "a number from 0 to below 1", open_high=True)] = 0.9
    ) -> None:
        super().__init__(setup)
        self.beta = beta

    def send(self, section: Section) -> None:
        """m ← βm + (1 − β)g, q = sign(m)."""
        self.accumulate(section.g, section.m, self.beta, 1 - self.beta)
        section.encode(section.m)

    def answer(self, section: Section) -> None:
        """p = sign(Σ q), which is the sign of their mean."""
        section.encode(section.mean)

    def apply(self, section: Section) -> None:
        """x ← x − γp."""
        section.descend(self.lr)

    def doubts(self) -> list[str]:
        return [
            "signum moves every element by γ, however small its gradient, and forgets what signs lose: it need not "
            "converge (arXiv 1901.09847, §3), and not without a falling γ"
        ]
