"""Shared by the tests of the kernel sets: every kernel with its arguments, and vectors that are hard in some way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from mpisqueeze.kernels.reference import ReferenceKernels, blocks_of

DTYPES: list[np.dtype[Any]] = [np.dtype(np.float32), np.dtype(np.float64)]
KEY = 0x1B873593CC9E2D51
#: The byte that fills a payload before it is encoded.
UNSET = 0xA5
#: (add, factor) of the decoders.
WAYS = ((False, 1.0), (True, 1.0), (True, -0.3))


@dataclass(frozen=True)
class Case:
    """A pair of kernels with their arguments."""

    label: str
    kernel: str
    arguments: Callable[[int], tuple[Any, ...]]  # of *_encode, from the vector's length
    decode_arguments: Callable[[int], tuple[Any, ...]]
    payload_bytes: Callable[[int, int], int]  # from the vector's length and a number's bytes
    block: int = 0

    def __str__(self) -> str:
        return self.label

    __repr__ = __str__

    def encode(self, kernels: Any, v: Any, residual: Any, payload: Any = None) -> tuple[bool, Any]:
        if payload is None:
            payload = np.full(self.payload_bytes(v.size, v.dtype.itemsize), UNSET, np.uint8)
        good = getattr(kernels, f"{self.kernel}_encode")(v, residual, payload, *self.arguments(v.size))
        return good, payload

    def decode(self, kernels: Any, payload: Any, out: Any, add: bool, factor: float = 1.0) -> Any:
        getattr(kernels, f"{self.kernel}_decode")(payload, out, *self.decode_arguments(out.size), add, factor)
        return out


def results(case: Case, made: Any, v: np.ndarray, delta: np.ndarray | None) -> list[bytes]:
    """The bytes that an encoder and its decoder leave behind; none where an element is refused."""
    residual = None if delta is None else delta.copy()
    good, payload = case.encode(made, v, residual)
    if not good:
        return []
    left = [payload.tobytes(), b"" if residual is None else residual.tobytes()]
    return left + [case.decode(made, payload, np.roll(v, 1), *how).tobytes() for how in WAYS]


class Place:
    """Memory of an array module in which arrays begin at any address, with bytes around them that must not change.

    Args:
        xp: numpy, or cupy.
        offset: offset of vectors, in elements.
        shift: offset of payloads, in bytes.
    """

    def __init__(self, xp: Any, offset: int = 0, shift: int = 0) -> None:
        self.xp, self.offset, self.shift = xp, offset, shift
        self._held: list[tuple[Any, int, int]] = []

    def vector(self, values: np.ndarray) -> Any:
        return self._put(values, self.offset * values.itemsize)

    def payload(self, values: np.ndarray) -> Any:
        return self._put(values, self.shift)

    def _put(self, values: np.ndarray, before: int) -> Any:
        start, end = 64 + before, 64 + before + values.nbytes
        memory = np.full(end + 64, UNSET, np.uint8)
        memory[start:end] = values.view(np.uint8)
        held = self.xp.asarray(memory)
        self._held.append((held, start, end))
        return held[start:end].view(values.dtype)

    def intact(self) -> bool:
        around = [(on_host(held)[:start], on_host(held)[end:]) for held, start, end in self._held]
        return all((part == UNSET).all() for parts in around for part in parts)


def on_host(array: Any) -> np.ndarray:
    return array.get() if hasattr(array, "get") else array


def assert_same(
    case: Case,
    v: np.ndarray,
    delta: np.ndarray | None,
    kernel_sets: Iterable[tuple[str, Any, Any]],
    offset: int = 0,
    shift: int = 0,
) -> None:
    """Encode and decode on the reference and on each (name, kernels, array module): the same bits, and no others."""
    reference, residual = ReferenceKernels(v.dtype), None if delta is None else delta.copy()
    base = np.roll(v[::-1], 1).copy()
    with np.errstate(all="ignore"):
        good, payload = case.encode(reference, v, residual)
        expected = [case.decode(reference, payload, base.copy(), *how) for how in WAYS] if good else []
    for name, kernels, xp in kernel_sets:
        where = f"{name}: {case} d={v.size} {v.dtype} offset={offset} shift={shift}"
        place = Place(xp, offset, shift)
        given_v, given_delta = place.vector(v), None if delta is None else place.vector(delta)
        filled = place.payload(np.full(payload.size, 255 - UNSET, np.uint8))
        assert case.encode(kernels, given_v, given_delta, filled)[0] is good, where
        assert same_bits(on_host(given_v), v), f"{where} changed the vector"
        if good:
            same = on_host(filled) == payload
            assert same.all(), f"{where}: payload, first at byte {int(np.argmin(same))}"
            assert residual is None or same_bits(on_host(given_delta), residual), f"{where}: residual"
        for how, decoded in zip(WAYS, expected, strict=False):
            out, nan = on_host(case.decode(kernels, filled, place.vector(base), *how)), np.isnan(decoded)
            # The processor chooses which of two NaNs a sum keeps.
            assert np.array_equal(np.isnan(out), nan), f"{where}: decode {how}"
            assert same_bits(out[~nan], decoded[~nan]), f"{where}: decode {how}"
            assert same_bits(on_host(filled), payload), f"{where}: decode {how} changed the payload"
        assert place.intact(), f"{where} wrote outside"


def assert_cleared(kernels: Any, xp: Any, dtype: np.dtype[Any]) -> None:
    """Of a vector without zeros, those elements become 0 that a payload holds, be they 0 in it, and no others."""
    for d, ratio, shift in itertools.product((1, 37, 5003), (0.01, 0.5, 1.0), (0, 3)):
        v = np.arange(1, d + 1).astype(dtype)
        for case in (topk(ratio), randomk(ratio, False)):
            _, payload = case.encode(ReferenceKernels(dtype), v, None)
            expected = v - case.decode(ReferenceKernels(dtype), payload, np.empty_like(v), False)
            values = payload[: kept(ratio, d) * v.itemsize] if case.kernel == "topk" else payload[8:]
            values[:] = 0
            place = Place(xp, 1, shift)
            out = place.vector(v)
            getattr(kernels, f"{case.kernel}_clear")(place.payload(payload), out, *case.decode_arguments(d))
            assert same_bits(on_host(out), expected), (case, d, ratio)
            assert place.intact()


def stream_bytes(d: int, bits: int) -> int:
    return -(-d * bits // 8)


def copy() -> Case:
    return Case("copy", "copy", lambda d: (), lambda d: (), lambda d, w: d * w)


def signs(block: int, scale: str = "l1") -> Case:
    each = {"two": 2, "none": 0}.get(scale, 1)
    return Case(
        f"signs:{block}:{scale}",
        "signs",
        lambda d: (block, each, scale == "l2"),
        lambda d: (block, each),
        lambda d, w: stream_bytes(d, 1) + each * w * blocks_of(d, block)[1],
        block,
    )


def quantize(bits: int, bucket: int, norm: str, key: int = KEY) -> Case:
    return Case(
        f"quantize:{bits}:{bucket}:{norm}",
        "quantize",
        lambda d: (bits, bucket, norm, key),
        lambda d: (bits, bucket),
        lambda d, w: stream_bytes(d, bits) + w * blocks_of(d, bucket)[1],
        bucket,
    )


def uniform(bits: int, bucket: int, key: int = KEY) -> Case:
    return Case(
        f"uniform:{bits}:{bucket}",
        "uniform",
        lambda d: (bits, bucket, key),
        lambda d: (bits, bucket),
        lambda d, w: stream_bytes(d, bits) + 2 * w * blocks_of(d, bucket)[1],
        bucket,
    )


def kept(ratio: float, d: int) -> int:
    return max(1, math.ceil(ratio * d))


def topk(ratio: float) -> Case:
    return Case(
        f"topk:{ratio}",
        "topk",
        lambda d: (kept(ratio, d),),
        lambda d: (kept(ratio, d),),
        lambda d, w: kept(ratio, d) * (w + 4),
    )


def randomk(ratio: float, unbiased: bool, key: int = KEY) -> Case:
    return Case(
        f"randomk:{ratio}:{'unbiased' if unbiased else 'biased'}",
        "randomk",
        lambda d: (kept(ratio, d), key, unbiased),
        lambda d: (kept(ratio, d),),
        lambda d, w: 8 + kept(ratio, d) * w,
    )


def positions(ratio: float, unbiased: bool, key: int = KEY) -> Case:
    return Case(
        f"positions:{ratio}:{'unbiased' if unbiased else 'biased'}",
        "positions",
        lambda d: (kept(ratio, d), key, unbiased),
        lambda d: (kept(ratio, d), key),
        lambda d, w: kept(ratio, d) * w,
    )


def natural(key: int = KEY) -> Case:
    return Case("natural", "natural", lambda d: (key,), lambda d: (), lambda d, w: d)


def fp8(block: int) -> Case:
    return Case(f"fp8:{block}", "fp8", lambda d: (block,), lambda d: (block,),
                lambda d, w: d + w * blocks_of(d, block)[1], block)  # fmt: skip


def clip(bits: int) -> Case:
    return Case(f"clip:{bits}", "clip", lambda d: (bits,), lambda d: (bits,), lambda d, w: stream_bytes(d, bits))


def half(bfloat: bool) -> Case:
    return Case("bf16" if bfloat else "fp16", "half", lambda d: (bfloat,), lambda d: (bfloat,), lambda d, w: 2 * d)


RATIOS = (0.0001, 0.01, 0.06, 0.3, 0.5, 1.0)
#: Cases without blocks.
PLAIN = [
    copy(),
    half(False),
    half(True),
    *(clip(bits) for bits in (9, 12, 16, 19, 23, 24, 31)),
    *(topk(ratio) for ratio in RATIOS),
    *(
        draw(ratio, unbiased)
        for draw in (randomk, positions)
        for ratio in (0.0001, 0.01, 0.5, 1.0)
        for unbiased in (False, True)
    ),
    natural(),
]


def any_case(longest_block: int = 80_000) -> st.SearchStrategy[Case]:
    """A kernel with arguments of any value; blocks may be longer than the vector, or 0 (the whole vector)."""
    blocks = st.one_of(
        st.sampled_from([0, 1, 8, 64, 512, 1000, 1024, 1032, longest_block]),
        st.integers(1, 40),
        st.integers(1, 300).map(lambda eights: 8 * eights),
        st.integers(1, longest_block),
    )
    keys = st.integers(0, 2**64 - 1)
    ratios = st.one_of(st.sampled_from(RATIOS), st.floats(1e-5, 1))
    return st.one_of(
        st.builds(signs, blocks, st.sampled_from(["l1", "l2", "two"])),
        st.builds(quantize, st.integers(2, 8), blocks, st.sampled_from(["l2", "max"]), keys),
        st.builds(uniform, st.integers(1, 8), blocks, keys),
        st.builds(topk, ratios),
        st.builds(randomk, ratios, st.booleans(), keys),
        st.builds(positions, ratios, st.booleans(), keys),
        st.builds(natural, keys),
        st.builds(fp8, blocks),
        st.builds(clip, st.integers(9, 31)),
        st.builds(half, st.booleans()),
        st.builds(copy),
    )


def any_length(longest: int = 70_000) -> st.SearchStrategy[int]:
    """Lengths 1 … `longest`, half of them next to the number of elements that a loop takes at a time."""
    steps = [step for step in (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 8192, 32_768, 65_536) if step < longest]
    beside = st.builds(
        lambda step, times, tail: min(max(1, step * times + tail), longest),
        st.sampled_from(steps),
        st.integers(1, 4),
        st.sampled_from([-1, 0, 1, 3, 5, 7]),
    )
    return st.one_of(st.integers(1, min(70, longest)), beside, beside, st.integers(1, longest))


def numbers(rng: np.random.Generator, d: int, dtype: np.dtype[Any], kind: str) -> np.ndarray:
    """d elements of some kind; fp16 can represent those of every kind up to `one block`."""
    limits = np.finfo(dtype)
    v = rng.standard_normal(d)
    kinds: dict[str, Callable[[], np.ndarray]] = {
        "normal": lambda: v,
        "zeros": lambda: v * 0,
        "signed zeros": lambda: np.copysign(0, v),
        "sparse": lambda: v * (rng.random(d) < 0.05),
        "ties": lambda: np.round(v),
        "subnormal": lambda: rng.integers(-100, 101, d).astype(dtype) * limits.smallest_subnormal,
        "tiny": lambda: v * limits.tiny,
        "wide": lambda: v * 2.0 ** rng.integers(-40, 13, d),
        "small halves": lambda: v * 2e-6,
        "one block": lambda: np.where(np.arange(d) < d // 2, v * (rng.random(d) < 0.5), -3.5),
        "halves": lambda: v * 3e4,
        "huge": lambda: np.clip(v, -3, 3) * (limits.max / 2.0 ** rng.integers(2, 40)),
        "largest": lambda: v * (limits.max / 8),
        "mixed": lambda: np.copysign(2.0 ** rng.uniform(limits.minexp - limits.nmant, limits.maxexp - 1, d), v),
        "nan": lambda: np.where(np.arange(d) == rng.integers(d), np.nan, v),
        "inf": lambda: np.where(np.arange(d) == rng.integers(d), -np.inf, v),
    }
    with np.errstate(over="ignore"):
        return kinds[kind]().astype(dtype)


FINITE_KINDS = [
    *("normal", "zeros", "signed zeros", "sparse", "ties", "subnormal", "tiny", "wide"),
    *("small halves", "one block", "halves", "huge", "largest", "mixed"),
]


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and np.array_equal(a.view(np.uint8), b.view(np.uint8))
