"""Local steps: ranks move models of their own, and exchange every H iterations how far they went."""

from __future__ import annotations

from typing import Any

from mpisqueeze.algorithms.base import Algorithm, Descent, Gradient


class LocalSteps:
    """x_i ← step of the optimizer along g_i; every H iterations Δ_i = x̂ − x_i is exchanged in place of a gradient.

    x̂ is the model that all ranks began with. The algorithm moves it by the answer to the Δ_i, as the outer optimizer
    has it: x̂ ← x̂ − η_o Δ, with a momentum u ← μu + Δ by η_o u, or by η_o (Δ + μu) with Nesterov. Then x_i ← x̂.

    With η_o = 1 and μ = 0 this is local SGD (Stich, arXiv 1805.09767), and federated averaging; with AdamW for the
    steps, η_o = 0.7, μ = 0.9 and Nesterov it is DiLoCo (Douillard et al., arXiv 2311.08105, Algorithm 1).

    Args:
        algorithm: centralized, and built with the outer optimizer.
        inner: moves this rank's x.
        every: H.
        outer_lr: η_o.

    Attributes:
        start: x̂ (d).
    """

    memory = ("start",)

    def __init__(self, algorithm: Algorithm, inner: Descent, x: Any, every: int, outer_lr: float) -> None:
        self.algorithm, self.inner, self.every, self.outer_lr = algorithm, inner, every, outer_lr
        self.outer = algorithm.setup.optimizer
        self.start, self._delta = x.copy(), algorithm.setup.zeros()

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        """Move x (d), in place, by one iteration; raises what the algorithm's step does."""
        self.inner.move(x, gradient(x), lr)
        if self.algorithm.setup.network.iteration % self.every:
            return
        self.algorithm.setup.network.device.xp.subtract(self.start, x, out=self._delta)
        if self.outer:
            self.outer.begin()
        self.algorithm.step(self.start, self._went, self.outer_lr)
        x[...] = self.start

    def _went(self, x: Any) -> Any:
        return self._delta
