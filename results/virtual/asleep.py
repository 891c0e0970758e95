"""A problem whose gradient is computed elsewhere, as on a GPU of each rank's own: the processor sleeps meanwhile."""

from __future__ import annotations

import time
from typing import Any

import numpy as np


class Asleep:
    """f(x) = ‖x − c_r‖²/2 for d = 100 000, with a gradient of 80 ms and noise."""

    dimension, iterations_per_epoch = 100_000, 100
    seconds = 0.08

    def __init__(self, rank: int, size: int, seed: int, xp: Any, dtype: Any) -> None:
        self._noise = np.random.default_rng([seed, rank])
        self._dtype, self._centre = dtype, rank - (size - 1) / 2

    def initial_point(self) -> Any:
        return np.zeros(self.dimension, self._dtype)

    def gradient(self, x: Any, iteration: int) -> tuple[float, Any]:
        time.sleep(self.seconds)
        g = (x - self._centre + self._noise.normal(size=self.dimension)).astype(self._dtype)
        return float(g @ g) / 2, g
