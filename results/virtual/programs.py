"""Exchanges on the simulated clock alone, without training: what stragglers and a network's size cost.

A program is a generator that one worker runs on a `Cluster`: it sends, and gives way where it waits.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpisqueeze.costs.exchanges import Tree
from mpisqueeze.costs.link import Link
from mpisqueeze.virtual.clock import Clock, Message

Steps = Generator[None, None, None]
Seconds = NDArray[np.float64]

_NEVER = -np.inf


@dataclass(frozen=True)
class _Worker:
    index: int

    def work_s(self) -> float:
        """Programs take no time of this process."""
        return 0.0


class Cluster:
    """Workers that run programs; all of them begin at time 0."""

    def __init__(self, size: int, link: Link) -> None:
        self.clock, self.size = Clock(size, link), size
        self._workers = [_Worker(index) for index in range(size)]
        self._sent: defaultdict[tuple[int, int, int], deque[Message]] = defaultdict(deque)
        self._waiting: set[tuple[int, int, int]] = set()
        self._here: list[int] = []

    def send(self, me: int, target: int, nbytes: float, tag: int = 0) -> Message:
        """Start a message; `Message.free` says when its sender's port is free again."""
        message = self.clock.send(me, target, nbytes)
        key = me, target, tag
        self._sent[key].append(message)
        if key in self._waiting:
            self._waiting.remove(key)
            self.clock.append(self._workers[target])
        return message

    def receive(self, me: int, source: int, tag: int = 0) -> Steps:
        """Wait for the next message of a worker."""
        key = source, me, tag
        if not self._sent[key]:
            self._waiting.add(key)
            yield
        message = self._sent[key].popleft()
        if not self.clock.arrived(self._workers[me], message):
            yield
        self.clock.receive(me, message)

    def meet(self, me: int) -> Steps:
        """Wait for all workers."""
        self._here.append(me)
        if len(self._here) == self.size:
            latest = max(map(self.clock.now, self._here))
            for worker in self._here:
                self.clock.reach(worker, latest)
                self.clock.append(self._workers[worker])
            self._here = []
        yield

    def run(self, program: Callable[[Cluster, int], Steps], order: Sequence[int] | None = None) -> Seconds:
        """The workers' times (s) at the end of their programs, (N,); `order` is that in which they are ready at first.

        Raises RuntimeError where they wait for each other.
        """
        programs = {worker: program(self, worker) for worker in range(self.size)}
        for worker in order or range(self.size):
            self.clock.append(self._workers[worker])
        while self.clock:
            worker = self.clock.popleft().index
            if next(programs[worker], self) is self:
                del programs[worker]
        if programs:
            raise RuntimeError(f"all workers wait for each other: {sorted(programs)}")
        return np.array([self.clock.now(worker) for worker in range(self.size)])


def through_root(
    way: str, up: float, down: float, sections: int, ahead: int | None = None
) -> Callable[[Cluster, int], Steps]:
    """All send payloads of `up` bytes in sections to worker 0, which answers each with `down` bytes in a tree.

    Args:
        ahead: sections that a worker sends before it has the answer to the first of them; None: all.
    """

    def program(cluster: Cluster, me: int) -> Steps:
        tree, sent = Tree(way, cluster.size), []
        for section in range(sections):
            # All that it may send at the beginning, and then a section for each answer.
            first = ahead or sections
            leaving = min(first, sections) if not section else int(section + first <= sections)
            sent += [cluster.send(me, 0, up / sections, 1) for _ in range(leaving if me else 0)]
            for source in range(1, cluster.size) if not me else ():
                yield from cluster.receive(0, source, 1)
            if me:
                yield from cluster.receive(me, tree.parent(me) or 0, 2)
            sent += [cluster.send(me, child, down / sections, 2) for child in tree.children(me)]
        _finish(cluster, me, sent)

    return program


def sharded(up: float, down: float) -> Callable[[Cluster, int], Steps]:
    """Each worker serves 1/N of payloads of `up` bytes, and answers all with 1/N of `down` bytes."""

    def program(cluster: Cluster, me: int) -> Steps:
        size, sent = cluster.size, []
        behind = [(me + k) % size for k in range(1, size)]
        for tag, nbytes in ((1, up), (2, down)):
            sent += [cluster.send(me, target, nbytes / size, tag) for target in behind]
            for source in reversed(behind):
                yield from cluster.receive(me, source, tag)
        _finish(cluster, me, sent)

    return program


def _finish(cluster: Cluster, me: int, sent: Sequence[Message]) -> None:
    if sent:
        cluster.clock.sent(me, sent[-1])


