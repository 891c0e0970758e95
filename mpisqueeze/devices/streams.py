"""The streams of one GPU: copies beside the computation, fences, and timing by the device's clock.

Computation runs on CuPy's current stream, which plug-ins and other libraries use too. Nothing waits for a whole device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mpisqueeze.devices.buffers import Fence
from mpisqueeze.devices.clock import Phase, PhaseClock


class StreamFence(Fence):
    """A fence for the current stream."""

    def __init__(self, cupy: Any) -> None:
        self._event = cupy.cuda.Event(disable_timing=True)

    def set(self) -> None:
        self._event.record()

    def wait(self) -> None:
        self._event.synchronize()


class CudaLanes:
    """A stream for copies to the host and one for copies from it, beside the current one.

    Args:
        faulty: function that returns True if an encode has met an element that is not finite; its payload must not be
            sent.
    """

    def __init__(self, cupy: Any, faulty: Callable[[], bool]) -> None:
        self._cupy, self.faulty = cupy, faulty
        # They must not wait for the default stream, which is often the current one.
        self._down, self._up = (cupy.cuda.Stream(non_blocking=True) for _ in range(2))
        # A stream waits for an event as last recorded at the time of the call, so one event serves all copies.
        self._turn = self.event()

    def fence(self) -> StreamFence:
        """A fence for the current stream."""
        return StreamFence(self._cupy)

    def event(self) -> Any:
        """An event for `to_host`, with a method `synchronize`."""
        return self._cupy.cuda.Event(disable_timing=True)

    def to_host(self, source: Any, target: int, nbytes: int, done: Any) -> None:
        """Copy to pinned memory behind the work queued so far, and record `done` behind the copy."""
        down, turn = self._down, self._turn
        turn.record()
        down.wait_event(turn)
        source.copy_to_host_async(target, nbytes, down)
        done.record(down)

    def to_device(self, source: int, target: Any, nbytes: int) -> None:
        """Copy from pinned memory in front of the work queued from now on."""
        up, turn = self._up, self._turn
        target.copy_from_host_async(source, nbytes, up)
        turn.record(up)
        self._cupy.cuda.get_current_stream().wait_event(turn)


class StreamClock(PhaseClock):
    """A phase clock for a GPU, which the host does not wait for at each lap.

    A lap records an event in the current stream. Between two events the device computed, waited for a copy, or was idle
    while the host met the other ranks or waited for a message; that time belongs to the second lap. A phase that is
    hidden behind computation takes no time. The iteration itself is timed by the host, from one synchronisation of the
    stream to the next.
    """

    __slots__ = ("_cupy", "_marks", "_phases")

    def __init__(self, cupy: Any) -> None:
        super().__init__()
        self._cupy = cupy
        self._marks = [cupy.cuda.Event()]
        self._phases: list[int] = []

    def start(self) -> float:
        self.seconds[:] = (0.0,) * len(Phase)
        self._phases.clear()
        self._cupy.cuda.get_current_stream().synchronize()
        began = self.now()
        self._marks[0].record()
        return began

    def lap(self, phase: int) -> None:
        phases, marks = self._phases, self._marks
        # Consecutive laps of one phase are one lap.
        if not phases or phases[-1] != phase:
            phases.append(phase)
            if len(phases) == len(marks):
                marks.append(self._cupy.cuda.Event())
        marks[len(phases)].record()

    def stop(self, phase: int) -> float:
        self.lap(phase)
        marks = self._marks
        marks[len(self._phases)].synchronize()
        ended = self.now()
        elapsed = self._cupy.cuda.get_elapsed_time
        for i, booked in enumerate(self._phases):
            self.seconds[booked] += 1e-3 * elapsed(marks[i], marks[i + 1])
        return ended
