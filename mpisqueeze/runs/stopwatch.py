"""The clock of `elapsed_s`, which all ranks start together, and which stops while they pause together."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpi4py import MPI


class Stopwatch:
    """This rank's seconds of training; collective, but for `at`.

    Ranks on several hosts have clocks of their own, so each reads its own from a common barrier on. A pause begins when
    the last rank has reached it, since until then that rank trains and the others wait for it, and ends when all leave
    it. Ranks come out of a barrier some microseconds apart; a pause has a barrier at both ends, so that a rank which
    always leaves late gains nothing by it.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = comm
        self._zero = math.nan

    def start(self, elapsed_s: float = 0.0) -> None:
        """Start when all ranks are here, with the time of earlier launches."""
        self._comm.Barrier()
        self._zero = time.perf_counter() - elapsed_s

    def at(self, moment: float) -> float:
        """The seconds of training at a moment of `time.perf_counter` since the last pause."""
        return moment - self._zero

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop from when all ranks are here until all have done what is in the block."""
        self._comm.Barrier()
        began = time.perf_counter()
        yield
        self._comm.Barrier()
        self._zero += time.perf_counter() - began
