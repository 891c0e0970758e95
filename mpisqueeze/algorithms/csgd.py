"""Naively compressed SGD: single compression."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Codec, Gradient, Setup, bias_doubt
from mpisqueeze.algorithms.centralized import RootAlgorithm


class CSGD(RootAlgorithm):
    """x ← x − γ·mean C(g_r).

    With an unbiased C this is QSGD (arXiv 1610.02132) or TernGrad (arXiv 1705.07878); with a biased one, as in Top-k
    SGD without memory, it need not converge.
    """

    name = "csgd"
    summary = "single compression: mean C(g), full vectors down"
    formula = "N(1+c)"

    def __init__(self, setup: Setup, up: Codec | None = None, down: Codec | None = None) -> None:
        super().__init__(setup, up or setup.worker_codec(), down)

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        self.up.encode(gradient(x), self.exchange.up)
        g_bar = self.mean_at_root()
        if self.is_root and self.down:
            self.down.encode(g_bar, self.exchange.down)
        self.descend(x, self.answer(), lr)

    def doubts(self) -> list[str]:
        return bias_doubt(self, self.up, "arXiv 1610.02132, Theorem 3.2") if self.compresses else []
