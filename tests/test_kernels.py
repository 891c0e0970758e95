"""The kernels: identities that the NumPy definition holds, and that the compiled ones equal it bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_cases import (
    DTYPES,
    FINITE_KINDS,
    KEY,
    PLAIN,
    WAYS,
    Case,
    any_length,
    clip,
    half,
    kept,
    numbers,
    quantize,
    randomk,
    same_bits,
    signs,
    topk,
    uniform,
)

from mpisqueeze.kernels import kernels_for
from mpisqueeze.kernels.random import derive_key, random_positions
from mpisqueeze.kernels.reference import ReferenceKernels

try:
    from mpisqueeze.kernels import _native
    from mpisqueeze.kernels.native import NativeKernels

    INSTRUCTION_SETS = _native.instruction_sets()
except ImportError:
    INSTRUCTION_SETS = ()

needs_native = pytest.mark.skipif(not INSTRUCTION_SETS, reason="the native kernels were not built")
BLOCKS = [0, 1, 3, 64, 512, 1000, 1024, 70_000]
CASES = [
    *PLAIN,
    *(signs(block, l2) for block in BLOCKS for l2 in (False, True)),
    *(quantize(bits, 512, "l2") for bits in range(2, 9)),
    *(quantize(bits, bucket, "l2") for bits, bucket in ((2, 0), (3, 1), (4, 3), (5, 1000), (8, 70_000))),
    *(quantize(bits, bucket, "max") for bits, bucket in ((2, 512), (2, 0), (8, 3), (6, 1000))),
    *(uniform(bits, 512) for bits in range(1, 9)),
    *(uniform(bits, bucket) for bits, bucket in ((1, 0), (2, 1), (3, 3), (7, 1000), (8, 70_000))),
]
each_case = pytest.mark.parametrize("case", CASES, ids=str)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(params=["numpy", *(INSTRUCTION_SETS or ["native"])])
def kernel_set(request: pytest.FixtureRequest) -> Iterator[Callable[[Any], Any]]:
    """Makes the kernels of a dtype: NumPy's, and the native ones for each instruction set of this machine."""
    if request.param == "numpy":
        yield ReferenceKernels
    elif request.param == "native":
        pytest.skip("the native kernels were not built")
    else:
        _native.use_instruction_set(request.param)
        yield NativeKernels
        _native.use_instruction_set(INSTRUCTION_SETS[-1])


def assert_equal_kernels(case: Case, native: Any, v: np.ndarray, residual: np.ndarray | None) -> None:
    reference = ReferenceKernels(v.dtype)
    residuals = [None if residual is None else residual.copy() for _ in range(2)]
    expected, payload = case.encode(reference, v, residuals[0])
    given_vector = v.copy()
    good, native_payload = case.encode(native, v, residuals[1])
    assert type(good) is bool
    assert good == expected
    assert same_bits(v, given_vector)
    if not good:
        return
    assert same_bits(native_payload, payload)
    if residuals[0] is not None and residuals[1] is not None:
        assert same_bits(residuals[1], residuals[0])
    for how in WAYS:
        start = np.roll(v, 1) if how[0] else np.full_like(v, np.nan)
        decoded = case.decode(reference, payload, start.copy(), *how)
        assert same_bits(case.decode(native, payload, start.copy(), *how), decoded)


@needs_native
@each_case
@each_dtype
def test_native_equals_the_reference(case: Case, dtype: np.dtype[Any]) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(any_length(), st.sampled_from(FINITE_KINDS), st.booleans(), st.integers(0, 2**32), st.integers(0, 9))
    def check(d: int, kind: str, with_residual: bool, seed: int, poison: int) -> None:
        rng = np.random.default_rng(seed)
        v = numbers(rng, d, dtype, kind)
        v[rng.random(d) < 0.01] = -0.0
        residual = numbers(rng, d, dtype, kind) if with_residual else None
        if poison < 3:
            v[rng.integers(d)] = [np.nan, np.inf, -np.inf][poison]
        for instruction_set in INSTRUCTION_SETS:
            _native.use_instruction_set(instruction_set)
            with np.errstate(all="ignore"):
                assert_equal_kernels(case, NativeKernels(dtype), v, residual)

    try:
        check()
    finally:
        _native.use_instruction_set(INSTRUCTION_SETS[-1])


