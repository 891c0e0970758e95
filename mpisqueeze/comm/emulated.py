"""Emulated links between the ranks of one host: each message is held until the link would have brought it.

The model is that of `costs.exchanges`: each rank has one port, which does at most one send and one receive at a time. A
message starts when it is sent and the sender's port is free, and occupies that port for τ = g + mβ. The receiver's port
takes messages in the order of their starts, each for τ from its start or from when the port is free, so that messages
of several senders queue. A message arrives l after the port has received it. All times are of the host's monotonic
clock, which its processes share.

A sender writes (start, bytes, tag) to a ring in the receiver's shared memory. The receiver books its port only for
messages that have started by now: no later call can start an earlier one, so the order is final without a lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import heapq
import mmap
import os
import sys
import tempfile
import threading
import time
from collections import defaultdict
from typing import Any

import numpy as np

from mpisqueeze.comm.world import World
from mpisqueeze.costs.link import Link
from mpisqueeze.errors import UsageError
from mpisqueeze.mpi import MPI

#: Most messages on their way from one rank to another.
CAPACITY = 1024
#: Seconds between two looks for messages, unless the link's gap is long.
PAUSE = 50e-6
#: Seconds until all ranks know that they agreed, times the number of ranks that share a core.
ALIGNMENT_S = 200e-6
#: Most seconds between two looks: MPI may need this rank's help to move other ranks' messages.
LONGEST_PAUSE = 1e-3
#: Floats in a stamp: start (s), bytes, tag.
_STAMP = 3
#: A tag that no message has.
_NOBODYS = 99
_PR_SET_TIMERSLACK = 29
_LOCK = threading.Lock()
_links: dict[int, EmulatedLink] = {}


def emulate(world: World, model: Link) -> EmulatedLink:
    """The emulated link between the ranks of `world`, with no message on it; collective. Raises UsageError."""
    handle = world.comm.py2f()
    if handle not in _links:
        _links[handle] = EmulatedLink(world)
    _links[handle].reset(model)
    return _links[handle]


class EmulatedLink:
    """This rank's port, and the stamps that other ranks wrote for it; collective, as is `reset`, which sets the model.

    Raises:
        UsageError: the ranks are on several hosts, whose clocks differ.
    """

    def __init__(self, world: World) -> None:
        if world.hosts > 1:
            raise UsageError(
                f"a link is emulated between the ranks of one host, and these are on {world.hosts}; leave it out, or "
                "use `mpisqueeze lab`",
                "--link",
            )
        self.model = Link(0.0, 0.0, 0.0)
        # If ranks left the gate one by one, their delays would count as the link's.
        self.alignment_s = ALIGNMENT_S * max(1.0, world.load)
        self.pause = PAUSE
        self._world = world
        self._rank, size = world.rank, world.size
        # For each source: the number of stamps written, the number read, and the ring.
        numbers = size * (2 + CAPACITY * _STAMP)
        memory = _shared_memory(world, 8 * numbers * size)
        shape = (size, 2 + CAPACITY * _STAMP)
        boxes = list(np.frombuffer(memory, np.float64).reshape(size, *shape))
        mine = self._box = boxes[self._rank]
        self._written, self._read = mine[:, 0], mine[:, 1]
        self._stamps = mine[:, 2:].reshape(size, CAPACITY, _STAMP)
        self._seen = np.zeros(size, np.int64)
        # This rank's rows in the boxes of the receivers.
        self._counts = [box[self._rank, :2] for box in boxes]
        self._rings = [box[self._rank, 2:].reshape(CAPACITY, _STAMP) for box in boxes]
        self._sent = [0] * size
        self._send_free = self._receive_free = 0.0
        self._started: list[tuple[float, int, int, int]] = []
        self._booked: defaultdict[tuple[int, int], int] = defaultdict(int)
        self._expected: defaultdict[tuple[int, int], int] = defaultdict(int)
        self._arrivals: dict[tuple[int, int, int], float] = {}
        _precise_sleep()

    def reset(self, model: Link) -> None:
        """Forget all messages, and follow `model` from now on; collective."""
        self._world.comm.Barrier()
        self.model = model
        self.pause = min(max(PAUSE, model.gap / 2), LONGEST_PAUSE)
        self._box[:] = 0
        self._seen[:] = 0
        self._sent[:] = [0] * len(self._sent)
        self._send_free = self._receive_free = 0.0
        for kept in (self._started, self._booked, self._expected, self._arrivals):
            kept.clear()
        _fence()
        self._world.comm.Barrier()

    def sender(self, request: Any, target: int, tag: int, nbytes: int) -> HeldSend:
        """A persistent send that is held back."""
        return HeldSend(self, request, target, tag, nbytes)

    def receiver(self, request: Any, source: int, tag: int) -> HeldReceive:
        """A persistent receive that is held back."""
        return HeldReceive(self, request, source, tag)

    def send(self, target: int, tag: int, nbytes: int) -> float:
        """Book this rank's port for a message, tell its receiver, and return the time (s) when the port is free."""
        start = max(time.monotonic(), self._send_free)
        self._send_free = start + self.model.message(nbytes)
        sent, counts = self._sent[target], self._counts[target]
        while sent - counts[1] >= CAPACITY:
            # The receiver may wait for this rank to receive its message, or to move MPI's pending messages.
            self._book()
            self._world.comm.Iprobe(MPI.ANY_SOURCE, _NOBODYS)
            time.sleep(PAUSE)
        self._rings[target][sent % CAPACITY] = (start, nbytes, tag)
        _fence()
        counts[0] = self._sent[target] = sent + 1
        return self._send_free

    def expect(self, source: int, tag: int) -> tuple[int, int, int]:
        """The key of the next message from `source` with this tag."""
        number = self._expected[source, tag]
        self._expected[source, tag] = number + 1
        return source, tag, number

    def arrival(self, key: tuple[int, int, int]) -> float | None:
        """A message's time of arrival (s), or None while it is not known."""
        if key not in self._arrivals:
            self._book()
        return self._arrivals.get(key)

    def forget(self, key: tuple[int, int, int]) -> None:
        """Drop a received message's time of arrival."""
        del self._arrivals[key]

    def _book(self) -> None:
        """Read new stamps, and book the receiving port for the messages that have started."""
        now = time.monotonic()
        started = self._started
        if (self._written > self._seen).any():
            written = self._written.copy()
            _fence()
            for source in np.flatnonzero(written > self._seen).tolist():
                for number in range(int(self._seen[source]), int(written[source])):
                    start, nbytes, tag = self._stamps[source, number % CAPACITY].tolist()
                    heapq.heappush(started, (start, source, int(tag), int(nbytes)))
            self._seen[:] = written
            self._read[:] = written
        while started and started[0][0] <= now:
            start, source, tag, nbytes = heapq.heappop(started)
            self._receive_free = max(start, self._receive_free) + self.model.message(nbytes)
            number = self._booked[source, tag]
            self._booked[source, tag] = number + 1
            self._arrivals[source, tag, number] = self._receive_free + self.model.latency


