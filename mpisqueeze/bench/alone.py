"""Work for one process, when a launcher has started several."""

from __future__ import annotations

import signal
from collections.abc import Callable

from mpisqueeze.comm.launched import launched_rank
from mpisqueeze.errors import ExitCode


def on_root_alone(work: Callable[[], int]) -> int:
    """The exit code of `work`, done by rank 0 or by a process without MPI, while other ranks sleep.

    Errors of `work` are raised on every rank alike.
    """
    if launched_rank() is None:
        return work()
    from mpisqueeze.comm.world import World

    world = World()

    def work_or_rest() -> int:
        try:
            if world.is_root:
                return work()
            # Rank 0 hears of it, too, and says what becomes of it.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED
        finally:
            world.rest()
        return ExitCode.OK

    return world.comm.bcast(world.collectively(work_or_rest))
