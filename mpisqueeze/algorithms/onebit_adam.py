"""1-bit Adam: Adam, and then momentum by DoubleSqueeze's exchange under the variance that it found."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any

from mpisqueeze.algorithms.base import Gradient, Setup, feedback_doubt
from mpisqueeze.algorithms.centralized import ServerAlgorithm, server_vector, worker_vector
from mpisqueeze.algorithms.sections import Section
from mpisqueeze.errors import UsageError
from mpisqueeze.language import integer
from mpisqueeze.optimizers.adam import Adam
from mpisqueeze.optimizers.base import Recipe


class FreezingAdam(Adam):
    """Adam until `freeze` steps are done; then m ← p, and v with its correction stays."""

    freeze: int

    def apply(self, span: slice, p: Any, x: Any | None, lr: float, count: int, decay: float) -> bool:
        if self.steps <= self.freeze:
            return super().apply(span, p, x, lr, count, decay)
        (beta1, beta2), eps = self.recipe.betas, self.recipe.eps
        rate, root = lr / (1 - beta1**self.steps), 1 / math.sqrt(1 - beta2**self.freeze)
        return self.kernels.adam_step(p, self.m[span], self.v[span], x, 1 / count, 0.0, rate, 1.0, 0.0, 1.0, root, eps)


class OnebitAdam(ServerAlgorithm):
    """Until `freeze`: Adam on the mean gradient in full. Then v stays, and all exchange their momenta as DoubleSqueeze.

    Worker: m_i = β₁m + (1 − β₁)g, v_i = m_i + δ, q = C(v_i), δ ← v_i − q. Server: v̄ = mean q + δ̄, p = C(v̄),
    δ̄ ← v̄ − p. All: m ← p, x ← x − γ·m̂/(√v̂ + ε).

    Source: Tang, Gan, Awan, Rajbhandari, Li, Lian, Liu, Zhang & He, arXiv 2102.02888, Algorithm 1. m̂ = m/(1 − β₁ᵗ) and
    v̂ = v/(1 − β₂ᵗ), where t stays at `freeze` for v̂, are the bias corrections of Adam; the authors' code, and their
    algorithm, have none. `onebit-adam:freeze=1000` sets the number of iterations in full; by default it is an epoch.

    State: m, v and δ_r (d each) on each rank, δ̄ on the server, as long as its part. All ranks have the same m and v.
    """

    name = "onebit-adam"
    default_lr = 1e-3
    summary = "Adam in full for an epoch, then compressed momenta under its variance: onebit-adam[:freeze=STEPS]"
    formula = "2cN"
    own_momentum = True
    ignores = ("momentum",)
    passes = (5, 0)

    m = worker_vector()
    v = worker_vector()
    delta = worker_vector()
    delta_bar = server_vector()

    def __init__(
        self, setup: Setup, *, freeze: Annotated[int | None, integer(1, accepts="a number of iterations ≥ 1")] = None
    ) -> None:
        if freeze is not None and setup.iterations is not None and freeze > setup.iterations:
            raise UsageError(
                f"onebit-adam:freeze={freeze} is beyond the run's {setup.iterations} iterations; freeze may be from 1 "
                "to as many",
                "--algorithm",
            )
        if setup.optimizer:
            raise UsageError("onebit-adam has a momentum of its own, and takes no other", "--outer-momentum")
        recipe = Recipe(betas=setup.betas, eps=setup.eps)
        self.adam = FreezingAdam(setup.dimension, setup.network.device.xp, setup.dtype, recipe)
        self.adam.freeze = setup.per_epoch if freeze is None else freeze
        super().__init__(replace(setup, optimizer=self.adam))
        self.adam.m, self.adam.v = self.m, self.v
        # Before training, so that it is known whether there is the memory.
        self.turn("full", full=True)

    @property
    def frozen(self) -> bool:
        """v stays."""
        return self.adam.steps > self.adam.freeze

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        self.lr, self.adam.steps = lr, self.setup.exchange
        self.turn(None if self.frozen else "full", full=True).run(self, x, gradient)

    def send(self, section: Section) -> None:
        """m_i = β₁m + (1 − β₁)g, q = C(m_i + δ), δ ← m_i + δ − q; before v stays, g."""
        if not self.frozen:
            return section.encode(section.g)
        beta1, _ = self.adam.recipe.betas
        self.accumulate(section.g, section.m, beta1, 1 - beta1)
        return section.encode_feedback(section.g, section.delta)

    def answer(self, section: Section) -> None:
        """p = C(mean q + δ̄), δ̄ ← mean q + δ̄ − p; before v stays, mean g."""
        if not self.frozen:
            return section.encode(section.mean)
        return section.encode_feedback(section.mean, section.delta_bar)

    def apply(self, section: Section) -> None:
        """m ← p, x ← x − γ·m̂/(√v̂ + ε); before v stays, Adam's step along p."""
        section.descend(self.lr)

    def residual(self) -> Any:
        return self.delta

    def doubts(self) -> list[str]:
        iterations, freeze = self.setup.iterations, self.adam.freeze
        doubts = feedback_doubt(self, self.codec)
        if iterations is not None and freeze >= iterations:
            doubts.append(
                f"onebit-adam compresses nothing in {iterations} iterations: it is Adam until freeze, which is {freeze}"
            )
        return doubts
