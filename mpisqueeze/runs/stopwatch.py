"""The clock of `elapsed_s`, which all ranks start together, and which stops while they pause together."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from mpisqueeze.comm.world import World
from mpisqueeze.mpi import MPI


class Stopwatch:
    """This rank's seconds of training.

    Ranks on several hosts have clocks of their own, so each reads its own, and all are set to the same time where ranks
    meet anyway: at the start, and after each pause. A rank that leaves such a meeting late reads less than the others;
    the largest of all ranks' times is that of the first one to leave.
    """

    def __init__(self, world: World) -> None:
        self._comm, self._now = world.comm, world.now
        self._zero = math.nan

    def start(self, elapsed_s: float = 0.0) -> None:
        """Set all ranks' clocks to this time once all are here; collective."""
        self._comm.Barrier()
        self._zero = self._now() - elapsed_s

    def at(self, moment: float) -> float:
        """The seconds of training at a moment of `World.now` since the last pause."""
        return moment - self._zero

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop until all ranks have done what is in the block; collective.

        The clock stops when the last rank comes: until then that rank trains, and the others wait for it.
        """
        stopped_at = self._comm.allreduce(self.at(self._now()), MPI.MAX)
        yield
        self.start(stopped_at)
