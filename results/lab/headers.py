"""What two counters say of the same bytes: the interface's, and that of the queue which shapes it.

    mpisqueeze lab -n 2 --rates 10mbit,100mbit,1gbit --exec -- python results/lab/headers.py

Host 0 sends host 1 a second's worth of bytes in one message, five times, after one to warm up.
"""

import json
import os
import re
import subprocess
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

REPEATS = 5
COUNTERS = Path("/sys/class/net/eth0/statistics")


def counted() -> dict[str, int]:
    """Bytes and frames by the interface, and bytes and packets by the queue, sent so far."""
    said = subprocess.run(["tc", "-s", "qdisc", "show", "dev", "eth0"], capture_output=True, text=True, check=True)
    queued = re.search(r"Sent (\d+) bytes (\d+) pkt", said.stdout)
    assert queued
    frames = {name: int((COUNTERS / name).read_text()) for name in ("tx_bytes", "tx_packets")}
    return {**frames, "queue_bytes": int(queued[1]), "queue_packets": int(queued[2])}


def main() -> None:
    comm = MPI.COMM_WORLD
    rate = json.loads(os.environ["MPISQUEEZE_LAB"])["rate"]
    buffer = np.zeros(int(rate / 8), np.uint8)
    send = comm.Send if comm.rank == 0 else comm.Recv
    send([buffer, MPI.BYTE], 1 - comm.rank)
    comm.Barrier()
    before = counted()
    for _ in range(REPEATS):
        send([buffer, MPI.BYTE], 1 - comm.rank)
    comm.Barrier()
    # What is acknowledged late is still under way.
    time.sleep(0.3)
    if comm.rank == 0:
        after = counted()
        found = {name: after[name] - before[name] for name in after}
        payload = REPEATS * buffer.nbytes
        more = {key: 100 * (found[key] / payload - 1) for key in ("tx_bytes", "queue_bytes")}
        frame = found["queue_packets"] / found["tx_packets"]
        print(
            f"{rate / 1e6:5g} Mbit/s  {frame:4.1f} packets a frame;  more than the payload: interface "
            f"{more['tx_bytes']:.2f} %, queue {more['queue_bytes']:.2f} %",
            flush=True,
        )


main()
