"""Deep Gradient Compression: momentum under error feedback, and a warm-up of the density."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Annotated, Any

from mpisqueeze.algorithms.base import Gradient, Setup
from mpisqueeze.algorithms.centralized import ServerAlgorithm, worker_vector
from mpisqueeze.algorithms.sections import Section
from mpisqueeze.compressors.base import Compressor
from mpisqueeze.language import integer

#: Density in each epoch of the warm-up (§3.3: sparsity 75 %, 93.75 %, 98.4375 %, 99.6 %); the last one stays.
DENSITIES = tuple(map(Fraction, ("0.25", "0.063", "0.015", "0.004")))


class DGC(ServerAlgorithm):
    """u ← βu + g, v ← v + u, q = C(v); where v was sent, u ← 0 and v ← 0. All: x ← x − γ·mean q.

    Source: Lin, Han, Mao, Wang & Dally, arXiv 1712.01887, §3 (momentum correction and momentum factor masking). C picks
    elements; β is `--momentum`, which acts here and nowhere else. `dgc:warmup=4` sends a quarter of all elements in the
    first epoch, and fewer in each of those that follow, but never fewer than C does.

    Since u is cleared where it was sent, a C that sends everything leaves SGD without momentum.

    State: u and v (d each) on each rank.
    """

    name = "dgc"
    summary = "momentum under error feedback, of which the largest elements are sent: dgc[:warmup=EPOCHS]"
    formula = "N(1+c)"
    takes = ("topk", "randomk")
    default_compressor = "topk:0.01"
    lossless = "topk:1"
    compresses_down = False
    own_momentum = True
    ignores = ("betas", "eps")
    passes = (1, 0)

    u = worker_vector()
    v = worker_vector()

    def __init__(self, setup: Setup, *, warmup: Annotated[int, integer(0)] = 0) -> None:
        super().__init__(setup)
        self.warmup, self.beta = warmup, setup.momentum

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        self.lr = lr
        density = self.density
        self.turn(density, setup=self._denser(density) if density else None).run(self, x, gradient)

    @property
    def density(self) -> Fraction | None:
        """The share of elements in this iteration; None where it is C's own."""
        epoch = (self.setup.exchange - 1) // self.setup.per_epoch
        density = DENSITIES[min(epoch, len(DENSITIES) - 1)]
        return density if epoch < self.warmup and density > getattr(self.codec.compressor, "ratio", 1) else None

    def _denser(self, density: Fraction) -> Setup:
        def make_compressor(dimension: int, seed: int) -> Compressor:
            return self.setup.make_compressor(dimension, seed).at(density)

        return replace(self.setup, make_compressor=make_compressor)

    def send(self, section: Section) -> None:
        """u ← βu + g, v ← v + u, q = C(v); where v was sent, u ← 0 and v ← 0."""
        self.accumulate(section.g, section.u, self.beta)
        section.encode_feedback(section.u, section.v)
        section.clear(section.u)
        section.clear(section.v)

    def answer(self, section: Section) -> None:
        """p = mean q."""
        section.encode(section.mean)

    def apply(self, section: Section) -> None:
        """x ← x − γp."""
        section.descend(self.lr)

    def residual(self) -> Any:
        return self.v