@each_dtype
def test_a_sum_of_more_than_a_run_of_runs(kernel_set: Callable[[Any], Any], dtype: np.dtype[Any]) -> None:
    """More than 1024² numbers in a block need a third level of halving sums."""
    d = (1 << 20) + 5000
    v = np.random.default_rng(0).standard_normal(d).astype(dtype)
    for case in (signs(0, False), signs(0, True), quantize(4, 0, "l2")):
        payload = case.encode(kernel_set(dtype), v, None)[1]
        scale = payload[: dtype.itemsize].view(dtype)[0]
        assert same_bits(payload, case.encode(ReferenceKernels(dtype), v, None)[1])
        exact = {"signs:0:l1": np.abs(v).mean(dtype=np.float64)}.get(case.label)
        if exact is not None:
            assert scale == pytest.approx(exact, rel=1e-5)


@needs_native
def test_topk_of_vectors_that_defeat_the_sample() -> None:
    """Where a guess from a sample is far off, the whole vector is selected from, with the same result."""
    d = 1 << 17
    spike = np.zeros(d, np.float32)
    spike[d // 3 : d // 3 + 50] = -np.arange(50, dtype=np.float32)
    equal = np.full(d, -2, np.float32)
    step = np.where(np.arange(d) < d // 3, np.float32(1), np.float32(2))
    few = np.where(np.arange(d) % 256 == 0, np.float32(5), np.float32(0.5))
    for v in (spike, equal, step, few, np.zeros(d, np.float32)):
        for ratio in (0.0003, 0.01, 0.05):
            assert_equal_kernels(topk(ratio), NativeKernels(np.float32), v, None)
            assert_equal_kernels(topk(ratio), NativeKernels(np.float32), v, v[::-1].copy())


@needs_native
def test_native_takes_an_unaligned_payload() -> None:
    v = np.random.default_rng(3).standard_normal(5001).astype(np.float32)
    for case in CASES:
        aligned = case.encode(NativeKernels(np.float32), v, None)[1]
        shifted = np.empty(aligned.size + 1, np.uint8)[1:]
        case.encode(NativeKernels(np.float32), v, None, shifted)
        assert same_bits(shifted.copy(), aligned)
        decoded = case.decode(NativeKernels(np.float32), shifted, np.empty_like(v), False)
        assert same_bits(decoded, case.decode(ReferenceKernels(np.float32), aligned, np.empty_like(v), False))


@needs_native
def test_native_refuses_wrong_arguments() -> None:
    kernels = NativeKernels(np.float32)
    v = np.zeros(100, np.float32)
    payload = np.zeros(400, np.uint8)
    with pytest.raises(ValueError, match="payload must have 400 bytes, not 399"):
        kernels.copy_encode(v, None, payload[:-1])
    with pytest.raises(ValueError, match="residual must have the vector's length"):
        kernels.copy_encode(v, v[:-1].copy(), payload)
    with pytest.raises(ValueError, match="residual must have the vector's length"):
        kernels.copy_encode(v, np.zeros(100), payload)
    with pytest.raises(ValueError, match="contiguous"):
        kernels.copy_encode(np.zeros(200, np.float32)[::2], None, payload)
    with pytest.raises(ValueError, match="vector must be an aligned array"):
        kernels.copy_encode(np.zeros(100, np.uint8), None, payload)
    with pytest.raises(ValueError, match="bits must be from 2 to 8, not 9"):
        kernels.quantize_encode(v, None, payload, 9, 512, "l2", 0)
    with pytest.raises(ValueError, match="norm must be"):
        kernels.quantize_encode(v, None, payload, 8, 512, "l1", 0)
    with pytest.raises(ValueError, match="k must be from 0 to 100"):
        kernels.randomk_encode(v, None, payload, 101, 0, False)
    bad = np.zeros(8, np.uint8)
    for index in (100, -1):
        bad[4:].view(np.int32)[0] = index
        with pytest.raises(IndexError):
            kernels.topk_decode(bad, v, 1, True)


@needs_native
def test_native_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPISQUEEZE_KERNELS", raising=False)
    assert kernels_for(np, np.float32).name == "native"
    monkeypatch.setenv("MPISQUEEZE_KERNELS", "numpy")
    assert kernels_for(np, np.float32).name == "numpy"


# -- identities, of every kernel set


@each_case
@each_dtype
@pytest.mark.parametrize("d", [1, 7, 1025, 4096])
def test_residual_is_what_the_payload_leaves_out(
    kernel_set: Callable[[Any], Any], case: Case, dtype: np.dtype[Any], d: int
) -> None:
    """δ' = (x + δ) − D(payload) bitwise, the payload is that of x + δ, and decode-add adds D(payload)."""
    rng = np.random.default_rng(d)
    kernels = kernel_set(dtype)
    x, delta = numbers(rng, d, dtype, "wide"), numbers(rng, d, dtype, "normal")
    v = x + delta
    residual = delta.copy()
    good, payload = case.encode(kernels, x, residual)
    assert good
    plain_good, plain_payload = case.encode(kernels, v, None)
    assert plain_good
    assert same_bits(payload, plain_payload)
    decoded = case.decode(kernels, payload, np.full(d, np.nan, dtype), False)
    assert np.array_equal(residual, v - decoded)
    added = case.decode(kernels, payload, delta.copy(), True)
    assert np.array_equal(added, delta + decoded)


@each_case
@each_dtype
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_is_refused(kernel_set: Callable[[Any], Any], case: Case, dtype: np.dtype[Any], bad: float) -> None:
    rng = np.random.default_rng(0)
    for d, place in ((1, 0), (2050, 2049), (2050, 3)):
        v = numbers(rng, d, dtype, "normal")
        v[place] = bad
        clean = numbers(rng, d, dtype, "normal")
        with np.errstate(all="ignore"):
            assert not case.encode(kernel_set(dtype), v, None)[0]
            assert not case.encode(kernel_set(dtype), clean, v.copy())[0]
            assert not case.encode(kernel_set(dtype), v, clean.copy())[0]


@each_case
@each_dtype
def test_decode_adds_so_many_times(kernel_set: Callable[[Any], Any], case: Case, dtype: np.dtype[Any]) -> None:
    """out + (factor·D(payload)), rounded after the product and after the sum; a factor of 0 adds nothing."""
    rng = np.random.default_rng(5)
    v, x = numbers(rng, 1500, dtype, "normal"), numbers(rng, 1500, dtype, "normal")
    kernels = kernel_set(dtype)
    payload = case.encode(kernels, v, None)[1]
    decoded = case.decode(kernels, payload, np.empty_like(v), False)
    for factor in (-0.3, 2.0, 0.0):
        expected = x + dtype.type(factor) * decoded
        np.testing.assert_array_equal(case.decode(kernels, payload, x.copy(), True, factor), expected)


@each_case
def test_zeros_decode_to_zeros(kernel_set: Callable[[Any], Any], case: Case) -> None:
    v = np.zeros(1030, np.float32)
    good, payload = case.encode(kernel_set(np.float32), v, None)
    assert good
    assert not case.decode(kernel_set(np.float32), payload, np.ones_like(v), False).any()


def test_payload_is_filled(kernel_set: Callable[[Any], Any]) -> None:
    """No byte of a payload depends on what the buffer held before."""
    v = np.random.default_rng(5).standard_normal(1337).astype(np.float32)
    for case in CASES:
        size = case.payload_bytes(v.size, 4)
        payloads = [np.full(size, fill, np.uint8) for fill in (0x00, 0xFF)]
        for payload in payloads:
            case.encode(kernel_set(np.float32), v, None, payload)
        assert same_bits(*payloads)


@pytest.mark.parametrize("l2", [False, True])
def test_signs_scale_and_sign_of_zero(kernel_set: Callable[[Any], Any], l2: bool) -> None:
    v = np.array([0.0, -0.0, -3.0, 5.0, 1.0], np.float32)
    _, payload = signs(3, l2).encode(kernel_set(np.float32), v, None)
    first, second = (np.sqrt(3.0), np.sqrt(13.0)) if l2 else (1.0, 3.0)
    decoded = signs(3, l2).decode(kernel_set(np.float32), payload, np.empty_like(v), False)
    assert decoded == pytest.approx([first, first, -first, second, second])


def test_signs_payload_bits(kernel_set: Callable[[Any], Any]) -> None:
    v = np.array([-1, 1, -1, 1, 1, 1, 1, 1, -1], np.float32)
    _, payload = signs(0, False).encode(kernel_set(np.float32), v, None)
    assert payload[:4].view(np.float32)[0] == 1
    assert payload[4:].tolist() == [0b101, 1]


@each_dtype
@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "sparse"])
@pytest.mark.parametrize("d", [1, 10, 5000, 40_000])
def test_topk_is_a_stable_sort(kernel_set: Callable[[Any], Any], dtype: np.dtype[Any], kind: str, d: int) -> None:
    v = numbers(np.random.default_rng(d), d, dtype, kind)
    for ratio in (0.001, 0.03, 0.5, 1.0):
        k = kept(ratio, d)
        _, payload = topk(ratio).encode(kernel_set(dtype), v, None)
        expected = np.sort(np.argsort(-np.abs(v), kind="stable")[:k])
        indices = payload[k * dtype.itemsize :].view(np.int32)
        assert np.array_equal(indices, expected)
        assert same_bits(payload[: k * dtype.itemsize].view(dtype).copy(), v[expected])


