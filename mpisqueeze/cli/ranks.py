"""The ranks that a command runs on, checked against what the launcher meant."""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

from mpisqueeze.errors import UsageError

if TYPE_CHECKING:
    from mpisqueeze.comm.world import World

_ADVICE = "they do not match; {} the launcher that belongs to this MPI (under SLURM, srun may need --mpi=pmix)"


@cache
def join() -> World:
    """Start MPI, follow the launcher from now on, and give the world of all ranks, the same each time.

    Raises UsageError where a launcher started ranks that MPI takes for so many worlds of one.
    """
    from mpisqueeze.comm.library import launched_apart, library_version, short_name
    from mpisqueeze.comm.watchdog import follow_launcher
    from mpisqueeze.comm.world import World
    from mpisqueeze.mpi import ended_by_alarm

    # Open MPI's start may end without a rank that was lost, for which the first collective then waits.
    with ended_by_alarm():
        world = World()
    follow_launcher()
    wanted = os.environ.get("MPISQUEEZE_LAUNCHED_RANKS", "")
    if wanted.isdigit() and int(wanted) != world.size:
        raise UsageError(
            f"launch started {wanted} ranks, but the MPI that mpi4py loads, {short_name(library_version())}, sees "
            f"{world.size}: {_ADVICE.format('name')}",
            "--launcher",
        )
    if wrong := launched_apart(world.size, os.environ):
        raise UsageError(f"{wrong}: {_ADVICE.format('use')}; `mpisqueeze info` shows what is here")
    return world
