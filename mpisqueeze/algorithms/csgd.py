"""Naively compressed SGD: single compression."""

from __future__ import annotations

from mpisqueeze.algorithms.base import bias_doubt
from mpisqueeze.algorithms.centralized import ServerAlgorithm
from mpisqueeze.algorithms.sections import Section


class CSGD(ServerAlgorithm):
    """x ← x − γ·mean C(g_r).

    With an unbiased C this is QSGD (arXiv 1610.02132) or TernGrad (arXiv 1705.07878); with a biased one, as in Top-k
    SGD without memory, it need not converge.
    """

    name = "csgd"
    summary = "single compression: mean C(g), full vectors down"
    fails_with = "biased"
    formula = "N(1+c)"
    compresses_down = False
    linear = True

    def send(self, section: Section) -> None:
        """q = C(g)."""
        section.encode(section.g)

    def answer(self, section: Section) -> None:
        """p = mean q; with `csgd-double` p = C(mean q)."""
        section.encode(section.mean)

    def doubts(self) -> list[str]:
        return bias_doubt(self, self.codec, "arXiv 1610.02132, Theorem 3.2")
