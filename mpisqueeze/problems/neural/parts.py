"""How much of a module's gradient is final while backpropagation runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from mpisqueeze.errors import UsageError
from mpisqueeze.problems.base import Array

#: Numbers that are reported at a time: a report takes some time of its own.
BUCKET = 1 << 13


class Frontier:
    """Reports the end of a gradient as it becomes final, by a hook on each parameter.

    Backpropagation comes to parameters in about the reverse order of `parameters`; what it has found counts as final
    once all behind it is. A parameter that the loss does not depend on gets no gradient, and holds up what is in front
    of it until the end.

    Args:
        parameters: in the order in which they lie in `gradient`.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], gradient: Array) -> None:
        self._gradient = gradient
        self._starts, start = [], 0
        for parameter in parameters:
            self._starts.append(start)
            start += parameter.numel()
        self._dimension = start
        self._done = [False] * len(parameters)
        self._ready: Callable[[Array, int], None] | None = None
        self._next, self._reported = 0, 0
        for i, parameter in enumerate(parameters):
            parameter.register_post_accumulate_grad_hook(self._hook(i))

    def open(self, ready: Callable[[Array, int], None]) -> None:
        """Report to `ready` from now on: the forward pass is over, and all numbers are yet to come."""
        self._done[:] = [False] * len(self._done)
        self._next, self._reported = len(self._done), self._dimension
        self._ready = ready

    def close(self) -> None:
        """Report nothing more."""
        self._ready = None

    def _hook(self, i: int) -> Callable[[Any], None]:
        def accumulated(_: Any) -> None:
            if self._ready is None:
                return
            if self._done[i]:
                raise UsageError("this model finds a parameter's gradient in more than one go", "--overlap")
            self._done[i] = True
            while self._next and self._done[self._next - 1]:
                self._next -= 1
            start = self._starts[self._next] if self._next < len(self._starts) else self._dimension
            if self._reported - start >= BUCKET:
                self._reported = start
                self._ready(self._gradient, start)

        return accumulated
