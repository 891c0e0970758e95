"""Independent random streams, each a function of the run's seed and a key, never of earlier draws."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """The use of a stream: the first number of its key, so that no two uses share random numbers."""

    PARTITION = 1
    SAMPLING = 2
    INITIAL_POINT = 3
    SYNTHETIC_DATA = 4
    QUADRATIC = 5
    GRADIENT_NOISE = 6
    SUBSET = 7
    AUGMENTATION = 8
    LAYERS = 9
    STATISTICS = 10
    SYNTHETIC_TEXT = 11


def generator(seed: int, stream: Stream, *key: int) -> np.random.Generator:
    """The generator of (seed, stream, key); the same arguments give the same numbers on every rank.

    Args:
        seed: the run's seed, ≥ 0.
        key: whole numbers ≥ 0, such as a rank and an iteration.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(int(stream), *key))))
