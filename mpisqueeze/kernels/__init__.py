"""The fused loops under the compressors: the same functions, with the same bits, on NumPy, compiled C and CUDA.

A kernel set is an object with the methods of `reference.ReferenceKernels`, which is the definition that the others are
tested against bit by bit. `kernels_for` picks the fastest one that is there.

Conventions that make the bits equal everywhere:

- Every operation is IEEE arithmetic in the vector's dtype, with no fused multiply-add and no flush of denormals.
- A sum over n elements is *halving*: n ≤ 1024 elements are padded with zeros to a power of two, and the upper half is
  added onto the lower half until one element is left; n > 1024 elements are cut into runs of 1024, and the halving
  sums of the runs are summed the same way. Magnitudes are added in the vector's dtype, squares in float64.
- Randomness is a hash of (key, index), see `random.py`: no state, any order.
- Bit streams are little-endian: element i of BITS bits occupies bits [i·BITS, (i+1)·BITS) of the stream, and bit b of
  the stream is bit b mod 8 of byte ⌊b/8⌋. Scales stand in front of the stream, so that they are aligned.

Every `*_encode` takes `residual`: None for plain compression, or the error-feedback residual δ of the same length; then
v = vector + δ is compressed, and δ ← v − D(payload), computed from the decoded payload. Each returns False when an
element was NaN, infinite or too large for the format: payload and residual are then undefined.
Every `*_decode` takes `add` and `factor`: out ← D(payload), or out ← out + factor·D(payload), each element rounded
after the product and after the sum. `copy_decode` and `positions_decode` return False when an element was not finite:
their payload may be a sum, or a vector that was sent as it is.
Every `*_clear`, of kernels that send some elements, does out ← 0 at those that a payload holds.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import numpy as np

from mpisqueeze.settings import MAX_THREADS


def kernels_for(xp: Any, dtype: Any) -> Any:
    """The kernel set for arrays of module `xp` and `dtype` (float32 or float64).

    `MPISQUEEZE_KERNELS=numpy|native` overrides the choice on the CPU; asking for `native` where the extension was not
    built raises ImportError.
    """
    dtype = np.dtype(dtype)
    if xp.__name__ == "cupy":
        from mpisqueeze.kernels.cuda import CudaKernels

        return CudaKernels(dtype)
    return _for_hosts(dtype, os.environ.get("MPISQUEEZE_KERNELS", ""))


@cache
def _for_hosts(dtype: np.dtype[Any], wanted: str) -> Any:
    """One set for all who work on a host's arrays, so that those of a thread share scratch memory."""
    if wanted != "numpy":
        try:
            from mpisqueeze.kernels.native import NativeKernels

            return NativeKernels(dtype)
        except ImportError:
            if wanted == "native":
                raise
    from mpisqueeze.kernels.reference import ReferenceKernels

    return ReferenceKernels(dtype)


def use_threads(count: int) -> None:
    """Let `count` threads of this process, the caller's included, work on each long vector from now on.

    This applies to the compiled kernels only, not to NumPy and CUDA. The bits do not depend on `count`. With 1, the
    default, no thread is made. Idle threads sleep; a forked child starts without them.

    Raises ValueError unless count is from 1 to MAX_THREADS.
    """
    if not 1 <= count <= MAX_THREADS:
        raise ValueError(f"threads must be from 1 to {MAX_THREADS}, not {count}")
    try:
        from mpisqueeze.kernels import _native
    except ImportError:
        return
    _native.use_threads(count)


def threads_of(kernels: Any) -> int:
    """Number of threads of this process that work for a kernel set."""
    if kernels.name != "native":
        return 1
    from mpisqueeze.kernels import _native

    return _native.threads()
