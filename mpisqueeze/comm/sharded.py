"""Exchange among servers that are all ranks: rank s serves the s-th part of the vector, section by section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpisqueeze.comm.departure import Departure
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.pipeline import Inbox, Outbox, Work, cut
from mpisqueeze.devices.buffers import Wire
from mpisqueeze.devices.clock import Phase

_UP, _DOWN = 5, 6


class ShardedExchange:
    """All-to-all of the parts' payloads, then all-gather of the answers, as one pipeline with persistent requests.

    The layout of 1-bit Adam's compressed all-reduce (arXiv 2102.02888, §5). Each rank sends to the ranks behind it
    first, so that no two send to the same one at a time. Counted: every payload that leaves its rank; parts of no
    elements (more ranks than elements) send nothing.

    Args:
        up_bytes, down_bytes: payload sizes of each part's sections, the same on every rank; none for an empty part.
        alignment: bytes of a number.
        early: payloads may leave before `run`, see `departure`; then no rank waits for answers before it sends.

    Attributes:
        up: up[s][j] is uint8: this rank's payload of part s, section j.
        down: down[s][j] is uint8: the answers; rank s fills the s-th part's.
        answers: answers[s] is uint8: all of down[s] in a row.
        departure: where payloads may leave early, how, the last part's first; else None.
    """

    def __init__(
        self,
        network: Network,
        up_bytes: Sequence[Sequence[int]],
        down_bytes: Sequence[Sequence[int]],
        alignment: int,
        early: bool = False,
    ) -> None:
        self.network = network
        self._rank, self._size = network.world.rank, network.world.size
        self._up, _ = cut(network, up_bytes, alignment)
        self._down, self.answers = cut(network, down_bytes, alignment)
        self.up, self.down = ([[wire.array for wire in part] for part in wires] for wires in (self._up, self._down))
        self._behind = [(self._rank + k) % self._size for k in range(1, self._size)]
        self._before = self._behind[::-1]
        mine = self._rank
        others = [rank for rank in range(self._size) if rank != mine]
        self._inbox = Inbox(network, up_bytes[mine], others, _UP, early)
        # Part 0 is the longest: its sections set the pace.
        self._sections = len(up_bytes[0])
        self._ahead = self._inbox.ahead
        #: By section, the servers that are sent a payload, in the order of sending, and the own part's server last.
        self._order = [[s for s in (*self._behind, mine) if j < len(self._up[s])] for j in range(self._sections)]
        payloads = [(s, j) for j, servers in enumerate(self._order) for s in servers]
        self._outbox = Outbox(network, [(s, j, None if s == mine else self._up[s][j]) for s, j in payloads])
        self._copies = network.device.lookahead > 0
        self._prepared = 0
        #: Sections that were answered before `run`.
        self._served = 0
        self._to_servers = {s: [network.sender(wire.mpi, s, _UP) for wire in self._up[s]] for s in self._behind}
        self._answers = {s: [network.receiver(wire.mpi, s, _DOWN) for wire in self._down[s]] for s in self._before}
        self._from_me = [[network.sender(wire.mpi, rank, _DOWN) for rank in self._behind] for wire in self._down[mine]]
        self.departure: Departure | None = None
        if early:
            items: list[tuple[int, int, Wire | None, Any]] = []
            for s in reversed(range(self._size)):
                for j, wire in enumerate(self._up[s]):
                    items.append((s, j, None, None) if s == mine else (s, j, wire, self._to_servers[s][j]))
            self.departure = Departure(network, items, self._post, self._advance)

    def run(self, work: Work) -> None:
        """Exchange one vector. The gate is passed once the first sections are encoded.

        A device that has these ready, or that had the last answer of the exchange before, is done with what was
        received then.
        """
        network, mine = self.network, self._rank
        if self.departure:
            self.departure.finish(work)
        else:
            self._outbox.open(work, len(self._order[0]))
            self._prepared = 0
            network.gate.enter()
            self._post()
        sent = self._sections if self.departure else 0
        # A step later than it is added up at its server, a section's answer is taken: until then others travel.
        for j in range(self._sections + 1):
            while sent < min(j + self._ahead, self._sections):
                self._send_up(sent)
                sent += 1
            if j < len(self._down[mine]):
                self._serve(work, j)
            if j:
                self._take_answers(work, j - 1)
        for requests in (*self._to_servers.values(), *self._from_me):
            for request in requests:
                request.Wait()
        network.clock.lap(Phase.COMM)
        if self.departure:
            self.departure.close_books()

    def _post(self) -> list[Any]:
        """Post the first receives; gives those that are filled last."""
        self._served = 0
        for requests in self._answers.values():
            for request in requests:
                request.Start()
        last = [requests[-1] for requests in self._answers.values() if requests]
        return [*self._inbox.open(), *last]

    def _send_up(self, j: int) -> None:
        counter = self.network.counter
        for s in self._order[j]:
            self._outbox.ready(self._prepared)
            self._prepared += 1
            if s != self._rank:
                self._to_servers[s][j].Start()
                counter.bytes_sent += self._up[s][j].nbytes
                counter.messages += 1
        self.network.clock.lap(Phase.COMM)

    def _serve(self, work: Work, j: int) -> None:
        mine = self._rank
        if j >= self._served:
            self._answer(work, j)
            self._pass_on(work, j)
        if not self._copies:
            work.decode(mine, j)

    def _answer(self, work: Work, j: int) -> None:
        mine = self._rank
        if self._inbox.holds_sections and work.combines(mine):
            payloads = self._inbox.section()
            payloads.insert(mine, self.up[mine][j])
            work.combine(mine, j, payloads)
        else:
            for rank in range(self._size):
                work.accumulate(mine, j, self.up[mine][j] if rank == mine else self._inbox.next(), rank == 0)
        work.answer(mine, j)

    def _pass_on(self, work: Work, j: int) -> None:
        mine, counter = self._rank, self.network.counter
        wire, requests = self._down[mine][j], self._from_me[j]
        if self._copies:
            # A device decodes it while it is copied.
            wire.begin_push()
            work.decode(mine, j)
            wire.finish_push()
        for request in requests:
            request.Start()
        counter.bytes_sent += wire.nbytes * len(requests)
        counter.messages += len(requests)
        self.network.clock.lap(Phase.COMM)

    def _advance(self, work: Work, left: int) -> None:
        """Answer what is there; it is decoded later, since the gradient may yet be read from."""
        mine = self._rank
        encoded = min(left - sum(len(part) for part in self._up[mine + 1 :]), len(self._up[mine]))
        while self._served < encoded and self._inbox.arrived():
            self._answer(work, self._served)
            self._pass_on(work, self._served)
            self._served += 1

    def _take_answers(self, work: Work, j: int) -> None:
        counter, clock = self.network.counter, self.network.clock
        for s in self._before:
            if j < len(self._down[s]):
                wire = self._down[s][j]
                self._answers[s][j].Wait()
                wire.pull()
                counter.bytes_received += wire.nbytes
                clock.lap(Phase.COMM)
                work.decode(s, j)

    def close(self) -> None:
        """Free the persistent requests, with nothing on its way."""
        if self.departure:
            self.departure.close()
        self.network.device.synchronize()
        self._inbox.close()
        for requests in (*self._to_servers.values(), *self._answers.values(), *self._from_me):
            for request in requests:
                request.Free()
        self._to_servers, self._answers, self._from_me = {}, {}, []
