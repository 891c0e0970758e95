"""Natural compression: sign and exponent, by stochastic rounding to powers of two."""

from __future__ import annotations

from typing import Any

from mpisqueeze.compressors.base import Compressor


class Natural(Compressor):
    """C(v) = sign(v)·2^e or sign(v)·2^(e+1), where 2^e ≤ |v| < 2^(e+1), with E C(v) = v.

    Source: Horváth, Ho, Horváth, Sahu, Canini & Richtárik, arXiv 1905.10988, Definition 1. A byte an element, in the
    layout of the authors' code (in GRACE): a code of 7 bits for 2⁻¹⁰⁸ … 2¹⁸. What is below is rounded to 0 or 2⁻¹⁰⁸,
    where that code cuts it off, and what is above raises NonFiniteError, where it is clipped there, so that the mean is
    v itself. The paper's 9 bits (12 of a float64) hold every exponent.

    Payload: d bytes, the sign as the highest bit, and code 1 … 127 for 2^(code − 109), 0 for 0.
    """

    name = "natural"
    kernel = "natural"
    summary = "sign and exponent, random powers of two; d bytes"
    unbiased = True
    grain = 8

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.payload_bytes = dimension

    def bound(self) -> float:
        """1/8: Theorem 3 of the paper, for elements from 2⁻¹⁰⁸ on."""
        return 1 / 8

    def _rounding(self) -> tuple[Any, ...]:
        return (self.key,)
