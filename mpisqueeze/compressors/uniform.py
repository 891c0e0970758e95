"""Uniform quantization between each bucket's smallest and largest element."""

from __future__ import annotations

from typing import Annotated, Any

from mpisqueeze.compressors.base import Compressor, block_grain
from mpisqueeze.compressors.qsgd import Bucket
from mpisqueeze.kernels.reference import blocks_of
from mpisqueeze.language import integer

Bits = Annotated[int, integer(1, 8)]


class Uniform(Compressor):
    """C(v) = lo + (hi − lo)·ξ/L for each bucket, E ξ = L(v − lo)/(hi − lo), ξ ∈ {0, …, L}, L = 2^BITS − 1.

    Source: the experiments of DCD-SGD and DeepSqueeze (arXiv 1803.06443, 1907.07346).

    Payload: lo, hi of each bucket, then ⌈d·BITS/8⌉ bytes of codes.
    """

    name = "uniform"
    kernel = "uniform"
    summary = "stochastic levels between min and max: uniform:BITS[,bucket=B]; d·BITS/8 + 8⌈d/B⌉ bytes"
    unbiased = True

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int, *, bits: Bits, bucket: Bucket = 512) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.bits, self.layout = bits, (bits, bucket)
        self.length, buckets = blocks_of(dimension, bucket)
        self.grain = block_grain(bucket, dimension, random=True)
        self.payload_bytes = -(-dimension * bits // 8) + 2 * buckets * self.dtype.itemsize

    def bound(self) -> float:
        """n/(2L²) for buckets of n: an element's variance is at most (hi − lo)²/(4L²), and (hi − lo)² ≤ 2‖v‖²."""
        levels = (1 << self.bits) - 1
        return self.length / (2 * levels**2) if self.length > 1 else 0.0

    def _rounding(self) -> tuple[Any, ...]:
        return (self.key,)
