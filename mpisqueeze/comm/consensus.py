"""The mean of all ranks' models for metrics; its messages are not counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpisqueeze.comm.pieces import add_up
from mpisqueeze.comm.world import World


class Consensus:
    """The mean model x̄ over the ranks, on the host. It takes a vector of memory per rank, or two with `distances`.

    Args:
        distances: `distance` is asked for.
    """

    def __init__(self, world: World, dimension: int, dtype: Any, distances: bool = True) -> None:
        self._comm, self._size = world.comm, world.size
        self._mean, self._difference = np.empty(dimension, dtype), np.empty(dimension if distances else 0, dtype)

    def mean(self, x: np.ndarray) -> np.ndarray:
        """x̄, (d,), valid until the next call; collective."""
        np.copyto(self._mean, x)
        add_up(self._comm, self._mean)
        self._mean /= self._size
        return self._mean

    def distance(self, x: np.ndarray) -> float:
        """‖x_i − x̄‖² of this rank; collective."""
        np.subtract(x, self.mean(x), out=self._difference)
        return float(self._difference.dot(self._difference))
