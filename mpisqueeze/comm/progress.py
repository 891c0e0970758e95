"""A thread that keeps messages moving while Python computes.

MPI moves a large message only while some thread is inside MPI. While the gradient is computed on a GPU, or by a library
that has released the interpreter lock, this thread calls MPI now and then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from mpisqueeze.comm.pieces import requests_of_mpi
from mpisqueeze.mpi import MPI

#: Seconds between two tests: far below a large message's time, and rare enough to leave the core to the gradient.
PAUSE = 50e-6


class ProgressThread:
    """Tests requests from a thread until they are complete or taken back.

    Without MPI_THREAD_MULTIPLE it does nothing, and messages move when the caller waits for them.

    Args:
        pause: seconds between two tests.
        turns: number of MPI calls in a test.
        begin: what the thread does first: `Device.make_current`, since MPI may copy a GPU's memory in this thread.

    Attributes:
        early: whether all requests of the last round were complete when they were taken back.
    """

    def __init__(self, begin: Callable[[], None], pause: float = PAUSE, turns: int = 1) -> None:
        self.early, self._begin, self._pause, self._turns = False, begin, pause, turns
        self._requests: list[Any] = []
        self._given, self._returned = threading.Event(), threading.Event()
        self._wanted = self._closing = False
        self._failure: Exception | None = None
        self._thread: threading.Thread | None = None
        self._usable = MPI.Query_thread() == MPI.THREAD_MULTIPLE

    def give(self, requests: list[Any]) -> None:
        """Hand over started requests; the caller must not touch them before `take_back`."""
        # The thread tests MPI's own request behind a held one; its owner waits for the emulated link.
        found = [own for request in requests for own in requests_of_mpi(request)]
        if not self._usable or not found:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mpisqueeze progress", daemon=True)
            self._thread.start()
        self._requests = found
        self.early = self._wanted = False
        self._returned.clear()
        self._given.set()

    @property
    def holds(self) -> bool:
        """True while the thread tests the requests, so that no other thread may."""
        return bool(self._requests) and not self._returned.is_set()

    def take_back(self) -> None:
        """Take the requests back, complete or not. Raises the error that testing them raised."""
        if self._thread is not None and self._requests:
            self._wanted = True
            self._returned.wait()
            self._requests = []
            if self._failure is not None:
                raise self._failure

    def close(self) -> None:
        """End the thread."""
        self.take_back()
        if self._thread is not None:
            self._closing = True
            self._given.set()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        self._begin()
        while True:
            self._given.wait()
            self._given.clear()
            if self._closing:
                return
            try:
                while not self._wanted:
                    if any(MPI.Request.Testall(self._requests) for _ in range(self._turns)):
                        self.early = True
                        break
                    time.sleep(self._pause)
            except Exception as error:
                self._failure = error
            finally:
                self._returned.set()
