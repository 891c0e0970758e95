"""Problems on ranks of uneven speed, with a clock of their own.

Each run appends to files of the current folder, in s of `time.perf_counter`: `began-RANK` when a rank begins its first
gradient, `ended` when all ranks have finished the last iteration, at which rank 0 evaluates.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

D = 1000


class OneSlow:
    """A gradient of 2 ms, and 20 ms more on one rank, drawn anew in each iteration."""

    dimension, iterations_per_epoch = D, 100

    def __init__(self, rank: int, size: int, seed: int, xp: Any, dtype: Any) -> None:
        self.rank, self.size, self.dtype = rank, size, dtype
        self.iteration = 0

    def initial_point(self) -> Any:
        return np.zeros(D, self.dtype)

    def gradient(self, x: Any, iteration: int) -> tuple[float, Any]:
        if not self.iteration:
            note(f"began-{self.rank}")
        self.iteration = iteration
        time.sleep(0.022 if self.is_slow(iteration) else 0.002)
        return float(x @ x), (x - self.rank).astype(self.dtype)

    def is_slow(self, iteration: int) -> bool:
        return bool(np.random.default_rng(iteration).integers(self.size) == self.rank)

    def evaluate(self, x: Any) -> dict[str, float]:
        if self.iteration:
            note("ended")
        return {"distance": float(np.linalg.norm(x - (self.size - 1) / 2))}


class SomeSlow(OneSlow):
    """A gradient of 2 ms, and 20 ms more on a rank in five, at random: at times on none, and at times on several."""

    def is_slow(self, iteration: int) -> bool:
        return bool(np.random.default_rng([self.rank, iteration]).random() < 0.2)


def note(name: str) -> None:
    with open(name, "a") as file:
        file.write(f"{time.perf_counter()}\n")
