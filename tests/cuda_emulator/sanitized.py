"""The kernels in the emulator under a sanitizer: python sanitized.py address|threads|blocks [FAULT]

It is for `tests/test_sanitizers.py`, which preloads the sanitizer's library. Every result is compared with the
reference. With FAULT, one of `FAULTS`, a source is changed first, and the sanitizer must report it.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any
from unittest.mock import patch

import cupy
import numpy as np
from kernel_cases import (
    DTYPES,
    WAYS,
    Case,
    clip,
    copy,
    fp8,
    half,
    natural,
    numbers,
    positions,
    quantize,
    randomk,
    signs,
    topk,
    uniform,
)

from cuda_emulator.arrays import FakeArray
from mpisqueeze.kernels import cuda
from mpisqueeze.kernels.cuda import SAMPLED, CudaKernels
from mpisqueeze.kernels.reference import ReferenceKernels

#: By name: the kind of sanitizer, the file, text in it, and what it becomes.
FAULTS = {
    "a store beyond the end": ("address", "common.cuh", "if (i + c < end) p[i + c]", "if (i + c <= end) p[i + c]"),
    "a histogram too small": ("address", "topk.cu", "u32 bins[BINS]", "u32 bins[BINS / 8]"),
    "a shift by too much": ("address", "clip.cu", "code >>= 32 - bits", "code >>= 64 - bits"),
    "no barrier of a warp": ("threads", "blocks.cuh", "    __syncwarp();\n    emit(", "    emit("),
    "no barrier of a block": (
        "threads",
        "topk.cu",
        "    shared[threadIdx.x] = own;\n    __syncthreads();",
        "    shared[threadIdx.x] = own;",
    ),
    "blocks that add without an atomic": (
        "blocks",
        "topk.cu",
        "atomicAdd(&histogram[b], bins[b])",
        "histogram[b] += bins[b]",
    ),
}
BLOCKS = (1, 3, 8, 100, 1000, 1024, 1032, 0)
LENGTHS = (1, 2, 7, 8, 9, 31, 33, 129, 257, 1000, 1025, 3001)
Library = Any


class Exact:
    """Arrays of the device that end where their memory does, and begin where it must not be read before."""

    def __init__(self) -> None:
        library: Library = ctypes.CDLL(None)
        self._poison, self._clean = (library[f"__asan_{what}_memory_region"] for what in ("poison", "unpoison"))
        for function in (self._poison, self._clean):
            function.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._held: list[np.ndarray] = []

    def array(self, values: np.ndarray, shift: int = 0) -> Any:
        """`values`, `shift` bytes behind a multiple of 256."""
        room = np.zeros(values.nbytes + 1024, np.uint8)
        start = -room.ctypes.data % 256 + 256 + shift
        place = room[start : start + values.nbytes].view(values.dtype)
        place[...] = values
        # What is poisoned begins at a multiple of 8.
        self._poison(room.ctypes.data, start // 8 * 8)
        self._poison(place.ctypes.data + place.nbytes, room.nbytes - start - place.nbytes)
        self._held.append(room)
        return FakeArray(place)

    def close(self) -> None:
        for room in self._held:
            self._clean(room.ctypes.data, room.nbytes)
        self._held.clear()


def address_cases() -> Iterator[tuple[Case, int]]:
    cases = [
        copy(), half(False), half(True), natural(), clip(9), clip(21), clip(31), topk(0.01), topk(1.0),
        randomk(0.1, True), positions(0.1, False),
    ]  # fmt: skip
    for block in BLOCKS:
        cases += [
            signs(block), signs(block, "two"), signs(block, "none"), quantize(2, block, "max"),
            quantize(8, block, "l2"), uniform(1, block), uniform(5, block), fp8(block),
        ]  # fmt: skip
    for case in cases:
        for n in LENGTHS:
            if not (0 < case.block < 8 and n > 300):
                yield case, n
    yield topk(0.01), SAMPLED + 4321


def thread_cases() -> Iterator[tuple[Case, int]]:
    for case in (copy(), half(False), natural(), clip(9), randomk(0.1, True), fp8(64), uniform(3, 100)):
        yield case, 3001
    yield signs(7, "two"), 700
    for case in (signs(64), signs(1024), signs(0), quantize(4, 64, "l2"), quantize(4, 0, "l2")):
        yield case, 9001
    for case in (uniform(3, 0), topk(0.5)):
        yield case, 9001
    yield topk(0.01), SAMPLED + 4321


def check(case: Case, n: int, dtype: np.dtype[Any], exact: Exact | None) -> None:
    """Encode with error feedback and decode, to the reference's bits."""
    rng, reference, kernels = np.random.default_rng(n), ReferenceKernels(dtype), CudaKernels(dtype)
    vector, residual = numbers(rng, n, dtype, "normal"), numbers(rng, n, dtype, "normal")
    memory = residual.copy()
    fine, expected = case.encode(reference, vector, memory)
    assert fine
    if exact is None:
        vectors = payloads = cupy.asarray
    else:
        vectors = partial(exact.array, shift=n % 4 * dtype.itemsize)
        payloads = partial(exact.array, shift=n // 2 % 3)
    given, kept, payload = vectors(vector), vectors(residual), payloads(np.zeros_like(expected))
    case.encode(kernels, given, kept, payload)
    assert payload.get().tobytes() == expected.tobytes()
    assert kept.get().tobytes() == memory.tobytes()
    for how in WAYS[:2]:
        out = numbers(rng, n, dtype, "normal")
        place = vectors(out)
        case.decode(reference, expected, out, *how)
        case.decode(kernels, payload, place, *how)
        assert place.get().tobytes() == out.tobytes()


def main() -> int:
    kind, *fault = sys.argv[1:]
    exact = Exact() if kind == "address" else None
    with patch.object(cuda.Path, "read_text", broken_by(*FAULTS[fault[0]][1:]) if fault else cuda.Path.read_text):
        sources = cuda.cuda_sources()
    dtypes = DTYPES if exact and not fault else DTYPES[:1]
    for file, dtype in itertools.product(sources, dtypes):
        # Reports name nothing of a library that is loaded after the first of them, and what is __shared__ goes by name.
        cuda._module(cupy, file, 8 * dtype.itemsize, 0)
    checks = 0
    for dtype in dtypes:
        for case, n in address_cases() if exact else thread_cases():
            print(case, n, dtype, file=sys.stderr, flush=True)
            check(case, n, dtype, exact)
            checks += 1
            if exact:
                exact.close()
    print(f"{checks} checks")
    return 0


def broken_by(file: str, text: str, other: str) -> Any:
    """`Path.read_text` with a fault in one file."""
    read = cuda.Path.read_text

    def broken(path: Any, *arguments: Any, **options: Any) -> str:
        found = read(path, *arguments, **options)
        if path.name != file:
            return found
        assert text in found, file
        return found.replace(text, other)

    return broken


if __name__ == "__main__":
    sys.exit(main())
