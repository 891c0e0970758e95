"""TernGrad: each element becomes −max, 0 or +max at random."""

from __future__ import annotations

import math
from typing import Any

from mpisqueeze.compressors.qsgd import QSGD, Bucket


class Ternary(QSGD):
    """C(v) = m·sign(v)·b for each bucket, m = max|v|, b ~ Bernoulli(|v|/m).

    Source: Wen et al., arXiv 1705.07878. This is QSGD with one level, scaled by the largest magnitude instead of the
    norm.

    Payload: ⌈d/bucket⌉ maxima, then ⌈d/4⌉ bytes of 2-bit codes: b, and the sign as the higher bit.
    """

    name = "ternary"
    summary = "−max, 0, +max at random: ternary[,bucket=B]; d/4 + 4⌈d/B⌉ bytes"
    norm = "max"

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int, *, bucket: Bucket = 512) -> None:
        super().__init__(dimension, xp, dtype, seed, bits=2, bucket=bucket)

    def bound(self) -> float:
        """E‖C(v) − v‖² = m‖v‖₁ − ‖v‖² ≤ (√n − 1)‖v‖², for buckets of n."""
        return math.sqrt(self.length) - 1
