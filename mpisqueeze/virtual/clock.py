"""The simulated clock of virtual workers: each has a time of its own, and messages take what the link model says.

The network is that of `costs.exchanges` and of `comm.emulated`: a message starts when it is sent and its sender's port
is free, and occupies that port for τ = g + mβ. The receiver's port takes messages in the order of their starts, those
of one moment in the order of their senders, each for τ from its start or from when the port is free. A message arrives
a latency l later.

The simulation is conservative: the worker that goes on is always the one with the smallest time, and a receiver's port
takes a message once no worker can start one that comes first. Nothing is ever taken back, so the times do not depend on
how fast this process is, or on the order in which it runs the workers. Agreements and metrics take no time, as they do
on an emulated link.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from typing import Protocol

from mpisqueeze.costs.link import Link
from mpisqueeze.devices.clock import Phase, PhaseClock
from mpisqueeze.virtual.jitter import Jitter

#: The last so many times of a piece of work, of which the median counts.
RECENT = 31
#: Work is done in the other phases; what these take is simulated.
_NETWORKS = (Phase.WAIT, Phase.COMM)


class Timed(Protocol):
    """A worker, as its clock sees it.

    Attributes:
        index: 0, 1, …
    """

    @property
    def index(self) -> int: ...

    def work_s(self) -> float:
        """Seconds of this process that it had for itself, from some moment on."""


class Message:
    """A message on its way.

    Attributes:
        free: time (s) when its sender's port is free again.
        arrival: time (s) of its arrival; None while an earlier message may yet take the receiver's port.
    """

    __slots__ = ("_busy_s", "_target", "_waiting", "arrival", "free")

    def __init__(self, target: int, busy_s: float, free: float) -> None:
        self._target, self._busy_s, self.free = target, busy_s, free
        self.arrival: float | None = None
        self._waiting: Timed | None = None


class Clock:
    """The times of all workers of a process, and the queue of those that can go on, the earliest first.

    Args:
        workers: how many there are.

    Attributes:
        link: of the network between the workers; None: messages take no time, and workers go on in turn.
        compute_s: time (s) of a gradient, None: as measured.
        jitter: what a gradient may take on top of that; None: nothing.
        seed: for that.
    """

    def __init__(
        self,
        workers: int,
        link: Link | None,
        compute_s: float | None = None,
        jitter: Jitter | None = None,
        seed: int = 0,
    ) -> None:
        self.link, self.compute_s, self.jitter, self.seed = link, compute_s, jitter, seed
        self._latency, self._gap, self._byte_s = (link.latency, link.gap, link.byte_s) if link else (0.0, 0.0, 0.0)
        self._now = [0.0] * workers
        self._send_free, self._receive_free = [0.0] * workers, [0.0] * workers
        #: (start, sender, number, message) of messages that no port has taken yet.
        self._starts: list[tuple[float, int, int, Message]] = []
        #: (time, number, worker) of workers that can go on.
        self._ready: list[tuple[float, int, Timed]] = []
        self._number = 0
        #: By (sender, receiver, tag, number); of those that were not received yet.
        self.messages: dict[tuple[int, int, int, int], Message] = {}
        #: The number of the worker whose turn it is.
        self._current: int | None = None
        self._typical: dict[tuple[object, ...], _Typical] = {}

    # -- workers' times

    def now(self, worker: int) -> float:
        """A worker's time (s)."""
        return self._now[worker]

    def spend(self, worker: int, seconds: float) -> None:
        """A worker works for so many seconds."""
        self._now[worker] += seconds

    def reach(self, worker: int, moment: float) -> None:
        """The worker has waited until then (s), for other workers."""
        self._now[worker] = max(self._now[worker], moment)

    # -- messages

    def send(self, worker: int, target: int, nbytes: float) -> Message:
        """Start a message when the worker's port is free; the worker goes on at once."""
        now, free, busy_s = self._now[worker], self._send_free[worker], self._gap + nbytes * self._byte_s
        start = now if now > free else free
        self._send_free[worker] = free = start + busy_s
        message = Message(target, busy_s, free)
        self._number += 1
        heappush(self._starts, (start, worker, self._number, message))
        return message

    def sent(self, worker: int, message: Message) -> None:
        """The worker has waited until its port was free."""
        self._now[worker] = max(self._now[worker], message.free)

    def arrived(self, worker: Timed, message: Message) -> bool:
        """The time of arrival is known, and `receive` may follow; else the worker is ready once it is."""
        if message.arrival is None:
            message._waiting = worker
            return False
        return True

    def receive(self, worker: int, message: Message) -> None:
        """The worker has waited for the message."""
        arrival = message.arrival
        assert arrival is not None
        if arrival > self._now[worker]:
            self._now[worker] = arrival

    # -- the queue of workers that can go on

    def append(self, worker: Timed) -> None:
        """The worker can go on, no earlier than the one that says so, for which it waited."""
        if self.link is None:
            self._put(worker, 0.0)
            return
        now, index = self._now, worker.index
        if self._current is not None:
            now[index] = max(now[index], now[self._current])
        self._put(worker, now[index])

    def __bool__(self) -> bool:
        """True if a worker can go on. All messages that start before it goes on have been taken then."""
        starts, ready = self._starts, self._ready
        while starts and (not ready or starts[0][0] < ready[0][0]):
            start, _, _, message = heappop(starts)
            # The receiver's port takes it.
            target = message._target
            free = self._receive_free[target]
            self._receive_free[target] = free = (start if start > free else free) + message._busy_s
            message.arrival = free + self._latency
            if message._waiting is not None:
                self._put(message._waiting, max(self._now[target], message.arrival))
        return bool(ready)

    def popleft(self) -> Timed:
        """The worker that goes on next. Raises IndexError where none can."""
        if not self:
            raise IndexError("no worker can go on")
        worker = heappop(self._ready)[2]
        self._current = worker.index
        return worker

    def _put(self, worker: Timed, moment: float) -> None:
        self._number += 1
        heappush(self._ready, (moment, self._number, worker))

    # -- work

    def typical(self, about: tuple[object, ...], seconds: float) -> float:
        """The median of the last times of a piece of work, this one (s) included."""
        if about not in self._typical:
            self._typical[about] = _Typical()
        return self._typical[about].after(seconds)


