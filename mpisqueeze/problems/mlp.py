"""A fully connected ReLU network with backpropagation written out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Annotated, Any

import numpy as np
from numpy.typing import DTypeLike

from mpisqueeze.data.seeding import Stream, generator
from mpisqueeze.language import Kind
from mpisqueeze.problems.base import Array
from mpisqueeze.problems.classification import ClassificationProblem
from mpisqueeze.quantities import parse_size

DEFAULT_HIDDEN = (128,)


def hidden_sizes(text: str) -> tuple[int, ...]:
    """`128` or `256x128`: the widths of the hidden layers. Raises ValueError."""
    sizes = tuple(parse_size(size) for size in text.split("x"))
    if min(sizes) < 1:
        raise ValueError("a layer cannot be empty")
    return sizes


class MLP(ClassificationProblem):
    """A_l = relu(A_{l−1} W_l + b_l) from the batch A₀, (n, features), to the logits, which have no relu.

    x is W₁ (inputs × outputs, row by row), b₁, W₂, b₂, …. At x₀ the biases are 0 and W_l is normal with variance
    2 / inputs (He et al. 2015, arXiv 1502.01852), drawn from the seed alone and rounded to the run's dtype.

    Args:
        hidden: the widths of the hidden layers, at least one.
    """

    name = "mlp"
    summary = f"ReLU network on --data: mlp[:H1xH2…], {'x'.join(map(str, DEFAULT_HIDDEN))} hidden units by default"

    def __init__(
        self,
        rank: int,
        size: int,
        seed: int,
        xp: Any,
        dtype: DTypeLike,
        *,
        hidden: Annotated[tuple[int, ...], Kind(hidden_sizes, "widths ≥ 1 such as 128 or 256x128")] = DEFAULT_HIDDEN,
        **options: Any,
    ) -> None:
        super().__init__(rank, size, seed, xp, dtype, **options)
        self.widths = (self.features, *hidden, self.classes)
        self.dimension = sum((inputs + 1) * outputs for inputs, outputs in pairwise(self.widths))
        self._allocate_for_training()
        # The derivatives by the hidden layers' outputs.
        self._deltas = self.make_activations(len(self._indices))[:-1]
        self._ready: Callable[[Array, int], None] | None = None

    def gradient_in_parts(self, x: Array, iteration: int, ready: Callable[[Array, int], None]) -> tuple[float, Array]:
        """Compute `gradient` and report it layer by layer."""
        self._ready = ready
        try:
            return self.gradient(x, iteration)
        finally:
            self._ready = None

    def initial_point(self) -> Array:
        rng = generator(self.seed, Stream.INITIAL_POINT)
        x = np.zeros(self.dimension, self.dtype)
        for weights, _ in self._layers(x):
            weights[...] = rng.standard_normal(weights.shape) * np.sqrt(2 / len(weights))
        return self.xp.asarray(x)

    def make_activations(self, rows: int) -> list[Array]:
        return [self.xp.empty((rows, width), self.dtype) for width in self.widths[1:]]

    def forward(self, x: Array, inputs: Array, activations: Sequence[Array]) -> None:
        xp, below = self.xp, inputs
        for (weights, biases), output in zip(self._layers(x), activations, strict=True):
            xp.dot(below, weights, out=output)
            xp.add(output, biases, out=output)
            if output is not activations[-1]:
                xp.maximum(output, 0, out=output)
            below = output

    def backward(
        self, x: Array, inputs: Array, activations: Sequence[Array], logits_derivative: Array, gradient: Array
    ) -> None:
        xp, delta = self.xp, logits_derivative
        layers, gradients, start = self._layers(x), self._layers(gradient), self.dimension
        for layer in reversed(range(len(layers))):
            below = activations[layer - 1] if layer else inputs
            weights_gradient, biases_gradient = gradients[layer]
            xp.dot(below.T, delta, out=weights_gradient)
            xp.sum(delta, axis=0, out=biases_gradient)
            start -= weights_gradient.size + biases_gradient.size
            if self._ready is not None:
                self._ready(gradient, start)
            if layer:
                weights, _ = layers[layer]
                xp.dot(delta, weights.T, out=self._deltas[layer - 1])
                delta = self._deltas[layer - 1]
                # relu's outputs are ≥ 0, so their sign is its derivative.
                xp.sign(below, out=below)
                xp.multiply(delta, below, out=delta)

    def _layers(self, x: Array) -> list[tuple[Array, Array]]:
        """Views of each layer's weights, (inputs, outputs), and biases, (outputs,), in a vector like x."""
        layers, start = [], 0
        for inputs, outputs in pairwise(self.widths):
            middle = start + inputs * outputs
            layers.append((x[start:middle].reshape(inputs, outputs), x[middle : middle + outputs]))
            start = middle + outputs
        return layers
