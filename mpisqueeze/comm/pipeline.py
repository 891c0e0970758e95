"""What the exchanges with a server have in common: payloads that travel in sections, and the work done on each.

A section is a range of the vector whose payload stands for itself, so that it is encoded, sent, added up, answered and
decoded while others travel. Sections change no bit of the result: payloads are added in rank order within each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

from mpisqueeze.comm.exchange import Network
from mpisqueeze.costs.exchanges import WINDOW_BYTES, sections_ahead
from mpisqueeze.devices.buffers import Wire
from mpisqueeze.devices.clock import Phase


class Work(Protocol):
    """What is done to sections, by the part of the vector and the number of the section in it."""

    def encode(self, part: int, section: int) -> None:
        """Fill `up[part][section]` with this rank's payload."""

    def combines(self, part: int) -> bool:
        """Whether the part's server takes all ranks' payloads of a section at once, by `combine`."""

    def combine(self, part: int, section: int, payloads: Sequence[Any]) -> None:
        """At the part's server: the mean of all ranks' payloads, in this order."""

    def accumulate(self, part: int, section: int, payload: Any, first: bool) -> None:
        """At the part's server: add a rank's payload to what is there, or with `first` begin with it."""

    def answer(self, part: int, section: int) -> None:
        """At the part's server, when all ranks' payloads are in: fill `down[part][section]`."""

    def decode(self, part: int, section: int) -> None:
        """Take `down[part][section]`, which is there."""


def cut(network: Network, sizes: Sequence[Sequence[int]], alignment: int) -> tuple[list[list[Wire]], list[Any]]:
    """A wire for each section of each part, out of one buffer, and each part's bytes (uint8) in a row.

    Parts begin at multiples of `alignment` bytes.
    """
    starts, end = [], 0
    for part in sizes:
        starts.append(end)
        end += -(-sum(part) // alignment) * alignment
    whole = network.wire(end)
    wires: list[list[Wire]] = []
    for start, part in zip(starts, sizes, strict=True):
        wires.append([])
        for nbytes in part:
            wires[-1].append(whole.part(start, start + nbytes))
            start += nbytes
    return wires, [whole.array[start : start + sum(part)] for start, part in zip(starts, sizes, strict=True)]


class Outbox:
    """This rank's payloads in the order of sending: each is encoded and brought to MPI's side.

    A device that encodes while the host sends is given the next ones, too, as many as its `lookahead`.

    Args:
        items: (part, section, wire) of each payload; no wire where the payload stays on this rank.
    """

    def __init__(self, network: Network, items: Sequence[tuple[int, int, Wire | None]]) -> None:
        self._ahead = network.device.lookahead
        self._items = [(part, section) for part, section, _ in items]
        self._wires = [wire for _, _, wire in items]
        # Where they have nothing to do, wires are not asked.
        self._pushes = any(wire is not None and not wire.immediate for wire in self._wires)
        self._begun = 0
        self._work: Work

    def open(self, work: Work, first: int) -> None:
        """Have the `first` payloads of an exchange ready to be sent; no more of them, before ranks have met."""
        self._work, self._begun = work, 0
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
        encode = self._work.encode
        for i in range(self._begun, min(count, len(self._items))):
            part, section = self._items[i]
            encode(part, section)
            if self._pushes and (wire := self._wires[i]) is not None:
                wire.begin_push()
        self._begun = count

    def _finish(self, index: int) -> None:
        wire = self._wires[index]
        if wire is not None:
            wire.finish_push()


class Inbox:
    """Where a server receives its part's payloads: a window of buffers, filled section by section in rank order.

    Args:
        sizes: bytes of each section's payload, in the order of sending; the last one may be shorter than the others, or
            the first.
        sources: the ranks that send, in the order in which their payloads are handed out; none on who serves nothing.
        early: senders wait for no answers, so that all they send finds a buffer, as far as the window allows.

    Attributes:
        ahead: sections that a rank may send before it has the answer to the first of them.
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
            buffers = [network.wire(longest) for _ in range(slots)]
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
        self._i = 0

    def open(self) -> list[Any]:
        """Post the first receives of an exchange; gives the last of them, one of each source."""
        self._i = 0
        first = [self._message(i)[1] for i in range(min(self._slots, self._count))]
        for request in first:
            request.Start()
        return first[-self._sources :]

    def _message(self, i: int) -> tuple[Wire, Any]:
        """Where message i arrives, and by which request."""
        short = self._short.get(i)
        if short is not None:
            return short
        n = i % len(self._requests)
        return self._wires[n], self._requests[n]

    def arrived(self) -> bool:
        """Whether the next section's payloads of all sources are there, as far as that can be said without waiting.

        What `open` gave is left alone, since somebody else may be looking at it.
        """
        i, n = self._i, self._sources
        if i + 2 * n > min(self._slots, self._count):
            return False
        return all(self._message(message)[1].Test() for message in range(i, i + n))

    def next(self) -> Any:
        """The next payload, once it is there; valid until the next call."""
        i, slots = self._i, self._slots
        done, fences = i - 1 - self._behind, self._fences
        if fences and i:
            fences[(i - 1) % len(fences)].set()
        if 0 <= done < self._count - slots:
            if fences:
                fences[done % len(fences)].wait()
            # This payload is done with, so that its buffer is free.
            self._message(done + slots)[1].Start()
        network = self.network
        wire, request = self._message(i)
        request.Wait()
        wire.pull()
        network.counter.bytes_received += wire.nbytes
        network.clock.lap(Phase.COMM)
        self._i = i + 1
        return wire.array

    @property
    def holds_sections(self) -> bool:
        """Whether the window takes the payloads of all sources at once, as `section` needs it."""
        return bool(self._sources) and self._slots >= self._sources

    def section(self) -> list[Any]:
        """The next section's payloads of all sources, once they are there; valid until the next call."""
        i, n, slots = self._i, self._sources, self._slots
        # The section handed out last is done with, so that its buffers are free.
        for before in range(max(0, i - n), i):
            if before + slots < self._count:
                self._message(before + slots)[1].Start()
        network, found = self.network, []
        for message in range(i, i + n):
            wire, request = self._message(message)
            request.Wait()
            wire.pull()
            network.counter.bytes_received += wire.nbytes
            found.append(wire.array)
        network.clock.lap(Phase.COMM)
        self._i = i + n
        return found

    def close(self) -> None:
        """Free the persistent requests."""
        for request in (*self._requests, *(request for _, request in self._short.values())):
            request.Free()
        self._requests.clear()
        self._short.clear()
