"""Top-k sparsification."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Any

from mpisqueeze.compressors.base import Compressor
from mpisqueeze.language import Kind
from mpisqueeze.quantities import without_percent


def read_ratio(text: str) -> Fraction:
    """A ratio in (0, 1], `7%` too, exactly as written, so that 0.07 of 100 is 7. Raises ValueError."""
    number = without_percent(text)
    if not 0 < float(number) <= 1:
        raise ValueError(f"{text} is out of range")
    return Fraction(number)


Ratio = Annotated[Fraction, Kind(read_ratio, "a ratio in (0, 1]")]


def count_of(dimension: int, ratio: Fraction) -> int:
    """k = max(1, ⌈ratio·d⌉)."""
    return max(1, math.ceil(ratio * dimension))


class TopK(Compressor):
    """The k = max(1, ⌈RATIO·d⌉) elements of largest magnitude, ties to the lowest index; the rest is 0.

    Sources: Aji & Heafield, arXiv 1704.05021; Stich et al., arXiv 1809.07599.

    Payload: k values, then their k indices as int32, ascending.
    """

    name = "topk"
    draws = False
    kernel = "topk"
    sparsifies = True
    summary = "the largest magnitudes: topk:RATIO; 8k bytes, k = ⌈RATIO·d⌉"

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int, *, ratio: Ratio) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.ratio, self.k = ratio, count_of(dimension, ratio)
        self.layout = (self.k,)
        self.payload_bytes = self.k * (self.dtype.itemsize + 4)

    def at(self, ratio: Fraction) -> TopK:
        return TopK(self.dimension, self.xp, self.dtype, self.seed, ratio=ratio)

    def bound(self) -> float:
        return 1 - self.k / self.dimension