@pytest.mark.parametrize("d", [1, 2, 3, 17, 1000, 65_537])
def test_randomk_positions(kernel_set: Callable[[Any], Any], d: int) -> None:
    """Distinct, inside, a function of the key, and the ones that random_positions gives."""
    v = np.arange(1, d + 1, dtype=np.float64)
    for ratio in (0.1, 1.0):
        k = kept(ratio, d)
        _, payload = randomk(ratio, False).encode(kernel_set(np.float64), v, None)
        assert int(payload[:8].view("<u8")[0]) == KEY
        positions = payload[8:].view(np.float64).astype(np.int64) - 1
        assert np.unique(positions).size == k
        assert positions.min() >= 0
        assert positions.max() < d
        assert np.array_equal(positions, random_positions(KEY, k, d))
    if d >= 1000:
        assert not np.array_equal(random_positions(KEY, 100, d), random_positions(KEY + 1, 100, d))


def test_randomk_positions_are_equally_likely() -> None:
    d, k, draws = 50, 10, 4000
    counts = np.zeros(d)
    for i in range(draws):
        counts[random_positions(derive_key(9, i), k, d)] += 1
    chance = k / d
    # Six standard deviations of a binomial count.
    assert np.abs(counts - draws * chance).max() < 6 * np.sqrt(draws * chance * (1 - chance))


