"""The exchange with servers: payloads go up to the server of their part, which answers all, section by section."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any

from mpisqueeze.comm.departure import Departure
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.pipeline import Inbox, Moves, Outbox, Parts, Payload, cut, start
from mpisqueeze.costs.exchanges import Tree
from mpisqueeze.devices.buffers import Wire
from mpisqueeze.devices.clock import Phase

_UP, _DOWN = 1, 2


class ServerPipeline:
    """A pipeline of point-to-point messages, with persistent requests.

    Where each rank serves a part, it is an all-to-all of payloads, then an all-gather of answers, as in 1-bit Adam's
    compressed all-reduce (arXiv 2102.02888, §5). Parts of no elements (more ranks than elements) send nothing.

    While a section travels, the next one is encoded; a server adds up sections as they arrive, and an answer goes down
    the tree of its part while later ones still come in. A rank sends no more than `Inbox.ahead` sections before it has
    the answer to the first, so that a server's window of buffers and the messages that MPI holds stay small. Counted:
    every message, at the rank that sends it; of each part (N − 1) payloads go up and (N − 1) down, whatever the tree.

    Args:
        early: payloads may leave before `run`, see `departure`; then no rank waits for answers before it sends.

    Attributes:
        answers: answers[s] is uint8: the payloads of down[s] in a row.
        departure: where payloads may leave early, how, the last part's first; else None.
    """

    def __init__(self, network: Network, parts: Parts, early: bool = False) -> None:
        self.network = network
        rank, size, tree = network.world.rank, network.world.size, Tree(parts.way, network.world.size)
        up, down = parts.up, parts.down
        self._up, _ = cut(network, up, parts.alignment, parts.memory)
        self._down, self.answers = cut(network, down, parts.alignment)
        self._replies = down
        self._servers = parts.servers(rank, size)
        self._to_server = {s: [network.sender(wire.mpi, s, _UP) for wire in self._up[s]] for s in self._servers}
        #: The sends of the answers that this rank passes on, by their part.
        self._passing: dict[int, list[list[Any]]] = {}
        self._from_server: dict[int, list[Any]] = {}
        for s, wires in enumerate(self._down):
            children = [(child + s) % size for child in tree.children((rank - s) % size)]
            if children:
                self._passing[s] = [[network.sender(wire.mpi, child, _DOWN) for child in children] for wire in wires]
            parent = tree.parent((rank - s) % size)
            if parent is not None:
                source = (parent + s) % size
                self._from_server[s] = [network.receiver(wire.mpi, source, _DOWN) for wire in wires]
        self._sends = list(chain(*self._to_server.values(), *chain(*self._passing.values())))
        self._receives = list(chain(*self._from_server.values()))
        self._last = [requests[-1] for requests in self._from_server.values() if requests]
        self._sections, self._answered = parts.of_server(rank)
        passing = self._passing.get(rank) or [[] for _ in self._answered]
        self._replying = list(zip(self._down[rank], passing, strict=True)) if self._answered else []
        others = [r for r in range(size) if r != rank] if self._sections else []
        # Part 0 is the longest: its sections set the pace.
        sizes = [section.payload_bytes for section in self._sections or up[0]]
        self._inbox = Inbox(network, sizes, others, _UP, early)
        #: For each section, the servers that it is sent to, in the order of sending.
        self._order = [[s for s in reversed(self._servers) if j < len(up[s])] for j in range(len(up[0]))]
        payloads = [(s, j) for j, servers in enumerate(self._order) for s in servers]
        self._outbox = Outbox(network, [(up[s][j], self._up[s][j]) for s, j in payloads])
        self._own = Outbox(network, [(section, None) for section in self._sections])
        self._prepared = 0
        # Where there are several servers, an answer is taken a step later than its section is added up at the own
        # server: until then others travel.
        self._steps = max(map(len, down))
        self._lag = 1 if len(up) > 1 else 0
        self._copies = network.device.lookahead > 0
        #: Answers that were sent, and taken from each server, before `run`.
        self._served, self._taken = 0, dict.fromkeys(self._servers, 0)
        self.departure: Departure | None = None
        if early:
            items: list[tuple[Payload, Wire | None, Callable[[], None] | None]] = []
            for s in reversed(range(len(up))):
                for j, section in enumerate(up[s]):
                    wire = None if s == rank else self._up[s][j]
                    send = partial(start, network, [self._to_server[s][j]], wire) if wire else None
                    items.append((section, wire, send))
            self.departure = Departure(network, items, self._post, self._advance)
            #: Payloads that leave before those of the own part.
            self._before_own = sum(len(part) for part in up[rank + 1 :])

    def run(self, moves: Moves) -> None:
        """Exchange one vector. The gate is passed once the first sections are encoded.

        A device that has these ready, or that had the last answer of the exchange before, is done with what was
        received then.
        """
        network = self.network
        if self.departure:
            self.departure.finish(moves)
        else:
            if self._servers:
                self._outbox.open(moves, len(self._order[0]))
            if self._sections:
                self._own.open(moves, 1)
            self._prepared = 0
            network.gate.enter()
            self._post()
        sent = len(self._order) if self.departure else 0
        for j in range(self._steps + self._lag):
            while sent < min(j + self._inbox.ahead, len(self._order)):
                self._send_up(sent)
                sent += 1
            if j < len(self._answered):
                self._serve(moves, j)
            if j >= self._lag:
                self._take_answers(moves, j - self._lag)
        for request in self._sends:
            request.Wait()
        network.clock.lap(Phase.COMM)
        if self.departure:
            self.departure.close_books()
            self._served, self._taken = 0, dict.fromkeys(self._servers, 0)

    def _post(self) -> list[Any]:
        """Post the first receives; gives those that are filled last."""
        for request in self._receives:
            request.Start()
        return [*self._inbox.open(), *self._last]

    def _send_up(self, j: int) -> None:
        for s in self._order[j]:
            self._outbox.ready(self._prepared)
            self._prepared += 1
            start(self.network, (self._to_server[s][j],), self._up[s][j])
        self.network.clock.lap(Phase.COMM)

    def _serve(self, moves: Moves, j: int) -> None:
        if j >= self._served:
            self._answer(moves, j)
        if not self._copies:
            moves.apply(self._answered[j])

    def _answer(self, moves: Moves, j: int) -> None:
        """Add up a section, and send the answer on its way."""
        network, reply, is_mean = self.network, self._answered[j], False
        if j < len(self._sections):
            if not self.departure:
                self._own.ready(j)
            is_mean = self._sections[j].add_up(self._inbox)
        if not is_mean:
            reply.divide(network.world.size)
        moves.answer(reply)
        wire, requests = self._replying[j]
        if self._copies:
            # A device decodes an answer while it is copied; a host decodes it when it is on its way.
            if requests:
                wire.begin_push()
            moves.apply(reply)
            if requests:
                wire.finish_push()
        start(network, requests, wire)
        network.clock.lap(Phase.COMM)

    def _advance(self, moves: Moves, left: int) -> None:
        """Answer, or pass on, what is there; it is applied later, since the gradient may yet be read from."""
        # A payload that goes up whole has several answers, and leaves last.
        alike = len(self._sections) == len(self._answered)
        encoded = min(left - self._before_own, len(self._sections)) if alike else 0
        while self._served < encoded and self._inbox.arrived():
            self._answer(moves, self._served)
            self._served += 1
        for s, requests in self._from_server.items():
            # The last answer is what the thread looks at.
            while self._taken[s] < len(requests) - 1 and requests[self._taken[s]].Test():
                # There is nothing to wait for, but perhaps to check.
                self._take(s, self._taken[s])
                self._taken[s] += 1

    def _take_answers(self, moves: Moves, j: int) -> None:
        for s in self._servers:
            if j < len(self._replies[s]):
                if j >= self._taken[s]:
                    self._take(s, j)
                    self.network.clock.lap(Phase.COMM)
                moves.apply(self._replies[s][j])

    def _take(self, s: int, j: int) -> None:
        """Wait for an answer, and pass it on."""
        wire = self._down[s][j]
        self._from_server[s][j].Wait()
        wire.pull()
        self.network.counter.bytes_received += wire.nbytes
        if s in self._passing:
            start(self.network, self._passing[s][j], wire)

    def close(self) -> None:
        """Free the persistent requests, with nothing on its way."""
        if self.departure:
            self.departure.close()
        self.network.device.synchronize()
        self._inbox.close()
        for request in (*self._sends, *self._receives):
            request.Free()
        self._sends, self._receives = [], []
