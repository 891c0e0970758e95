"""The kernels in compiled C (`_native.c`): each is one pass over the vector, tile by tile in the cache."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

import mpisqueeze.kernels._native as _native
from mpisqueeze.kernels.reference import ReferenceKernels


class NativeKernels(ReferenceKernels):
    """`ReferenceKernels`, bit for bit. Arrays must be contiguous, and payloads exactly as long as their content.

    Raises:
        ValueError: an array is not contiguous or has the wrong length.
        IndexError: `topk_decode` met an index outside the vector.
    """

    name = "native"

    def copy_encode(self, vector: np.ndarray, residual: np.ndarray | None, payload: np.ndarray) -> bool:
        return _native.copy_encode(vector, residual, payload)

    def copy_decode(self, payload: np.ndarray, out: np.ndarray, add: bool, factor: float = 1.0) -> None:
        _native.copy_decode(payload, out, add, factor)

    def signs_encode(
        self, vector: np.ndarray, residual: np.ndarray | None, payload: np.ndarray, block: int, l2: bool
    ) -> bool:
        return _native.signs_encode(vector, residual, payload, block, l2)

    def signs_decode(self, payload: np.ndarray, out: np.ndarray, block: int, add: bool, factor: float = 1.0) -> None:
        _native.signs_decode(payload, out, block, add, factor)

    def signs_mean(self, payloads: Sequence[np.ndarray], out: np.ndarray, block: int) -> None:
        _native.signs_mean(tuple(payloads), out, block)

    def quantize_mean(self, payloads: Sequence[np.ndarray], out: np.ndarray, bits: int, bucket: int) -> None:
        _native.quantize_mean(tuple(payloads), out, bucket, bits)

    def uniform_mean(self, payloads: Sequence[np.ndarray], out: np.ndarray, bits: int, bucket: int) -> None:
        _native.uniform_mean(tuple(payloads), out, bucket, bits)

    def quantize_encode(
        self,
        vector: np.ndarray,
        residual: np.ndarray | None,
        payload: np.ndarray,
        bits: int,
        bucket: int,
        norm: str,
        key: int,
    ) -> bool:
        return _native.quantize_encode(vector, residual, payload, bits, bucket, norm, key)

    def quantize_decode(
        self, payload: np.ndarray, out: np.ndarray, bits: int, bucket: int, add: bool, factor: float = 1.0
    ) -> None:
        _native.quantize_decode(payload, out, bits, bucket, add, factor)

    def uniform_encode(
        self,
        vector: np.ndarray,
        residual: np.ndarray | None,
        payload: np.ndarray,
        bits: int,
        bucket: int,
        key: int,
    ) -> bool:
        return _native.uniform_encode(vector, residual, payload, bits, bucket, key)

    def uniform_decode(
        self, payload: np.ndarray, out: np.ndarray, bits: int, bucket: int, add: bool, factor: float = 1.0
    ) -> None:
        _native.uniform_decode(payload, out, bits, bucket, add, factor)

    def topk_encode(self, vector: np.ndarray, residual: np.ndarray | None, payload: np.ndarray, k: int) -> bool:
        room = -(-_native.topk_scratch(vector.size, k, self.dtype.itemsize) // self.dtype.itemsize)
        return _native.topk_encode(vector, residual, payload, k, self.scratch("candidates", room))

    def topk_decode(self, payload: np.ndarray, out: np.ndarray, k: int, add: bool, factor: float = 1.0) -> None:
        _native.topk_decode(payload, out, k, add, factor)

    def randomk_encode(
        self,
        vector: np.ndarray,
        residual: np.ndarray | None,
        payload: np.ndarray,
        k: int,
        key: int,
        unbiased: bool,
    ) -> bool:
        return _native.randomk_encode(vector, residual, payload, k, key, unbiased)

    def randomk_decode(self, payload: np.ndarray, out: np.ndarray, k: int, add: bool, factor: float = 1.0) -> None:
        _native.randomk_decode(payload, out, k, add, factor)

    def clip_encode(self, vector: np.ndarray, residual: np.ndarray | None, payload: np.ndarray, bits: int) -> bool:
        return _native.clip_encode(vector, residual, payload, bits)

    def clip_decode(self, payload: np.ndarray, out: np.ndarray, bits: int, add: bool, factor: float = 1.0) -> None:
        _native.clip_decode(payload, out, bits, add, factor)

    def half_encode(self, vector: np.ndarray, residual: np.ndarray | None, payload: np.ndarray, bfloat: bool) -> bool:
        return _native.half_encode(vector, residual, payload, bfloat)

    def half_decode(self, payload: np.ndarray, out: np.ndarray, bfloat: bool, add: bool, factor: float = 1.0) -> None:
        _native.half_decode(payload, out, bfloat, add, factor)
