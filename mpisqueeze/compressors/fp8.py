"""8-bit floats with a scale for each block."""

from __future__ import annotations

from typing import Any

from mpisqueeze.compressors.base import Block, Compressor, block_grain
from mpisqueeze.kernels.reference import blocks_of


class FP8(Compressor):
    """C(v) = s·e4m3(v/s) for each block, s = max|v|/448, rounded to nearest even.

    e4m3 is the format of Micikevicius et al., arXiv 2209.05433: four bits of exponent with bias 7 and three of
    fraction, without infinities, up to 448, with subnormals down to 2⁻⁹. The largest element of a block maps to ±448,
    whatever its size. s is at least the smallest normal number, which a block of zeros has.

    Payload: ⌈d/BLOCK⌉ scales, then d bytes.
    """

    name = "fp8"
    draws = False
    kernel = "fp8"
    summary = "8-bit floats (e4m3) and a scale a block: fp8[:BLOCK]; d + 4⌈d/BLOCK⌉ bytes"

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int, *, block: Block = 128) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.layout = (block,)
        self.length, blocks = blocks_of(dimension, block)
        self.grain = block_grain(block, dimension)
        self.payload_bytes = dimension + blocks * self.dtype.itemsize

    def bound(self) -> float:
        """4⁻⁴ + n·(2⁻¹⁰/448)²: an element errs by at most 2⁻⁴ of itself, or 2⁻¹⁰·s where it is subnormal."""
        return 4.0**-4 + self.length * (2.0**-10 / 448) ** 2
