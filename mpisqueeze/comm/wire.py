"""The buffers that MPI is handed: an array itself, or pinned host memory in front of a device's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpi4py import MPI


class Wire:
    """Bytes that cross the wire, seen from both sides.

    Attributes:
        array: uint8, on the compute device: what compressors write and read.
        mpi: the buffer specification for mpi4py: what is counted.
        nbytes: length of both.
    """

    def __init__(self, array: Any, synchronize: Callable[[], None] | None = None) -> None:
        self.array = array
        self.nbytes = int(array.nbytes)
        self.mpi = [array, self.nbytes, MPI.BYTE]
        self._synchronize = synchronize

    def part(self, start: int, stop: int) -> Wire:
        """Bytes [start, stop) of this buffer."""
        return Wire(self.array[start:stop], self._synchronize)

    def push(self) -> None:
        """Before MPI reads: the device's work on `array` is done, and MPI's side holds it."""
        if self._synchronize is not None:
            self._synchronize()

    def pull(self) -> None:
        """After MPI wrote: `array` holds what arrived."""


class StagedWire(Wire):
    """Device memory that MPI cannot read, with a host buffer beside it.

    `to_host` and `to_device` copy (source, target); both are complete, or in the stream's order, when they return.
    """

    def __init__(
        self,
        array: Any,
        host: Any,
        to_host: Callable[[Any, Any], None],
        to_device: Callable[[Any, Any], None],
    ) -> None:
        super().__init__(array)
        self.host = host
        self.mpi = [host, self.nbytes, MPI.BYTE]
        self._to_host, self._to_device = to_host, to_device

    def part(self, start: int, stop: int) -> Wire:
        return StagedWire(self.array[start:stop], self.host[start:stop], self._to_host, self._to_device)

    def push(self) -> None:
        self._to_host(self.array, self.host)

    def pull(self) -> None:
        self._to_device(self.host, self.array)
