"""The ranks of a run: agreements between them, and errors that all of them raise.

Virtual workers (`virtual.workers`) are ranks to everything that is built on a world.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from mpisqueeze.comm.signals import Signal
from mpisqueeze.devices.cores import cpu_quotas, granted, logical_cores
from mpisqueeze.errors import RankFailureError, UsageError
from mpisqueeze.mpi import MPI

__all__ = ["Groups", "RankFailureError", "Signal", "World"]

T = TypeVar("T")

#: The largest tag that the MPI standard guarantees.
_TAGS = 32767
#: Seconds between two tests of an agreement that ranks leave together.
PAUSE = 50e-6
#: Seconds between two tests while a rank waits for other ranks' whole run.
REST = 5e-3


@dataclass(frozen=True)
class Groups:
    """Groups of ranks, the first rank of each its leader.

    Attributes:
        team: this rank's group; its rank 0 is the leader.
        leaders: the world of all leaders; None on other ranks.
        count: number of groups.
    """

    team: MPI.Comm
    leaders: World | None
    count: int


class World:
    """The ranks of a communicator that belongs to this program, so that its messages never meet a plug-in's.

    Attributes:
        comm: communicator for exchanges and for uncounted metrics.
        local_rank, local_size: index of this rank among those of its host, and how many they are.
        host: lowest rank on this rank's host.
        hosts: number of hosts.
        load: ranks per core on the host where it is largest; a CPU quota counts as so many cores.
        quota: CPU time a second (s) that quotas grant a rank, on the host where it is least; infinite without quotas.
        virtual: the ranks are virtual workers, which take turns in their process.
        process: the world of the processes: this one, unless it is virtual.
        leads: this rank is the first one of its process, which alone listens to signals.
        now: function that gives the time (s) by this rank's clock; a worker's stands still in the turns of others.
        share: function that gives the list of what the ranks of this process called it with, which fills up as they do;
            collective.
        leave_together_s: time (s) after the last rank's arrival when all ranks of one host leave an agreement, at the
            same moment even if they share cores; 0: each leaves as soon as it can.
    """

    def __init__(self, comm: Any = None) -> None:
        self.comm = (comm or MPI.COMM_WORLD).Dup()
        self.rank, self.size = self.comm.rank, self.comm.size
        self.is_root = self.rank == 0
        self.virtual: bool = getattr(self.comm, "virtual", False)
        self.process: World = getattr(self.comm, "process", self)
        self.leads: bool = getattr(self.comm, "leads", True)
        self.now: Callable[[], float] = getattr(self.comm, "now", time.perf_counter)
        self.share: Callable[[Any], list[Any]] = getattr(self.comm, "share", lambda value: [value])
        node = self.comm.Split_type(MPI.COMM_TYPE_SHARED)
        self.local_rank, self.local_size = node.rank, node.size
        self.host: int = node.bcast(self.rank)
        cores: set[int] = set().union(*node.allgather(logical_cores()))
        quota = granted(node.allgather(cpu_quotas())) / node.size
        self.quota: float = self.comm.allreduce(quota, MPI.MIN)
        self.load: float = self.comm.allreduce(max(node.size / len(cores), 1 / quota), MPI.MAX)
        node.Free()
        self.hosts: int = self.comm.allreduce(int(self.local_rank == 0))
        self.leave_together_s = 0.0
        self._teams: dict[int, World | None] = {}
        self._groups: dict[int | None, Groups] = {}
        self._aside: MPI.Comm | None = None
        self._tag = 0
        self._mine, self._all = np.zeros(2, np.int64), np.zeros(2, np.int64)
        self._buffers = ([self._mine, MPI.INT64_T], [self._all, MPI.INT64_T])

    def agree(self, signal: int) -> int:
        """The largest `signal` of all ranks. This is a barrier too: no rank leaves before all have entered."""
        self._mine[0] = signal
        if self.leave_together_s:
            self._mine[1] = time.monotonic_ns()
            self._await(self.comm.Iallreduce(*self._buffers, MPI.MAX), PAUSE)
            left = self.leave_together_s - 1e-9 * (time.monotonic_ns() - int(self._all[1]))
            time.sleep(max(0.0, left))
        else:
            self.comm.Allreduce(*self._buffers, MPI.MAX)
        return int(self._all[0])

    def propose(self, signal: int) -> MPI.Request:
        """Start to agree on the largest `signal`; no other agreement may start before `proposed`."""
        self._mine[0] = signal
        return self.comm.Iallreduce(*self._buffers, MPI.MAX)

    def proposed(self, request: MPI.Request) -> int:
        """Wait until all ranks have proposed, and return the largest signal."""
        request.Wait()
        return int(self._all[0])

    def first(self, ranks: int) -> World | None:
        """The world of the `ranks` lowest ranks, None on the others; collective. Each is made once and kept."""
        if ranks == self.size:
            return self
        if ranks not in self._teams:
            mine = self.comm.Split(0 if self.rank < ranks else MPI.UNDEFINED, self.rank)
            self._teams[ranks] = None if mine == MPI.COMM_NULL else World(mine)
        return self._teams[ranks]

    def grouped(self, size: int | None) -> Groups:
        """Groups of `size` neighbours by rank, or of each host's ranks for None; collective. They are made once."""
        if size not in self._groups:
            team = self.comm.Split(self.host if size is None else self.rank // size, self.rank)
            mine = self.comm.Split(MPI.UNDEFINED if team.rank else 0, self.rank)
            leaders = None if mine == MPI.COMM_NULL else World(mine)
            self._groups[size] = Groups(team, leaders, self.comm.allreduce(int(team.rank == 0)))
        return self._groups[size]

    def aside(self) -> tuple[MPI.Comm, int]:
        """A second communicator, for the watchdog, and a tag that no other call returns; collective.

        The communicator is made once: MPICH has 2048 in all, and a comparison may have more runs.
        """
        if self._aside is None:
            self._aside = self.comm.Dup()
        self._tag = self._tag % _TAGS + 1
        return self._aside, self._tag

    def rest(self) -> None:
        """Sleep until all ranks have called this; for ranks that are idle while others work. Collective."""
        self._await(self.comm.Ibarrier(), REST)

    def _await(self, request: Any, pause: float) -> None:
        """Sleep until a request is complete, with pauses (s) between two looks."""
        if self.virtual:
            request.Wait()
        while not request.Test():
            time.sleep(pause)

    def collectively(self, work: Callable[[], T]) -> T:
        """Do `work` on every rank, and fail on every rank where it fails on one.

        Raises:
            UsageError: the lowest failing rank raised one.
            RankFailureError: it raised another error.
        """
        failure: UsageError | RankFailureError | None = None
        result: T
        try:
            result = work()
        except UsageError as error:
            failure = UsageError(error.message, error.option)
        except OSError as error:
            # A full disk is no fault of the program's, and needs no traceback.
            failure = RankFailureError(f"rank {self.rank}: {error}")
        except (Exception, SystemExit) as error:
            failure = RankFailureError(f"rank {self.rank}: {error!r}", traceback.format_exc())
        for found in self.comm.allgather(failure):
            if found is not None:
                # Workers of a process have one and the same.
                raise found.with_traceback(None)
        return result

    def on_root(self, work: Callable[[], T]) -> T:
        """Do `work` on rank 0 alone; return its (picklable) result on every rank, or raise as `collectively` does."""
        return self.comm.bcast(self.collectively(lambda: work() if self.is_root else None))
