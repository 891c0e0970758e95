"""Requests between virtual workers whose messages take the time of a simulated link: see `virtual.clock`."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any

from mpisqueeze.comm.world import World
from mpisqueeze.costs.link import Link
from mpisqueeze.devices.clock import PhaseClock
from mpisqueeze.errors import UsageError
from mpisqueeze.virtual.clock import Clock, Message, WorkerClock
from mpisqueeze.virtual.jitter import Jitter


def simulate(
    world: World,
    link: Link | None,
    compute_s: float | None,
    jitter: Jitter | None,
    seed: int,
    iteration: Callable[[], int],
) -> PhaseClock | None:
    """Begin the simulated clock of a world of virtual workers; this worker's clock of phases. Collective.

    It is None where there is nothing to simulate: times are then those that the workers' own work takes.

    Args:
        compute_s: time (s) of a gradient, None: as measured.
        jitter: what gradients take longer, by `seed`.
        iteration: gives the number of the iteration.

    Raises:
        UsageError: the workers are in several processes, between which no network is simulated.
    """
    comm: Any = world.comm
    worker = comm.worker
    scheduler = worker.scheduler

    def begin() -> None:
        if link is not None and world.process.size > 1:
            raise UsageError(
                f"a network between virtual workers is simulated in one process, and here are {world.process.size}: "
                "leave mpirun out",
                "--link",
            )
        idle = link is None and compute_s is None and jitter is None
        size = scheduler.workers[-1].index + 1
        clock = None if idle else Clock(size, link, compute_s, jitter, seed)
        ready, scheduler.clock = scheduler.ready, clock
        scheduler.ready = deque() if clock is None else clock
        while ready:
            scheduler.ready.append(ready.popleft())

    world.on_root(begin)
    clock: Clock | None = scheduler.clock
    return None if clock is None else WorkerClock(clock, worker, iteration)


def simulated_link(world: World) -> SimulatedLink:
    """The link between the workers of a world, once `simulate` has begun, as this worker sees it."""
    comm: Any = world.comm
    return SimulatedLink(comm.worker.scheduler.clock, comm.worker, comm.members)


class SimulatedLink:
    """The link between the virtual workers of a process, as one of them sees it.

    Args:
        worker: this one, with its `index`, and `wait(what)` until it is ready.
        workers: the workers' numbers by their ranks.
    """

    #: Nobody's time depends on when it leaves an agreement.
    alignment_s = 0.0

    def __init__(self, clock: Clock, worker: Any, workers: Sequence[int]) -> None:
        assert clock.link is not None
        self.clock, self.worker, self._workers = clock, worker, workers
        self.model: Link = clock.link
        self._sent: defaultdict[tuple[int, int], int] = defaultdict(int)
        self._expected: defaultdict[tuple[int, int], int] = defaultdict(int)

    def sender(self, request: Any, target: int, tag: int, nbytes: int) -> SimulatedSend:
        """A persistent send that takes the link's time."""
        return SimulatedSend(self, request, target, tag, nbytes)

    def receiver(self, request: Any, source: int, tag: int) -> SimulatedReceive:
        """A persistent receive that takes the link's time."""
        return SimulatedReceive(self, request, source, tag)

    def send(self, target: int, tag: int, nbytes: int) -> Message:
        """Start a message to a rank."""
        me, other = self.worker.index, self._workers[target]
        number = self._sent[other, tag]
        self._sent[other, tag] = number + 1
        message = self.clock.messages[me, other, tag, number] = self.clock.send(me, other, nbytes)
        return message

    def expect(self, source: int, tag: int) -> tuple[int, int, int, int]:
        """The key of the next message from a rank with this tag."""
        other = self._workers[source]
        number = self._expected[other, tag]
        self._expected[other, tag] = number + 1
        return other, self.worker.index, tag, number

    def message(self, key: tuple[int, int, int, int]) -> Message | None:
        """A message, None while it was not sent."""
        return self.clock.messages.get(key)

    def forget(self, key: tuple[int, int, int, int]) -> None:
        """Drop a message that has arrived."""
        del self.clock.messages[key]


class SimulatedSend:
    """A persistent send that completes when the sender's port is free again."""

    def __init__(self, link: SimulatedLink, request: Any, target: int, tag: int, nbytes: int) -> None:
        self.request = request
        self._link, self._where = link, (target, tag, nbytes)
        self._message: Message | None = None

    def Start(self) -> None:
        self._message = self._link.send(*self._where)
        self.request.Start()

    def Wait(self) -> None:
        self.request.Wait()
        if self._message is not None:
            self._link.clock.sent(self._link.worker.index, self._message)
            self._message = None

    def Test(self) -> bool:
        """True if `Wait` returns at once."""
        clock, worker = self._link.clock, self._link.worker.index
        there = bool(self.request.Test())
        return there and (self._message is None or self._message.free <= clock.now(worker))

    def Free(self) -> None:
        self.request.Free()


class SimulatedReceive:
    """A persistent receive that completes when the message arrives."""

    def __init__(self, link: SimulatedLink, request: Any, source: int, tag: int) -> None:
        self.request = request
        self._link, self._where = link, (source, tag)
        self._key: tuple[int, int, int, int] | None = None

    def Start(self) -> None:
        self._key = self._link.expect(*self._where)
        self.request.Start()

    def Wait(self) -> None:
        self.request.Wait()
        link, key = self._link, self._key
        if key is None:
            return
        message = link.message(key)
        assert message is not None
        if not link.clock.arrived(link.worker, message):
            link.worker.wait(f"the arrival of a message from rank {self._where[0]}")
        link.clock.receive(link.worker.index, message)
        link.forget(key)
        self._key = None

    def Test(self) -> bool:
        """True if `Wait` returns at once, as far as earlier messages of other workers are known."""
        there = bool(self.request.Test())
        if self._key is None or not there:
            return there
        message = self._link.message(self._key)
        arrival = None if message is None else message.arrival
        return arrival is not None and arrival <= self._link.clock.now(self._link.worker.index)

    def Cancel(self) -> None:
        """Give up a message that will not come."""
        self.request.Cancel()
        self._key = None

    def Free(self) -> None:
        self.request.Free()
