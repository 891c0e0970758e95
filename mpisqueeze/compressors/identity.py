"""No compression: the payload is the vector."""

from __future__ import annotations

from typing import Any

from mpisqueeze.compressors.base import Compressor


class Identity(Compressor):
    """C(v) = v. Payload: d values."""

    name = "identity"
    draws = False
    kernel = "copy"
    summary = "no compression; 4d bytes"
    unbiased = linear = True
    grain = 8

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.payload_bytes = dimension * self.dtype.itemsize

    def bound(self) -> float:
        return 0.0
