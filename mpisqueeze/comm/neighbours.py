"""Exchange along the edges of a graph: one payload to each neighbour, one from each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.progress import ProgressThread
from mpisqueeze.costs.exchanges import AHEAD
from mpisqueeze.devices.buffers import Fence, Wire
from mpisqueeze.devices.clock import Phase

_EDGE = 3


class NeighbourExchange:
    """Persistent point-to-point requests, receives posted before the work that they can overlap.

    An iteration is `expect`, then `send`, then all of `receive`. What happens in between overlaps with the messages,
    and its time is booked where the caller books it, not as communication. On a slow link a payload travels in sections
    that the network takes in order, AHEAD of them at a time, so that both directions and all neighbours share it.

    Counted: what goes to each target.

    Args:
        neighbours: the ranks to exchange with, in the order in which their payloads are handed out.
        nbytes: payload size, the same on every rank.
        payloads: number of payloads to each neighbour, and from each.
        apart: each neighbour gets a payload of its own, instead of all the same.
        targets: the ranks that this rank's payload goes to, where those are others than it gets some from.
        sharing: an exchange of other iterations, alike but for the ranks, whose buffers this one uses, too.

    Attributes:
        progress: of `send(overlap=True)`.
        outs: uint8 (nbytes), a payload each, or one for each neighbour with `apart`: this rank's, to be filled before
            `send` and left alone until all is received.
    """

    def __init__(
        self,
        network: Network,
        neighbours: Sequence[int],
        nbytes: int,
        *,
        payloads: int = 1,
        apart: bool = False,
        targets: Sequence[int] | None = None,
        sharing: NeighbourExchange | None = None,
    ) -> None:
        self.network = network
        self.neighbours = list(neighbours)
        count = len(self.neighbours) if apart else payloads
        self._wires: list[Wire] = sharing._wires if sharing else [network.wire(nbytes) for _ in range(count)]
        self.outs = [wire.array for wire in self._wires]
        #: For each payload, the wires of the neighbours.
        self._inbox: list[list[Wire]] = (
            sharing._inbox if sharing else [[network.wire(nbytes) for _ in self.neighbours] for _ in range(payloads)]
        )
        step = min(nbytes, network.terms.message_bytes)
        spans = [(start, min(start + step, nbytes)) for start in range(0, nbytes, step)]
        # All ranks send in the same direction at a time, so that no two send to the same one.
        rank, size = network.world.rank, network.world.size
        given = list(neighbours if targets is None else targets)
        order = sorted(range(len(given)), key=lambda i: (given[i] - rank) % size)
        #: For each section of each payload, what leaves.
        leaving = [self._wires] if apart else [[wire] for wire in self._wires]
        self._sections = [[wire.part(*span) for wire in wires] for wires in leaving for span in spans]
        self._sends = [
            [network.sender(parts[i if apart else 0].mpi, given[i], _EDGE) for i in order] for parts in self._sections
        ]
        #: For each of them, the wires of the neighbours.
        self._arriving = [[wire.part(*span) for wire in wires] for wires in self._inbox for span in spans]
        self._receives = [
            [network.receiver(wire.mpi, source, _EDGE) for wire, source in zip(wires, self.neighbours, strict=True)]
            for wires in self._arriving
        ]
        self._targets, self._bytes = len(given), payloads * nbytes
        self._past: Fence = sharing._past if sharing else network.device.fence()
        self._started = 0
        self._pending = False
        self.progress = ProgressThread(network.device.make_current)

    @property
    def out(self) -> Any:
        """The first of `outs`, which is the only one unless there are several payloads."""
        return self.outs[0]

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
        first, *others = self._sections
        for part in first:
            part.push()
        self.network.gate.enter()
        for part in chain(*others):
            part.begin_push()
        self._started = 0
        self._start_sends(len(self._sends) if overlap else AHEAD)
        counter = self.network.counter
        counter.bytes_sent += self._bytes * self._targets
        counter.messages += len(self._sends) * self._targets
        if overlap:
            self.progress.give([request for requests in self._receives + self._sends for request in requests])
        self.network.clock.lap(Phase.COMM)

    def receive(self) -> Iterator[tuple[Any, ...]]:
        """(neighbour's index, its payload or payloads) for each neighbour in order, as they arrive; to be exhausted."""
        counter, clock = self.network.counter, self.network.clock
        self.progress.take_back()
        last, arriving = self._receives[-1], self._arriving[-1]
        for i, requests in enumerate(self._receives[:-1]):
            for request, wire in zip(requests, self._arriving[i], strict=True):
                request.Wait()
                wire.pull()
            self._start_sends(i + 1 + AHEAD)
        for index, wires in enumerate(zip(*self._inbox, strict=True)):
            last[index].Wait()
            arriving[index].pull()
            counter.bytes_received += self._bytes
            clock.lap(Phase.COMM)
            yield index, *(wire.array for wire in wires)
        for requests in self._sends:
            for request in requests:
                request.Wait()
        self._past.set()
        self._pending = False
        clock.lap(Phase.COMM)

    def _start_sends(self, count: int) -> None:
        """Have the first `count` sections on their way."""
        for requests, parts in zip(self._sends[self._started : count], self._sections[self._started :], strict=False):
            for part in parts:
                part.finish_push()
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
