"""EF21-BC: compressed differences in both directions."""

from __future__ import annotations

from mpisqueeze.algorithms.centralized import worker_vector
from mpisqueeze.algorithms.ef21 import EF21
from mpisqueeze.algorithms.sections import Section


class EF21BC(EF21):
    """`ef21` whose server sends b = C(g − w). All: w ← w + b, x ← x − γw.

    Source: Fatkhullin, Sokolov, Gorbunov, Li & Richtárik, arXiv 2110.03294 (EF21-BC). In the first iteration w = g,
    which is sent in full.

    State: g_i and w (d each) on each rank, g on the server, as long as its part. All ranks have the same w.
    """

    name = "ef21-bc"
    summary = "ef21 with compressed differences both ways; the first iteration in full"
    formula = "2cN"
    compresses_down = True
    passes = (3, 2)

    w = worker_vector()

    def answer(self, section: Section) -> None:
        """g ← g + mean c, b = C(g − w)."""
        section.g_mean += section.mean
        self.setup.network.device.xp.subtract(section.g_mean, section.w, out=section.mean)
        section.encode(section.mean)

    def apply(self, section: Section) -> None:
        """w ← w + b, x ← x − γw."""
        section.decode_add(section.w)
        section.descend(self.lr, section.w)
