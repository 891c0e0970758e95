"""The workers of one process, which take turns: each runs until it has to wait, and then another one goes on."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from mpisqueeze.errors import RankFailureError

#: Workers that are named where all of them wait for ever.
_NAMED = 8
#: Calls, some 100 kB of stack, between the scheduler's own and those of workers.
_FRAMES = 100


class Worker:
    """A worker, and the clock of what it does itself.

    Attributes:
        index: its number among all workers of all processes.
        away: seconds in which other workers of this process had its turn.
        waits_for: what it waits for, for an error about workers that wait for ever.
    """

    __slots__ = ("away", "greenlet", "index", "scheduler", "waits_for")

    def __init__(self, scheduler: Scheduler, index: int) -> None:
        self.scheduler, self.index = scheduler, index
        self.away = 0.0
        self.waits_for: Any = None
        self.greenlet: Any = None

    def now(self) -> float:
        """The time (s) by the simulated clock or, without one, by one that stands still in the turns of others."""
        clock = self.scheduler.clock
        return clock.now(self.index) if clock is not None else self.work_s()

    def work_s(self) -> float:
        """Seconds for which this worker had its turn, from some moment on."""
        return time.perf_counter() - self.away

    def moment(self) -> float:
        """The time (s) at which others can go on that wait for this worker; −∞ where no network is simulated."""
        clock = self.scheduler.clock
        return -math.inf if clock is None or clock.link is None else clock.now(self.index)

    def reach(self, moment: float) -> None:
        """The time (s) of the simulated clock until which this worker has waited."""
        if moment > -math.inf:
            self.scheduler.clock.reach(self.index, moment)

    def wait(self, what: Any) -> None:
        """Let others go on until `wake` is called; `what` says what this waits for."""
        self.waits_for = what
        self.scheduler.block(self)
        self.waits_for = None

    def wake(self) -> None:
        """Give this worker, which waits, another turn."""
        self.scheduler.ready.append(self)


class Scheduler:
    """Runs the workers of this process; the one that has been ready longest goes on.

    Args:
        indices: the workers' numbers.
        poll: looks for messages of other processes, which may make workers ready, and waits a little if there are none;
            None in a single process.

    Attributes:
        workers: in the order of their numbers.
        ready: the workers that can go on, a queue with `append` and `popleft`.
        clock: the simulated clock, see `virtual.clock`, which is the queue as well; None: times are the workers' own.
        current: the worker whose turn it is.
    """

    def __init__(self, indices: Iterable[int], poll: Callable[[], None] | None = None) -> None:
        self.workers = [Worker(self, index) for index in indices]
        self.ready: Any = deque()
        self.clock: Any = None
        self.current: Any = None
        self._poll = poll
        self._main = getcurrent()
        self._ending = False
        self._failure: BaseException | None = None
        self._results: dict[int, Any] = {}
        self._errors: dict[int, BaseException] = {}

    def run(self, work: Callable[[Worker], Any], alike: Sequence[type[BaseException]] = ()) -> Any:
        """Call `work` once for each worker; the result of the first one.

        Args:
            alike: errors that all workers raise, if one does; the first worker's is raised once all have ended. Any
                other error ends all workers at once.
        """
        for worker in self.workers:
            worker.greenlet = greenlet(lambda worker=worker: self._carry_out(worker, work, tuple(alike)))
        try:
            _far_down(_FRAMES, self._start_all)
            while len(self._results) + len(self._errors) < len(self.workers):
                if self.ready:
                    worker = self.current = self.ready.popleft()
                    worker.greenlet.switch()
                elif self._poll:
                    self._poll()
                else:
                    raise self._deadlock()
                if self._failure is not None:
                    raise self._failure
        finally:
            self._end()
        if self._errors:
            raise self._errors[min(self._errors)]
        return self._results[self.workers[0].index]

    def block(self, worker: Worker) -> None:
        """Switch to the next worker that can go on; returns when this one is next."""
        if self._ending:
            raise GreenletExit
        left = time.perf_counter()
        if self.ready:
            other = self.current = self.ready.popleft()
            if other is not worker:
                other.greenlet.switch()
        else:
            self._main.switch()
        worker.away += time.perf_counter() - left
        if self._ending:
            raise GreenletExit

    def _start_all(self) -> None:
        for worker in self.workers:
            worker.greenlet.switch()
            self.ready.append(worker)

    def _carry_out(self, worker: Worker, work: Callable[[Worker], Any], alike: tuple[type[BaseException], ...]) -> None:
        began = time.perf_counter()
        self._main.switch()
        worker.away = time.perf_counter() - began
        try:
            if not self._ending:
                self._results[worker.index] = work(worker)
        except GreenletExit:
            if not self._ending:
                raise
        except BaseException as error:
            if isinstance(error, alike) and not getattr(error, "alone", False):
                self._errors[worker.index] = error
            else:
                self._failure = error

    def _deadlock(self) -> RankFailureError:
        waiting = [worker for worker in self.workers if worker.waits_for is not None]
        some = "; ".join(f"rank {worker.index} for {worker.waits_for}" for worker in waiting[:_NAMED])
        return RankFailureError(f"all workers wait for each other: {some}", alone=True)

    def _end(self) -> None:
        """End the workers that have not ended, whose `finally` blocks are run."""
        self._ending = True
        for worker in self.workers:
            if worker.greenlet is not None and worker.greenlet and not worker.greenlet.dead:
                worker.greenlet.throw(GreenletExit)
            worker.greenlet = None


def _far_down(frames: int, work: Callable[[], None]) -> None:
    """Call `work` with so many more calls on the stack.

    The stacks of greenlets begin where these are first switched to. NumPy looks at its callers on the stack, where it
    might save a temporary vector, and ends the process unless it finds calls beyond a greenlet's own. All greenlets
    begin here, below calls that nothing overwrites later.
    """
    if frames:
        next(map(partial(_far_down, frames - 1), [work]), None)
    else:
        work()
