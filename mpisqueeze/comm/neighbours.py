"""Exchange along the edges of a graph: one payload to each neighbour, one from each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mpisqueeze.comm.counters import Phase
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.progress import Progress

_EDGE = 3


class NeighbourExchange:
    """Persistent point-to-point requests, receives posted before the work that they can overlap.

    An iteration is `expect`, then `send`, then all of `receive`. What happens in between overlaps with the messages,
    and its time is booked where the caller books it, not as communication.

    Counted: `nbytes` to each neighbour.

    Args:
        neighbours: the ranks to exchange with, in the order in which their payloads are handed out.
        nbytes: payload size, the same on every rank.

    Attributes:
        progress: of `send(overlap=True)`.
        out: uint8 (nbytes): this rank's payload, to be filled before `send` and left alone until all is received.
    """

    def __init__(self, network: Network, neighbours: Sequence[int], nbytes: int) -> None:
        self.network = network
        self.neighbours = list(neighbours)
        comm = network.world.comm
        self._out = network.wire(nbytes)
        self.out = self._out.array
        self._inbox = [network.wire(nbytes) for _ in self.neighbours]
        self._receives = [
            comm.Recv_init(wire.mpi, source, _EDGE) for wire, source in zip(self._inbox, self.neighbours, strict=True)
        ]
        self._sends = [comm.Send_init(self._out.mpi, target, _EDGE) for target in self.neighbours]
        self._pending = False
        self.progress = Progress()

    def expect(self) -> None:
        """Post the receives."""
        for request in self._receives:
            request.Start()
        self._pending = True

    def send(self, overlap: bool = False) -> None:
        """Meet the other ranks, then start sending `out` to every neighbour.

        With `overlap` a thread keeps the messages moving until `receive`: for work in between that does not enter MPI.
        """
        self._out.push()
        self.network.gate.enter()
        for request in self._sends:
            request.Start()
        counter = self.network.counter
        counter.bytes_sent += self._out.nbytes * len(self._sends)
        counter.messages += len(self._sends)
        if overlap:
            self.progress.give(self._receives + self._sends)
        self.network.clock.lap(Phase.COMM)

    def receive(self) -> Iterator[tuple[int, Any]]:
        """(neighbour's index, its payload) for each neighbour in order, as they arrive; must be exhausted."""
        counter, clock = self.network.counter, self.network.clock
        self.progress.take_back()
        for index, (request, wire) in enumerate(zip(self._receives, self._inbox, strict=True)):
            request.Wait()
            wire.pull()
            counter.bytes_received += wire.nbytes
            clock.lap(Phase.COMM)
            yield index, wire.array
        for request in self._sends:
            request.Wait()
        self._pending = False
        clock.lap(Phase.COMM)

    def close(self) -> None:
        """Cancel receives whose iteration was given up, and free the requests."""
        self.progress.close()
        if self._pending:
            for request in self._receives:
                request.Cancel()
                request.Wait()
        for request in self._receives + self._sends:
            request.Free()
        self._receives.clear()
        self._sends.clear()
