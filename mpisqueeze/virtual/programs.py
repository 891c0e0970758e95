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


def through_root(way: str, up: float, down: float, sections: int) -> Callable[[Cluster, int], Steps]:
    """All send payloads of `up` bytes in sections to worker 0, which answers each with `down` bytes in a tree."""

    def program(cluster: Cluster, me: int) -> Steps:
        tree, sent = Tree(way, cluster.size), []
        if me:
            sent += [cluster.send(me, 0, up / sections, 1) for _ in range(sections)]
        for _ in range(sections):
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


def gossip(
    neighbours: Sequence[Sequence[int]], nbytes: float, work: Seconds, ends: Seconds | None = None
) -> Callable[[Cluster, int], Steps]:
    """Iterations without a barrier: a gradient, then a payload to each neighbour and one from each.

    Args:
        neighbours: of each worker.
        work: (T, N), time (s) of each gradient.
        ends: (T, N), filled with the time (s) when each worker ended each iteration.
    """

    def program(cluster: Cluster, me: int) -> Steps:
        clock, size = cluster.clock, cluster.size
        targets = sorted(neighbours[me], key=lambda target: (target - me) % size)
        for t, seconds in enumerate(work[:, me].tolist()):
            clock.spend(me, seconds)
            sent = [cluster.send(me, target, nbytes) for target in targets]
            for source in targets:
                yield from cluster.receive(me, source)
            _finish(cluster, me, sent)
            if ends is not None:
                ends[t, me] = clock.now(me)

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
