"""SGD, with heavy-ball or Nesterov momentum."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpisqueeze.optimizers.base import Optimizer, Recipe


class GradientDescent(Optimizer):
    """u ← βu + p, x ← x − γu; with Nesterov x ← x − γ(p + βu). With β = 0 it is x ← x − γp, and there is no u.

    This is `torch.optim.SGD` (Sutskever, Martens, Dahl & Hinton, ICML 2013, in torch's form: γ outside of u).
    """

    name = "sgd"
    summary = "x ← x − γp, with --momentum and --nesterov"
    linear = True
    memory = ("u",)

    def __init__(self, dimension: int, xp: Any, dtype: Any, recipe: Recipe) -> None:
        super().__init__(dimension, xp, dtype, recipe)
        self.u = self.zeros() if recipe.momentum else None

    @property
    def plain(self) -> bool:
        return self.u is None

    def apply(self, span: slice, p: Any, x: Any | None, lr: float, count: int, decay: float) -> bool:
        if self.u is not None:
            recipe = self.recipe
            u = self.u[span]
            return self.kernels.momentum_step(p, u, x, 1 / count, decay, lr, recipe.momentum, recipe.nesterov)
        return x is None or self.kernels.copy_decode(p.view(np.uint8), x, True, -lr / count)
