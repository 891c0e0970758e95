"""MEM-SGD (EC-SGD): error feedback on the workers."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Gradient, Setup, feedback_doubt
from mpisqueeze.algorithms.centralized import ServerAlgorithm


class MemSGD(ServerAlgorithm):
    """Each worker adds what compression lost to its next gradient.

    γ outside the memory: v = g + δ, q = C(v), δ ← v − q, x ← x − γ·mean q.
    γ inside (`--memory-lr inside`; Stich, Cordonnier & Jaggi, arXiv 1809.07599, Algorithm 1):
    u = C(m + γg), m ← m + γg − u, x ← x − mean u.

    State: δ_r (d) on each rank.
    """

    name = "memsgd"
    summary = "error feedback on the workers, full vectors down"
    memory = ("delta",)
    formula = "N(1+c)"
    compresses_down = False

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.delta = setup.zeros()
        self.inside = setup.memory_lr == "inside"

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        if self.inside:
            self.follow(x, 1.0, gradient, self.delta, scale=lr)
        else:
            self.follow(x, lr, gradient, self.delta)

    def residual(self) -> Any:
        return self.delta

    def doubts(self) -> list[str]:
        return feedback_doubt(self, self.codec)
