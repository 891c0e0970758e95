"""Reports of the final part of a module's gradient while backpropagation runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mpisqueeze.errors import UsageError
from mpisqueeze.problems.base import Array
from mpisqueeze.problems.neural.tensors import Slot

#: Least number of elements in a report, since a report takes time.
BUCKET = 1 << 13


class Frontier:
    """Reports the tail of a gradient as it becomes final, by a hook on each parameter.

    Backpropagation reaches parameters in about the reverse order of `slots`; a gradient counts as final
    once all behind it are. A parameter that the loss does not depend on gets no gradient, and delays those in front of
    it until the end.

    Args:
        slots: the parameters' elements in the gradient, in their order.
        dimension: d.
    """

    def __init__(self, slots: Sequence[Slot], dimension: int) -> None:
        self._gradient: Array
        self._starts = [*(slot.start for slot in slots), dimension]
        self._expected = [len(slot.trained) for slot in slots]
        self._left = list(self._expected)
        self._ready: Callable[[Array, int], None] | None = None
        self._next, self._reported = 0, 0
        for i, slot in enumerate(slots):
            for parameter in slot.trained:
                parameter.register_post_accumulate_grad_hook(self._hook(i))

    def open(self, ready: Callable[[Array, int], None], gradient: Array) -> None:
        """Start reporting the flat gradient, (d,), to `ready`, after the forward pass."""
        self._gradient = gradient
        self._left[:] = self._expected
        self._next, self._reported = len(self._left), self._gradient.size
        self._ready = ready

    def close(self) -> None:
        """Stop reporting."""
        self._ready = None

    def _hook(self, i: int) -> Callable[[Any], None]:
        def accumulated(_: Any) -> None:
            if self._ready is None:
                return
            if not self._left[i]:
                raise UsageError("this model finds a parameter's gradient in more than one go", "--overlap")
            self._left[i] -= 1
            while self._next and not self._left[self._next - 1]:
                self._next -= 1
            start = self._starts[self._next]
            if self._reported - start >= BUCKET:
                self._reported = start
                self._ready(self._gradient, start)

        return accumulated
