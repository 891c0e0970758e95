"""Multinomial logistic regression: convex, with (features + 1) × classes parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import DTypeLike

from mpisqueeze.problems.base import Array
from mpisqueeze.problems.classification import ClassificationProblem


class Logistic(ClassificationProblem):
    """z = A W + b for a batch A, (n, features). x is W, (features, classes), row by row, then b; x₀ = 0."""

    name = "logistic"
    summary = "softmax regression on --data, convex"

    def __init__(self, rank: int, size: int, seed: int, xp: Any, dtype: DTypeLike, **options: Any) -> None:
        super().__init__(rank, size, seed, xp, dtype, **options)
        self.dimension = (self.features + 1) * self.classes
        self._allocate_for_training()

    def initial_point(self) -> Array:
        return self.xp.zeros(self.dimension, self.dtype)

    def make_activations(self, rows: int) -> list[Array]:
        return [self.xp.empty((rows, self.classes), self.dtype)]

    def forward(self, x: Array, inputs: Array, activations: Sequence[Array]) -> None:
        weights, biases = self._views(x)
        self.xp.dot(inputs, weights, out=activations[0])
        self.xp.add(activations[0], biases, out=activations[0])

    def backward(
        self, x: Array, inputs: Array, activations: Sequence[Array], logits_derivative: Array, gradient: Array
    ) -> None:
        weights, biases = self._views(gradient)
        self.xp.dot(inputs.T, logits_derivative, out=weights)
        self.xp.sum(logits_derivative, axis=0, out=biases)

    def _views(self, x: Array) -> tuple[Array, Array]:
        weights = self.features * self.classes
        return x[:weights].reshape(self.features, self.classes), x[weights:]
