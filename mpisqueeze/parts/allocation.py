"""Memory that work in the hot loop allocates, temporaries included: nothing of a vector's size."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mpisqueeze.kernels import kernels_for
from mpisqueeze.parts.findings import Doubt
from mpisqueeze.parts.registry import Part
from mpisqueeze.quantities import size

#: Elements of the vectors that work is measured on: long beside whatever else it may hold.
DIMENSION = 1 << 18
#: The part of a vector's bytes that coding and a step may allocate.
SPARE = 1 / 50
#: Rounds that go first, since they may fill caches, and rounds that are measured.
_FIRST, _MEASURED = 2, 3


def peak_allocation(work: Callable[[int], Any]) -> int:
    """The most bytes that `work(t)` holds at a time beyond those that it held after its first two rounds.

    Args:
        work: called with t = 1, 2, …, 5.
    """
    for t in range(1, _FIRST + 1):
        work(t)
    tracemalloc.start()
    try:
        for t in range(_FIRST + 1, _FIRST + _MEASURED + 1):
            work(t)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def excess(work: Callable[[int], Any], vector_bytes: int, spare: float = SPARE) -> int:
    """`peak_allocation` where it is more than this part of a vector of so many bytes, else 0."""
    peak = peak_allocation(work)
    return peak if peak > vector_bytes * spare else 0


def allocates_nothing(
    part: Part, works: Mapping[str, Callable[[int], Any]], vector_bytes: int, spare: float = SPARE
) -> None:
    """Fail a built-in part, and doubt a plug-in, of whose works one allocates memory of a vector's size."""
    found = {name: peak for name, work in works.items() if (peak := excess(work, vector_bytes, spare))}
    if not found:
        return
    what = ", ".join(f"{name} {size(peak)}" for name, peak in found.items())
    text = f"{what}, beside vectors of {size(vector_bytes)}; keep buffers for that"
    # NumPy's kernels, which stand in for the compiled ones, have temporaries.
    if part.is_plugin or kernels_for(np, np.float32).name == "numpy":
        raise Doubt(text)
    raise AssertionError(text)
