"""Reports of the final part of a module's gradient while backpropagation runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from mpisqueeze.errors import UsageError
from mpisqueeze.problems.base import Array

#: Least number of elements in a report, since a report takes time.
BUCKET = 1 << 13


class Frontier:
    """Reports the tail of a gradient as it becomes final, by a hook on each parameter.

    Backpropagation reaches parameters in about the reverse order of `parameters`; a gradient counts as final
    once all behind it are. A parameter that the loss does not depend on gets no gradient, and delays those in front of
    it until the end.

    Args:
        parameters: parameters in their order in `gradient`.
        gradient: the flat gradient, (d,).
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
        """Start reporting to `ready`, after the forward pass."""
        self._done[:] = [False] * len(self._done)
        self._next, self._reported = len(self._done), self._dimension
        self._ready = ready

    def close(self) -> None:
        """Stop reporting."""
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
