"""Weight decay, and the parameters that are spared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class Decay:
    """λ, and the ascending ranges of elements that it holds for; None stands for all of them."""

    def __init__(self, rate: float, ranges: Sequence[slice] | None = None) -> None:
        self.rate, self._ranges = rate, ranges
        self._cuts: dict[tuple[int, int], list[tuple[slice, float]]] = {}

    def pieces(self, start: int, stop: int) -> list[tuple[slice, float]]:
        """[start, stop) cut where the rate changes, each piece with its rate: λ or 0."""
        if (start, stop) not in self._cuts:
            self._cuts[start, stop] = self._cut(start, stop)
        return self._cuts[start, stop]

    def _cut(self, start: int, stop: int) -> list[tuple[slice, float]]:
        found, at = [], start
        for span in [slice(start, stop)] if self._ranges is None else self._ranges:
            low, high = max(span.start, at), min(span.stop, stop)
            if low < high:
                found += [(slice(at, low), 0.0)] * (at < low)
                found.append((slice(low, high), self.rate))
                at = high
        return found + [(slice(at, stop), 0.0)] * (at < stop)

    def add(self, kernels: Any, x: Any, g: Any, start: int = 0) -> None:
        """g ← g + λx; g holds the elements from `start` on of a vector as long as x."""
        for piece, rate in self.pieces(start, start + g.size):
            if rate:
                kernels.copy_decode(x[piece].view(np.uint8), g[piece.start - start : piece.stop - start], True, rate)


def matrices(shapes: Iterable[Sequence[int]]) -> list[slice]:
    """The ranges of the parameters with two dimensions or more, in a vector of parameters of these shapes."""
    found: list[slice] = []
    start = 0
    for shape in shapes:
        stop = start + math.prod(shape)
        if len(shape) > 1 and start < stop:
            joins = found and found[-1].stop == start
            found[-1:] = [slice(found[-1].start, stop)] if joins else [*found[-1:], slice(start, stop)]
        start = stop
    return found
