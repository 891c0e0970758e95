"""Do MPI messages go straight from GPU memory to GPU memory? Rank 0 sends CuPy arrays to rank 1 and gets them back.

    python jobs/device_messages.py --launch 2 [--json FILE]        or, under a launcher: python jobs/device_messages.py

Messages are sent as mpisqueeze's exchanges send theirs: by persistent requests, out of the middle of a buffer, once the
stream has been synchronised. Every byte is checked. An MPI library that takes the pointer for one into the host's
memory ends this program with a segmentation fault, so that it should have a process of its own. Exit codes: 0 all bytes
arrived, 1 some did not, 2 no GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

SIZES = [1, 1000, 4096, 65_536, 1 << 20, (16 << 20) + 4, 64 << 20]
ROUNDS = 10
#: Bytes in front of a message in its buffer, since a payload begins at any multiple of an element's size.
OFFSET = 4


def transports() -> list[str]:
    """The UCX libraries that this process has loaded."""
    try:
        with open("/proc/self/maps") as maps:
            paths = {line.split()[-1] for line in maps if "/libuc" in line}
    except OSError:
        return []
    # The folder says whose UCX it is: Open MPI's wheel's, libucx's or the system's.
    return sorted("/".join(Path(path).parts[-4:]) for path in paths)


def pattern(nbytes: int, rank: int, number: int) -> Any:
    """A rank's message in a round; no two are alike."""
    import numpy as np

    return np.random.default_rng([nbytes, rank, number]).integers(0, 256, nbytes, np.uint8)


def exchange(comm: Any, cupy: Any, nbytes: int) -> tuple[float, int]:
    """(median seconds of a message, wrong bytes) over rounds there and back."""
    from mpi4py import MPI

    mine, theirs = comm.rank, 1 - comm.rank
    out, into = (cupy.zeros(nbytes + 2 * OFFSET, "uint8") for _ in range(2))
    message, arrived = out[OFFSET:-OFFSET], into[OFFSET:-OFFSET]
    send = comm.Send_init([message, nbytes, MPI.BYTE], theirs, 1)
    receive = comm.Recv_init([arrived, nbytes, MPI.BYTE], theirs, 1)
    stream = cupy.cuda.get_current_stream()
    wrong, seconds = 0, []
    for number in range(ROUNDS):
        message.set(pattern(nbytes, mine, number))
        arrived.fill(0)
        stream.synchronize()
        comm.Barrier()
        began = time.perf_counter()
        receive.Start()
        if mine == 0:
            send.Start()
            send.Wait()
            receive.Wait()
        else:
            receive.Wait()
            send.Start()
            send.Wait()
        seconds.append((time.perf_counter() - began) / 2)
        wrong += int((arrived.get() != pattern(nbytes, theirs, number)).sum())
        edges = into.get()
        wrong += int(edges[:OFFSET].any()) + int(edges[-OFFSET:].any())
    send.Free()
    receive.Free()
    return median(seconds[1:]), wrong


def run(path: str | None, most: int) -> int:
    """Send messages of up to `most` bytes, write results to the file `path`, and return the exit code."""
    from mpi4py import MPI

    from mpisqueeze.devices.device import gpu_count

    comm = MPI.COMM_WORLD
    count, why = gpu_count()
    if comm.size != 2 or not count:
        if comm.rank == 0:
            print("device_messages: two ranks are needed" if comm.size != 2 else f"device_messages: {why}")
        return 2
    import cupy

    cupy.cuda.Device(comm.rank % count).use()
    if comm.rank == 0:
        library = MPI.Get_library_version().strip("\0").splitlines()[0]
        print(f"{library}; GPUs: {count}; loaded: {', '.join(transports())}")
        print(f"{'bytes':>12}{'µs a message':>16}{'GB/s':>10}{'#wrong':>8}", flush=True)
    results, bad = [], 0
    for nbytes in [size for size in SIZES if size <= most]:
        seconds, wrong = exchange(comm, cupy, nbytes)
        wrong = comm.allreduce(wrong)
        bad += wrong
        if comm.rank == 0:
            print(f"{nbytes:12}{seconds * 1e6:16.1f}{nbytes / seconds * 1e-9:10.2f}{wrong:8}", flush=True)
            results.append({"bytes": nbytes, "message_s": seconds, "wrong": wrong})
    if comm.rank == 0:
        loaded = transports()
        print(f"loaded at the end: {', '.join(loaded)}")
        if path:
            document = {"mpi": library, "gpus": count, "ucx": loaded}
            Path(path).write_text(json.dumps(document | {"results": results}, indent=1) + "\n", encoding="utf-8")
    return int(bad > 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--launch", type=int, metavar="N", help="start N ranks of this program")
    parser.add_argument("--most", type=int, default=SIZES[-1], metavar="BYTES", help="the longest message")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if options.launch:
        from mpisqueeze.launch import launch

        command = [__file__, "--most", str(options.most), *(["--json", options.json] if options.json else [])]
        return launch(options.launch, command, target=[sys.executable])
    return run(options.json, options.most)


if __name__ == "__main__":
    sys.exit(main())