class _Typical:
    """The median of the last values; of an even number the lower one, since what disturbs work makes it longer."""

    __slots__ = ("_recent", "_sorted")

    def __init__(self) -> None:
        self._recent: deque[float] = deque()
        self._sorted: list[float] = []

    def after(self, value: float) -> float:
        recent, ranked = self._recent, self._sorted
        if len(recent) == RECENT:
            ranked.remove(recent.popleft())
        recent.append(value)
        insort(ranked, value)
        return ranked[(len(ranked) - 1) // 2]


class WorkerClock(PhaseClock):
    """The phases of a virtual worker's iteration, in its own time.

    Where there is a link, a piece of work takes the median of what it took lately, so that a pause of this process is
    no worker's: a gradient that of this worker's, any other piece that of all workers with the same part, which is told
    by the number of laps that each phase has had in an iteration. In the first iteration all workers have one part.

    Args:
        iteration: gives the number of the iteration.
    """

    __slots__ = ("_clock", "_counts", "_gradient", "_iteration", "_part", "_shares", "_then", "_worker")

    def __init__(self, clock: Clock, worker: Timed, iteration: Callable[[], int]) -> None:
        super().__init__()
        self.now = partial(clock.now, worker.index)
        self._clock, self._worker, self._iteration = clock, worker, iteration
        self._then = 0.0
        self._counts = [0] * len(Phase)
        self._part = (0,) * len(Phase)
        #: What the laps of a gradient took here (s), in this iteration and in the one before.
        self._gradient: list[float] = []
        self._shares: list[float] = []

    def start(self) -> float:
        self.seconds[:] = (0.0,) * len(Phase)
        self._part = tuple(map(max, self._part, self._counts))
        self._counts[:] = (0,) * len(Phase)
        self._gradient, self._shares = [], self._gradient or self._shares
        self._last = self._worker.work_s()
        self._then = self._clock.now(self._worker.index)
        return self._then

    def lap(self, phase: int) -> None:
        self._lap(phase, phase not in _NETWORKS)

    def work(self, phase: int) -> None:
        self._lap(phase, True)

    def stop(self, phase: int) -> float:
        self.lap(phase)
        return self._then

    def _lap(self, phase: int, works: bool) -> None:
        clock, worker = self._clock, self._worker.index
        worked = self._worker.work_s()
        if works:
            clock.spend(worker, self._taken(phase, worked - self._last))
        self._last, now = worked, clock.now(worker)
        self.seconds[phase] += now - self._then
        self._then = now

    def _taken(self, phase: int, seconds: float) -> float:
        """The time (s) that a piece of work takes, which took `seconds` here."""
        clock, worker = self._clock, self._worker.index
        nth = self._counts[phase]
        self._counts[phase] = nth + 1
        if phase == Phase.COMPUTE and clock.compute_s is not None:
            self._gradient.append(seconds)
            # A gradient in parts spreads its time over them as they took theirs the last time.
            parts, whole = self._shares[nth : nth + 1], sum(self._shares)
            seconds = clock.compute_s * (parts[0] / whole if parts and whole else float(not nth))
        elif clock.link is not None:
            own = phase == Phase.COMPUTE and any(self._part)
            seconds = clock.typical((worker if own else self._part, phase, nth), seconds)
        if phase == Phase.COMPUTE and not nth and clock.jitter is not None:
            seconds += clock.jitter(clock.seed, worker, self._iteration())
        return seconds
