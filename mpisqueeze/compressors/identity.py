"""No compression: the payload is the vector."""

from __future__ import annotations

from typing import Any

from mpisqueeze.compressors.base import Compressor


class Identity(Compressor):
    """C(v) = v. Payload: d values."""

    name = "identity"
    summary = "no compression; 4d bytes"
    unbiased = True
    grain = 8

    def __init__(self, dimension: int, xp: Any, dtype: Any, seed: int) -> None:
        super().__init__(dimension, xp, dtype, seed)
        self.payload_bytes = dimension * self.dtype.itemsize

    def bound(self) -> float:
        return 0.0

    def _encode(self, vector: Any, residual: Any, payload: Any) -> bool:
        return self.kernels.copy_encode(vector, residual, payload)

    def _decode(self, payload: Any, out: Any, add: bool, factor: float = 1.0) -> None:
        self.kernels.copy_decode(payload, out, add, factor)
