"""A fully connected ReLU network with backpropagation written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np

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
    """A network with at least one hidden layer.

    At x₀ the biases are 0 and W_l is normal with variance 2 / inputs (He et al. 2015, arXiv 1502.01852), drawn from the
    seed alone and rounded to the run's dtype.
    """

    name = "mlp"
    summary = f"ReLU network on --data: mlp[:H1xH2…], {'x'.join(map(str, DEFAULT_HIDDEN))} hidden units by default"

    def __init__(
        self,
        *run: Any,
        hidden: Annotated[tuple[int, ...], Kind(hidden_sizes, "widths ≥ 1 such as 128 or 256x128")] = DEFAULT_HIDDEN,
        **options: Any,
    ) -> None:
        super().__init__(*run, hidden=hidden, **options)

    def initial_point(self) -> Array:
        rng = generator(self.seed, Stream.INITIAL_POINT)
        x = np.zeros(self.dimension, self.dtype)
        for weights, _ in self.layers(x):
            weights[...] = rng.standard_normal(weights.shape) * np.sqrt(2 / len(weights))
        return self.xp.asarray(x)

    def gradient_in_parts(self, x: Array, iteration: int, ready: Callable[[Array, int], None]) -> tuple[float, Array]:
        """Compute `gradient` and report it layer by layer."""
        return self.differentiate(x, iteration, ready)
