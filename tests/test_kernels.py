"""The kernels: identities that every kernel set holds, NumPy's definition and the compiled ones.

That all give the same bits is in test_kernel_properties.py and test_kernel_threads.py.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from kernel_cases import (
    DTYPES,
    KEY,
    PLAIN,
    Case,
    assert_cleared,
    clip,
    copy,
    fp8,
    half,
    kept,
    natural,
    numbers,
    quantize,
    randomk,
    results,
    same_bits,
    signs,
    topk,
    uniform,
)
from random_numbers import chained

from mpisqueeze.kernels import kernels_for
from mpisqueeze.kernels.random import random_positions
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
    *(signs(block, scale) for block in BLOCKS for scale in ("l1", "l2", "two", "none")),
    *(quantize(bits, 512, "l2") for bits in range(2, 9)),
    *(quantize(bits, bucket, "l2") for bits, bucket in ((2, 0), (3, 1), (4, 3), (5, 1000), (8, 70_000))),
    *(quantize(bits, bucket, "max") for bits, bucket in ((2, 512), (2, 0), (8, 3), (6, 1000))),
    *(fp8(block) for block in (*BLOCKS, 128)),
    *(uniform(bits, 512) for bits in range(1, 9)),
    *(uniform(bits, bucket) for bits, bucket in ((1, 0), (2, 1), (3, 3), (7, 1000), (8, 70_000))),
]
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


@each_dtype
def test_a_sum_of_more_than_a_run_of_runs(kernel_set: Callable[[Any], Any], dtype: np.dtype[Any]) -> None:
    """More than 1024² numbers in a block need a third level of halving sums."""
    d = (1 << 20) + 5000
    v = np.random.default_rng(0).standard_normal(d).astype(dtype)
    for case in (signs(0), signs(0, "l2"), signs(0, "two"), quantize(4, 0, "l2")):
        payload = case.encode(kernel_set(dtype), v, None)[1]
        assert same_bits(payload, case.encode(ReferenceKernels(dtype), v, None)[1])
        if case.label == "signs:0:l1":
            scale = payload[: dtype.itemsize].view(dtype)[0]
            assert scale == pytest.approx(np.abs(v).mean(dtype=np.float64), rel=1e-5)


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
            for delta in (None, v[::-1]):
                native, reference = (
                    results(topk(ratio), k(v.dtype), v, delta) for k in (NativeKernels, ReferenceKernels)
                )
                assert native == reference


V, PAYLOAD = np.zeros(100, np.float32), np.zeros(400, np.uint8)


@needs_native
@pytest.mark.parametrize(
    ("kernel", "arguments", "says"),
    [
        ("copy", (V, None, PAYLOAD[:-1]), "payload must have 400 bytes, not 399"),
        ("copy", (V, V[:-1].copy(), PAYLOAD), "residual must have the vector's length"),
        ("copy", (V, np.zeros(100), PAYLOAD), "residual must have the vector's length"),
        ("copy", (np.zeros(200, np.float32)[::2], None, PAYLOAD), "contiguous"),
        ("copy", (np.zeros(100, np.uint8), None, PAYLOAD), "vector must be an aligned array"),
        ("quantize", (V, None, PAYLOAD, 9, 512, "l2", 0), "bits must be from 2 to 8, not 9"),
        ("quantize", (V, None, PAYLOAD, 8, 512, "l1", 0), "norm must be"),
        ("randomk", (V, None, PAYLOAD, 101, 0, False), "k must be from 0 to 100"),
    ],
)
def test_native_refuses_wrong_arguments(kernel: str, arguments: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        getattr(NativeKernels(np.float32), f"{kernel}_encode")(*arguments)


@needs_native
@pytest.mark.parametrize("index", [100, -1])
def test_native_refuses_an_index_outside_of_the_vector(index: int) -> None:
    payload = np.array([0, index], np.int32).view(np.uint8)
    with pytest.raises(IndexError):
        NativeKernels(np.float32).topk_decode(payload, V.copy(), 1, True)


@needs_native
def test_positions_drawn_before_are_those_of_this_length_number_and_key() -> None:
    """Whoever draws, and also behind an encoding that found a NaN before it drew them all."""
    native, reference = NativeKernels(np.float64), ReferenceKernels(np.float64)
    spoilt = np.ones(5000)
    spoilt[4999] = np.nan
    for d, k, key in ((5000, 4000, 1), (5000, 4000, 2), (5000, 3999, 2), (4097, 3999, 2), (5000, 4000, 1)):
        vector, payloads = np.arange(1.0, d + 1), np.zeros((2, 8 * k), np.uint8)
        outs = np.ones((2, d))
        for kernels, payload, out in zip((native, reference), payloads, outs, strict=True):
            assert kernels.positions_decode(vector[:k].view(np.uint8), out, k, key, True)
            assert kernels.positions_encode(vector, None, payload, k, key, False)
            assert kernels.positions_decode(payload, out, k, key, True, -0.5)
            if d == spoilt.size:
                assert not kernels.positions_encode(spoilt, None, payload.copy(), k, key + 7, False)
                assert kernels.positions_decode(payload, out, k, key + 7, True)
        assert payloads[0].tobytes() == payloads[1].tobytes()
        assert outs[0].tobytes() == outs[1].tobytes()


@needs_native
def test_native_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPISQUEEZE_KERNELS", raising=False)
    assert kernels_for(np, np.float32).name == "native"
    monkeypatch.setenv("MPISQUEEZE_KERNELS", "numpy")
    assert kernels_for(np, np.float32).name == "numpy"


# -- identities, of every kernel set


@each_dtype
@pytest.mark.parametrize("d", [1, 7, 1025, 4096])
def test_residual_is_what_the_payload_leaves_out(
    kernel_set: Callable[[Any], Any], dtype: np.dtype[Any], d: int
) -> None:
    """δ' = (x + δ) − D(payload) bitwise, and the payload is that of x + δ.

    Decode-add adds factor·D(payload), rounded after the product and after the sum.
    """
    rng = np.random.default_rng(d)
    kernels = kernel_set(dtype)
    x, delta = numbers(rng, d, dtype, "wide"), numbers(rng, d, dtype, "normal")
    for case in CASES:
        residual = delta.copy()
        good, payload = case.encode(kernels, x, residual)
        plain_good, plain_payload = case.encode(kernels, x + delta, None)
        assert good, case
        assert plain_good, case
        assert same_bits(payload, plain_payload), case
        decoded = case.decode(kernels, payload, np.full(d, np.nan, dtype), False)
        assert np.array_equal(residual, x + delta - decoded), case
        for factor in (1.0, -0.3, 2.0, 0.0):
            added = case.decode(kernels, payload, delta.copy(), True, factor)
            assert np.array_equal(added, delta + dtype.type(factor) * decoded), case


@each_dtype
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_is_refused(kernel_set: Callable[[Any], Any], dtype: np.dtype[Any], bad: float) -> None:
    rng, kernels = np.random.default_rng(0), kernel_set(dtype)
    for d, place in ((1, 0), (2050, 2049), (2050, 3)):
        v, clean = numbers(rng, d, dtype, "normal"), numbers(rng, d, dtype, "normal")
        v[place] = bad
        with np.errstate(all="ignore"):
            for case in CASES:
                for vector, residual in ((v, None), (clean, v.copy()), (v, clean.copy())):
                    assert not case.encode(kernels, vector, residual)[0], case


@each_dtype
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_full_vector_is_looked_at_where_it_lies(
    kernel_set: Callable[[Any], Any], dtype: np.dtype[Any], bad: float
) -> None:
    """Encoding a vector onto itself changes nothing, and decoding tells of an element that nobody encoded."""
    rng, kernels = np.random.default_rng(0), kernel_set(dtype)
    for d, place in ((1, 0), (2050, 2049), (2050, 3)):
        v, base = numbers(rng, d, dtype, "normal"), numbers(rng, d, dtype, "normal")
        before, payload = v.copy(), v.view(np.uint8)
        assert kernels.copy_encode(v, None, payload)
        assert same_bits(v, before)
        for add in (False, True):
            assert kernels.copy_decode(payload, base.copy(), add, -0.3)
        v[place] = bad
        with np.errstate(all="ignore"):
            assert not kernels.copy_encode(v, None, payload)
            for add in (False, True):
                out = base.copy()
                assert not kernels.copy_decode(payload, out, add, -0.3)
                assert np.array_equal(out, base + dtype.type(-0.3) * v if add else v, equal_nan=True)


@each_dtype
def test_what_a_payload_holds_is_cleared(kernel_set: Callable[[Any], Any], dtype: np.dtype[Any]) -> None:
    assert_cleared(kernel_set(dtype), np, dtype)


def test_zeros_decode_to_zeros(kernel_set: Callable[[Any], Any]) -> None:
    v = np.zeros(1030, np.float32)
    for case in CASES:
        if case.label.endswith("none"):
            continue
        good, payload = case.encode(kernel_set(np.float32), v, None)
        assert good, case
        assert not case.decode(kernel_set(np.float32), payload, np.ones_like(v), False).any(), case


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("l1", [1, 1, -1, 3, 3]),
        ("l2", [3**0.5, 3**0.5, -(3**0.5), 13**0.5, 13**0.5]),
        ("two", [0, 0, -3, 3, 3]),
    ],
)
def test_signs_scale_and_sign_of_zero(kernel_set: Callable[[Any], Any], scale: str, expected: list[float]) -> None:
    v = np.array([0.0, -0.0, -3.0, 5.0, 1.0], np.float32)
    _, payload = signs(3, scale).encode(kernel_set(np.float32), v, None)
    decoded = signs(3, scale).decode(kernel_set(np.float32), payload, np.empty_like(v), False)
    assert decoded == pytest.approx(expected)


@each_dtype
@pytest.mark.parametrize("kind", ["normal", "sparse", "signed zeros"])
def test_two_scales_are_the_means_on_either_side_of_zero(
    kernel_set: Callable[[Any], Any], dtype: np.dtype[Any], kind: str
) -> None:
    """They are in the payload as they are, 0 where a side is empty, and no single scale comes nearer to v."""
    kernels = kernel_set(dtype)
    for d, block in itertools.product((1, 9, 3001), (24, 1000, 0)):
        v = numbers(np.random.default_rng(d), d, dtype, kind)
        v[d // 2 :] = abs(v[d // 2 :])
        decoded = {}
        for scale in ("two", "l1"):
            _, payload = signs(block, scale).encode(kernels, v, None)
            decoded[scale] = signs(block, scale).decode(kernels, payload, np.empty_like(v), False)
            if scale == "two":
                blocks = -(-d // (block or d))
                means = payload[: 2 * blocks * dtype.itemsize].view(dtype).reshape(blocks, 2)
        for i, (above, below) in enumerate(means):
            part = v[i * (block or d) : (i + 1) * (block or d)].astype(np.longdouble)
            for mean, side in ((above, part[part >= 0]), (below, part[part < 0])):
                assert mean == pytest.approx(float(side.mean()) if side.size else 0, rel=1e-5)
                assert not np.signbit(mean) or mean < 0
        errors = {scale: np.linalg.norm((v - found).astype(float)) for scale, found in decoded.items()}
        assert errors["two"] <= errors["l1"] * (1 + 1e-5)


def test_signs_payload_bits(kernel_set: Callable[[Any], Any]) -> None:
    v = np.array([-1, 1, -1, 1, 1, 1, 1, 1, -1], np.float32)
    _, payload = signs(0).encode(kernel_set(np.float32), v, None)
    assert payload[:4].view(np.float32)[0] == 1
    assert payload[4:].tolist() == [0b101, 1]


@each_dtype
@pytest.mark.parametrize("kind", ["normal", "ties", "zeros", "sparse"])
def test_topk_is_a_stable_sort(kernel_set: Callable[[Any], Any], dtype: np.dtype[Any], kind: str) -> None:
    for d, ratio in itertools.product((1, 10, 5000, 40_000), (0.001, 0.03, 0.5, 1.0)):
        v, k = numbers(np.random.default_rng(d), d, dtype, kind), kept(ratio, d)
        _, payload = topk(ratio).encode(kernel_set(dtype), v, None)
        expected = np.sort(np.argsort(-np.abs(v), kind="stable")[:k])
        indices = payload[k * dtype.itemsize :].view(np.int32)
        assert np.array_equal(indices, expected)
        assert same_bits(payload[: k * dtype.itemsize].view(dtype).copy(), v[expected])


def test_randomk_positions(kernel_set: Callable[[Any], Any]) -> None:
    """Distinct, inside, a function of the key, and the ones that random_positions gives."""
    for d, ratio in itertools.product((1, 2, 3, 17, 1000, 65_537), (0.1, 1.0)):
        v, k = np.arange(1, d + 1, dtype=np.float64), kept(ratio, d)
        _, payload = randomk(ratio, False).encode(kernel_set(np.float64), v, None)
        assert int(payload[:8].view("<u8")[0]) == KEY
        positions = payload[8:].view(np.float64).astype(np.int64) - 1
        assert np.unique(positions).size == k
        assert positions.min() >= 0
        assert positions.max() < d
        assert np.array_equal(positions, random_positions(KEY, k, d))
    assert not np.array_equal(random_positions(KEY, 100, 1000), random_positions(KEY + 1, 100, 1000))


def test_randomk_unbiased_scales_by_d_over_k(kernel_set: Callable[[Any], Any]) -> None:
    v = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    payloads = [randomk(0.1, u).encode(kernel_set(np.float32), v, None)[1] for u in (False, True)]
    plain, scaled = (p[8:].view(np.float32) for p in payloads)
    assert np.array_equal(scaled, plain * np.float32(10))


@pytest.mark.parametrize(
    "case",
    [
        *(quantize(bits, 0, norm) for bits, norm in ((2, "l2"), (2, "max"), (4, "l2"), (8, "max"))),
        *(uniform(bits, 0) for bits in (1, 4, 8)),
    ],
    ids=str,
)
def test_quantizers_round_stochastically(kernel_set: Callable[[Any], Any], case: Case) -> None:
    """Each draw is one of the two levels around the number, and the mean of the draws is the number."""
    rng = np.random.default_rng(1)
    d, draws, kernels = 512, 400, kernel_set(np.float64)
    v = rng.standard_normal(d)
    *options, key = case.arguments(d)
    if case.kernel == "quantize":
        low, step = 0.0, (np.linalg.norm(v) if options[2] == "l2" else np.abs(v).max()) / (2 ** (options[0] - 1) - 1)
    else:
        low, step = v.min(), (v.max() - v.min()) / (2 ** options[0] - 1)
    total, payload, out = np.zeros(d), np.empty(case.payload_bytes(d, 8), np.uint8), np.empty(d)
    for i in range(draws):
        assert getattr(kernels, f"{case.kernel}_encode")(v, None, payload, *options, chained(key, i))
        case.decode(kernels, payload, out, False)
        level = (out - low) / step
        assert np.abs(level - np.round(level)).max() < 1e-9
        assert np.abs(out - v).max() < step * (1 + 1e-9)
        total += out
    fraction = np.mod((np.abs(v) if case.kernel == "quantize" else v - low) / step, 1)
    deviation = step * np.sqrt(fraction * (1 - fraction) / draws)
    # Six standard deviations, and one draw's worth for fractions so near 0 or 1 that no draw is expected.
    assert (np.abs(total / draws - v) <= 6 * deviation + 2 * step / draws).all()


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


def test_clip_masks_bits(kernel_set: Callable[[Any], Any]) -> None:
    for bits in range(9, 32):
        v = numbers(np.random.default_rng(bits), 1003, DTYPES[0], "wide")
        good, payload = clip(bits).encode(kernel_set(np.float32), v, None)
        assert good
        mask = np.uint32((0xFFFFFFFF << (32 - bits)) & 0xFFFFFFFF)
        expected = (v.view(np.uint32) & mask).view(np.float32)
        decoded = clip(bits).decode(kernel_set(np.float32), payload, np.empty_like(v), False)
        assert same_bits(decoded, expected), bits
        stream = np.unpackbits(payload, bitorder="little", count=v.size * bits).reshape(v.size, bits)
        words = (stream.astype(np.uint64) << np.arange(bits, dtype=np.uint64)).sum(axis=1)
        assert np.array_equal(words, v.view(np.uint32) >> np.uint32(32 - bits)), bits


@each_dtype
def test_natural_rounds_to_the_powers_of_two_beside(kernel_set: Callable[[Any], Any], dtype: np.dtype[Any]) -> None:
    """A byte is sign and code; below the smallest power of two there is 0, and above the largest nothing."""
    kernels, least, most = kernel_set(dtype), 2.0**-108, 2.0**18
    v = np.array([0, -0.0, 1, -2, least, -most, 3, -3 * least, least / 2, -1e-40], dtype)
    seen = set()
    for i in range(60):
        good, payload = natural(chained(KEY, i)).encode(kernels, v, None)
        assert good
        assert payload[:6].tolist() == [0, 128, 109, 128 + 110, 1, 128 + 127]
        decoded = natural().decode(kernels, payload, np.full_like(v, np.nan), False).tolist()
        assert decoded[:6] == v[:6].tolist()
        assert payload[9] == 128
        seen.add(tuple(decoded[6:9]))
    assert {value for value, _, _ in seen} == {2, 4}
    assert {value for _, value, _ in seen} == {-2 * least, -4 * least}
    assert {value for _, _, value in seen} == {0, least}
    beyond = np.array([1, np.nextafter(dtype.type(most), dtype.type(2 * most))], dtype)
    assert not natural().encode(kernels, beyond, None)[0]


@each_dtype
def test_fp8_is_e4m3_of_a_block_whose_largest_is_448(kernel_set: Callable[[Any], Any], dtype: np.dtype[Any]) -> None:
    """Every e4m3, the midpoints between neighbours, and the numbers beside these, at scales of 1 and others."""
    kernels = kernel_set(dtype)
    bits = np.arange(127)
    values = np.where(bits < 8, bits * 2.0**-9, (8 + bits % 8) * 2.0 ** (bits // 8 - 10))
    assert (values[1], values[8], values[126]) == (2**-9, 2**-6, 448)
    middles = ((values[1:] + values[:-1]) / 2).astype(dtype)
    # Ties go to the even code.
    codes = [*bits, *(bits[:-1] + bits[:-1] % 2), *bits[:-1], *bits[1:]]
    beside = [np.nextafter(middles, dtype.type(limit)) for limit in (0, 448)]
    v = np.concatenate([values.astype(dtype), middles, *beside])
    v, codes = np.concatenate([v, -v]), np.concatenate([codes, np.add(codes, 128)])
    for scale in (1, 2.0**-20, 2.0**40):
        for case in (fp8(0), fp8(v.size)):
            _, payload = case.encode(kernels, v * dtype.type(scale), None)
            assert payload[: dtype.itemsize].view(dtype)[0] == scale
            assert np.array_equal(payload[dtype.itemsize :], codes)
            decoded = case.decode(kernels, payload, np.empty_like(v), False) / dtype.type(scale)
            assert np.array_equal(decoded[:127], values)
    # A block of zeros, and one of the smallest numbers there are.
    tiny, least = np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal
    _, payload = fp8(2).encode(kernels, np.array([0, -0.0, 3 * least, 0], dtype), None)
    assert payload[: 2 * dtype.itemsize].view(dtype).tolist() == [tiny, tiny]
    assert payload[2 * dtype.itemsize :].tolist() == [0, 128, 0, 0]
    largest = np.finfo(dtype).max
    good, payload = fp8(0).encode(kernels, np.array([largest / 2, -1], dtype), None)
    assert good
    assert np.isfinite(fp8(0).decode(kernels, payload, np.empty(2, dtype), False)).all()


@each_dtype
def test_payloads_at_once_are_those_of_one_after_the_other(
    kernel_set: Callable[[Any], Any], dtype: np.dtype[Any]
) -> None:
    """Their mean, and what gossip mixes: to the bit, on every kernel set that has it, for full vectors and codes."""
    kernels = kernel_set(dtype)
    for count, d, block in itertools.product((1, 2, 5), (1, 7, 2048, 5000), (0, 24, 1000, 1024)):
        draws = np.random.default_rng(d)
        coded = (signs(block), signs(block, "two"), quantize(3, block, "l2"), uniform(5, block), fp8(block))
        for case in (copy(), natural(), *coded):
            if not hasattr(kernels, f"{case.kernel}_combine"):
                pytest.skip(f"{kernels.name} adds payloads one by one")
            payloads = tuple(
                case.encode(kernels, draws.standard_normal(d).astype(dtype), None)[1] for _ in range(count)
            )
            start = draws.standard_normal(d).astype(dtype)

            combine, layout = getattr(kernels, f"{case.kernel}_combine"), case.decode_arguments(d)
            out = np.full(d, np.nan, dtype)
            mean = np.zeros(d, dtype)
            for number, payload in enumerate(payloads):
                case.decode(kernels, payload, mean, number > 0)
            mean /= count
            combine(payloads, None, 0.0, out, *layout)
            assert np.array_equal(out, mean), (case, count, d)

            weights = tuple(draws.uniform(-1, 1, count))
            mixed = np.zeros(d, dtype)
            case.decode(kernels, payloads[0], mixed, False)
            mixed *= dtype.type(weights[0])
            for weight, payload in zip(weights[1:], payloads[1:], strict=True):
                getattr(kernels, f"{case.kernel}_decode")(payload, mixed, *layout, True, weight)
            combine(payloads, weights, 0.0, out, *layout)
            assert np.array_equal(out, mixed), (case, count, d)
            expected = start + dtype.type(0.3) * mixed
            combine(payloads, weights, 0.3, start, *layout)
            assert np.array_equal(start, expected), (case, count, d)
