"""A process as one rank among others: before MPI is loaded, and when it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from typing import Any

from mpisqueeze.holder import abandon

#: Variables with a process's rank, set by launchers: Open MPI, PMIx, MPICH and Intel MPI, MVAPICH, SLURM.
RANK_VARIABLES = (
    "OMPI_COMM_WORLD_RANK",
    "PMIX_RANK",
    "PMI_RANK",
    "MV2_COMM_WORLD_RANK",
    "SLURM_PROCID",
)
#: Set by `launch` where it listens to what rank 0 tells it, in a JSON object between two marks on stderr.
TELLS = "MPISQUEEZE_TELLS"
MARK = "\x1empisqueeze\x1e"
_HEAD_START_S = 2.0
#: Seconds that ranks have to finalize MPI together, once each is done.
EXIT_S = 300


def launched_rank() -> int | None:
    """This process's rank as set by the launcher, found without loading MPI; None if no launcher started it."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized():
        return int(mpi.COMM_WORLD.rank)
    return told_rank()


def told_rank() -> int | None:
    """This process's rank by the launcher's variables, or None."""
    for variable in RANK_VARIABLES:
        value = os.environ.get(variable, "")
        if value.isdigit():
            return int(value)
    return None


def tell_launch(**facts: Any) -> None:
    """Under `launch`: tell it something that it would otherwise have to trust the launcher for.

    It travels on stderr, which every launcher brings from every host; `launch` takes it out.
    """
    if TELLS in os.environ:
        sys.stderr.flush()
        with contextlib.suppress(OSError):
            os.write(2, f"{MARK}{json.dumps(facts)}{MARK}\n".encode())


def leave_together(code: int) -> int:
    """Wait until all ranks have met the same error, so that the launcher kills none before rank 0 has reported it."""
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
        if told_rank() and MPI.COMM_WORLD.size == 1:
            # Another launcher's MPI cannot wait for the rank that reports the error.
            time.sleep(_HEAD_START_S)
        if not started:
            MPI.Finalize()
    return code


def abort_others(code: int) -> int:
    """End all ranks because this one failed alone; returns only if MPI is not running or there is no other rank."""
    abandon()
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized() and mpi.COMM_WORLD.size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        mpi.COMM_WORLD.Abort(code)
    return code


def end_in_time() -> None:
    """End this process by SIGALRM if finalizing MPI takes too long; the launcher then ends the other ranks.

    Finalizing waits for all ranks, and one may be stopped.
    """
    if told_rank() is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(EXIT_S)
