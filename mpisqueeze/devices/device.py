"""Where a rank computes: NumPy on the host, or CuPy on one GPU. Everything above this module is the same on both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mpisqueeze.costs.sections import HOST_CODING, Coding
from mpisqueeze.devices.buffers import DeviceWire, Fence, StagedWire, Wire
from mpisqueeze.devices.clock import PhaseClock


class Device:
    """The host.

    Attributes:
        kind: `cpu` or `cuda`.
        label: for people.
        xp: the array module.
        buffers: HOST, DEVICE or HOST-STAGED: what MPI is handed.
        buffers_reason: why, or an empty string.
        coding: see `Coding`.
        lookahead: payloads that are encoded beyond the one that is sent next: none where the host encodes them itself,
            and would send later for it.
    """

    kind = "cpu"
    label = "CPU"
    buffers = "HOST"
    buffers_reason = ""
    coding = HOST_CODING
    lookahead = 0
    xp: Any = np

    def wire(self, nbytes: int, collective: bool = False) -> Wire:
        """A buffer of `nbytes` that MPI can be handed; with `collective`, in one of its collectives."""
        return Wire(np.empty(nbytes, np.uint8))

    def fence(self) -> Fence:
        """A place in what the device is given."""
        return Fence()

    def clock(self) -> PhaseClock:
        """A clock for what it is given."""
        return PhaseClock()

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""

    def adopt(self, compressor: Any) -> None:
        """Have encodes of `compressor` not be waited for, where the device can do without: `faults` tells later."""

    def faults(self) -> Sequence[str]:
        """What adopted compressors have to complain of since the last call, in what the device was waited for."""
        return ()

    def to_numpy(self, array: Any) -> np.ndarray:
        """`array` on the host; not necessarily a copy."""
        return np.asarray(array)


class CudaDevice(Device):
    """One NVIDIA GPU through CuPy.

    Args:
        index: its number.
        aware: whether MPI is handed its memory, and `reason`: why.
        collectives: whether MPI's collectives are, too; None: if messages are.
    """

    kind = "cuda"
    # By a model, not measured: encoding and decoding move some 28 bytes a number at 2 TB/s; launches, copies and marks
    # of a section keep the host for 50 µs; and a payload is copied twice, at 12 GB/s, unless MPI takes it as it is.
    coding = Coding(number_s=1.4e-11, section_s=50e-6, byte_s=1.6e-10)
    #: One that is copied while the next is encoded.
    lookahead = 2

    def __init__(self, index: int, aware: bool, reason: str, collectives: bool | None = None) -> None:
        import cupy

        from mpisqueeze.devices.streams import CudaLanes

        self.xp = cupy
        self.index = index
        cupy.cuda.Device(index).use()
        properties = cupy.cuda.runtime.getDeviceProperties(index)
        self.label = f"{properties['name'].decode()} (GPU {index})"
        self._hand_out(aware, reason, collectives)
        #: By what its compressor has to complain of.
        self._flags: dict[str, Any] = {}
        self._kernels: dict[Any, Any] = {}
        self.lanes: Any = CudaLanes(cupy, self._faulty)

    def _hand_out(self, aware: bool, reason: str, collectives: bool | None) -> None:
        self.aware, self.collectives = aware, aware if collectives is None else aware and collectives
        self.buffers = "DEVICE" if aware else "HOST-STAGED"
        self.buffers_reason = reason
        if aware:
            self.coding = Coding(self.coding.number_s, self.coding.section_s)

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def wire(self, nbytes: int, collective: bool = False) -> Wire:
        array = self.xp.empty(nbytes, np.uint8)
        if self.collectives if collective else self.aware:
            return DeviceWire(array, self.lanes)
        return StagedWire(array, self._pinned(nbytes), self.lanes)

    def _pinned(self, nbytes: int) -> np.ndarray:
        memory = self.xp.cuda.alloc_pinned_memory(max(nbytes, 1))
        return np.frombuffer(memory, np.uint8, nbytes)

    def fence(self) -> Fence:
        return self.lanes.fence()

    def clock(self) -> PhaseClock:
        from mpisqueeze.devices.streams import StreamClock

        return StreamClock(self.xp)

    def adopt(self, compressor: Any) -> None:
        from mpisqueeze.kernels.cuda import CudaKernels, Flag

        if not isinstance(getattr(compressor, "kernels", None), CudaKernels):
            return
        complaint, dtype = compressor.complaint(), compressor.dtype
        if complaint not in self._flags:
            self._flags[complaint] = Flag(self.xp)
        if dtype not in self._kernels:
            self._kernels[dtype] = compressor.kernels
        # All of them go to one stream, so that they can share scratch memory.
        compressor.kernels = self._kernels[dtype].late(self._flags[complaint])

    def _faulty(self) -> bool:
        return any(flag.raised for flag in self._flags.values())

    def faults(self) -> Sequence[str]:
        return [complaint for complaint, flag in self._flags.items() if flag.take()]

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
