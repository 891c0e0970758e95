"""EF21 in one file: mpisqueeze train --algorithm ef21.py:EF21 --compressor topk:0.01."""

from __future__ import annotations

from typing import Annotated, Any

from mpisqueeze.algorithms.base import Gradient, Setup, feedback_doubt
from mpisqueeze.algorithms.centralized import ServerAlgorithm, server_vector, worker_vector
from mpisqueeze.algorithms.sections import Section
from mpisqueeze.language import choice


class EF21(ServerAlgorithm):
    """Worker: c = C(∇_i − g_i), g_i ← g_i + c. Server: g ← g + mean c. All: x ← x − γg.

    Source: Richtárik, Sokolov & Fatkhullin, arXiv 2106.05203. All g_i are 0 at first, and what the first iteration
    sends, their start, goes in full; with `start=compressed` it goes as all the others do.

    State: g_i (d) on each rank, their mean g on the server, as long as its part.
    """

    name = "ef21"
    summary = "error feedback by compressed differences, full vectors down: ef21[:start=full|compressed]"
    formula = "N(1+c)"
    compresses_down = False

    g_i = worker_vector()
    g_mean = server_vector()

    def __init__(self, setup: Setup, *, start: Annotated[str, choice("full", "compressed")] = "full") -> None:
        super().__init__(setup)
        self.start = start

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        self.lr = lr
        first = self.start if self.setup.network.iteration == 1 else "compressed"
        self.turn("full" if first == "full" else None, full=True).run(self, x, gradient)

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