def test_randomk_unbiased_scales_by_d_over_k(kernel_set: Callable[[Any], Any]) -> None:
    v = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    payloads = [randomk(0.1, u).encode(kernel_set(np.float32), v, None)[1] for u in (False, True)]
    plain, scaled = (p[8:].view(np.float32) for p in payloads)
    assert np.array_equal(scaled, plain * np.float32(10))


@pytest.mark.parametrize(
    ("kernel", "bits", "norm"),
    [
        ("quantize", 2, "l2"),
        ("quantize", 2, "max"),
        ("quantize", 4, "l2"),
        ("quantize", 8, "max"),
        ("uniform", 1, ""),
        ("uniform", 4, ""),
        ("uniform", 8, ""),
    ],
)
def test_quantizers_round_stochastically(kernel_set: Callable[[Any], Any], kernel: str, bits: int, norm: str) -> None:
    """Each draw is one of the two levels around the number, and the mean of the draws is the number."""
    rng = np.random.default_rng(1)
    d, draws, kernels = 512, 400, kernel_set(np.float64)
    v = rng.standard_normal(d)
    total = np.zeros(d)
    if kernel == "quantize":
        size = np.linalg.norm(v) if norm == "l2" else np.abs(v).max()
        low, step = 0.0, size / (2 ** (bits - 1) - 1)
        nbytes = quantize(bits, d, norm).payload_bytes(d, 8)
    else:
        low, step = v.min(), (v.max() - v.min()) / (2**bits - 1)
        nbytes = uniform(bits, d).payload_bytes(d, 8)
    payload, out = np.empty(nbytes, np.uint8), np.empty(d)
    for i in range(draws):
        key = derive_key(77, i)
        if kernel == "quantize":
            assert kernels.quantize_encode(v, None, payload, bits, d, norm, key)
            kernels.quantize_decode(payload, out, bits, d, False)
        else:
            assert kernels.uniform_encode(v, None, payload, bits, d, key)
            kernels.uniform_decode(payload, out, bits, d, False)
        level = (out - low) / step
        assert np.abs(level - np.round(level)).max() < 1e-9
        assert np.abs(out - v).max() < step * (1 + 1e-9)
        total += out
    fraction = np.mod((np.abs(v) if kernel == "quantize" else v - low) / step, 1)
    deviation = step * np.sqrt(fraction * (1 - fraction) / draws)
    # Six standard deviations, and one draw's worth for fractions so near 0 or 1 that no draw is expected.
    assert (np.abs(total / draws - v) <= 6 * deviation + 2 * step / draws).all()


