"""The device of a rank: NumPy on the host, or CuPy on one GPU. Code above this module is the same on both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mpisqueeze.control_groups import free_memory
from mpisqueeze.costs.sections import HOST_CODING, Coding
from mpisqueeze.devices.buffers import DeviceWire, Fence, StagedWire, Wire
from mpisqueeze.devices.clock import PhaseClock


class Device:
    """The host.

    Attributes:
        kind: `cpu` or `cuda`.
        label: name for people.
        xp: array module.
        buffers: HOST, DEVICE or HOST-STAGED, the memory that MPI is handed.
        buffers_reason: reason for `buffers`, or an empty string.
        coding: assumed cost of coding, see `Coding`.
        lookahead: number of payloads encoded beyond the next to be sent. 0 on a host: it would delay that one.
    """

    kind = "cpu"
    label = "CPU"
    buffers = "HOST"
    buffers_reason = ""
    coding = HOST_CODING
    lookahead = 0
    xp: Any = np

    def wire(self, nbytes: int, collective: bool = False) -> Wire:
        """A buffer of `nbytes` bytes for MPI; with `collective`, for one of its collectives."""
        return self.wire_over(self.xp.empty(nbytes, np.uint8), collective)

    def wire_over(self, array: Any, collective: bool = False) -> Wire:
        """The same out of memory that is there: `array` is uint8, contiguous and on this device."""
        return Wire(array)

    def fence(self) -> Fence:
        """A fence for the device's stream."""
        return Fence()

    def clock(self) -> PhaseClock:
        """A clock for the device's work."""
        return PhaseClock()

    def make_current(self) -> None:
        """Have what the calling thread does, MPI's calls included, be for this device; each thread begins on GPU 0."""

    def synchronize(self) -> None:
        """Wait until the device has done all queued work."""

    def adopt(self, compressor: Any) -> None:
        """Let encodes of `compressor` return without waiting, if the device can; `faults` reports their errors."""

    def faults(self) -> Sequence[str]:
        """Errors of adopted compressors since the last call, in work that the device was waited for."""
        return ()

    def free_memory(self) -> int:
        """Bytes that are free."""
        return free_memory()

    def to_numpy(self, array: Any) -> np.ndarray:
        """`array` as a host array; not necessarily a copy."""
        return np.asarray(array)


class CudaDevice(Device):
    """One NVIDIA GPU through CuPy.

    Args:
        index: index of the GPU.
        aware: whether MPI is handed device memory.
        reason: reason for `aware`.
        collectives: whether MPI's collectives are handed it too; None means as `aware`.
    """

    kind = "cuda"
    # A model, not a measurement: encoding and decoding move some 28 bytes an element at 2 TB/s; a section's launches,
    # copies and events cost the host 50 µs; a payload is copied twice, at 12 GB/s, unless MPI takes device memory.
    coding = Coding(element_s=1.4e-11, section_s=50e-6, byte_s=1.6e-10)
    #: One is copied while the next is encoded.
    lookahead = 2

    def __init__(self, index: int, aware: bool, reason: str, collectives: bool | None = None) -> None:
        import cupy

        from mpisqueeze.devices.streams import CudaLanes

        self.xp = cupy
        self.index = index
        self.make_current()
        properties = cupy.cuda.runtime.getDeviceProperties(index)
        self.label = f"{properties['name'].decode()} (GPU {index})"
        self.aware, self.collectives = aware, aware if collectives is None else aware and collectives
        self.buffers, self.buffers_reason = "DEVICE" if aware else "HOST-STAGED", reason
        if aware:
            self.coding = Coding(self.coding.element_s, self.coding.section_s)
        #: Flags by error message.
        self._flags: dict[str, Any] = {}
        self._kernels: dict[Any, Any] = {}
        self.lanes = CudaLanes(cupy, self._faulty)

    def make_current(self) -> None:
        self.xp.cuda.Device(self.index).use()

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def wire_over(self, array: Any, collective: bool = False) -> Wire:
        if self.collectives if collective else self.aware:
            return DeviceWire(array, self.lanes)
        from mpisqueeze.kernels.cuda import pinned

        return StagedWire(array, pinned(self.xp, array.nbytes), self.lanes)

    def fence(self) -> Fence:
        return self.lanes.fence()

    def clock(self) -> PhaseClock:
        from mpisqueeze.devices.streams import StreamClock

        return StreamClock(self.xp)

    def adopt(self, compressor: Any) -> None:
        from mpisqueeze.kernels.cuda import CudaKernels, Flag

        if not isinstance(getattr(compressor, "kernels", None), CudaKernels):
            return
        message, dtype = compressor.nonfinite_message(), compressor.dtype
        if message not in self._flags:
            self._flags[message] = Flag(self.xp)
        if dtype not in self._kernels:
            self._kernels[dtype] = compressor.kernels
        # All of them go to one stream, so that they can share scratch memory.
        compressor.kernels = self._kernels[dtype].late(self._flags[message])

    def _faulty(self) -> bool:
        return any(flag.raised for flag in self._flags.values())

    def faults(self) -> Sequence[str]:
        return [message for message, flag in self._flags.items() if flag.take()]

    def free_memory(self) -> int:
        return int(self.xp.cuda.runtime.memGetInfo()[0])

    def to_numpy(self, array: Any) -> np.ndarray:
        return array.get() if hasattr(array, "get") else np.asarray(array)


def gpu_count() -> tuple[int, str]:
    """(number of GPUs that CuPy can use, the reason if there is none)."""
    try:
        import cupy
    except ImportError:
        return 0, "CuPy is not installed (extras cuda12, cuda13)"
    try:
        count = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:
        return 0, f"CuPy finds no usable GPU ({_in_brief(error)})"
    if count:
        try:
            cupy.cuda.nvrtc.getVersion()
        except Exception as error:
            return 0, f"CuPy finds no NVRTC to compile kernels (extras cuda12, cuda13 bring it; {_in_brief(error)})"
    return count, "no GPU is visible"


def _in_brief(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
