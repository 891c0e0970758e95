"""The contract of an optimizer, which moves x along a direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mpisqueeze.compressors.base import NonFiniteError
from mpisqueeze.kernels import kernels_for
from mpisqueeze.optimizers.decay import Decay


@dataclass(frozen=True)
class Recipe:
    """The settings of an optimizer.

    Attributes:
        momentum, nesterov: β of heavy ball, and whether its step looks ahead.
        betas, eps: β₁, β₂ and ε of Adam.
        decay: weight decay that is the optimizer's affair, or None where gradients hold it.
    """

    momentum: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    decay: Decay | None = None


class Optimizer:
    """A step of x along p, which is a gradient or what the ranks' gradients have become.

    A new optimizer is a class in a file of this package with a `name`, its vectors and `apply`. An iteration is one
    `begin`, then `move` (or `turn`) for ranges that cover the vector, in any order, each element once.

    Attributes:
        linear: a step is linear in p and earlier ones, so that the mean of the ranks' steps is the step of their mean.
            It may then act on each rank's gradient as well as on the answer.
        default_lr: as an algorithm's.
        decouples: weight decay shrinks x by γλx; with the others λx is added to p.
        memory: the names of the attributes that carry over from one iteration to the next.
        steps: the number of iterations that have begun.
        moved: the number of elements that have been moved in this one.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    linear: ClassVar[bool] = False
    default_lr: ClassVar[float | None] = None
    decouples: ClassVar[bool] = False
    memory: ClassVar[Sequence[str]] = ()

    def __init__(self, dimension: int, xp: Any, dtype: Any, recipe: Recipe) -> None:
        self.dimension, self.xp, self.dtype, self.recipe = dimension, xp, np.dtype(dtype), recipe
        self.kernels = kernels_for(xp, self.dtype)
        self.message = "an element of the direction was NaN or infinite"
        self.steps = self.moved = 0

    @property
    def plain(self) -> bool:
        """A step is x ← x − γp."""
        return False

    def zeros(self) -> Any:
        """A vector (d) of zeros on the device."""
        return self.xp.zeros(self.dimension, self.dtype)

    def begin(self) -> None:
        """Begin an iteration."""
        self.steps += 1
        self.moved = 0

    def move(self, x: Any, p: Any, lr: float, start: int = 0, count: int = 1) -> None:
        """Move x, in place, along p/count; both hold the elements from `start` on. p is kept.

        Raises NonFiniteError, with x moved, if an element of p was NaN or infinite.
        """
        finite, decay = True, self.recipe.decay
        self.moved += x.size
        for piece, rate in decay.pieces(start, start + x.size) if decay else [(slice(start, start + x.size), 0.0)]:
            here = slice(piece.start - start, piece.stop - start)
            finite &= self.apply(piece, p[here], x[here], lr, count, rate)
        if not finite:
            raise NonFiniteError(self.message)

    def turn(self, p: Any, start: int = 0) -> None:
        """p ← s, where x ← x − γs is the step along p without weight decay. A NaN is left to be found."""
        self.apply(slice(start, start + p.size), p, None, 1.0, 1, 0.0)

    def step(self, x: Any, p: Any, lr: float) -> None:
        """A whole iteration: x (d) moves along p (d). Raises NonFiniteError as `move` does."""
        self.begin()
        self.move(x, p, lr)

    def apply(self, span: slice, p: Any, x: Any | None, lr: float, count: int, decay: float) -> bool:
        """The step along p/count of the elements `span` of the vector; without x it is left in p, and γ = 1.

        Args:
            decay: λ of these elements.

        Returns False if an element of p was NaN or infinite.
        """
        raise NotImplementedError

    def nonfinite_message(self) -> str:
        return self.message
