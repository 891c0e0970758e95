"""The simulated clock of virtual workers: each has a time of its own, and messages take what the link model says.

The network is that of `costs.exchanges` and of `comm.emulated`: a message starts when it is sent and its sender's port
is free, and occupies that port for τ = g + mβ. The receiver's port takes messages in the order of their starts, each
for τ from its start or from when the port is free. A message arrives a latency l later.

The simulation is conservative: the worker that goes on is always the one with the smallest time, and a receiver's port
takes a message once no worker can start an earlier one. Nothing is ever taken back, so the times do not depend on how
fast this process is, or on the order in which it runs the workers. Agreements and metrics take no time, as they do on
an emulated link.
"""

from __future__ import annotations

import heapq
import time
from bisect import insort
from collections import deque
from collections.abc import Iterable

from mpisqueeze.costs.link import Link
from mpisqueeze.devices.clock import Phase, PhaseClock
from mpisqueeze.errors import UsageError
from mpisqueeze.virtual.jitter import Jitter

#: Seconds that pass for a worker that looks whether a message is there, until it looks again.
POLL_S = 50e-6
#: The last so many times of a piece of work, of which the median counts.
RECENT = 31
#: Work is done in the other phases; what these take is simulated.
_NETWORKS = (Phase.WAIT, Phase.COMM)


class Message:
    """A message on its way.

    Attributes:
        free: time (s) when its sender's port is free again.
        arrival: time (s) of its arrival; None while an earlier message may yet take the receiver's port.
    """

    __slots__ = ("arrival", "busy_s", "free", "target", "waiting")

    def __init__(self, target: int, busy_s: float, free: float) -> None:
        self.target, self.busy_s, self.free = target, busy_s, free
        self.arrival: float | None = None
        self.waiting = False