class HeldSend:
    """A persistent send that completes when the emulated port is free again."""

    def __init__(self, link: EmulatedLink, request: Any, target: int, tag: int, nbytes: int) -> None:
        self.request = request
        self._link, self._where, self._until = link, (target, tag, nbytes), 0.0

    def Start(self) -> None:
        self._until = self._link.send(*self._where)
        self.request.Start()

    def Wait(self) -> None:
        _sleep_until(self._until, self.request)
        self.request.Wait()

    def Test(self) -> bool:
        """True if `Wait` returns at once."""
        return bool(self.request.Test()) and self._until <= time.monotonic()

    def Free(self) -> None:
        self.request.Free()


class HeldReceive:
    """A persistent receive that completes when the message arrives over the emulated link."""

    def __init__(self, link: EmulatedLink, request: Any, source: int, tag: int) -> None:
        self.request = request
        self._link, self._where = link, (source, tag)
        self._key: tuple[int, int, int] | None = None

    def Start(self) -> None:
        self._key = self._link.expect(*self._where)
        self.request.Start()

    def Wait(self) -> None:
        link, key = self._link, self._key
        if key is None:
            self.request.Wait()
            return
        # The arrival is known once the message has started, so one look per gap is soon enough.
        while (arrival := link.arrival(key)) is None:
            self.request.Test()
            time.sleep(link.pause)
        _sleep_until(arrival, self.request)
        self.request.Wait()
        link.forget(key)
        self._key = None

    def Test(self) -> bool:
        """True if `Wait` returns at once."""
        there = bool(self.request.Test())
        if self._key is None:
            return there
        arrival = self._link.arrival(self._key)
        return there and arrival is not None and arrival <= time.monotonic()

    def Cancel(self) -> None:
        """Give up a message that will not come."""
        self.request.Cancel()
        self._key = None

    def Free(self) -> None:
        self.request.Free()


def _sleep_until(moment: float, request: Any) -> None:
    """Sleep until `moment`, and meanwhile test `request`, since MPI may need this rank's help to move messages."""
    while (left := moment - time.monotonic()) > 0:
        request.Test()
        time.sleep(min(left, LONGEST_PAUSE))


def _shared_memory(world: World, nbytes: int) -> mmap.mmap:
    """Zeroed memory shared by all ranks of this host, freed when the last of them ends; collective."""

    def create() -> str:
        folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
        handle, path = tempfile.mkstemp(prefix="mpisqueeze-link-", dir=folder)
        os.ftruncate(handle, nbytes)
        os.close(handle)
        return path

    def attach() -> mmap.mmap:
        with open(path, "r+b") as file:
            return mmap.mmap(file.fileno(), nbytes)

    path: str = world.on_root(create)
    try:
        return world.collectively(attach)
    finally:
        if world.is_root:
            os.unlink(path)


def _fence() -> None:
    """A memory barrier: earlier writes are seen before later ones on processors that reorder writes."""
    for _ in range(2):
        with _LOCK:
            pass


def _precise_sleep() -> None:
    """Set this thread's timer slack to the minimum; Linux otherwise wakes sleepers up to 50 µs late."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
