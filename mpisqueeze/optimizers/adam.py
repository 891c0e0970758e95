"""Adam, in the form that PyTorch has it."""

from __future__ import annotations

import math
from typing import Any

from mpisqueeze.optimizers.base import Optimizer, Recipe


class Adam(Optimizer):
    """m ← β₁m + (1 − β₁)p, v ← β₂v + (1 − β₂)p², x ← x − γ·m̂/(√v̂ + ε), with m̂ = m/(1 − β₁ᵗ), v̂ = v/(1 − β₂ᵗ).

    Source: Kingma & Ba, arXiv 1412.6980, Algorithm 1, as `torch.optim.Adam`.
    """

    name = "adam"
    default_lr = 1e-3
    summary = "Adam (Kingma & Ba, arXiv 1412.6980), with --betas and --eps"
    memory = ("steps", "m", "v")

    def __init__(self, dimension: int, xp: Any, dtype: Any, recipe: Recipe) -> None:
        super().__init__(dimension, xp, dtype, recipe)
        self.m, self.v = self.zeros(), self.zeros()

    def apply(self, span: slice, p: Any, x: Any | None, lr: float, count: int, decay: float) -> bool:
        (beta1, beta2), eps = self.recipe.betas, self.recipe.eps
        rate, root = lr / (1 - beta1**self.steps), 1 / math.sqrt(1 - beta2**self.steps)
        added, keep = (0.0, 1 - lr * decay) if self.decouples else (decay, 1.0)
        m, v = self.m[span], self.v[span]
        return self.kernels.adam_step(p, m, v, x, 1 / count, added, rate, keep, beta1, beta2, root, eps)