def after_barriers(exchange: Callable[[Cluster, int], Steps], link: Link, work: Seconds) -> Seconds:
    """The times (s) when each worker ends each iteration, (T, N): a gradient, a barrier, an exchange.

    When all have met, every port is idle and every message has come. So all exchanges take the same, and one is
    simulated for all.

    Args:
        work: (T, N), time (s) of each gradient.
    """
    takes = Cluster(work.shape[1], link).run(exchange)
    ends = np.empty_like(work)
    now = np.zeros(work.shape[1])
    for t, seconds in enumerate(work):
        now = (now + seconds).max() + takes
        ends[t] = now
    return ends


def gossip(neighbours: Sequence[Sequence[int]], nbytes: float, link: Link, work: Seconds) -> Seconds:
    """The times (s) when each worker ends each iteration, (T, N): a gradient, then payloads to and from all neighbours.

    They are those of programs on a `Cluster`, to the bit, found for all workers at once. There is no barrier, but a
    worker waits for all its neighbours, so that none of these is more than an iteration ahead of it. Before the last
    message of an iteration, its port takes those of the next one that start earlier. When they start depends on the
    ends of this iteration at their senders, which depend on such early messages there: both are found by repetition.
    A worker ends after its early messages have started; so each pass has one more worker right at the least, in the
    order of their ends, and a pass that changes nothing is the last.

    Args:
        neighbours: of each worker; each is a neighbour of its neighbours.
        nbytes: of a payload.
        work: (T, N), time (s) of each gradient.
    """
    ports = _Ports(neighbours, link.gap + nbytes * link.byte_s)
    ends, free = np.empty_like(work), np.zeros(ports.size)
    starts, sent = ports.send(work[0])
    for t, end in enumerate(ends):
        last, last_sender = ports.last(starts)
        early = np.full_like(starts, _NEVER)
        while True:
            taken = ports.receive(free, np.concatenate((starts, early)))
            end[:] = np.maximum(sent, np.where(last > _NEVER, taken + link.latency, _NEVER))
            if t + 1 == len(ends):
                return ends
            following, following_sent = ports.send(end + work[t + 1])
            is_early = (following < last) | (following == last) & (ports.senders < last_sender)
            before, early = early, np.where(is_early, following, _NEVER)
            if np.array_equal(before, early):
                break
        free, starts, sent = taken, np.where(is_early, _NEVER, following), following_sent
    return ends


class _Ports:
    """The ports of workers that send a message to each neighbour at a time, each of which keeps a port for `kept_s`.

    Attributes:
        senders: (most neighbours, N), of the messages that each worker receives, in ascending order; then 0.
    """

    def __init__(self, neighbours: Sequence[Sequence[int]], kept_s: float) -> None:
        self.size, most, self._kept_s = len(neighbours), max(map(len, neighbours)), kept_s
        self._workers, self._degrees = np.arange(self.size), np.array([*map(len, neighbours)])
        #: Places of the received messages among all that are sent, in the order of sending; the last of all for none.
        self._places = np.full((most, self.size), most * self.size)
        for me, others in enumerate(neighbours):
            for number, other in enumerate(sorted(others, key=lambda other: (other - me) % self.size)):
                self._places[sorted(neighbours[other]).index(me), other] = number * self.size + me
        self.senders = self._places % self.size
        self._steps = np.full((most + 1, self.size), kept_s)

    def send(self, now: Seconds) -> tuple[Seconds, Seconds]:
        """The starts of the messages that each worker receives, −∞ for none, and when the senders' ports are free."""
        self._steps[0] = now
        starts = np.add.accumulate(self._steps)
        return np.append(starts[:-1], _NEVER)[self._places], starts[self._degrees, self._workers]

    def last(self, starts: Seconds) -> tuple[Seconds, NDArray[np.int64]]:
        """The start and the sender of the last message that each worker receives; −∞ and −1 for none."""
        last = starts.max(axis=0, initial=_NEVER)
        return last, np.where(starts == last, self.senders, -1).max(axis=0, initial=-1)

    def receive(self, free: Seconds, starts: Seconds) -> Seconds:
        """The times at which the receivers' ports, free from `free` on, have taken messages; a start of −∞ is none.

        Ports take messages in the order of their starts, each for as long, so no port asks whose they are.
        """
        for start in np.sort(starts, axis=0):
            if start.max() > _NEVER:
                free = np.maximum(free, start) + np.where(start > _NEVER, self._kept_s, 0.0)
        return free
