"""Exchange through a root: payloads go up to rank 0, one payload comes down to everybody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mpisqueeze.comm.counters import Phase
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.wire import Wire

#: Payloads that the root holds at a time take at most this many bytes (but two of them always fit).
WINDOW_BYTES = 256 << 20
_UP = 1


class RootExchange:
    """Gather to rank 0 with persistent point-to-point requests, then MPI_Bcast.

    The root receives in a window of buffers, so that a payload is decoded while later ones travel, and holds no decoded
    vector but its accumulator. Counted: `up_bytes` by every rank but 0, and (N − 1)·`down_bytes` by rank 0, which is
    what a broadcast moves by its definition.

    Args:
        up_bytes, down_bytes: payload sizes, the same on every rank.

    Attributes:
        up: [uint8 (up_bytes)]: this rank's payload, to be filled before `gather`.
        down: [uint8 (down_bytes)]: the root's answer, to be filled by rank 0 before `broadcast`.
    """

    def __init__(self, network: Network, up_bytes: int, down_bytes: int) -> None:
        self.network = network
        world = network.world
        self._comm, self._rank, self._size = world.comm, world.rank, world.size
        self._up, self._down = network.wire(up_bytes), network.wire(down_bytes)
        self.up, self.down = [self._up.array], [self._down.array]
        self._window: list[Wire] = []
        self._requests: list[Any] = []
        if self._size == 1:
            return
        if self._rank == 0:
            slots = min(self._size - 1, max(2, WINDOW_BYTES // max(up_bytes, 1)))
            self._window = [network.wire(up_bytes) for _ in range(slots)]
            for source in range(1, self._size):
                wire = self._window[(source - 1) % slots]
                self._requests.append(self._comm.Recv_init(wire.mpi, source, _UP))
        else:
            self._requests.append(self._comm.Send_init(self._up.mpi, 0, _UP))

    def gather(self) -> Iterator[Any]:
        """On rank 0 each rank's payload in rank order, its own first, valid until the next one; elsewhere nothing.

        It is a generator: rank 0 must exhaust it. Elsewhere, too, nothing is sent before it is iterated.
        """
        network = self.network
        counter, clock = network.counter, network.clock
        if self._size == 1:
            network.gate.enter()
            yield self._up.array
            return
        if self._rank != 0:
            self._up.push()
            network.gate.enter()
            self._requests[0].Start()
            self._requests[0].Wait()
            counter.bytes_sent += self._up.nbytes
            counter.messages += 1
            clock.lap(Phase.COMM)
            return
        network.gate.enter()
        slots, waiting = self._window, self._requests
        for request in waiting[: len(slots)]:
            request.Start()
        clock.lap(Phase.COMM)
        yield self._up.array
        for i, request in enumerate(waiting):
            wire = slots[i % len(slots)]
            request.Wait()
            wire.pull()
            counter.bytes_received += wire.nbytes
            clock.lap(Phase.COMM)
            yield wire.array
            if i + len(slots) < len(waiting):
                waiting[i + len(slots)].Start()

    def broadcast(self) -> Iterator[tuple[int, Any]]:
        """Send rank 0's `down` to everybody; (0, its payload), for the only part that there is; must be exhausted."""
        if self._size > 1:
            counter = self.network.counter
            if self._rank == 0:
                self._down.push()
                counter.bytes_sent += (self._size - 1) * self._down.nbytes
                counter.messages += self._size - 1
                self._comm.Bcast(self._down.mpi, 0)
            else:
                self._comm.Bcast(self._down.mpi, 0)
                self._down.pull()
                counter.bytes_received += self._down.nbytes
        self.network.clock.lap(Phase.COMM)
        yield 0, self._down.array

    def close(self) -> None:
        """Free the persistent requests."""
        for request in self._requests:
            request.Free()
        self._requests.clear()
