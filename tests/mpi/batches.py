"""A problem whose ranks, with as many samples in all, see the same ones however many ranks there are."""

from __future__ import annotations

from typing import Any

import numpy as np


class Batches:
    """½‖x − s‖² on the mean over samples s: rank r takes batch r of all ranks' samples of an iteration.

    Args:
        fails: the rank that fails in iteration 5: with an error, or for `nan` with a gradient that is none.
    """

    takes_batch_size = True
    dimension = 35
    shapes = ((5, 6), (5,))

    def __init__(
        self, rank: int, size: int, seed: int, xp: Any, dtype: Any, batch_size: int, *, fails: int = -1, nan: int = 0
    ) -> None:
        self.rank, self.dtype, self.batch_size, self.fails, self.nan = rank, dtype, batch_size, fails == rank, nan

    def initial_point(self) -> Any:
        return np.linspace(-1, 1, self.dimension).astype(self.dtype)

    def gradient(self, x: Any, iteration: int) -> tuple[float, Any]:
        if self.fails and iteration == 5:
            if not self.nan:
                raise ValueError("lost")
            return 1.0, np.full_like(x, np.nan)
        ids = range(self.rank * self.batch_size, (self.rank + 1) * self.batch_size)
        samples = [np.random.default_rng((iteration, k)).standard_normal(self.dimension) for k in ids]
        g = (x - np.mean(samples, axis=0)).astype(self.dtype)
        return float(g @ g) / 2, g
