"""QSGD: stochastic rounding to a few levels of each bucket's norm."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    summary = "stochastic levels of the l2 norm: qsgd:BITS[,bucket=B]; d·BITS/8 + 4⌈d/B⌉ bytes"
    unbiased = True
    norm = "l2"

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int, *, bits: Bits, bucket: Bucket = 512) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.bits, self.bucket = bits, bucket
        self.length, buckets = blocks_of(dimension, bucket)
        self.grain = block_grain(bucket, dimension, random=True)
        self.payload_bytes = -(-dimension * bits // 8) + buckets * self.dtype.itemsize

    def bound(self) -> float:
        """min(n/s², √n/s): Lemma 3.1 of the paper, for buckets of n."""
        levels = (1 << (self.bits - 1)) - 1
        return min(self.length / levels**2, math.sqrt(self.length) / levels)

    def _encode(self, vector: Any, residual: Any, payload: Any) -> bool:
        return self.kernels.quantize_encode(vector, residual, payload, self.bits, self.bucket, self.norm, self.key)

    def _decode(self, payload: Any, out: Any, add: bool, factor: float = 1.0) -> None:
        self.kernels.quantize_decode(payload, out, self.bits, self.bucket, add, factor)

    def decode_mean(self, payloads: Sequence[Any], out: Any) -> None:
        self.kernels.quantize_mean(payloads, out, self.bits, self.bucket)

    @property
    def fuses_mean(self) -> bool:
        return hasattr(self.kernels, "quantize_mean")
