"""Threads of the compiled kernels: long vectors, none where none was asked for, callers at once, and forks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from kernel_cases import DTYPES, Case, positions, quantize, results, same_bits, signs, topk

from mpisqueeze import kernels
from mpisqueeze.kernels.reference import ReferenceKernels

_native = pytest.importorskip("mpisqueeze.kernels._native", reason="the native kernels were not built")
from mpisqueeze.kernels.native import NativeKernels  # noqa: E402

#: Numbers that a thread is given at least; so few that the tests' vectors are cut into parts.
PART = 100


@pytest.fixture(autouse=True)
def _one_thread_again() -> Any:
    yield
    kernels.use_threads(1)
    _native.use_instruction_set(_native.instruction_sets()[-1])


@pytest.mark.parametrize("case", [signs(0), signs(0, "l2"), signs(0, "two"), quantize(4, 0, "l2"), topk(0.01)], ids=str)
def test_a_block_of_millions_of_numbers(case: Case) -> None:
    """By the sizes in use: sums of several levels, and chunks of candidates from every part."""
    rng = np.random.default_rng(1)
    v, delta = (rng.standard_normal((1 << 21) + 777).astype(np.float32) for _ in range(2))
    expected = results(case, NativeKernels(np.float32), v, delta)
    kernels.use_threads(3)
    assert results(case, NativeKernels(np.float32), v, delta) == expected


def test_topk_where_one_part_has_all_the_candidates() -> None:
    d = 1 << 17
    rng = np.random.default_rng(2)
    v = rng.standard_normal(d).astype(np.float32)
    for start in (0, d // 2, d - d // 40):
        steep = v.copy()
        steep[start : start + d // 40] *= 1000
        expected = results(topk(0.02), ReferenceKernels(np.float32), steep, None)
        for count in (1, 2, 7):
            _native.use_threads(count, PART)
            assert results(topk(0.02), NativeKernels(np.float32), steep, None) == expected


def test_every_code_stands_for_its_fraction() -> None:
    """code/levels, rounded as the division is, at every level and for every number of bits."""
    for level in _native.instruction_sets():
        _native.use_instruction_set(level)
        for dtype in DTYPES:
            for bits in range(1, 9):
                codes = (np.arange(256) % (1 << bits)).astype(np.uint8)
                stream = np.unpackbits(codes[:, None], axis=1, bitorder="little")[:, :bits]
                ends = np.array([0, 1], dtype).view(np.uint8)
                payload = np.concatenate([ends, np.packbits(stream.ravel(), bitorder="little")])
                out = np.empty(256, dtype)
                NativeKernels(dtype).uniform_decode(payload, out, bits, 0, False)
                assert same_bits(out, codes.astype(dtype) / dtype.type((1 << bits) - 1)), (level, bits)


@pytest.mark.parametrize("count", [0, -1, 65, 1 << 70])
def test_numbers_of_threads_that_cannot_be(count: int) -> None:
    with pytest.raises(ValueError, match="threads must be from 1 to 64"):
        kernels.use_threads(count)
    assert _native.threads() == 1


def test_how_many_threads_work() -> None:
    kernels.use_threads(kernels.MAX_THREADS)
    assert kernels.threads_of(NativeKernels(np.float32)) == kernels.MAX_THREADS
    assert kernels.threads_of(ReferenceKernels(np.float32)) == 1


@pytest.mark.parametrize("case", [topk(0.01), positions(0.01, True)], ids=str)
def test_callers_in_several_threads_at_once(case: Case) -> None:
    """One has the pool, and the others work by themselves; each has its own scratch of the set that they share."""
    rng = np.random.default_rng(3)
    vectors = [rng.standard_normal(50_000 + 5_000 * i).astype(np.float32) for i in range(4)]
    expected = [results(case, NativeKernels(np.float32), v, v) for v in vectors]
    made = NativeKernels(np.float32)
    _native.use_threads(3, PART)

    def often(i: int) -> bool:
        return all(results(case, made, vectors[i], vectors[i]) == expected[i] for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(often, range(4)))


def alone(work: Callable[[], None]) -> None:
    """Run a function of this module in a process of its own."""
    code = f"import test_kernel_threads as tests; tests.{work.__name__}()"
    subprocess.run([sys.executable, "-c", code], cwd=__file__.rpartition("/")[0], check=True, timeout=100)


def encode_a_million(made: Any) -> list[bytes]:
    v = np.random.default_rng(4).standard_normal(1 << 20).astype(np.float32)
    return results(signs(1024), made, v, v)


def test_one_thread_makes_none() -> None:
    alone(count_threads)


def count_threads() -> None:
    import psutil

    made, process = NativeKernels(np.float32), psutil.Process()
    before = process.num_threads()
    encode_a_million(made)
    assert process.num_threads() == before
    kernels.use_threads(3)
    assert process.num_threads() == before
    made.signs_decode(np.zeros(5, np.uint8), np.zeros(8, np.float32), 8, 1, False)
    assert process.num_threads() == before, "a short vector needs none"
    encode_a_million(made)
    assert process.num_threads() == before + 2
    kernels.use_threads(2)
    encode_a_million(made)
    kernels.use_threads(4)
    encode_a_million(made)
    assert process.num_threads() == before + 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not fork")
def test_a_forked_child_has_threads_of_its_own() -> None:
    alone(fork)


def fork() -> None:
    import os

    import psutil

    made = NativeKernels(np.float32)
    expected = encode_a_million(made)
    kernels.use_threads(3)
    encode_a_million(made)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            threads = psutil.Process().num_threads()
            assert encode_a_million(made) == expected
            assert psutil.Process().num_threads() == threads + 2
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert encode_a_million(made) == expected
