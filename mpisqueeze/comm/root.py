"""Exchange through a root: payloads go up to rank 0, which answers down a tree, section by section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mpisqueeze.comm.departure import Departure
from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.pipeline import Inbox, Moves, Outbox, Payload, cut, start
from mpisqueeze.costs.exchanges import Tree
from mpisqueeze.devices.buffers import Wire
from mpisqueeze.devices.clock import Phase

_UP, _DOWN = 1, 2


class RootExchange:
    """A pipeline of point-to-point messages, with persistent requests.

    While a section travels, the next one is encoded; the root adds up sections as they arrive, and a finished one goes
    down the tree while later ones still come in. A worker sends no more than AHEAD sections before it has the answer to
    the first, so that the root's window of buffers and what MPI holds stay small. Counted: every message, at the rank
    that sends it; (N − 1) payloads go up and (N − 1) down, whatever the tree.

    Args:
        up, down: the sections of the one part, as many up as down, or a single one up; their payloads are as long on
            every rank.
        alignment: bytes of an element.
        way: the tree, see `costs.exchanges.Tree`.
        early: payloads may leave before `run`, see `departure`; then no worker waits for answers before it sends.

    Attributes:
        answers: answers[0] is uint8: the payloads of all answers in a row.
        departure: where payloads may leave early, how; else None.
    """

    def __init__(
        self,
        network: Network,
        up: Sequence[Sequence[Payload]],
        down: Sequence[Sequence[Payload]],
        alignment: int,
        way: str,
        early: bool = False,
    ) -> None:
        self.network = network
        self._rank, size = network.world.rank, network.world.size
        (self._up,), _ = cut(network, up, alignment)
        (self._down,), self.answers = cut(network, down, alignment)
        (self._sections,), (self._replies,) = up, down
        tree = Tree(way, size)
        self._children = tree.children(self._rank)
        self._passing = [[network.sender(wire.mpi, child, _DOWN) for child in self._children] for wire in self._down]
        parent = tree.parent(self._rank)
        self._answers = [] if parent is None else [network.receiver(wire.mpi, parent, _DOWN) for wire in self._down]
        self._sends = [] if parent is None else [network.sender(wire.mpi, 0, _UP) for wire in self._up]
        sizes = [section.payload_bytes for section in self._sections]
        self._inbox = Inbox(network, sizes, [rank for rank in range(1, size) if self._rank == 0], _UP, early)
        wires: list[Wire | None] = [wire if self._sends else None for wire in self._up]
        self._outbox = Outbox(network, list(zip(self._sections, wires, strict=True)))
        self.departure: Departure | None = None
        if early:
            sends = self._sends or [None] * len(wires)
            items = list(zip(self._sections, wires, sends, strict=True))
            self.departure = Departure(network, items, self._post, self._advance)
        #: Answers that were sent, or passed on, before `run`.
        self._dealt_with = 0
        self._copies = network.device.lookahead > 0
        #: Sections that a worker may be ahead of the answers.
        self._ahead = self._inbox.ahead

    def run(self, moves: Moves) -> None:
        """Exchange one vector. The gate is passed once the first section is encoded.

        A device that has the first section ready, or that had the last answer of the exchange before, is done with what
        was received then.
        """
        network = self.network
        if self.departure:
            self.departure.finish(moves)
        else:
            self._outbox.open(moves, 1)
            network.gate.enter()
            self._post()
        if self._rank == 0:
            self._serve(moves)
        else:
            self._take_part(moves)
        for requests in self._passing:
            for request in requests:
                request.Wait()
        network.clock.lap(Phase.COMM)
        if self.departure:
            self.departure.close_books()

    def _post(self) -> list[Any]:
        """Post the first receives; gives those that are filled last."""
        self._dealt_with = 0
        for request in self._answers:
            request.Start()
        return [*self._inbox.open(), *self._answers[-1:]]

    def _serve(self, moves: Moves) -> None:
        network = self.network
        for j in range(len(self._down)):
            if j >= self._dealt_with:
                self._answer(moves, j)
                if self._copies:
                    self._copy_and_decode(moves, j)
                start(network, self._passing[j], self._down[j])
                network.clock.lap(Phase.COMM)
            if not self._copies:
                moves.apply(self._replies[j])

    def _answer(self, moves: Moves, j: int) -> None:
        is_mean, reply = False, self._replies[j]
        if j < len(self._up):
            if not self.departure:
                self._outbox.ready(j)
            is_mean = self._inbox.add_up(self._sections[j])
        if not is_mean:
            reply.divide(self.network.world.size)
        moves.answer(reply)

    def _advance(self, moves: Moves, left: int) -> None:
        """Answer, or pass on, what is there; it is decoded later, since the gradient may yet be read from."""
        if self._rank == 0:
            # A payload that goes up whole has several answers, and leaves last.
            last = min(left, len(self._down)) if len(self._up) == len(self._down) else 0
            while self._dealt_with < last and self._inbox.arrived():
                self._answer(moves, self._dealt_with)
                start(self.network, self._passing[self._dealt_with], self._down[self._dealt_with])
                self._dealt_with += 1
        else:
            # The last answer is what the thread looks at.
            while self._dealt_with < len(self._answers) - 1 and self._answers[self._dealt_with].Test():
                # There is nothing to wait for, but perhaps to check.
                self._answers[self._dealt_with].Wait()
                self._take_answer(self._dealt_with)
                self._dealt_with += 1

    def _copy_and_decode(self, moves: Moves, j: int) -> None:
        """A device decodes an answer while it is copied; a host decodes it when it is on its way."""
        wire = self._down[j]
        if self._children:
            wire.begin_push()
        moves.apply(self._replies[j])
        if self._children:
            wire.finish_push()

    def _take_part(self, moves: Moves) -> None:
        network, sends, clock = self.network, self._sends, self.network.clock
        sent = len(sends) if self.departure else 0
        for j, request in enumerate(self._answers):
            while sent < min(j + self._ahead, len(sends)):
                self._outbox.ready(sent)
                start(network, sends[sent : sent + 1], self._up[sent])
                sent += 1
                clock.lap(Phase.COMM)
            if j >= self._dealt_with:
                request.Wait()
                self._take_answer(j)
                clock.lap(Phase.COMM)
            moves.apply(self._replies[j])
        for request in sends:
            request.Wait()

    def _take_answer(self, j: int) -> None:
        """An answer is there: pass it on."""
        self._down[j].pull()
        self.network.counter.bytes_received += self._down[j].nbytes
        start(self.network, self._passing[j], self._down[j])

    def close(self) -> None:
        """Free the persistent requests, with nothing on its way."""
        if self.departure:
            self.departure.close()
        self.network.device.synchronize()
        self._inbox.close()
        for request in (*self._answers, *self._sends, *(r for requests in self._passing for r in requests)):
            request.Free()
        self._answers, self._sends, self._passing = [], [], []
