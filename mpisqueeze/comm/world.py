"""The ranks of a run: agreement, and errors that every rank learns of."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from mpi4py import MPI

from mpisqueeze.comm.signals import Signal
from mpisqueeze.errors import RankFailureError, UsageError

__all__ = ["RankFailureError", "Signal", "World"]

T = TypeVar("T")

#: The largest tag that MPI promises to take.
_TAGS = 32767
#: Seconds between two looks at whether ranks have agreed, where they leave together.
PAUSE = 50e-6
#: The same, where a rank waits for a whole run of others.
REST = 5e-3


@dataclass(frozen=True)
class _Problem:
    usage: bool
    message: str
    option: str | None
    details: str


def _my_cores() -> int:
    """A bit for each core that this process may use, threads of one core each for itself."""
    try:
        return sum(1 << core for core in os.sched_getaffinity(0))
    except AttributeError:  # not on macOS, which binds nothing
        return (1 << (os.cpu_count() or 1)) - 1


class World:
    """A communicator of the program's own, so that its messages never meet a plug-in's.

    Attributes:
        comm: for exchanges and for metrics that nothing counts.
        rank, size, is_root.
        local_rank: this rank's number among those of its host.
        host: a number that ranks of the same host share: its lowest rank.
        hosts: how many hosts the ranks are on.
        load: ranks on a core, where they are most; each may be bound to cores of its own, or all share them.
        leave_together_s: for ranks of one host: seconds after the last has come that all of them leave an agreement,
            at once, though they outnumber cores; 0: each leaves as soon as it can.
    """

    def __init__(self, comm: MPI.Comm | None = None) -> None:
        self.comm = (comm or MPI.COMM_WORLD).Dup()
        self.rank, self.size = self.comm.rank, self.comm.size
        self.is_root = self.rank == 0
        node = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank = node.rank
        self.host: int = node.bcast(self.rank)
        self.load: float = self.comm.allreduce(node.size / node.allreduce(_my_cores(), MPI.BOR).bit_count(), MPI.MAX)
        node.Free()
        self.hosts: int = self.comm.allreduce(int(self.local_rank == 0))
        self.leave_together_s = 0.0
        self._teams: dict[int, World | None] = {}
        self._aside: MPI.Comm | None = None
        self._tag = 0
        self._mine, self._all = np.zeros(2, np.int64), np.zeros(2, np.int64)
        self._buffers = ([self._mine, MPI.INT64_T], [self._all, MPI.INT64_T])

    def agree(self, signal: int) -> int:
        """The largest `signal` of all ranks. No rank leaves before all have entered: this is a barrier too."""
        self._mine[0] = signal
        if self.leave_together_s:
            self._mine[1] = time.monotonic_ns()
            request = self.comm.Iallreduce(*self._buffers, MPI.MAX)
            while not request.Test():
                time.sleep(PAUSE)
            left = self.leave_together_s - 1e-9 * (time.monotonic_ns() - int(self._all[1]))
            time.sleep(max(0.0, left))
        else:
            self.comm.Allreduce(*self._buffers, MPI.MAX)
        return int(self._all[0])

    def propose(self, signal: int) -> MPI.Request:
        """Begin to agree on the largest `signal`; until it is `proposed`, ranks do not agree on anything else."""
        self._mine[0] = signal
        return self.comm.Iallreduce(*self._buffers, MPI.MAX)

    def proposed(self, request: MPI.Request) -> int:
        """What was agreed on, once all ranks have proposed theirs."""
        request.Wait()
        return int(self._all[0])

    def first(self, ranks: int) -> World | None:
        """A world of this one's `ranks` lowest ranks, None on the others; collective. Asked again, the same one."""
        if ranks == self.size:
            return self
        if ranks not in self._teams:
            mine = self.comm.Split(0 if self.rank < ranks else MPI.UNDEFINED, self.rank)
            self._teams[ranks] = None if mine == MPI.COMM_NULL else World(mine)
        return self._teams[ranks]

    def aside(self) -> tuple[MPI.Comm, int]:
        """A communicator for talk beside the run's own, and a tag that no other call is given; collective.

        It is the same one each time: MPICH has 2048 in all, and a comparison may have more runs.
        """
        if self._aside is None:
            self._aside = self.comm.Dup()
        self._tag = self._tag % _TAGS + 1
        return self._aside, self._tag

    def rest(self) -> None:
        """Wait for all ranks, asleep, as those do that have nothing to do while others work; collective."""
        request = self.comm.Ibarrier()
        while not request.Test():
            time.sleep(REST)

    def collectively(self, work: Callable[[], T]) -> T:
        """Do `work` on every rank, and fail on every rank where it fails on one.

        Raises:
            UsageError: the lowest failing rank's, if it was one.
            RankFailureError: otherwise.
        """
        problem = None
        result: T
        try:
            result = work()
        except UsageError as error:
            problem = _Problem(True, error.message, error.option, "")
        except OSError as error:
            # A full disk is no fault of the program's, and needs no traceback.
            problem = _Problem(False, str(error), None, "")
        except (Exception, SystemExit) as error:
            problem = _Problem(False, repr(error), None, traceback.format_exc())
        for rank, found in enumerate(self.comm.allgather(problem)):
            if found is not None:
                if found.usage:
                    raise UsageError(found.message, found.option)
                raise RankFailureError(f"rank {rank}: {found.message}", found.details)
        return result

    def on_root(self, work: Callable[[], T]) -> T:
        """Do `work` on rank 0 alone and give every rank its (picklable) result, or its error as `collectively` does."""
        return self.comm.bcast(self.collectively(lambda: work() if self.is_root else None))