class Clock:
    """The times of all workers of this process, and the order in which they go on.

    Without a link it orders workers as they become ready, and measures their work alone.

    Args:
        workers: of all processes.
        alone: they are all in this process.

    Attributes:
        link: of the network between the workers; None: messages take no time.
        compute_s: time (s) of a gradient, None: as measured.
        jitter: what a gradient may take on top of that, None: nothing.
        seed: for that.
    """

    def __init__(self, workers: int, alone: bool = True) -> None:
        self.workers, self._alone = workers, alone
        self.reset(None)

    def reset(
        self, link: Link | None, compute_s: float | None = None, jitter: Jitter | None = None, seed: int = 0
    ) -> None:
        """Begin at time 0, with no message on its way; by one worker, while no other is at work.

        Raises UsageError for a link between workers of several processes.
        """
        if link is not None and not self._alone:
            raise UsageError(
                "a network between virtual workers is simulated in one process: leave mpirun out", "--link"
            )
        self.link, self.compute_s, self.jitter, self.seed = link, compute_s, jitter, seed
        workers = self.workers
        self._now = [0.0] * workers
        self._send_free, self._receive_free = [0.0] * workers, [0.0] * workers
        #: (start, sender, number, message) of messages that no port has received yet.
        self._starts: list[tuple[float, int, int, Message]] = []
        #: (time, number, worker) of workers that can go on; those that were ready before keep their order.
        self._ready = [(0.0, number, worker) for _, number, worker in sorted(getattr(self, "_ready", []))]
        self._number = max((number for _, number, _ in self._ready), default=0)
        #: Real seconds that each worker was not at work, and since when it is not.
        self._away, self._left = [0.0] * workers, [0.0] * workers
        self._typical: dict[tuple[object, ...], _Typical] = {}

    # -- workers' times

    def now(self, worker: int) -> float:
        """A worker's time (s)."""
        return self._now[worker]

    def spend(self, worker: int, seconds: float) -> None:
        """A worker works for so many seconds."""
        self._now[worker] += seconds

    def meet(self, workers: Iterable[int]) -> None:
        """These workers have waited for each other."""
        if self.link is not None:
            workers = list(workers)
            latest = max(self._now[worker] for worker in workers)
            for worker in workers:
                self._now[worker] = latest

    def phases(self, worker: int) -> WorkerClock:
        """A clock of the phases of an iteration, for a worker."""
        return WorkerClock(self, worker)

    def leave(self, worker: int) -> None:
        """Another worker is going to have this process."""
        self._left[worker] = time.perf_counter()

    def back(self, worker: int) -> None:
        """The worker has the process again."""
        self._away[worker] += time.perf_counter() - self._left[worker]

    def real(self, worker: int) -> float:
        """Real seconds for which the worker had the process, from some moment on."""
        return time.perf_counter() - self._away[worker]

    # -- messages

    def send(self, worker: int, target: int, nbytes: int) -> Message:
        """Start a message when the worker's port is free; the worker goes on at once."""
        assert self.link is not None
        start, busy_s = max(self._now[worker], self._send_free[worker]), self.link.message(nbytes)
        self._send_free[worker] = free = start + busy_s
        message = Message(target, busy_s, free)
        self._number += 1
        heapq.heappush(self._starts, (start, worker, self._number, message))
        return message

    def sent(self, worker: int, message: Message) -> None:
        """The worker has waited until its port was free."""
        self._now[worker] = max(self._now[worker], message.free)

    def arrived(self, worker: int, message: Message) -> bool:
        """The time of arrival is known, and `receive` may follow; else the worker is ready once it is."""
        if message.arrival is None:
            message.waiting = True
            return False
        return True

    def receive(self, worker: int, message: Message) -> None:
        """The worker has waited for the message."""
        assert message.arrival is not None
        self._now[worker] = max(self._now[worker], message.arrival)

    # -- the order of events

    def ready(self, worker: int) -> None:
        """The worker can go on at its time."""
        self._put(worker, self._now[worker] if self.link is not None else 0.0)

    def poll(self, worker: int) -> None:
        """The worker can go on, but has to look again: meanwhile time passes."""
        if self.link is not None:
            self._now[worker] += POLL_S
        self.ready(worker)

    def next(self) -> int | None:
        """The worker that goes on next, None where none can."""
        starts, ready = self._starts, self._ready
        while starts and (not ready or starts[0][0] <= ready[0][0]):
            self._book(*heapq.heappop(starts))
        return heapq.heappop(ready)[2] if ready else None

    def _book(self, start: float, _sender: int, _number: int, message: Message) -> None:
        """Have the receiver's port take the message."""
        assert self.link is not None
        target = message.target
        self._receive_free[target] = free = max(start, self._receive_free[target]) + message.busy_s
        message.arrival = free + self.link.latency
        if message.waiting:
            self._put(target, max(self._now[target], message.arrival))

    def _put(self, worker: int, moment: float) -> None:
        self._number += 1
        heapq.heappush(self._ready, (moment, self._number, worker))

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
    by the number of laps that each phase has had in an iteration.
    """

    __slots__ = ("_clock", "_counts", "_iteration", "_part", "_then", "_worker")

    def __init__(self, clock: Clock, worker: int) -> None:
        super().__init__()
        self._clock, self._worker = clock, worker
        self._then, self._iteration = 0.0, 0
        self._counts = [0] * len(Phase)
        self._part = (0,) * len(Phase)

    def now(self) -> float:
        return self._clock.now(self._worker)

    def start(self, iteration: int = 0) -> float:
        self.seconds[:] = (0.0,) * len(Phase)
        self._part = tuple(map(max, self._part, self._counts))
        self._counts[:] = (0,) * len(Phase)
        self._iteration = iteration
        self._last = self._clock.real(self._worker)
        self._then = self.now()
        return self._then

    def lap(self, phase: int) -> None:
        self._lap(phase, phase not in _NETWORKS)

    def work(self, phase: int) -> None:
        self._lap(phase, True)

    def _lap(self, phase: int, works: bool) -> None:
        clock, worker = self._clock, self._worker
        real = clock.real(worker)
        if works:
            clock.spend(worker, self._taken(phase, real - self._last))
        self._last, now = real, clock.now(worker)
        self.seconds[phase] += now - self._then
        self._then = now

    def _taken(self, phase: int, seconds: float) -> float:
        """The time (s) that a piece of work takes, which took `seconds` here."""
        clock, worker = self._clock, self._worker
        nth = self._counts[phase]
        self._counts[phase] = nth + 1
        if phase == Phase.COMPUTE and clock.compute_s is not None:
            seconds = clock.compute_s if not nth else 0.0
        elif clock.link is not None and any(self._part):
            seconds = clock.typical((worker if phase == Phase.COMPUTE else self._part, phase, nth), seconds)
        if phase == Phase.COMPUTE and not nth and clock.jitter is not None:
            seconds += clock.jitter(clock.seed, worker, self._iteration)
        return seconds
