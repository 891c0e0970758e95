"""The mean of all ranks' models for metrics; its messages are not counted."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpisqueeze.comm.world import World
from mpisqueeze.mpi import MPI


class Consensus:
    """The mean model x̄ over the ranks, on the host. It takes two vectors of memory per rank."""

    def __init__(self, world: World, dimension: int, dtype: Any) -> None:
        self._comm, self._size = world.comm, world.size
        self._mean, self._difference = np.empty(dimension, dtype), np.empty(dimension, dtype)

    def mean(self, x: np.ndarray) -> np.ndarray:
        """x̄, (d,), valid until the next call; collective."""
        np.copyto(self._mean, x)
        self._comm.Allreduce(MPI.IN_PLACE, self._mean, MPI.SUM)
        self._mean /= self._size
        return self._mean

    def distance(self, x: np.ndarray) -> float:
        """‖x_i − x̄‖² of this rank; collective."""
        np.subtract(x, self.mean(x), out=self._difference)
        return float(self._difference.dot(self._difference))
