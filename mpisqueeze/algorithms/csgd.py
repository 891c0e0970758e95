"""Naively compressed SGD: single compression."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Gradient, bias_doubt
from mpisqueeze.algorithms.centralized import ServerAlgorithm


class CSGD(ServerAlgorithm):
    """x ← x − γ·mean C(g_r).

    With an unbiased C this is QSGD (arXiv 1610.02132) or TernGrad (arXiv 1705.07878); with a biased one, as in Top-k
    SGD without memory, it need not converge.
    """

    name = "csgd"
    summary = "single compression: mean C(g), full vectors down"
    formula = "N(1+c)"
    compresses_down = False

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        self.follow(x, lr, gradient)

    def doubts(self) -> list[str]:
        return bias_doubt(self, self.codec, "arXiv 1610.02132, Theorem 3.2") if self.compresses else []
