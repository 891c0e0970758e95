"""Where a rank computes: NumPy on the host, or CuPy on one GPU. Everything above this module is the same on both."""

from __future__ import annotations

from typing import Any

import numpy as np

from mpisqueeze.comm.cuda_aware import cuda_awareness
from mpisqueeze.comm.wire import StagedWire, Wire
from mpisqueeze.comm.world import World
from mpisqueeze.errors import UsageError


class Device:
    """The host.

    Attributes:
        kind: `cpu` or `cuda`.
        label: for people.
        xp: the array module.
        buffers: HOST, DEVICE or HOST-STAGED: what MPI is handed.
        buffers_reason: why, or an empty string.
    """

    kind = "cpu"
    label = "CPU"
    buffers = "HOST"
    buffers_reason = ""
    xp: Any = np

    def wire(self, nbytes: int) -> Wire:
        """A buffer of `nbytes` that MPI can be handed."""
        return Wire(np.empty(nbytes, np.uint8))

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""

    def to_numpy(self, array: Any) -> np.ndarray:
        """`array` on the host; not necessarily a copy."""
        return np.asarray(array)


class CudaDevice(Device):
    """One NVIDIA GPU through CuPy."""

    kind = "cuda"

    def __init__(self, index: int, aware: bool, reason: str) -> None:
        import cupy

        self.xp = cupy
        self.index = index
        cupy.cuda.Device(index).use()
        properties = cupy.cuda.runtime.getDeviceProperties(index)
        self.label = f"{properties['name'].decode()} (GPU {index})"
        self.aware = aware
        self.buffers = "DEVICE" if aware else "HOST-STAGED"
        self.buffers_reason = reason

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def wire(self, nbytes: int) -> Wire:
        array = self.xp.empty(nbytes, np.uint8)
        if self.aware:
            return Wire(array, self.synchronize)
        host = self._pinned(nbytes)
        return StagedWire(array, host, self._to_host, self._to_device)

    def _pinned(self, nbytes: int) -> np.ndarray:
        memory = self.xp.cuda.alloc_pinned_memory(max(nbytes, 1))
        return np.frombuffer(memory, np.uint8, nbytes)

    def _to_host(self, source: Any, target: np.ndarray) -> None:
        source.get(out=target)
        self.synchronize()

    def _to_device(self, source: np.ndarray, target: Any) -> None:
        target.set(source)
        # The host buffer is MPI's again as soon as this returns, so that the copy must be over.
        self.synchronize()

    def to_numpy(self, array: Any) -> np.ndarray:
        return array.get() if hasattr(array, "get") else np.asarray(array)


def gpu_count() -> tuple[int, str]:
    """(number of GPUs that CuPy can use here, why none)."""
    try:
        import cupy
    except ImportError:
        return 0, "CuPy is not installed (extras cuda12, cuda13)"
    try:
        return int(cupy.cuda.runtime.getDeviceCount()), "no GPU is visible"
    except Exception as error:
        return 0, f"CuPy finds no usable GPU ({' '.join(str(error).split())[:160]})"


def choose_device(wanted: str, buffers: str, world: World) -> Device:
    """The device of this rank; collective.

    Args:
        wanted: auto (a GPU where every rank has one), cpu or cuda.
        buffers: auto, device or staged: whether MPI is handed device memory.

    Raises:
        UsageError: cuda is wanted and some rank has none.
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
    aware, reason = cuda_awareness()
    if buffers != "auto":
        aware, reason = buffers == "device", "set by --buffers"
    return CudaDevice(world.local_rank % count, aware, reason)
