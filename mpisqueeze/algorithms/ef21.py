"""EF21: error feedback by compressed differences, on the workers."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Gradient, Setup, feedback_doubt
from mpisqueeze.algorithms.centralized import ServerAlgorithm, server_vector, worker_vector
from mpisqueeze.algorithms.sections import Section


class EF21(ServerAlgorithm):
    """Worker: c = C(∇_i − g_i), g_i ← g_i + c. Server: g ← g + mean c. All: x ← x − γg.

    Source: Richtárik, Sokolov & Fatkhullin, arXiv 2106.05203, Algorithm 2. In the first iteration g_i = ∇_i, which is
    sent in full. The server's g is mean g_i at all times.

    State: g_i (d) on each rank, g on the server, as long as its part.
    """

    name = "ef21"
    summary = "error feedback by compressed differences, full vectors down; the first iteration in full"
    formula = "N(1+c)"
    compresses_down = False
    passes = (2, 1)

    g_i = worker_vector()
    g_mean = server_vector()

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        # Before training, so that it is known whether there is the memory.
        self.turn("full", full=True)

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        self.lr = lr
        first = self.setup.exchange == 1
        self.turn("full" if first else None, full=True).run(self, x, gradient)

    def send(self, section: Section) -> None:
        """c = C(∇ − g_i), g_i ← g_i + c."""
        section.g -= section.g_i
        section.encode(section.g)
        section.decode_add(section.g_i)

    def answer(self, section: Section) -> None:
        """g ← g + mean c, and it is the answer."""
        section.g_mean += section.mean
        section.encode(section.g_mean)

    def apply(self, section: Section) -> None:
        """x ← x − γg."""
        section.descend(self.lr)

    def doubts(self) -> list[str]:
        return feedback_doubt(self, self.codec)
