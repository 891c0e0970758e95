"""Random-k sparsification."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from mpisqueeze.compressors.base import Compressor
from mpisqueeze.compressors.topk import Ratio, count_of


class RandomK(Compressor):
    """k = max(1, ⌈RATIO·d⌉) positions drawn without replacement; `unbiased` scales their values by d/k.

    Source: Stich et al., arXiv 1809.07599. The payload has the key from which positions are drawn instead of positions.

    Payload: the key (8 bytes), then k values in the order of drawing.
    """

    name = "randomk"
    kernel = "randomk"
    sparsifies = True
    summary = "seeded random positions: randomk:RATIO[,unbiased]; 4k + 8 bytes, k = ⌈RATIO·d⌉"

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int, *, ratio: Ratio, unbiased: bool = False) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.ratio, self.k = ratio, count_of(dimension, ratio)
        self.layout = (self.k,)
        self.scaled = unbiased
        self.unbiased = unbiased or self.k == dimension
        self.payload_bytes = 8 + self.k * self.dtype.itemsize

    def at(self, ratio: Fraction) -> RandomK:
        return RandomK(self.dimension, self.xp, self.dtype, self.seed, ratio=ratio, unbiased=self.scaled)

    def bound(self) -> float:
        return self.dimension / self.k - 1 if self.scaled else 1 - self.k / self.dimension

    def _rounding(self) -> tuple[Any, ...]:
        return self.key, self.scaled
