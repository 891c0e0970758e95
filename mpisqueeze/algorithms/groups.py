"""Groups of ranks: each takes part in an algorithm as one rank would, with the mean of its gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mpisqueeze.algorithms.base import Algorithm, Gradient, Setup
from mpisqueeze.comm.groups import GroupExchange
from mpisqueeze.comm.world import Groups
from mpisqueeze.devices.clock import Phase


class Grouped(Algorithm):
    """g ← mean of a group's g_i, in full precision; its leader runs the algorithm with it, among leaders; x ← leader's.

    A group weighs as much as it has ranks, so that the mean over leaders is that over all ranks. Where the algorithm
    sends full vectors this is the usual two-level all-reduce of clusters whose hosts have fast links inside.

    Args:
        setup: of all ranks.
        algorithm: centralized, and built for the leaders; None on the other ranks, which only follow.

    Attributes:
        algorithm: as given. Its memory is all that there is.
    """

    memory = ()

    def __init__(self, setup: Setup, groups: Groups, algorithm: Algorithm | None) -> None:
        # The others have no answer for an optimizer to move x by.
        super().__init__(setup if algorithm else replace(setup, optimizer=None))
        self.algorithm = algorithm
        self.formula = algorithm.formula if algorithm else ""  # type: ignore[misc]
        self._inside = GroupExchange(setup.network, groups.team, setup.dtype)
        self._weight = setup.dtype.type(groups.count / setup.size)
        self._mean: Any = None

    @property
    def later_bytes(self) -> int:
        return self.algorithm.later_bytes if self.algorithm else 0

    def step(self, x: Any, gradient: Gradient, lr: float) -> None:
        network, algorithm = self.setup.network, self.algorithm
        g = gradient(x)
        self._inside.reduce(g)
        if algorithm is not None:
            g *= self._weight
            network.clock.lap(Phase.DECODE)
            self._mean = g
            algorithm.setup.network.iteration = network.iteration
            algorithm.step(x, self._taken, lr)
        self._inside.hand_on(x)

    def _taken(self, x: Any) -> Any:
        return self._mean

    def residual(self) -> Any:
        return self.algorithm.residual() if self.algorithm else None

    @property
    def schedule(self) -> Any:
        """The leaders' sections and tree, by the cost model."""
        return getattr(self.algorithm, "schedule", None)

    @property
    def payload_bytes(self) -> int | None:
        return self.algorithm.payload_bytes if self.algorithm else None

    def bytes_per_iteration(self) -> int | None:
        """Bytes between groups, on their leaders."""
        return self.algorithm.bytes_per_iteration() if self.algorithm else None

    def doubts(self) -> list[str]:
        return self.algorithm.doubts() if self.algorithm else []

    def close(self) -> None:
        if self.algorithm:
            self.algorithm.close()
