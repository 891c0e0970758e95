"""`--checksum`: a CRC-32 follows each message, so that a damaged payload is found and named.

MPI trusts its transport. The 4 bytes of the checksum are a message of their own, and counted.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from mpi4py import MPI

from mpisqueeze.comm.counters import Counter

#: Offset of a checksum's tag from its payload's.
TAG = 1000
NBYTES = 4


class DamagedPayloadError(Exception):
    """A payload arrived that differs from the one sent."""


class _Followed:
    """A persistent request followed by that of its checksum."""

    def __init__(self, request: Any, payload: Any, number: Any, follower: Any) -> None:
        self._request, self._payload = request, payload
        self._number, self._follower = number, follower
        #: MPI's own request, for the thread that tests requests in the background.
        self.request = getattr(request, "request", request)

    def Wait(self) -> None:
        """Wait for both."""
        self._request.Wait()
        self._follower.Wait()

    def Free(self) -> None:
        """Free both."""
        self._request.Free()
        self._follower.Free()


class CheckedSend(_Followed):
    """A send of a payload (uint8, on the host) and then of its checksum."""

    def __init__(self, request: Any, comm: MPI.Comm, payload: Any, target: int, tag: int, counter: Counter) -> None:
        number = np.zeros(1, np.uint32)
        super().__init__(request, payload, number, comm.Send_init([number, NBYTES, MPI.BYTE], target, TAG + tag))
        self._counter = counter

    def Start(self) -> None:
        """Start both; the payload must not change before `Wait`."""
        self._number[0] = zlib.crc32(self._payload)
        self._request.Start()
        self._follower.Start()
        self._counter.bytes_sent += NBYTES
        self._counter.messages += 1


class CheckedReceive(_Followed):
    """A receive of a payload and of its checksum; `Wait` compares them."""

    def __init__(self, request: Any, comm: MPI.Comm, payload: Any, source: int, tag: int, counter: Counter) -> None:
        number = np.zeros(1, np.uint32)
        super().__init__(request, payload, number, comm.Recv_init([number, NBYTES, MPI.BYTE], source, TAG + tag))
        self._counter, self._source = counter, source

    def Start(self) -> None:
        """Start both."""
        self._request.Start()
        self._follower.Start()

    def Wait(self) -> None:
        """Wait for both, and compare. Raises DamagedPayloadError."""
        super().Wait()
        self._counter.bytes_received += NBYTES
        if zlib.crc32(self._payload) != self._number[0]:
            raise DamagedPayloadError(
                f"a payload of {len(self._payload)} bytes from rank {self._source} was damaged on the way: its "
                f"checksum is {zlib.crc32(self._payload):08x}, and that of what was sent {int(self._number[0]):08x}"
            )

    def Test(self) -> bool:
        """True if `Wait` returns at once."""
        return bool(self._request.Test()) and bool(self._follower.Test())

    def Cancel(self) -> None:
        """Cancel both."""
        self._request.Cancel()
        self._follower.Cancel()
        self._follower.Wait()
