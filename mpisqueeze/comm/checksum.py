"""`--checksum`: a CRC-32 follows each message, so that a damaged payload is found and named.

MPI trusts its transport. The 4 bytes of the checksum are a message of their own, and counted.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from mpisqueeze.comm.counters import Counter
from mpisqueeze.mpi import MPI

#: Offset of a checksum's tag from its payload's.
TAG = 1000
NBYTES = 4


class DamagedPayloadError(Exception):
    """A payload arrived that differs from the one sent."""


class _Followed:
    """A persistent request followed by that of its checksum.

    Args:
        make: MPI's `Send_init` or `Recv_init`, for the checksum.
        request: the payload's request.
        payload: the payload (uint8, on the host).
        peer, tag: the other rank, and the payload's tag.
        counter: counter of this rank's bytes.
    """

    def __init__(
        self, make: Callable[..., Any], request: Any, payload: Any, peer: int, tag: int, counter: Counter
    ) -> None:
        self._request, self._payload, self._peer, self._counter = request, payload, peer, counter
        self._number = np.zeros(1, np.uint32)
        self._follower = make([self._number, NBYTES, MPI.BYTE], peer, TAG + tag)
        #: MPI's own request, for the thread that tests requests in the background.
        self.request = getattr(request, "request", request)

    def Start(self) -> None:
        """Start both."""
        self._request.Start()
        self._follower.Start()

    def Wait(self) -> None:
        """Wait for both."""
        self._request.Wait()
        self._follower.Wait()

    def Free(self) -> None:
        """Free both."""
        self._request.Free()
        self._follower.Free()


class CheckedSend(_Followed):
    """A send of a payload and then of its checksum."""

    def Start(self) -> None:
        """Start both; the payload must not change before `Wait`."""
        self._number[0] = zlib.crc32(self._payload)
        super().Start()
        self._counter.bytes_sent += NBYTES
        self._counter.messages += 1


class CheckedReceive(_Followed):
    """A receive of a payload and of its checksum; `Wait` compares them."""

    def Wait(self) -> None:
        """Wait for both, and compare. Raises DamagedPayloadError."""
        super().Wait()
        self._counter.bytes_received += NBYTES
        found = zlib.crc32(self._payload)
        if found != self._number[0]:
            raise DamagedPayloadError(
                f"a payload of {len(self._payload)} bytes from rank {self._peer} was damaged on the way: its "
                f"checksum is {found:08x}, and that of what was sent {int(self._number[0]):08x}"
            )

    def Test(self) -> bool:
        """True if `Wait` returns at once."""
        return bool(self._request.Test()) and bool(self._follower.Test())

    def Cancel(self) -> None:
        """Cancel both."""
        self._request.Cancel()
        self._follower.Cancel()
        self._follower.Wait()
