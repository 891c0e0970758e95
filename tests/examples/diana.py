"""DIANA in one file: mpisqueeze train --algorithm diana.py:Diana --compressor qsgd:4."""

from __future__ import annotations

from typing import Annotated

from mpisqueeze.algorithms.base import Setup, bias_doubt
from mpisqueeze.algorithms.centralized import ServerAlgorithm, server_vector, worker_vector
from mpisqueeze.algorithms.sections import Section
from mpisqueeze.language import real


class Diana(ServerAlgorithm):
    """Worker: q = C(∇_i − h_i), h_i ← h_i + αq. Server: p = h + mean q, h ← h + α mean q. All: x ← x − γp.

    Source: Mishchenko, Gorbunov, Takáč & Richtárik, arXiv 1901.09269, Algorithm 1, without its momentum, which is
    `--momentum-at update`, and its regulariser. C must be unbiased. `alpha` is α; it defaults to 1/(1 + ω), the largest
    of its Theorem 1, with ω = E‖C(v) − v‖²/‖v‖² of normal numbers. The h_i learn the gradients at the minimum, so that
    differences, and what C makes of them, go to 0 although the ranks' functions differ.

    State: h_i (d) on each rank, their mean h on the server, as long as its part.
    """

    name = "diana"
    summary = "compressed differences to learned gradients, full vectors down: diana[:ALPHA]"
    formula = "N(1+c)"
    compresses_down = False
    default_compressor = "qsgd:4"

    h_i = worker_vector()
    h_mean = server_vector()

    def __init__(self, setup: Setup, *, alpha: Annotated[float | None, real(0, 1, open_low=True)] = None) -> None:
        super().__init__(setup)
        self.alpha = 1 / (1 + setup.compressor_error) if alpha is None else alpha

    def send(self, section: Section) -> None:
        """q = C(∇ − h_i), h_i ← h_i + αq."""
        section.g -= section.h_i
        section.encode(section.g)
        section.decode_add(section.h_i, self.alpha)

    def answer(self, section: Section) -> None:
        """p = h + mean q is the answer, and h ← h + α mean q, which is (1 − α)h + αp."""
        section.mean += section.h_mean
        section.encode(section.mean)
        section.h_mean *= 1 - self.alpha
        section.decode_add(section.h_mean, self.alpha)

    def apply(self, section: Section) -> None:
        """x ← x − γp."""
        section.descend(self.lr)

    def doubts(self) -> list[str]:
        return bias_doubt(self, self.codec, "arXiv 1901.09269, Definition 1")
