"""Where an iteration's time goes."""

from __future__ import annotations

import time
from enum import IntEnum


class Phase(IntEnum):
    """The parts of an iteration, in the order of the log's fields."""

    COMPUTE = 0
    WAIT = 1
    ENCODE = 2
    COMM = 3
    DECODE = 4
    UPDATE = 5


class PhaseClock:
    """Where an iteration's time goes: `lap(phase)` books the time since the last lap.

    Attributes:
        seconds: by phase, of the iteration that was stopped last, or of the one that runs.
    """

    __slots__ = ("_last", "seconds")

    def __init__(self) -> None:
        self.seconds = [0.0] * len(Phase)
        self._last = 0.0

    def start(self) -> float:
        """Begin an iteration; the time (s) that it began."""
        self.seconds[:] = (0.0,) * len(Phase)
        self._last = time.perf_counter()
        return self._last

    def lap(self, phase: int) -> None:
        """Book the time since the last lap under `phase`."""
        now = time.perf_counter()
        self.seconds[phase] += now - self._last
        self._last = now

    def stop(self, phase: int) -> float:
        """A last lap, and the time (s) that the iteration ended."""
        self.lap(phase)
        return self._last
