"""Exchange along the edges of a graph: one payload to each neighbour, one from each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.progress import ProgressThread
from mpisqueeze.costs.exchanges import AHEAD
from mpisqueeze.devices.clock import Phase

_EDGE = 3


class NeighbourExchange:
    """Persistent point-to-point requests, receives posted before the work that they can overlap.

    An iteration is `expect`, then `send`, then all of `receive`. What happens in between overlaps with the messages,
    and its time is booked where the caller books it, not as communication. On a slow link a payload travels in sections
    that the network takes in order, AHEAD of them at a time, so that both directions and all neighbours share it.

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
        self._out = network.wire(nbytes)
        self.out = self._out.array
        self._inbox = [network.wire(nbytes) for _ in self.neighbours]
        step = min(nbytes, network.terms.message_bytes)
        sections = [(start, min(start + step, nbytes)) for start in range(0, nbytes, step)]
        self._sections = [self._out.part(*section) for section in sections]
        #: For each section, the wires of the neighbours.
        self._arriving = [[wire.part(*section) for wire in self._inbox] for section in sections]
        self._receives = [
            [network.receiver(wire.mpi, source, _EDGE) for wire, source in zip(wires, self.neighbours, strict=True)]
            for wires in self._arriving
        ]
        # All ranks send in the same direction at a time, so that no two send to the same one.
        rank, size = network.world.rank, network.world.size
        targets = sorted(self.neighbours, key=lambda target: (target - rank) % size)
        self._sends = [[network.sender(section.mpi, target, _EDGE) for target in targets] for section in self._sections]
        self._past = network.device.fence()
        self._started = 0
        self._pending = False
        self.progress = ProgressThread(network.device.make_current)

    def expect(self) -> None:
        """Post the receives."""
        self._past.wait()
        for requests in self._receives:
            for request in requests:
                request.Start()
        self._pending = True

    def send(self, overlap: bool = False) -> None:
        """Meet the other ranks, then start sending `out` to every neighbour.

        With `overlap` a thread keeps the messages moving until `receive`: for work in between that does not enter MPI.
        """
        self._sections[0].push()
        self.network.gate.enter()
        for section in self._sections[1:]:
            section.begin_push()
        self._started = 0
        self._start_sends(len(self._sends) if overlap else AHEAD)
        counter = self.network.counter
        counter.bytes_sent += self._out.nbytes * len(self.neighbours)
        counter.messages += len(self._sends) * len(self.neighbours)
        if overlap:
            self.progress.give([request for requests in self._receives + self._sends for request in requests])
        self.network.clock.lap(Phase.COMM)

    def receive(self) -> Iterator[tuple[int, Any]]:
        """(neighbour's index, its payload) for each neighbour in order, as they arrive; must be exhausted."""
        counter, clock = self.network.counter, self.network.clock
        self.progress.take_back()
        last, arriving = self._receives[-1], self._arriving[-1]
        for i, requests in enumerate(self._receives[:-1]):
            for request, wire in zip(requests, self._arriving[i], strict=True):
                request.Wait()
                wire.pull()
            self._start_sends(i + 1 + AHEAD)
        for index, wire in enumerate(self._inbox):
            last[index].Wait()
            arriving[index].pull()
            counter.bytes_received += wire.nbytes
            clock.lap(Phase.COMM)
            yield index, wire.array
        for requests in self._sends:
            for request in requests:
                request.Wait()
        self._past.set()
        self._pending = False
        clock.lap(Phase.COMM)

    def _start_sends(self, count: int) -> None:
        """Have the first `count` sections on their way."""
        for requests, section in zip(self._sends[self._started : count], self._sections[self._started :], strict=False):
            section.finish_push()
            for request in requests:
                request.Start()
        self._started = max(self._started, min(count, len(self._sends)))

    def close(self) -> None:
        """Cancel receives whose iteration was given up, and free the requests."""
        self.progress.close()
        self.network.device.synchronize()
        receives = [request for requests in self._receives for request in requests]
        if self._pending:
            for request in receives:
                request.Cancel()
                request.Wait()
        for request in (*receives, *(request for requests in self._sends for request in requests)):
            request.Free()
        self._receives, self._sends = [], []
