"""Communicators that the runs of one process share."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from mpi4py import MPI

from mpisqueeze.comm.watchdog import Watchdog
from mpisqueeze.comm.world import World


def watch_many_runs(count: int) -> None:
    world = World()
    used = set()
    for _ in range(count):
        watchdog = Watchdog(world, 60)
        watchdog.close()
        used.add((MPI._handleof(watchdog._comm), watchdog._tag))
    assert len({comm for comm, _ in used}) == 1
    assert len({tag for _, tag in used}) == count


def test_runs_need_no_communicator_of_their_own(on_ranks: Callable[..., None]) -> None:
    """MPICH has 2048 of them, and a comparison may have more runs; a late message of one is not the next one's."""
    on_ranks(2, watch_many_runs, 5)


def ranks_on_cores(each_its_own: bool) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    try:
        os.sched_setaffinity(0, {allowed[MPI.COMM_WORLD.rank if each_its_own else 0]})
        assert World().load == (1.0 if each_its_own else 2.0)
        assert World(MPI.COMM_SELF).load == 1.0
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds nothing")
def test_ranks_that_are_bound_to_cores_of_their_own_do_not_share_them(on_ranks: Callable[..., None]) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    unbound = {"PRTE_MCA_hwloc_default_binding_policy": "none", "OMPI_MCA_hwloc_base_binding_policy": "none"}
    for each_its_own in (True, False):
        on_ranks(2, ranks_on_cores, each_its_own, **unbound)