def test_another_key_draws_other_codes(kernel_set: Callable[[Any], Any]) -> None:
    v = np.random.default_rng(0).standard_normal(512).astype(np.float32)
    payloads = [np.empty(132, np.uint8) for _ in range(2)]
    for i, payload in enumerate(payloads):
        kernel_set(np.float32).quantize_encode(v, None, payload, 2, 0, "max", KEY + i)
    assert not np.array_equal(*payloads)


@each_dtype
def test_fp16_is_numpys(kernel_set: Callable[[Any], Any], dtype: np.dtype[Any]) -> None:
    """Every half, the midpoints between neighbours, and the numbers just beside these."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(dtype)
    middles = (halves[1:] + halves[:-1]) / 2
    v = np.concatenate([halves, middles, np.nextafter(middles, dtype.type(0)), np.nextafter(middles, dtype.type(1e9))])
    v = np.concatenate([v, -v])
    good, payload = half(False).encode(kernel_set(dtype), v, None)
    assert good
    assert same_bits(payload.view(np.float16), v.astype(np.float16))
    decoded = half(False).decode(kernel_set(dtype), payload, np.empty_like(v), False)
    assert same_bits(decoded, v.astype(np.float16).astype(dtype))
    for limit, fits in ((65_519.99, True), (65_520.0, False)):
        v = np.array([limit, 1], dtype)
        assert half(False).encode(kernel_set(dtype), v, None)[0] == fits


def test_bf16_rounds_to_nearest_even(kernel_set: Callable[[Any], Any]) -> None:
    words = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0xBF807FFF, 0x80000001, 0x7F7F7FFF], np.uint32)
    good, payload = half(True).encode(kernel_set(np.float32), words.view(np.float32), None)
    assert good
    assert payload.view(np.uint16).tolist() == [0x3F80, 0x3F82, 0x3F81, 0xBF80, 0x8000, 0x7F7F]
    top = np.array([0x7F7F8000], np.uint32).view(np.float32)
    assert not half(True).encode(kernel_set(np.float32), top, None)[0]


@pytest.mark.parametrize("bits", range(9, 32))
def test_clip_masks_bits(kernel_set: Callable[[Any], Any], bits: int) -> None:
    v = numbers(np.random.default_rng(bits), 1003, DTYPES[0], "wide")
    good, payload = clip(bits).encode(kernel_set(np.float32), v, None)
    assert good
    mask = np.uint32((0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF)
    expected = (v.view(np.uint32) & mask).view(np.float32)
    decoded = clip(bits).decode(kernel_set(np.float32), payload, np.empty_like(v), False)
    assert same_bits(decoded, expected)
    stream = np.unpackbits(payload, bitorder="little", count=v.size * bits).reshape(v.size, bits)
    words = (stream.astype(np.uint64) << np.arange(bits, dtype=np.uint64)).sum(axis=1)
    assert np.array_equal(words, v.view(np.uint32) >> np.uint32(32 - bits))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("d", [1, 7, 2048, 5000])
@pytest.mark.parametrize("block", [0, 24, 1000, 1024])
def test_the_mean_of_payloads_is_that_of_one_after_the_other(
    kernel_set: Callable[[Any], Any], dtype: Any, count: int, d: int, block: int
) -> None:
    """To the bit, on every kernel set that has it, for all three that have codes in a row."""
    kernels = kernel_set(dtype)
    draws = np.random.default_rng(d)
    for case, mean, arguments in (
        (signs(block, False), "signs_mean", (block,)),
        (quantize(3, block, "l2"), "quantize_mean", (3, block)),
        (uniform(5, block), "uniform_mean", (5, block)),
    ):
        if not hasattr(kernels, mean):
            pytest.skip(f"{kernels.name} adds payloads one by one")
        payloads = tuple(case.encode(kernels, draws.standard_normal(d).astype(dtype), None)[1] for _ in range(count))
        expected = np.zeros(d, dtype)
        for number, payload in enumerate(payloads):
            case.decode(kernels, payload, expected, number > 0)
        expected /= count
        out = np.full(d, np.nan, dtype)
        getattr(kernels, mean)(payloads, out, *arguments)
        assert np.array_equal(out, expected)
