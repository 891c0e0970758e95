"""A problem whose gradient takes a time that nobody else needs the cores for, as on an accelerator: it sleeps.

`mpisqueeze lab … --problem results/lab/paced.py:Paced`: 0.2 s a gradient of 1 Mi numbers, a third of it a forward pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

FORWARD_S, BACKWARD_S, PARTS = 0.067, 0.133, 16


class Paced:
    """½‖x − 1‖², its gradient found in PARTS equal parts at an even pace."""

    dimension = 1 << 20

    def __init__(self, rank: int, size: int, seed: int, xp: Any, dtype: Any) -> None:
        self.g = np.zeros(self.dimension, dtype)

    def initial_point(self) -> Any:
        return np.zeros_like(self.g)

    def gradient(self, x: Any, iteration: int) -> tuple[float, Any]:
        return self.gradient_in_parts(x, iteration, lambda g, start: None)

    def gradient_in_parts(self, x: Any, iteration: int, ready: Callable[[Any, int], None]) -> tuple[float, Any]:
        due = time.perf_counter() + FORWARD_S
        time.sleep(FORWARD_S)
        step = self.dimension // PARTS
        for start in range(self.dimension - step, -1, -step):
            due += BACKWARD_S / PARTS
            time.sleep(max(0.0, due - time.perf_counter()))
            numbers = slice(start, start + step)
            np.subtract(x[numbers], 1, out=self.g[numbers])
            ready(self.g, start)
        return float(0.5 * ((x[0] - 1) ** 2)) * self.dimension, self.g
