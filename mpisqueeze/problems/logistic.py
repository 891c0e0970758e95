"""Multinomial logistic regression: convex, with (features + 1) × classes parameters."""

from __future__ import annotations

from typing import Any

from mpisqueeze.problems.base import Array
from mpisqueeze.problems.classification import ClassificationProblem


class Logistic(ClassificationProblem):
    """z = A W + b for a batch A, (n, features). x is W, (features, classes), row by row, then b; x₀ = 0."""

    name = "logistic"
    summary = "softmax regression on --data, convex"

    def __init__(self, *run: Any, **options: Any) -> None:
        super().__init__(*run, hidden=(), **options)

    def initial_point(self) -> Array:
        return self.xp.zeros(self.dimension, self.dtype)
