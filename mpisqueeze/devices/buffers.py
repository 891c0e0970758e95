"""The buffers that MPI is handed: an array itself, or pinned host memory in front of a device's.

A device works through what it is given in an order of its own time, its stream; a host that waited for it at every step
would leave both idle in turns. Wires and fences wait for as little as there is to wait for:

- what is sent: `begin_push` behind the work that fills the array, `finish_push` before MPI reads;
- what came: `pull`, and what the device is given afterwards sees it;
- what is received into again: a `Fence`, set behind the work that reads it and waited for before MPI writes.
"""

from __future__ import annotations

from typing import Any, Protocol

from mpi4py import MPI


class Fence:
    """A place in what the device was given. A host does at once what it is given, and has no need of it."""

    def set(self) -> None:
        """Here: behind all that the device was given so far."""

    def wait(self) -> None:
        """Until the device has come to where it was last set, if it was."""


class Wire:
    """Bytes that cross the wire, seen from both sides; here, the host's memory, where there is nothing to wait for.

    Attributes:
        immediate: whether none of the methods has anything to do.
        array: uint8, on the compute device: what compressors write and read.
        mpi: the buffer specification for mpi4py: what is counted.
        nbytes: length of both.
    """

    immediate = True

    def __init__(self, array: Any) -> None:
        self.array = array
        self.nbytes = int(array.nbytes)
        self.mpi = [array, self.nbytes, MPI.BYTE]

    def part(self, start: int, stop: int) -> Wire:
        """Bytes [start, stop) of this buffer."""
        return Wire(self.array[start:stop])

    def begin_push(self) -> None:
        """The device was given all the work that fills `array`: start to bring it to MPI's side."""

    def finish_push(self) -> None:
        """Before MPI reads: its side holds what was pushed."""

    def push(self) -> None:
        """Begin, and finish."""

    def pull(self) -> None:
        """After MPI wrote: what the device is given from now on finds in `array` what arrived."""


class Lanes(Protocol):
    """A device's streams, as far as wires need them. Work goes to its current stream, copies on others."""

    def fence(self) -> Fence:
        """A place in the current stream."""

    def event(self) -> Any:
        """What `to_host` records, with a method `synchronize`."""

    def to_host(self, source: Any, target: int, nbytes: int, done: Any) -> None:
        """Copy to pinned memory behind what the current stream was given so far; `done` comes behind the copy."""

    def to_device(self, source: int, target: Any, nbytes: int) -> None:
        """Copy from pinned memory, in front of what the current stream is given from now on."""

    def faulty(self) -> bool:
        """Whether an encode that is done met a number that is not finite, which its payload must not tell."""


class _Pushed(Wire):
    immediate = False

    def push(self) -> None:
        self.begin_push()
        self.finish_push()


class DeviceWire(_Pushed):
    """Device memory that MPI reads and writes itself."""

    def __init__(self, array: Any, lanes: Lanes) -> None:
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


class StagedWire(_Pushed):
    """Device memory that MPI cannot read, with pinned memory of the host (uint8, as long) beside it."""

    def __init__(self, array: Any, host: Any, lanes: Lanes) -> None:
        super().__init__(array)
        self.host = host
        self.mpi = [host, self.nbytes, MPI.BYTE]
        self._lanes = lanes
        self._memory, self._address = array.data, host.ctypes.data
        self._pushed: Any = None

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
