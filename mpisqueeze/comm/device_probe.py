"""A message from a GPU's memory to its own, in a process apart: python -m mpisqueeze.comm.device_probe GPU

An MPI library that takes the pointer for one into the host's memory ends its process, which must not be a rank.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from mpisqueeze.mpi import MPI

#: Bytes of the messages: one that MPI copies at once, and one for which sender and receiver meet.
SIZES = (1000, (4 << 20) + 4)
#: Bytes in front of a message in its buffer, since a payload begins at any multiple of an element's size.
OFFSET = 4
#: Seconds that the process has to start MPI and CUDA and to send its messages.
LIMIT_S = 120.0
#: Written once MPI has started.
STARTED = "started"
_DAMAGED = 3
#: Prefixes of the variables by which a launcher tells a process its place; those with `_MCA_` are settings.
_PLACE = ("OMPI_", "PMIX_", "PRTE_", "PMI_", "HYDRA_", "HYDI_", "MV2_COMM_", "MPI_LOCAL", "SLURM_")
#: Where Open MPI before version 5 tells a process its place by settings.
_PLACE_MCA = ("OMPI_MCA_ess", "OMPI_MCA_orte", "OMPI_MCA_pmix")


def device_memory_fault(gpu: int) -> tuple[bool, str]:
    """(True if a message from and to the memory of this GPU was tried, what was wrong with it or why it was not tried).

    (True, an empty string) means that all its bytes arrived.
    """
    command = [sys.executable, "-m", "mpisqueeze.comm.device_probe", str(gpu)]
    try:
        done = subprocess.run(
            command, env=_alone(os.environ), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired as error:
        started = STARTED in str(error.stdout or "")
        return started, f"a message from GPU memory took more than {LIMIT_S:.0f} s"
    except OSError as error:
        return False, f"no message from GPU memory was tried ({error})"
    if done.returncode == 0:
        return True, ""
    if STARTED not in done.stdout:
        return False, "no message from GPU memory was tried, since MPI starts no process without a launcher here"
    if done.returncode == _DAMAGED:
        return True, "a message from GPU memory arrived damaged"
    how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return True, f"a message from GPU memory ended its process with {how}"


def _alone(variables: Mapping[str, str]) -> dict[str, str]:
    """The variables without those that would make a process a rank of this job."""
    return {
        name: value
        for name, value in variables.items()
        if not name.startswith(_PLACE) or ("_MCA_" in name and not name.startswith(_PLACE_MCA))
    }


def _arrives(cupy: Any, nbytes: int) -> bool:
    """True if a message of this length arrives whole, and nothing beside it is written."""
    import numpy as np

    sent = np.random.default_rng(nbytes).integers(1, 256, nbytes + 2 * OFFSET, np.uint8)
    source, target = cupy.asarray(sent), cupy.zeros(sent.size, "uint8")
    cupy.cuda.get_current_stream().synchronize()
    message, arrived = source[OFFSET:-OFFSET], target[OFFSET:-OFFSET]
    requests = [
        MPI.COMM_SELF.Recv_init([arrived, nbytes, MPI.BYTE], 0, 1),
        MPI.COMM_SELF.Send_init([message, nbytes, MPI.BYTE], 0, 1),
    ]
    MPI.Prequest.Startall(requests)
    MPI.Request.Waitall(requests)
    for request in requests:
        request.Free()
    sent[:OFFSET] = sent[-OFFSET:] = 0
    return bool((target.get() == sent).all())


def main() -> int:
    """Send the messages; the exit code tells whether they arrived."""
    MPI.COMM_SELF.Get_rank()
    print(STARTED, flush=True)
    import cupy

    cupy.cuda.Device(int(sys.argv[1])).use()
    return 0 if all(_arrives(cupy, nbytes) for nbytes in SIZES) else _DAMAGED


if __name__ == "__main__":
    sys.exit(main())
