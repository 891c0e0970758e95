"""The 16-bit float formats."""

from __future__ import annotations

from typing import Any

from mpisqueeze.compressors.base import Compressor


class FP16(Compressor):
    """IEEE binary16, rounded to nearest even; an element beyond ±65 504 raises NonFiniteError.

    Payload: 2d bytes.
    """

    name = "fp16"
    draws = False
    kernel = "half"
    grain = 8
    summary = "IEEE half precision; 2d bytes"
    layout = (False,)  # not bfloat16

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.payload_bytes = 2 * dimension

    def bound(self) -> float:
        """4⁻¹¹: a normal number errs by at most 2⁻¹¹ of itself."""
        return 4.0**-11


class BF16(FP16):
    """bfloat16, the upper half of a float32, rounded to nearest even (a float64 is rounded to float32 first).

    Payload: 2d bytes.
    """

    name = "bf16"
    summary = "bfloat16; 2d bytes"
    layout = (True,)

    def bound(self) -> float:
        """4⁻⁹: a normal number errs by at most 2⁻⁹ of itself."""
        return 4.0**-9
