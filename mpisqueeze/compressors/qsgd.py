"""QSGD: stochastic rounding to a few levels of each bucket's norm."""

from __future__ import annotations

import math
from typing import Annotated, Any

from mpisqueeze.compressors.base import Compressor, block_grain
from mpisqueeze.kernels.reference import blocks_of
from mpisqueeze.language import integer

Bits = Annotated[int, integer(2, 8)]
Bucket = Annotated[int, integer(0, accepts="a bucket length ≥ 1, or 0 for the whole vector")]


class QSGD(Compressor):
    """C(v) = ‖v‖₂·sign(v)·ξ/s for each bucket, E ξ = s|v|/‖v‖₂, ξ ∈ {0, …, s}, s = 2^(BITS−1) − 1.

    Source: Alistarh et al., arXiv 1610.02132, with fixed-width codes.

    Payload: ⌈d/bucket⌉ norms, then ⌈d·BITS/8⌉ bytes: the level in the low bits of a code, the sign as its highest.
    """

    name = "qsgd"
    kernel = "quantize"
    summary = "stochastic levels of the l2 norm: qsgd:BITS[,bucket=B]; d·BITS/8 + 4⌈d/B⌉ bytes"
    unbiased = True
    norm = "l2"

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int, *, bits: Bits, bucket: Bucket = 512) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.bits, self.layout = bits, (bits, bucket)
        self.length, buckets = blocks_of(dimension, bucket)
        self.grain = block_grain(bucket, dimension, random=True)
        self.payload_bytes = -(-dimension * bits // 8) + buckets * self.dtype.itemsize

    def bound(self) -> float:
        """min(n/s², √n/s): Lemma 3.1 of the paper, for buckets of n."""
        levels = (1 << (self.bits - 1)) - 1
        return min(self.length / levels**2, math.sqrt(self.length) / levels)

    def _rounding(self) -> tuple[Any, ...]:
        return self.norm, self.key
