"""The choice of each rank's device and number of threads, agreed between the ranks of a host."""

from __future__ import annotations

import os

from mpisqueeze.comm.cuda_aware import collectives_take_device_memory, cuda_awareness
from mpisqueeze.comm.device_probe import device_memory_fault
from mpisqueeze.comm.world import World
from mpisqueeze.devices.cores import logical_cores, physical_cores
from mpisqueeze.devices.device import CudaDevice, Device, gpu_count
from mpisqueeze.errors import UsageError


def choose_device(wanted: str, buffers: str, world: World, checksum: bool = False) -> Device:
    """The device of this rank; collective.

    Before MPI is handed device memory, a process apart tries it, on each host.

    Args:
        wanted: auto (a GPU if every rank has one), cpu or cuda.
        buffers: memory that MPI is handed: auto, device or staged.
        world: the ranks.
        checksum: payloads get checksums, which are computed on the host, so that auto is staged.

    Raises:
        UsageError: cuda is wanted, and a rank has no GPU; or MPI cannot be handed device memory as wanted.
    """
    if wanted == "cpu":
        return Device()
    count, why = gpu_count()
    lacking = [rank for rank, (have, _) in enumerate(world.comm.allgather((count, why))) if have == 0]
    if lacking:
        if wanted == "auto":
            return Device()
        reasons = world.comm.bcast(why, root=lacking[0])
        raise UsageError(f"cuda: rank {lacking[0]} has no GPU: {reasons}; use auto or cpu", "--device")
    index = world.process.local_rank % count
    aware, reason = cuda_awareness()
    collectives, why = collectives_take_device_memory()
    if buffers != "auto":
        aware, reason = buffers == "device", "set by --buffers"
        if aware and not collectives:
            reason += f"; MPI's collectives get host memory: {why}"
    if aware and checksum:
        if buffers == "device":
            raise UsageError("device: --checksum computes checksums on the host; use auto or staged", "--buffers")
        aware, reason = False, "--checksum computes checksums on the host"
    if aware and world.process.size > 1:
        tried, fault = _fault_anywhere(world, index)
        if fault and buffers == "auto":
            aware, reason = False, f"{reason}, but {fault}"
        elif fault and tried:
            raise UsageError(f"device: {fault}; use auto or staged", "--buffers")
        elif fault:
            reason += f"; {fault}"
    return CudaDevice(index, aware, reason, collectives)


def _fault_anywhere(world: World, index: int) -> tuple[bool, str]:
    """`device_memory_fault` of the first host that has one, tried on a GPU of each; collective."""
    first = world.process.local_rank == 0 and world.leads
    mine = device_memory_fault(index) if first else (True, "")
    faults = [found for found in world.comm.allgather(mine) if found[1]]
    # A message that was tried tells more than one that was not.
    return max(faults, key=lambda found: found[0], default=(True, ""))


def threads_of_rank(world: World) -> int:
    """Number of threads for this rank, so that ranks on the same cores do not slow each other down; collective.

    It is OMP_NUM_THREADS if that is set, else a fair share of the cores that this rank may use, and of CPU quotas.
    """
    mine = logical_cores()
    everyone = world.comm.allgather((world.host, mine))
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    sharing = sum(host == world.host and bool(mine & theirs) for host, theirs in everyone)
    return max(1, int(min(physical_cores() / sharing, world.quota)))


def quota_doubts(world: World, threads: int) -> list[str]:
    """A warning where a rank's threads want more CPU time than quotas grant; else nothing."""
    if threads <= world.quota or world.virtual:
        return []
    wanting = "a rank" if threads == 1 else f"the {threads} threads of a rank"
    return [
        f"a CPU quota (cpu.max, cpu.cfs_quota_us) grants {wanting} {world.quota:.3g} cores: once it is used up, the "
        "kernel stops all ranks for the rest of a period, so that elapsed times grow while medians hide it"
    ]
