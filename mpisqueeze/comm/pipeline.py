"""Shared by the exchanges with servers: payloads that travel in sections, and the moves made on each.

A section is a range of the vector whose payload stands for itself, so that it is encoded, sent, added up, answered and
decoded while others travel. Sections change no bit of the result: payloads are added in rank order within each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mpisqueeze.comm.exchange import Network
from mpisqueeze.costs.exchanges import WINDOW_BYTES, sections_ahead
from mpisqueeze.costs.sections import messages
from mpisqueeze.devices.buffers import Wire
from mpisqueeze.devices.clock import Phase

#: Buffers begin at multiples of so many bytes.
_ALIGNED = 16


class Payload(Protocol):
    """A section in one direction, as its exchange sees it.

    Attributes:
        payload_bytes: its length.
        payload: uint8 on the device, in a buffer that MPI can be handed; set by the exchange.
    """

    payload: Any

    @property
    def payload_bytes(self) -> int: ...

    def add_up(self, inbox: Any) -> bool:
        """At its server: add up all ranks' payloads, in rank order; True if the sum is divided by their number, too."""

    def divide(self, ranks: int) -> None:
        """At its server: make the sum a mean."""


class Moves(Protocol):
    """The moves of an algorithm on a section."""

    def send(self, section: Any) -> None:
        """On each rank: fill the section's payload."""

    def answer(self, section: Any) -> None:
        """At the section's server, when the mean of all ranks' payloads is there: fill the answer's payload."""

    def apply(self, section: Any) -> None:
        """On each rank, when the answer is there: take it. The payload is kept."""


@dataclass(frozen=True)
class Parts:
    """The sections of a vector's parts. Rank s serves part s: there is one, of the root's, or one for each rank.

    Attributes:
        up, down: the sections of each part, as many up as down, or a single one up; their payloads are as long on every
            rank.
        alignment: bytes of an element.
        way: the tree that answers go down, see `costs.exchanges.Tree`, with the server in place of rank 0.
        memory: uint8, where the payloads of `up` lie one after another; None: a buffer of its own.
    """

    up: Sequence[Sequence[Payload]]
    down: Sequence[Sequence[Payload]]
    alignment: int
    way: str
    memory: Any = None

    def of_server(self, rank: int) -> tuple[Sequence[Payload], Sequence[Payload]]:
        """The sections that a rank serves, and the answers to them; neither where it is no server."""
        return (self.up[rank], self.down[rank]) if rank < len(self.up) else ((), ())

    def servers(self, rank: int, size: int) -> list[int]:
        """A rank's servers, in the order in which it takes their answers.

        It sends in the opposite order, to the ranks behind it first, so that no two send to the same one at a time.
        """
        behind = [(rank + k) % size for k in range(1, size)]
        return [s for s in reversed(behind) if s < len(self.up)]


def cut(
    network: Network, parts: Sequence[Sequence[Payload]], alignment: int, memory: Any = None
) -> tuple[list[list[Wire]], list[Any]]:
    """A wire for each section of each part, out of one buffer, and each part's bytes (uint8) in a row.

    Parts begin at multiples of `alignment` bytes of `memory` (uint8), or of new memory. Each section is given the array
    of its wire as payload.
    """
    starts, lengths, end = places(parts, alignment)
    whole = network.wire(end) if memory is None else network.device.wire_over(memory)
    wires: list[list[Wire]] = []
    for begin, part in zip(starts, parts, strict=True):
        wires.append([])
        for section in part:
            wire = whole.part(begin, begin + section.payload_bytes)
            section.payload = wire.array
            wires[-1].append(wire)
            begin += section.payload_bytes
    return wires, [whole.array[begin : begin + length] for begin, length in zip(starts, lengths, strict=True)]


