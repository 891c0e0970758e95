"""Buffers for MPI: an array itself, or pinned host memory in front of a device array.

A device runs the work on its stream asynchronously. A host that waited for it at every step would leave both idle in
turns, so wires and fences wait only where they must:

- sending: `begin_push` is queued behind the work that fills the array, and `finish_push` waits before MPI reads;
- receiving: `pull` comes after MPI wrote, and later work on the device sees the data;
- receiving again: a `Fence` is set behind the work that reads the buffer, and waited for before MPI writes.
"""

from __future__ import annotations

from typing import Any

from mpisqueeze.mpi import MPI


class Fence:
    """A position in a device's stream. A host works synchronously, so here both methods do nothing."""

    def set(self) -> None:
        """Move the fence behind all work queued so far."""

    def wait(self) -> None:
        """Wait until the device has reached the fence, if it was set."""


class Wire:
    """A buffer that the compute device and MPI share; this class is host memory, where nothing has to be waited for.

    Attributes:
        immediate: True if all methods do nothing.
        array: (nbytes,), uint8, on the compute device; compressors read and write it.
        mpi: buffer specification for mpi4py; its bytes are counted.
        nbytes: length in bytes.
    """

    __slots__ = ("array", "nbytes")

    immediate = True

    def __init__(self, array: Any) -> None:
        self.array = array
        self.nbytes = int(array.nbytes)

    @property
    def mpi(self) -> list[Any]:
        return [self.array, self.nbytes, MPI.BYTE]

    def part(self, start: int, stop: int) -> Wire:
        """Bytes [start, stop) of this buffer."""
        return Wire(self.array[start:stop])

    def begin_push(self) -> None:
        """Start copying `array` to MPI's side; all work that fills it must be queued already."""

    def finish_push(self) -> None:
        """Wait until MPI may read what was pushed."""

    def push(self) -> None:
        """Call `begin_push` and `finish_push`."""
        self.begin_push()
        self.finish_push()

    def pull(self) -> None:
        """Copy what MPI wrote to `array`; work queued from now on sees it."""


class DeviceWire(Wire):
    """Device memory that MPI reads and writes directly.

    Args:
        lanes: the device's, see `devices.streams.CudaLanes`.
    """

    immediate = False

    def __init__(self, array: Any, lanes: Any) -> None:
        super().__init__(array)
        self._lanes = lanes
        self._filled = lanes.fence()

    def part(self, start: int, stop: int) -> Wire:
        return DeviceWire(self.array[start:stop], self._lanes)

    def begin_push(self) -> None:
        self._filled.set()

    def finish_push(self) -> None:
        self._filled.wait()
        if self._lanes.faulty():
            self.array.fill(0)
            self._filled.set()
            self._filled.wait()


class StagedWire(Wire):
    """Device memory that MPI cannot read, with pinned host memory (uint8, same length) beside it."""

    immediate = False

    def __init__(self, array: Any, host: Any, lanes: Any) -> None:
        super().__init__(array)
        self.host = host
        self._lanes = lanes
        self._memory, self._address = array.data, host.ctypes.data
        self._pushed: Any = None

    @property
    def mpi(self) -> list[Any]:
        return [self.host, self.nbytes, MPI.BYTE]

    def part(self, start: int, stop: int) -> Wire:
        return StagedWire(self.array[start:stop], self.host[start:stop], self._lanes)

    def begin_push(self) -> None:
        if self._pushed is None:
            self._pushed = self._lanes.event()
        self._lanes.to_host(self._memory, self._address, self.nbytes, self._pushed)

    def finish_push(self) -> None:
        self._pushed.synchronize()
        if self._lanes.faulty():
            self.host.fill(0)

    def pull(self) -> None:
        self._lanes.to_device(self._address, self._memory, self.nbytes)
