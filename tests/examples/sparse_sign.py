"""A compressor without a kernel, in one file: mpisqueeze train --compressor sparse_sign.py:SparseSign,block=64."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from mpisqueeze.language import integer


class SparseSign:
    """The sign and place of the largest element of each block, and one scale: the mean of their magnitudes.

    Payload: the scale, then a byte a block: the place in its lower 7 bits, 1 = negative in the highest.
    """

    unbiased = False

    def __init__(
        self, dimension: int, xp: Any, dtype: Any, seed: int, *, block: Annotated[int, integer(1, 128)] = 128
    ) -> None:
        blocks = -(-dimension // block)
        self.xp, self.dtype = xp, np.dtype(dtype)
        self.payload_bytes = self.dtype.itemsize + blocks
        # Behind a last block that is shorter lie zeros, of which none is larger than an element.
        self._magnitudes = xp.zeros((blocks, block), dtype)
        self._starts = xp.arange(blocks) * block
        self._places = xp.empty_like(self._starts)
        self._largest = xp.empty(blocks, dtype)

    def bound(self) -> float:
        """‖C(v) − v‖² = ‖v‖² − (Σ m)²/n for n blocks with maxima m, and (Σ m)² ≥ ‖v‖²/BLOCK."""
        return 1 - 1 / self._magnitudes.size

    def encode(self, vector: Any, payload: Any) -> None:
        xp, scale, codes = self.xp, *self._cut(payload)
        xp.abs(vector, out=self._magnitudes.reshape(-1)[: vector.size])
        xp.argmax(self._magnitudes, axis=1, out=self._places)
        codes[:] = self._places
        self._places += self._starts
        self._largest[:] = vector[self._places]
        codes |= (self._largest < 0).astype(np.uint8) << 7
        scale[0] = xp.abs(self._largest, out=self._largest).mean()

    def decode(self, payload: Any, out: Any) -> None:
        scale, codes = self._cut(payload)
        self._places[:] = codes & 127
        self._places += self._starts
        self._largest[:] = scale
        self._largest[codes > 127] *= -1
        out.fill(0)
        out[self._places] = self._largest

    def _cut(self, payload: Any) -> tuple[Any, Any]:
        """The scale (1,) and the codes (blocks,) of a payload."""
        size = self.dtype.itemsize
        return payload[:size].view(self.dtype), payload[size:]
