"""Streams, events and pinned memory of the emulator: work runs as late as it may, or as early."""

from __future__ import annotations

import bisect
import ctypes
import os
import threading
import time
import weakref
from collections import deque
from typing import Any, ClassVar

#: Kinds of work, of which each may be done late or early.
KERNEL, COPY = "kernel", "copy"


class Settings:
    """Choices of the emulator where CUDA allows several.

    Attributes:
        backwards: threads and blocks run in reverse order.
        early: the kinds of work, KERNEL and COPY, that are done as early as they may.
    """

    def __init__(self) -> None:
        self.backwards = False
        self.early: frozenset[str] = frozenset(filter(None, os.environ.get("CUDA_EMULATOR_EARLY", "").split(",")))


SETTINGS = Settings()


class _Record:
    """The moment at which a stream comes to an event."""

    def __init__(self, stream: Stream) -> None:
        self.stream, self.done, self.time = stream, False, 0.0


class Stream:
    """A stream that runs its work as late as events and synchronisations allow, or as early.

    `SETTINGS.early` says whether kernels or copies are early. Both show a missing wait: late work is not yet done, and
    early work meets memory that late work still needs or has not filled.
    """

    streams: ClassVar[weakref.WeakSet[Stream]] = weakref.WeakSet()

    def __init__(self, non_blocking: bool = False) -> None:
        self.non_blocking = non_blocking
        self._todo: deque[tuple[Any, str]] = deque()
        self._outer: list[Stream] = []
        Stream.streams.add(self)

    def __enter__(self) -> Stream:
        self._outer.append(current_stream())
        _current.stream = self
        return self

    def __exit__(self, *_: object) -> None:
        _current.stream = self._outer.pop()

    def give(self, work: Any, kind: str) -> None:
        """Have `work` done behind all that this stream was given before, and whatever can be early done now."""
        if not self.non_blocking:
            # The default stream and streams that block wait for each other.
            for other in list(Stream.streams) if self is null_stream else [null_stream]:
                if other is not self and not other.non_blocking:
                    other.synchronize()
        self._todo.append((work, kind))
        while sum(stream._advance() for stream in list(Stream.streams)):
            pass

    def _advance(self) -> bool:
        """Do what is early at the head of the queue; whether there was any."""
        done = False
        while self._todo:
            work, kind = self._todo[0]
            if kind == "wait" and not work.done:
                break
            if kind in (KERNEL, COPY) and kind not in SETTINGS.early:
                break
            self._next()
            done = True
        return done

    def _next(self) -> None:
        work, kind = self._todo.popleft()
        if kind == "wait":
            work.stream.reach(work)
        elif kind == "record":
            work.done, work.time = True, time.perf_counter()
        else:
            work()

    def reach(self, record: _Record) -> None:
        while not record.done:
            self._next()

    def record(self, event: Event) -> None:
        event.record(self)

    def wait_event(self, event: Event) -> None:
        if event.last is not None:
            self.give(event.last, "wait")

    def synchronize(self) -> None:
        while self._todo:
            self._next()


class Event:
    """A moment of a stream."""

    def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
        self.disable_timing = disable_timing
        self.last: _Record | None = None

    def record(self, stream: Stream | None = None) -> None:
        stream = stream or current_stream()
        self.last = _Record(stream)
        stream.give(self.last, "record")

    def synchronize(self) -> None:
        if self.last is not None:
            self.last.stream.reach(self.last)


def get_elapsed_time(begin: Event, end: Event) -> float:
    """Milliseconds; as in CUDA, of events that keep the time and have been reached."""
    if begin.disable_timing or end.disable_timing:
        raise ValueError("cudaErrorInvalidResourceHandle: an event without timing")
    assert begin.last is not None
    assert end.last is not None
    if not (begin.last.done and end.last.done):
        raise RuntimeError("cudaErrorNotReady: device not ready")
    return 1e3 * (end.last.time - begin.last.time)


null_stream = Stream()
_current = threading.local()


def current_stream() -> Stream:
    return getattr(_current, "stream", null_stream)


_pinned: dict[int, bytearray] = {}
_begins: list[int] = []


class PinnedMemory:
    """Memory of the host that copies may run on, and that kernels may write; kept for good, as a late copy needs it."""

    def __init__(self, size: int, flags: int = 0) -> None:
        if size < 1:
            raise ValueError("cudaErrorInvalidValue: pinned memory of no bytes")
        self.size = size
        self.block = bytearray(size)
        begin = ctypes.addressof(ctypes.c_char.from_buffer(self.block))
        _pinned[begin] = self.block
        bisect.insort(_begins, begin)


def PinnedMemoryPointer(memory: PinnedMemory, offset: int) -> memoryview:  # noqa: N802
    """What holds the bytes from `offset` on."""
    return memoryview(memory.block)[offset:]


def pinned_block(address: int, size: int) -> bytearray:
    """The pinned memory that holds these bytes; an asynchronous copy of any other is not asynchronous."""
    before = bisect.bisect_right(_begins, address)
    if before:
        begin = _begins[before - 1]
        if address + size <= begin + len(_pinned[begin]):
            return _pinned[begin]
    raise ValueError("an asynchronous copy needs pinned memory on the host")
