"""Being one rank among others, before MPI is loaded and when this one has to go."""

from __future__ import annotations

import os
import signal
import sys
import time

#: What launchers tell a process of its rank: Open MPI, PMIx, MPICH and Intel MPI, MVAPICH, SLURM.
RANK_VARIABLES = (
    "OMPI_COMM_WORLD_RANK",
    "PMIX_RANK",
    "PMI_RANK",
    "MV2_COMM_WORLD_RANK",
    "SLURM_PROCID",
)
_HEAD_START_S = 2.0
#: Seconds that ranks have to end MPI together, once each is done.
EXIT_S = 300


def launched_rank() -> int | None:
    """This process's rank as the launcher gave it, without loading MPI; None if nothing launched it."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        return int(mpi.COMM_WORLD.rank)
    return _told_rank()


def _told_rank() -> int | None:
    """As the launcher's variables have it."""
    for variable in RANK_VARIABLES:
        value = os.environ.get(variable, "")
        if value.isdigit():
            return int(value)
    return None


def leave_together(code: int) -> int:
    """Wait for the other ranks of a deterministic error, so that the launcher kills nobody before rank 0 has spoken."""
    if launched_rank() is not None:
        try:
            from mpi4py import MPI
        except (ImportError, RuntimeError):
            return code
        # A command that needs no MPI may have loaded the library without starting it.
        started = MPI.Is_initialized()
        if not started:
            MPI.Init()
        MPI.COMM_WORLD.Barrier()
        if _told_rank() and MPI.COMM_WORLD.size == 1:
            # The MPI of another launcher, which cannot wait for the rank that speaks.
            time.sleep(_HEAD_START_S)
        if not started:
            MPI.Finalize()
    return code


def abort_others(code: int) -> int:
    """End all ranks because this one failed alone; returns only where MPI is not running or there is no other rank."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() and mpi.COMM_WORLD.size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        mpi.COMM_WORLD.Abort(code)
    return code


def end_in_time() -> None:
    """Have this process ended by SIGALRM if it does not end by itself: MPI ends with all ranks, and one may be stopped.

    A launcher that sees a rank end so ends the others.
    """
    if _told_rank() is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(EXIT_S)
