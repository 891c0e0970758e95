"""The kernels in compiled C (`_native.c`): each is one pass over the vector, tile by tile in the cache."""

from __future__ import annotations

import numpy as np

import mpisqueeze.kernels._native as _native
from mpisqueeze.kernels.reference import ReferenceKernels


class NativeKernels(ReferenceKernels):
    """`ReferenceKernels`, bit for bit. Arrays must be contiguous, and payloads exactly as long as their content.

    Raises:
        ValueError: an array is not contiguous or has the wrong length.
        IndexError: `topk_decode` or `topk_clear` met an index outside the vector.
    """

    name = "native"
    # Built-in functions do not bind: each gets the method's arguments without `self`.
    copy_encode, copy_decode = _native.copy_encode, _native.copy_decode
    signs_encode, signs_decode = _native.signs_encode, _native.signs_decode
    quantize_encode, quantize_decode = _native.quantize_encode, _native.quantize_decode
    uniform_encode, uniform_decode = _native.uniform_encode, _native.uniform_decode
    topk_decode, topk_clear = _native.topk_decode, _native.topk_clear
    randomk_encode, randomk_decode = _native.randomk_encode, _native.randomk_decode
    randomk_clear = _native.randomk_clear
    clip_encode, clip_decode = _native.clip_encode, _native.clip_decode
    half_encode, half_decode = _native.half_encode, _native.half_decode
    natural_encode, natural_decode = _native.natural_encode, _native.natural_decode
    fp8_encode, fp8_decode = _native.fp8_encode, _native.fp8_decode
    # Several payloads in one pass: (payloads, weights, factor, out) and the decoder's arguments, see `combine` of a
    # compressor; weights None: their mean.
    copy_combine, signs_combine = _native.copy_combine, _native.signs_combine
    quantize_combine, uniform_combine = _native.quantize_combine, _native.uniform_combine
    natural_combine, fp8_combine = _native.natural_combine, _native.fp8_combine
    momentum_step, adam_step = _native.momentum_step, _native.adam_step

    def topk_encode(self, vector: np.ndarray, residual: np.ndarray | None, payload: np.ndarray, k: int) -> bool:
        room = -(-_native.topk_scratch(vector.size, k, self.dtype.itemsize) // self.dtype.itemsize)
        return _native.topk_encode(vector, residual, payload, k, self.scratch("candidates", room))

    def positions_encode(
        self, vector: np.ndarray, residual: np.ndarray | None, payload: np.ndarray, k: int, key: int, unbiased: bool
    ) -> bool:
        kept = self._kept(vector.size, k, key)
        if not _native.positions_encode(vector, residual, payload, k, key, unbiased, *kept):
            return False
        self._scratch.drawn = vector.size, k, key
        return True

    def positions_decode(
        self, payload: np.ndarray, out: np.ndarray, k: int, key: int, add: bool, factor: float = 1.0
    ) -> bool:
        finite: bool = _native.positions_decode(payload, out, k, key, *self._kept(out.size, k, key), add, factor)
        self._scratch.drawn = out.size, k, key
        return finite

    def _kept(self, *drawn: int) -> tuple[np.ndarray, bool]:
        """Memory for k positions, and whether they are there: all who encode and decode draw the same."""
        known, self._scratch.drawn = drawn == self._scratch.drawn, None
        return self.scratch("positions", drawn[1], np.uint32), known
