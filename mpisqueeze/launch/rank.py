"""A rank of a Python script of the user's own: `rank.py SCRIPT ARGUMENTS…`, started by an MPI launcher.

It gives the script the variables of torchrun, so that `torch.distributed.init_process_group` works as it is, and runs
it by mpi4py's runner, which ends all ranks where an exception ends one.
"""

from __future__ import annotations

import os
import runpy
import socket
import sys
from types import TracebackType


def variables() -> dict[str, str]:
    """The variables by which torch.distributed finds its process group; collective."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    host = "127.0.0.1" if comm.allreduce(int(node.size == comm.size), MPI.MIN) else socket.gethostname()
    with socket.socket() as free:
        free.bind(("", 0))
        address, port = comm.bcast((host, free.getsockname()[1]))
    found = {
        "RANK": comm.rank,
        "WORLD_SIZE": comm.size,
        "LOCAL_RANK": node.rank,
        "LOCAL_WORLD_SIZE": node.size,
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
    }
    node.Free()
    return {name: str(value) for name, value in found.items()}


def show_from(script: str) -> None:
    """Have tracebacks of uncaught exceptions begin in the script: the frames that started it say nothing."""
    shown = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        own = trace
        while own is not None and own.tb_frame.f_code.co_filename != script:
            own = own.tb_next
        # Python shows the exception's own trace, whatever is handed on.
        shown(kind, error.with_traceback(own or trace), own or trace)

    sys.excepthook = show


def main() -> None:
    """Run the script of the command line."""
    show_from(sys.argv[1])
    # As of the script; mpi4py's runner sets the same.
    sys.path[0] = os.path.realpath(os.path.dirname(sys.argv[1]))
    for name, value in variables().items():
        os.environ.setdefault(name, value)
    try:
        runpy.run_module("mpi4py", run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code not in (None, 0):
            raise
    from mpisqueeze.comm.launched import launched_rank, tell_launch

    if launched_rank() == 0:
        tell_launch(code=0)


if __name__ == "__main__":
    main()
