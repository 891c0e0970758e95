"""Counter-based random numbers: a hash of (key, index), the same on CPU and GPU, at any N and in any order.

SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) makes a 64-bit *key* from (seed, role, rank, part, iteration). A two-round
multiply-xorshift hash (constants from C. Wellons' hash-prospector, bias 0.107) makes a number from the 32-bit index and
the key's two halves, the second of which enters between the rounds.

A number u in [0, 1) for rounding at random has as many bits as a comparison needs: first the upper `FIRST_BITS` of the
hash, then all 64 of s₁ = splitmix64(key ^ index), of s₂ = splitmix64(s₁), and so on.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

MASK64 = (1 << 64) - 1
#: Steps of the Feistel network behind `randomk`'s positions.
FEISTEL_ROUNDS = 6
#: Bits of a hash that round an element at random, where these decide.
FIRST_BITS = 23


def splitmix64(state: int) -> int:
    """The SplitMix64 output for a 64-bit state."""
    z = (state + 0x9E3779B97F4A7C15) & MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK64
    return z ^ (z >> 31)


def derive_key(*parts: int) -> int:
    """A 64-bit key from integers of any size and sign; other parts, or another order, give another key."""
    state = 0
    for part in parts:
        state = splitmix64(state ^ (part & MASK64))
    return state


def hash32(index: np.ndarray, key: int, scratch: np.ndarray) -> np.ndarray:
    """Hash `index` (uint32, overwritten with the result) under `key`; `scratch` is uint32 of the same shape."""
    x = index
    x ^= np.uint32(key & 0xFFFFFFFF)
    np.right_shift(x, 16, out=scratch)
    x ^= scratch
    x *= np.uint32(0x21F0AAAD)
    np.right_shift(x, 15, out=scratch)
    x ^= scratch
    x ^= np.uint32(key >> 32)
    x *= np.uint32(0x735A2D97)
    np.right_shift(x, 15, out=scratch)
    x ^= scratch
    return x


def rest_is_below(rest: float, state: int) -> bool:
    """True if the bits of u that splitmix64 makes from `state` are, as a binary fraction, below `rest` in [0, 1)."""
    while rest:
        state = splitmix64(state)
        rest, bits = math.modf(rest * 2.0**64)
        if bits != state:
            return state < bits
    return False


def random_positions(key: int, count: int, dimension: int) -> np.ndarray:
    """`count` distinct positions in [0, dimension), int64, drawn without replacement.

    Position j is a keyed permutation of j: an unbalanced Feistel network of `FEISTEL_ROUNDS` rounds over the smallest
    power of two ≥ dimension, walked along its cycle until it falls inside (Black & Rogaway, CT-RSA 2002). Every
    position is drawn with the same probability, count/dimension.
    """
    bits = max(1, (dimension - 1).bit_length())
    low_bits = (bits + 1) // 2
    low_mask, high_mask = np.uint32((1 << low_bits) - 1), np.uint32((1 << (bits - low_bits)) - 1)
    keys = [derive_key(key, r) for r in range(FEISTEL_ROUNDS)]

    def permute(x: np.ndarray) -> np.ndarray:
        low, high = x & low_mask, x >> np.uint32(low_bits)
        scratch = np.empty_like(low)
        for r in range(0, FEISTEL_ROUNDS, 2):
            high ^= hash32(low.copy(), keys[r], scratch) & high_mask
            low ^= hash32(high.copy(), keys[r + 1], scratch) & low_mask
        return low | (high << np.uint32(low_bits))

    positions: Any = permute(np.arange(count, dtype=np.uint32))
    outside = np.flatnonzero(positions >= dimension)
    while outside.size:
        walked = permute(positions[outside])
        positions[outside] = walked
        outside = outside[walked >= dimension]
    return positions.astype(np.int64)
