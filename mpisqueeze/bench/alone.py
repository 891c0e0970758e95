"""Work for one process, when a launcher has started several."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable

from mpisqueeze.comm.launched import launched_rank
from mpisqueeze.errors import ExitCode, UsageError

#: Seconds between two looks of a rank that waits for rank 0, which must not take its core.
_PAUSE = 0.02


def on_root_alone(work: Callable[[], int]) -> int:
    """The exit code of `work`, done by rank 0 or by a process without MPI, while other ranks sleep.

    Raises:
        UsageError, RankFailureError: as `work` does, on every rank alike.
    """
    if launched_rank() is None:
        return work()
    from mpisqueeze.comm.world import RankFailureError, World

    world = World()
    code, refused, failed = 0, None, None
    if world.is_root:
        try:
            code = work()
        except UsageError as error:
            refused = error.message, error.option
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        except Exception as error:
            failed = repr(error), traceback.format_exc()
    else:
        # Rank 0 hears of it, too, and says what becomes of it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    done = world.comm.Ibarrier()
    while not done.Test():
        time.sleep(_PAUSE)
    code, refused, failed = world.comm.bcast((code, refused, failed))
    if refused:
        raise UsageError(*refused)
    if failed:
        raise RankFailureError(f"rank 0: {failed[0]}", failed[1])
    return code
