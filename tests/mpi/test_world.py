"""What runs of one process share."""

from __future__ import annotations

from collections.abc import Callable

from mpi4py import MPI

from mpisqueeze.comm.watchdog import Watchdog
from mpisqueeze.comm.world import World


def watch_many_runs(count: int) -> None:
    world = World()
    used = set()
    for _ in range(count):
        watchdog = Watchdog(world, 60, lambda: 0)
        watchdog.close()
        used.add((MPI._handleof(watchdog._comm), watchdog._tag))
    assert len({comm for comm, _ in used}) == 1
    assert len({tag for _, tag in used}) == count


def test_runs_need_no_communicator_of_their_own(on_ranks: Callable[..., None]) -> None:
    """MPICH has 2048 of them, and a comparison may have more runs; a late message of one is not the next one's."""
    on_ranks(2, watch_many_runs, 5)
