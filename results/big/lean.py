"""A quadratic in two vectors a rank, x and the gradient."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpisqueeze.problems.base import Problem

BLOCK = 1 << 18


class Lean(Problem):
    """f_r(x) = ½‖x − c − c_r‖²: c the same BLOCK normal numbers again and again, c_r = ±2⁻⁴ by the parity of r.

    The loss is that of the first block.
    """

    evaluate = None  # type: ignore[assignment]

    def __init__(self, *run: Any, dimension: int) -> None:
        super().__init__(*run)
        self.dimension = dimension
        centre = np.random.default_rng(self.seed).standard_normal(min(BLOCK, dimension)) + (-1) ** self.rank / 16
        self._centre = self.xp.asarray(centre.astype(self.dtype))
        self._gradient = self.xp.empty(dimension, self.dtype)

    @classmethod
    def needs(cls, size: int, **options: Any) -> tuple[int, int]:
        return options["dimension"], 1

    def initial_point(self) -> Any:
        return self.xp.zeros(self.dimension, self.dtype)

    def gradient(self, x: Any, iteration: int) -> tuple[float, Any]:
        g = self._gradient
        for start in range(0, self.dimension, BLOCK):
            part = x[start : start + BLOCK]
            self.xp.subtract(part, self._centre[: part.size], out=g[start : start + BLOCK])
        first = g[:BLOCK]
        return 0.5 * float(first.dot(first)), g
