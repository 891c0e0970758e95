"""The cores that a process may use, and a rank's share of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from mpisqueeze.comm.world import World


def usable_cores() -> int:
    """Physical cores that this process may use; threads of one core count once, as in mpirun's slots."""
    try:
        threads = sorted(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return psutil.cpu_count(logical=False) or os.cpu_count() or 1
    cores = set()
    for thread in threads:
        try:
            cores.add(Path(f"/sys/devices/system/cpu/cpu{thread}/topology/thread_siblings_list").read_text())
        except OSError:
            return len(threads)
    return len(cores)


def threads_of_rank(world: World) -> int:
    """How many threads this rank may compute with, so that ranks on the same cores do not slow each other down.

    That is OMP_NUM_THREADS where it is set, else a fair share of the cores that this rank may use. Collective.
    """
    try:
        mine = frozenset(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS, which binds nothing
        mine = frozenset({0})
    everyone = world.comm.allgather((world.host, mine))
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    sharing = sum(host == world.host and bool(mine & theirs) for host, theirs in everyone)
    return max(1, usable_cores() // sharing)
