"""Phases of an iteration, and the clock that times them."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import IntEnum


class Phase(IntEnum):
    """The phases of an iteration, in the order of the log's fields."""

    COMPUTE = 0
    WAIT = 1
    ENCODE = 2
    COMM = 3
    DECODE = 4
    UPDATE = 5


class PhaseClock:
    """A clock for the phases of an iteration: `lap(phase)` books the time since the last lap.

    Attributes:
        now: function that gives the time (s).
        seconds: time by phase (s), of the current iteration or, between two, of the last one.
    """

    __slots__ = ("_last", "now", "seconds")

    def __init__(self) -> None:
        self.now: Callable[[], float] = time.perf_counter
        self.seconds = [0.0] * len(Phase)
        self._last = 0.0

    def start(self) -> float:
        """Begin an iteration, and return its start time (s)."""
        self.seconds[:] = (0.0,) * len(Phase)
        self._last = self.now()
        return self._last

    def lap(self, phase: int) -> None:
        """Book the time since the last lap under `phase`."""
        now = self.now()
        self.seconds[phase] += now - self._last
        self._last = now

    def work(self, phase: int) -> None:
        """`lap`, for work in a phase that is otherwise one of waiting: a simulated clock tells them apart."""
        self.lap(phase)

    def stop(self, phase: int) -> float:
        """Book the last lap, and return the iteration's end time (s)."""
        self.lap(phase)
        return self._last
