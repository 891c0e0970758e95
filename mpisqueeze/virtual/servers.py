"""The exchange with servers between workers of one process, which read each other's payloads where they lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np

from mpisqueeze.comm.exchange import Network
from mpisqueeze.comm.pipeline import Moves, Parts, Payload, places
from mpisqueeze.costs.exchanges import Tree
from mpisqueeze.costs.sections import messages
from mpisqueeze.devices.clock import Phase


class SharedPipeline:
    """`comm.servers.ServerPipeline` without its messages, of which N² would take longer than what is done with them.

    Moves, sections and what is counted are the same. All payloads are ready when the workers have passed the gate, and
    all answers when they have met once more.

    Attributes:
        answers: uint8, the payloads of the answers that this worker gives, in a row, by its rank.
        departure: None, as no payload leaves early.
    """

    departure = None
    #: A section's payloads are there all at once.
    holds_sections = True

    def __init__(self, network: Network, parts: Parts) -> None:
        comm: Any = network.world.comm
        self.network, self._comm = network, comm
        rank, size = network.world.rank, network.world.size
        up, down = self._up, self._down = parts.up, parts.down
        self._lay(up, parts.alignment, parts.memory)
        self._served, self._replies = parts.of_server(rank)
        self.answers = dict.fromkeys((rank,), self._lay([self._replies], parts.alignment)[0])
        servers = parts.servers(rank, size)
        self._sent = [*chain(*(up[s] for s in reversed(servers))), *self._served]
        self._taken = [*chain(*(down[s] for s in servers))]
        self._others = [r for r in range(size) if r != rank]
        self._letters: Iterator[Any] = iter(())
        tree = Tree(parts.way, size)
        passes = {s: len(tree.children((rank - s) % size)) for s in range(len(up))}
        leaving = [(section, 1) for s in servers for section in up[s]]
        leaving += [(reply, passes[s]) for s in passes for reply in down[s]]
        self._bytes_sent = sum(section.payload_bytes * count for section, count in leaving)
        self._messages = sum(messages(section.payload_bytes) * count for section, count in leaving)
        self._bytes_received = sum(section.payload_bytes for section in self._taken)
        self._bytes_received += (size - 1) * sum(section.payload_bytes for section in self._served)
        self._all: Sequence[SharedPipeline] = comm.share(self)
        self._knows_answers = False

    def _lay(self, parts: Sequence[Sequence[Payload]], alignment: int, memory: Any = None) -> list[Any]:
        """Give each section its payload, out of one buffer, or of `memory`; each part's bytes in a row."""
        starts, lengths, end = places(parts, alignment)
        whole = self.network.device.xp.empty(end, np.uint8) if memory is None else memory
        for part, begin in zip(parts, starts, strict=True):
            for section in part:
                section.payload = whole[begin : begin + section.payload_bytes]
                begin += section.payload_bytes
        return [whole[begin : begin + length] for begin, length in zip(starts, lengths, strict=True)]

    def run(self, moves: Moves) -> None:
        """Exchange one vector. The gate is passed once the payloads are encoded."""
        network, counter = self.network, self.network.counter
        for section in self._sent:
            moves.send(section)
        network.gate.enter()
        if not network.gate.barrier:
            self._comm.Barrier()
        if not self._knows_answers:
            self._read_answers()
        counter.bytes_sent += self._bytes_sent
        counter.bytes_received += self._bytes_received
        counter.messages += self._messages
        network.clock.lap(Phase.COMM)
        self._serve(moves)
        self._comm.Barrier()
        network.clock.lap(Phase.COMM)
        for reply in self._taken:
            moves.apply(reply)

    def _serve(self, moves: Moves) -> None:
        """Add up the sections of this worker's part, and answer."""
        rank, size = self.network.world.rank, self.network.world.size
        for j, reply in enumerate(self._replies):
            is_mean = False
            if j < len(self._served):
                self._letters = (self._all[other]._up[rank][j].payload for other in self._others)
                is_mean = self._served[j].add_up(self)
            if not is_mean:
                reply.divide(size)
            moves.answer(reply)
            moves.apply(reply)

    def next(self, count: int = 1) -> list[Any]:
        """The next payloads of the section that is added up, by rank."""
        return [payload for _, payload in zip(range(count), self._letters, strict=False)]

    def _read_answers(self) -> None:
        """Have the answers of other servers read from their memory."""
        for s, part in enumerate(self._down):
            for reply, theirs in zip(part, self._all[s]._down[s], strict=True):
                reply.payload = theirs.payload
        self._knows_answers = True

    def close(self) -> None:
        """Nothing is on its way."""
        self._all = ()