def places(parts: Sequence[Sequence[Payload]], alignment: int) -> tuple[list[int], list[int], int]:
    """The bytes of a buffer where each part's payloads begin, multiples of `alignment`; their lengths; its end."""
    starts, lengths, end = [], [sum(section.payload_bytes for section in part) for part in parts], 0
    for length in lengths:
        starts.append(end)
        end += -(-length // alignment) * alignment
    return starts, lengths, end


def start(network: Network, requests: Sequence[Any], wire: Wire) -> None:
    """Send a payload, which MPI can read, by each of the requests, and count it."""
    for request in requests:
        request.Start()
    network.counter.bytes_sent += wire.nbytes * len(requests)
    network.counter.messages += len(requests) * messages(wire.nbytes)


class Outbox:
    """This rank's payloads in the order of sending; each is encoded and brought to MPI's side.

    A device that encodes while the host sends is given the next ones, too, as many as its `lookahead`.

    Args:
        items: (section, wire) of each payload; no wire where the payload stays on this rank.
    """

    def __init__(self, network: Network, items: Sequence[tuple[Payload, Wire | None]]) -> None:
        self._ahead = network.device.lookahead
        self._sections = [section for section, _ in items]
        self._wires = [wire for _, wire in items]
        # Wires that have nothing to do are not asked.
        self._pushes = any(wire is not None and not wire.immediate for wire in self._wires)
        self._begun = 0
        self._moves: Moves

    def open(self, moves: Moves, first: int) -> None:
        """Have the `first` payloads of an exchange ready to be sent; no more of them, before ranks have met."""
        self._moves, self._begun = moves, 0
        self._begin(first)
        for i in range(first if self._pushes else 0):
            self._finish(i)

    def ready(self, index: int) -> None:
        """Before payload `index` is sent or used; in order."""
        if index + self._ahead >= self._begun:
            self._begin(index + 1 + self._ahead)
        if self._pushes:
            self._finish(index)

    def _begin(self, count: int) -> None:
        sections, send = self._sections, self._moves.send
        for i in range(self._begun, min(count, len(sections))):
            send(sections[i])
            if self._pushes and (wire := self._wires[i]) is not None:
                wire.begin_push()
        self._begun = count

    def _finish(self, index: int) -> None:
        wire = self._wires[index]
        if wire is not None:
            wire.finish_push()


class Inbox:
    """A server's window of buffers, into which its part's payloads are received, section by section in rank order.

    Args:
        sizes: bytes of each section's payload, in the order of sending; the last one may be shorter than the others, or
            the first.
        sources: the ranks that send, in the order in which their payloads are handed out; none where nothing is served.
        early: senders wait for no answers, so that all they send finds a buffer, as far as the window allows.

    Attributes:
        ahead: sections that a rank may send before it has the answer to the first of them.
        holds_sections: the window takes the payloads of all sources at once.
    """

    def __init__(
        self, network: Network, sizes: Sequence[int], sources: Sequence[int], tag: int, early: bool = False
    ) -> None:
        self.network = network
        others, longest = network.world.size - 1, max(sizes, default=0)
        self.ahead = sections_ahead(others + 1, len(sizes), longest * len(sizes)) if others and sizes else 1
        slots = min((len(sizes) if early else self.ahead) * others, max(2, WINDOW_BYTES // max(longest, 1)))
        self._count, self._slots, self._sources = len(sources) * len(sizes), slots, len(sources)
        self._wires: list[Wire] = []
        self._requests: list[Any] = []
        self._short: dict[int, tuple[Wire, Any]] = {}
        if self._count:
            step = -(-longest // _ALIGNED) * _ALIGNED
            whole = network.wire(slots * step)
            buffers = [whole.part(start, start + longest) for start in range(0, slots * step, step)]
            # Message i, counted by section and then by source, comes into buffer i mod `slots`.
            for i in range(min(self._count, math.lcm(slots, len(sources)))):
                self._wires.append(buffers[i % slots])
                self._requests.append(network.receiver(buffers[i % slots].mpi, sources[i % len(sources)], tag))
            # A receive is as long as its message, which a checksum is of.
            short = 0 if sizes[0] < longest else len(sizes) - 1
            for i in range(short * len(sources), (short + 1) * len(sources)) if sizes[short] < longest else ():
                wire = buffers[i % slots].part(0, sizes[short])
                self._short[i] = wire, network.receiver(wire.mpi, sources[i % len(sources)], tag)
        # A device may be behind by some of the payloads handed out, whose buffers are not free until it is done.
        self._behind = min(network.device.lookahead, slots - 1)
        self._fences = [network.device.fence() for _ in range(self._behind + 1)] if network.device.lookahead else []
        self.holds_sections = bool(sources) and slots >= len(sources)
        self._first = [self._message(i)[1] for i in range(min(slots, self._count))]
        self._i = 0

    def open(self) -> list[Any]:
        """Post the first receives of an exchange; gives the last of them, one of each source."""
        self._i = 0
        for request in self._first:
            request.Start()
        return self._first[-self._sources :]

    def _message(self, i: int) -> tuple[Wire, Any]:
        """The wire that message i arrives in, and its request."""
        short = self._short.get(i)
        if short is not None:
            return short
        n = i % len(self._requests)
        return self._wires[n], self._requests[n]

    def arrived(self) -> bool:
        """The next section's payloads of all sources are there, as far as that can be said without waiting.

        The requests that `open` gave are left alone, since somebody else may be testing them.
        """
        i, n = self._i, self._sources
        if i + 2 * n > min(self._slots, self._count):
            return False
        return all(self._message(message)[1].Test() for message in range(i, i + n))

    def next(self, count: int = 1) -> list[Any]:
        """The next payloads, as many each time, once they are there; valid until the next call."""
        i, fences = self._i, self._fences
        # Each fence stands behind one payload: a device takes them one by one.
        assert count == 1 or not fences
        if fences and i:
            fences[(i - 1) % len(fences)].set()
        # The payloads handed out last are done with, so that their buffers are free.
        for done in range(max(0, i - count - self._behind), min(i - self._behind, self._count - self._slots)):
            if fences:
                fences[done % len(fences)].wait()
            self._message(done + self._slots)[1].Start()
        network, found = self.network, []
        for message in range(i, i + count):
            wire, request = self._message(message)
            request.Wait()
            wire.pull()
            network.counter.bytes_received += wire.nbytes
            found.append(wire.array)
        network.clock.lap(Phase.COMM)
        self._i = i + count
        return found

    def close(self) -> None:
        """Free the persistent requests."""
        for request in (*self._requests, *(request for _, request in self._short.values())):
            request.Free()
        self._requests.clear()
        self._short.clear()
        self._first.clear()
