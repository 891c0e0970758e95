"""Every kernel set gives the same bits: NumPy's definition, compiled C at each instruction level, and CUDA.

This holds for any kernel, arguments, length, dtype, elements and address. CUDA runs in the emulator, and on a GPU if
there is one (`pytest -m gpu`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from kernel_cases import DTYPES, FINITE_KINDS, Case, any_case, any_length, assert_same, numbers

from mpisqueeze.kernels.cuda import CudaKernels

try:
    from mpisqueeze.kernels import _native
    from mpisqueeze.kernels.native import NativeKernels
except ImportError:
    _native = None

#: Elements that a thread is given at least; so few that short vectors are cut into parts.
PART = 100
#: Warps that one example may have emulated.
MOST_WARPS = 600


#: (kernel, vector, residual or None)
Example = tuple[Case, np.ndarray, np.ndarray | None]


def kernel_sets(dtype: np.dtype[Any], cupy: Any, threads: int) -> Iterator[tuple[str, Any, Any]]:
    """(name, kernels, array module) of all kernel sets but the reference."""
    for level in _native.instruction_sets() if _native else ():
        _native.use_instruction_set(level)
        for count in {1, threads}:
            _native.use_threads(count, PART)
            yield f"{level}, {count} threads", NativeKernels(dtype), np
    yield "cuda", CudaKernels(dtype), cupy


@st.composite
def examples(draw: st.DrawFn) -> Example:
    """Any elements, some of them chosen to cause trouble."""
    case, d, dtype = draw(any_case()), draw(any_length()), draw(st.sampled_from(DTYPES))
    kinds = st.sampled_from(FINITE_KINDS)
    kind = draw(kinds)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    limits = np.finfo(dtype)
    special = [0.0, limits.smallest_subnormal, limits.tiny, 1.0, 65519.9, 65520.0, limits.max / 3, limits.max]
    special += [-number for number in special]
    odd = [np.nan, np.inf, -np.inf] if draw(st.integers(0, 9)) == 0 else []
    arrays = [numbers(rng, d, dtype, kind)]
    if draw(st.booleans()):
        arrays.append(numbers(rng, d, dtype, draw(st.one_of(st.just(kind), kinds))))
    for array in arrays:
        array[rng.random(d) < 0.01] = -0.0
        for value in draw(st.lists(st.sampled_from(special + odd), max_size=3)):
            array[rng.integers(d)] = value
    return case, arrays[0], arrays[1] if len(arrays) > 1 else None


@settings(max_examples=250, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(examples(), st.integers(0, 3), st.integers(0, 15), st.booleans(), st.integers(1, 9))
def test_all_kernel_sets_give_the_same_bits(
    cuda: Any,
    example: tuple[Case, np.ndarray, np.ndarray | None],
    offset: int,
    shift: int,
    backwards: bool,
    threads: int,
) -> None:
    case, v, delta = example
    emulated = cuda.__version__ == "emulated"
    if emulated and case.block:
        # A short block takes a warp of its own, which is slow to emulate.
        v = v[: MOST_WARPS * case.block]
        delta = None if delta is None else delta[: v.size]
    if emulated:
        cuda.settings.backwards = backwards
    note(f"{case} d={v.size} {v.dtype}")
    try:
        assert_same(case, v, delta, kernel_sets(v.dtype, cuda, threads), offset, shift)
    finally:
        if emulated:
            cuda.settings.backwards = False
        if _native:
            _native.use_threads(1)
            _native.use_instruction_set(_native.instruction_sets()[-1])


@pytest.mark.parametrize("level", _native.instruction_sets() if _native else ["none"])
def test_a_level_can_be_chosen(level: str) -> None:
    if not _native:
        pytest.skip("the native kernels were not built")
    _native.use_instruction_set(level)
    _native.use_instruction_set(_native.instruction_sets()[-1])
    with pytest.raises(ValueError, match="no instruction set"):
        _native.use_instruction_set("none")
