"""Clipping: the lowest bits of each element are set to 0 and not sent."""

from __future__ import annotations

from typing import Annotated, Any

from mpisqueeze.compressors.base import Compressor
from mpisqueeze.language import integer


class Clip(Compressor):
    """The top BITS bits of each element as float32: 1 sign, 8 exponent, BITS − 9 mantissa bits, rounded towards 0.

    Source: DoubleSqueeze, arXiv 1905.05957, §3. A float64 vector is rounded to float32 first; the error includes that.

    Payload: ⌈d·BITS/8⌉ bytes.
    """

    name = "clip"
    draws = False
    kernel = "clip"
    grain = 8
    summary = "the top bits of each float32: clip:BITS; d·BITS/8 bytes"

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int, *, bits: Annotated[int, integer(9, 31)]) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.bits, self.layout = bits, (bits,)
        self.payload_bytes = -(-dimension * bits // 8)

    def bound(self) -> float:
        """4^(9−BITS): a normal number loses less than 2^(9−BITS) of itself."""
        return 4.0 ** (9 - self.bits)
