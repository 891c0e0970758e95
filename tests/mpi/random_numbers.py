"""The random numbers of a run as docs/methods.md defines them, written anew: in whole numbers, without mpisqueeze."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

WORKER, SERVER, SHARED = 1, 2, 3
#: Bits of the first draw.
FIRST_BITS = 23
BITS32, BITS64 = 2**32, 2**64


def splitmix64(state: int) -> int:
    z = (state + 0x9E3779B97F4A7C15) % BITS64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % BITS64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % BITS64
    return z ^ z >> 31


def chained(*numbers: int) -> int:
    """The key of some numbers, from 0 on: k ← splitmix64(k xor number)."""
    key = 0
    for number in numbers:
        key = splitmix64(key ^ number % BITS64)
    return key


def stream(seed: int, role: int, rank: int = 0, part: int = 0) -> int:
    """The seed of a rank's compressor (role WORKER), or of a server's (SERVER), for a part of the vector.

    SHARED: of a linear one, on all ranks and servers.
    """
    if role != WORKER:
        return chained(seed, role, part)
    return chained(seed, WORKER, rank, part) if part else chained(seed, WORKER, rank)


def key_of(compressor_seed: int, iteration: int, first: int = 0) -> int:
    """The key of an iteration, for a section that begins at `first`."""
    return chained(compressor_seed, iteration) ^ first


def hash32(index: int, key: int) -> int:
    x = index ^ key % BITS32
    x = (x ^ x >> 16) * 0x21F0AAAD % BITS32
    x = (x ^ x >> 15 ^ key >> 32) * 0x735A2D97 % BITS32
    return x ^ x >> 15


def key_that_hashes(index: int, to: int, high: int) -> int:
    """The key with the upper half `high` under which the index has the hash `to`."""
    x = to ^ to >> 15 ^ to >> 30
    x = x * pow(0x735A2D97, -1, BITS32) % BITS32 ^ high
    x = (x ^ x >> 15 ^ x >> 30) * pow(0x21F0AAAD, -1, BITS32) % BITS32
    return high << 32 | x ^ x >> 16 ^ index


def pieces(index: int, key: int) -> Iterator[tuple[int, int]]:
    """u of an element, piece by piece: (value, bits)."""
    yield hash32(index, key) >> 32 - FIRST_BITS, FIRST_BITS
    state = key ^ index
    while True:
        state = splitmix64(state)
        yield state, 64


def is_below(fraction: Fraction, index: int, key: int) -> bool:
    """u < fraction."""
    low, size = Fraction(0), Fraction(1)
    for value, bits in pieces(index, key):
        size /= 2**bits
        low += value * size
        if low + size <= fraction:
            return True
        if low >= fraction:
            return False
    raise AssertionError


def code(level: Any, index: int, key: int) -> int:
    whole = int(level)
    return whole + is_below(Fraction(float(level)) - whole, index, key)


def quantized(v: np.ndarray, bits: int, norm: str, key: int) -> list[int]:
    """The codes of `qsgd` (norm l2) and `ternary` (max) for a single bucket: the level, the sign as the highest bit."""
    levels = v.dtype.type(2 ** (bits - 1) - 1)
    scale = v.dtype.type(np.sqrt(np.sum(v.astype(np.float64) ** 2)) if norm == "l2" else np.abs(v).max())
    sign = 2 ** (bits - 1)
    return [code(min(abs(x) / scale * levels, levels), i, key) + (sign if x < 0 else 0) for i, x in enumerate(v)]


def uniform(v: np.ndarray, bits: int, key: int) -> list[int]:
    """The codes of `uniform` for a single bucket."""
    low, span = v.min(), v.max() - v.min()
    return [code((x - low) / span * v.dtype.type(2**bits - 1), i, key) for i, x in enumerate(v)]


def natural(v: np.ndarray, key: int) -> list[int]:
    """The bytes of `natural`."""
    found = []
    for i, x in enumerate(v):
        size, sign = Fraction(abs(float(x))), 128 * bool(np.signbit(x))
        if size < Fraction(1, 2**108):
            found.append(sign + is_below(size * 2**108, i, key))
        else:
            exponent = int(np.frexp(np.float64(x))[1]) - 1
            found.append(sign + exponent + 109 + is_below(size / Fraction(2) ** exponent - 1, i, key))
    return found


def unpacked(payload: np.ndarray, bits: int, count: int) -> list[int]:
    """The codes at the end of a payload."""
    packed = int.from_bytes(payload[payload.size - -(-count * bits // 8) :].tobytes(), "little")
    return [packed >> i * bits & (2**bits - 1) for i in range(count)]


def positions(key: int, count: int, dimension: int) -> Sequence[int]:
    """The first `count` elements that `randomk` draws from `dimension`."""
    bits = max(1, (dimension - 1).bit_length())
    low_bits = -(-bits // 2)
    keys = [chained(key, r) for r in range(6)]

    def permuted(x: int) -> int:
        high, low = divmod(x, 2**low_bits)
        for r in (0, 2, 4):
            high ^= hash32(low, keys[r]) % 2 ** (bits - low_bits)
            low ^= hash32(high, keys[r + 1]) % 2**low_bits
        return high * 2**low_bits + low

    found = []
    for x in range(count):
        x = permuted(x)
        while x >= dimension:
            x = permuted(x)
        found.append(x)
    return found
