"""PyTorch's DistributedDataParallel on gloo, between ranks that MPI has started."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from mpi4py import MPI
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from mpisqueeze.comm.interface import VARIABLE
from mpisqueeze.torch import ddp_hook

#: PowerSGD's earliest: it cannot compress before DDP has arranged its buckets.
FIRST_COMPRESSED = 2
#: MiB that no model here has.
_ONE_BUCKET = 4096
#: Seconds between two looks of a rank that has finished, so that it leaves its core to those that have not.
_PAUSE = 1e-4


def start(comm: MPI.Comm) -> None:
    """Make the ranks of `comm` a process group of gloo, one thread each."""
    torch.set_num_threads(1)
    if VARIABLE in os.environ:
        os.environ["GLOO_SOCKET_IFNAME"] = os.environ[VARIABLE]
    with socket.socket() as free:
        free.bind(("", 0))
        host, port = comm.bcast((socket.gethostname(), free.getsockname()[1]))
    dist.init_process_group("gloo", f"tcp://{host}:{port}", rank=comm.rank, world_size=comm.size)


def data_parallel(model: torch.nn.Module, hook: str) -> DistributedDataParallel:
    """DDP around `model`, with a hook: `fp32` (none), `fp16`, `powersgd:RANK`, or this program's ALGORITHM/COMPRESSOR.

    Gradients are views of the buckets, which saves DDP a copy. PowerSGD gets one bucket: with DDP's default of several
    its hook hangs on gloo, where its callbacks start collectives in an order that differs by rank.
    """
    name, _, rank = hook.partition(":")
    bucket = _ONE_BUCKET if name == "powersgd" else None
    module = DistributedDataParallel(model, gradient_as_bucket_view=True, bucket_cap_mb=bucket)
    if name == "fp16":
        module.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif name == "powersgd":
        state = powerSGD_hook.PowerSGDState(None, int(rank), start_powerSGD_iter=FIRST_COMPRESSED)
        module.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    elif "/" in hook:
        module.register_comm_hook(*ddp_hook(*hook.split("/")))
    return module


def written() -> int:
    """Bytes that this process has handed to the kernel, its sockets' included: all that gloo sends."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))


def timed(comm: MPI.Comm, work: Callable[[], object], count: Callable[[], int]) -> tuple[float, int]:
    """Do `work` on all ranks at once; (seconds of this rank, by how much `count()` grew).

    Who has finished waits asleep: where ranks outnumber cores, MPI's polling would slow those down that have not.
    """
    comm.Barrier()
    before, began = count(), time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    grown = count() - before
    done = comm.Ibarrier()
    while not done.Test():
        time.sleep(_PAUSE)
    return seconds, grown
