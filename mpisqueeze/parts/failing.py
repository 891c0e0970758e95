"""The methods that the talks show to fail: no table of the fastest names one of them unless a user does."""

from __future__ import annotations

import numpy as np

from mpisqueeze.compressors.base import Compressor
from mpisqueeze.parts.registry import Part

#: Elements of a vector for which a compressor is asked whether it is unbiased.
_ELEMENTS = 1 << 16


def shown_to_fail(algorithm: Part, compressor: Part) -> bool:
    """The algorithm's class declares in `fails_with` that it fails with such a compressor."""
    kind = getattr(algorithm.cls, "fails_with", "")
    if kind == "lossy":
        return compressor.name != "identity"
    if kind != "biased":
        return False
    made: Compressor = compressor.cls(_ELEMENTS, np, np.dtype(np.float32), 0, **compressor.options)
    return not made.unbiased
