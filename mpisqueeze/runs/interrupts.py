"""Signals by which a user or a scheduler asks the program to stop."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from mpisqueeze.comm.signals import SAME_S, Signal
from mpisqueeze.holder import abandon

if TYPE_CHECKING:
    from mpisqueeze.comm.world import World

#: The signal between ranks for each signal of the operating system; 0 for none.
_WISHES: dict[int, Signal] = {
    0: Signal.NONE,
    signal.SIGINT: Signal.INTERRUPT,
    signal.SIGTERM: Signal.TERMINATE,
    signal.SIGHUP: Signal.TERMINATE,
    # The usual choice for SLURM's --signal, which is sent some time before the end of a job.
    signal.SIGUSR1: Signal.TERMINATE,
}
_CAUGHT = tuple(number for number in _WISHES if number)
_NOHUP = (signal.SIGHUP, signal.SIG_IGN)
#: Signals that `note_early` has noted.
_early: list[int] = []


def note_early() -> None:
    """Keep SIGUSR1, which would end this process during set-up, for the first `Interrupts`."""
    signal.signal(signal.SIGUSR1, lambda number, frame: _early.append(number))


def wish_of(number: int) -> Signal:
    """The signal between ranks for one of the operating system; 0 stands for none."""
    return _WISHES[number]


class StoppedError(Exception):
    """A signal came to one of the ranks, and all of them know of it: Signal.INTERRUPT or Signal.TERMINATE."""


class Interrupts:
    """A context manager that notes SIGINT, SIGTERM, SIGHUP and SIGUSR1, so that a run can stop in good order.

    Another signal ends the process at once, unless it comes within SAME_S seconds of the first. Python hears signals in
    its main thread alone: in another one, as that of a server, none is noted.

    Args:
        listens: False for one that notes nothing; a process has one that does.

    Attributes:
        number: the signal noted, or 0.
    """

    def __init__(self, listens: bool = True) -> None:
        self.number, self._listens = 0, listens
        self._noted = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if not self._listens:
            return self
        heard = _CAUGHT if threading.current_thread() is threading.main_thread() else ()
        # `nohup` has SIGHUP ignored, which is a promise.
        caught = [number for number in heard if (number, signal.getsignal(number)) != _NOHUP]
        self._before = {number: signal.signal(number, self._note) for number in caught}
        if _early:
            self.number = _early[0]
            _early.clear()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def hand_on(self) -> None:
        """Pass a signal that came during set-up to the run, which listens by now."""
        if self.number:
            number, self.number = self.number, 0
            os.kill(os.getpid(), number)

    def hand_back(self) -> None:
        """Pass a signal that came too late for a run to the `Interrupts` around it, if there is one."""
        if isinstance(getattr(self._before.get(self.number), "__self__", None), Interrupts):
            os.kill(os.getpid(), self.number)

    @property
    def wish(self) -> Signal:
        """The signal that this rank contributes when the ranks agree."""
        return wish_of(self.number)

    def agree(self, world: World) -> None:
        """Raise StoppedError on all ranks if one of them noted a signal; collective."""
        agreed = Signal(world.agree(self.wish))
        if agreed:
            raise StoppedError(agreed)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.number:
            self.number, self._noted = number, time.monotonic()
        elif time.monotonic() - self._noted >= SAME_S:
            abandon()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@contextmanager
def at_once(work: Callable[[int, threading.Event], None]) -> Iterator[None]:
    """Have a thread call `work` with the number of the first signal that `Interrupts` notes within the block.

    Python's own handlers wait for the main thread, which may be in a long call to C. The block's end sets the event,
    and waits for `work` to return.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    over = threading.Event()
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)

    def listen() -> None:
        while number := ours.recv(1):
            if number[0] in _CAUGHT:
                work(number[0], over)
                return

    thread = threading.Thread(target=listen, name="mpisqueeze signals", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        over.set()
        theirs.close()
        thread.join()
        ours.close()
