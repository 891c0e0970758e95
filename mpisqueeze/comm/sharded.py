"""Exchange among servers that are all ranks: rank s serves the s-th part of the vector, section by section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpisqueeze.comm.departure import Departure
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.pipeline import Inbox, Moves, Outbox, Payload, cut, start
from mpisqueeze.devices.buffers import Wire
from mpisqueeze.devices.clock import Phase

_UP, _DOWN = 5, 6


class ShardedExchange:
    """All-to-all of the parts' payloads, then all-gather of the answers, as one pipeline with persistent requests.

    The layout of 1-bit Adam's compressed all-reduce (arXiv 2102.02888, §5). Each rank sends to the ranks behind it
    first, so that no two send to the same one at a time. Counted: every payload that leaves its rank; parts of no
    elements (more ranks than elements) send nothing.

    Args:
        up, down: the sections of each part, none of an empty one; their payloads are as long on every rank.
        alignment: bytes of an element.
        early: payloads may leave before `run`, see `departure`; then no rank waits for answers before it sends.

    Attributes:
        answers: answers[s] is uint8: the payloads of down[s] in a row.
        departure: where payloads may leave early, how, the last part's first; else None.
    """

    def __init__(
        self,
        network: Network,
        up: Sequence[Sequence[Payload]],
        down: Sequence[Sequence[Payload]],
        alignment: int,
        early: bool = False,
    ) -> None:
        self.network = network
        self._rank, self._size = network.world.rank, network.world.size
        self._up, _ = cut(network, up, alignment)
        self._down, self.answers = cut(network, down, alignment)
        self._replies = down
        #: Those of the part that this rank serves.
        self._sections, self._answered = up[self._rank], down[self._rank]
        self._behind = [(self._rank + k) % self._size for k in range(1, self._size)]
        self._before = self._behind[::-1]
        mine = self._rank
        others = [rank for rank in range(self._size) if rank != mine]
        self._inbox = Inbox(network, [section.payload_bytes for section in up[mine]], others, _UP, early)
        # Part 0 is the longest: its sections set the pace.
        self._longest = len(up[0])
        self._ahead = self._inbox.ahead
        #: For each section, the servers that are sent a payload, in the order of sending; this rank itself is last.
        self._order = [[s for s in (*self._behind, mine) if j < len(self._up[s])] for j in range(self._longest)]
        payloads = [(s, j) for j, servers in enumerate(self._order) for s in servers]
        self._outbox = Outbox(network, [(up[s][j], None if s == mine else self._up[s][j]) for s, j in payloads])
        self._copies = network.device.lookahead > 0
        self._prepared = 0
        #: Sections that were answered before `run`.
        self._served = 0
        self._to_servers = {s: [network.sender(wire.mpi, s, _UP) for wire in self._up[s]] for s in self._behind}
        self._answers = {s: [network.receiver(wire.mpi, s, _DOWN) for wire in self._down[s]] for s in self._before}
        self._from_me = [[network.sender(wire.mpi, rank, _DOWN) for rank in self._behind] for wire in self._down[mine]]
        self.departure: Departure | None = None
        if early:
            items: list[tuple[Payload, Wire | None, Any]] = []
            for s in reversed(range(self._size)):
                for j, section in enumerate(up[s]):
                    leaves = (None, None) if s == mine else (self._up[s][j], self._to_servers[s][j])
                    items.append((section, *leaves))
            self.departure = Departure(network, items, self._post, self._advance)

    def run(self, moves: Moves) -> None:
        """Exchange one vector. The gate is passed once the first sections are encoded.

        A device that has these ready, or that had the last answer of the exchange before, is done with what was
        received then.
        """
        network, mine = self.network, self._rank
        if self.departure:
            self.departure.finish(moves)
        else:
            self._outbox.open(moves, len(self._order[0]))
            self._prepared = 0
            network.gate.enter()
            self._post()
        sent = self._longest if self.departure else 0
        # A step later than it is added up at its server, a section's answer is taken: until then others travel.
        for j in range(self._longest + 1):
            while sent < min(j + self._ahead, self._longest):
                self._send_up(sent)
                sent += 1
            if j < len(self._down[mine]):
                self._serve(moves, j)
            if j:
                self._take_answers(moves, j - 1)
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
        for s in self._order[j]:
            self._outbox.ready(self._prepared)
            self._prepared += 1
            if s != self._rank:
                start(self.network, self._to_servers[s][j : j + 1], self._up[s][j])
        self.network.clock.lap(Phase.COMM)

    def _serve(self, moves: Moves, j: int) -> None:
        if j >= self._served:
            self._answer(moves, j)
            self._pass_on(moves, j)
        if not self._copies:
            moves.apply(self._answered[j])

    def _answer(self, moves: Moves, j: int) -> None:
        reply = self._answered[j]
        if not self._inbox.add_up(self._sections[j]):
            reply.divide(self._size)
        moves.answer(reply)

    def _pass_on(self, moves: Moves, j: int) -> None:
        wire = self._down[self._rank][j]
        if self._copies:
            # A device decodes it while it is copied.
            wire.begin_push()
            moves.apply(self._answered[j])
            wire.finish_push()
        start(self.network, self._from_me[j], wire)
        self.network.clock.lap(Phase.COMM)

    def _advance(self, moves: Moves, left: int) -> None:
        """Answer what is there; it is decoded later, since the gradient may yet be read from."""
        mine = self._rank
        encoded = min(left - sum(len(part) for part in self._up[mine + 1 :]), len(self._up[mine]))
        while self._served < encoded and self._inbox.arrived():
            self._answer(moves, self._served)
            self._pass_on(moves, self._served)
            self._served += 1

    def _take_answers(self, moves: Moves, j: int) -> None:
        counter, clock = self.network.counter, self.network.clock
        for s in self._before:
            if j < len(self._down[s]):
                wire = self._down[s][j]
                self._answers[s][j].Wait()
                wire.pull()
                counter.bytes_received += wire.nbytes
                clock.lap(Phase.COMM)
                moves.apply(self._replies[s][j])

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
