"""Watchdogs that end ranks: all of them if one hangs, and a rank whose launcher is gone."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mpisqueeze.comm.launched import launched_rank
from mpisqueeze.comm.world import World
from mpisqueeze.errors import ExitCode
from mpisqueeze.holder import abandon, beat
from mpisqueeze.mpi import MPI
from mpisqueeze.streams import say

#: Seconds between two looks.
PAUSE = 0.5
#: Seconds that ranks have to answer the roll call, once one finds that an iteration takes too long.
ROLL_CALL_S = 2.0
#: A thread that wakes this many seconds late was stopped.
ASLEEP_S = 2.0
#: Seconds that setting up may take if --timeout is less: kernels may be compiled, and data read.
SETUP_S = 300.0
#: Seconds that a round of a benchmark, or a stage of a calibration, may take.
STAGE_S = 1800.0


def follow_launcher() -> None:
    """End this process as soon as its launcher has ended; does nothing if no launcher started it.

    Without this, an mpirun killed by SIGKILL leaves its ranks behind, waiting for each other for ever.
    """
    if launched_rank() is None:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PAUSE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="mpisqueeze launcher watch", daemon=True).start()


class Watchdog:
    """Ends all ranks when an iteration takes too long, and names the rank at fault. Collective.

    Its thread gives the signs of life of a holder of folders, too.

    A thread of each rank checks when the current iteration began. If that is too long ago, rank 0 calls the roll: a
    stopped rank does not answer, and a rank that still computes its gradient says so. Without MPI_THREAD_MULTIPLE each
    rank speaks for itself, and so does the first one of a process for its virtual workers.

    Args:
        timeout_s: longest time (s) for an iteration, an evaluation or a checkpoint.
        stage: name of the stage, where it is not an iteration.

    Attributes:
        iteration: function that returns the current iteration, 0 before the first.
        busy: whether this rank is computing its gradient, and waits for no other rank.
    """

    def __init__(self, world: World, timeout_s: float, stage: str = "") -> None:
        self.world, self.timeout_s, self._stage = world, timeout_s, stage
        self.iteration: Callable[[], int] = lambda: 0
        self.busy = False
        self._limit_s = max(timeout_s, SETUP_S)
        self._comm, self._tag = world.aside()
        self._beat = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mpisqueeze watchdog", daemon=True)
        if world.leads:
            self._thread.start()

    def beat(self) -> None:
        """Start the clock anew; the first call ends the set-up."""
        self._beat = time.monotonic()
        self._limit_s = self.timeout_s

    def state(self) -> tuple[str, float]:
        """Words for what this rank does, and the time (s) that it has been in its iteration."""
        doing = f"{'computing the gradient' if self.busy else 'exchanging'} in iteration {self.iteration()}"
        return doing if self.iteration() else "setting up", time.monotonic() - self._beat

    def rest(self) -> None:
        """Stop the clock until the next beat."""
        self._beat = math.inf

    def close(self) -> None:
        """End the thread."""
        self._stopped.set()
        if self.world.leads:
            self._thread.join()

    def _watch(self) -> None:
        pause = min(PAUSE, self.timeout_s / 10)
        looked = time.monotonic()
        while not self._stopped.wait(pause):
            beat()
            now = time.monotonic()
            if now - looked > pause + ASLEEP_S:
                # This process was stopped meanwhile, perhaps with all the others: then no rank is late.
                self._beat += now - looked
            elif now - self._beat > self._limit_s:
                self._end()
                return
            looked = now

    def _end(self) -> None:
        rank, size = self.world.rank, self.world.size
        mine = np.array([self.iteration(), int(self.busy)], np.int64)
        if MPI.Query_thread() < MPI.THREAD_MULTIPLE or size == 1 or self.world.virtual:
            # The virtual worker whose turn it is does not come to an end.
            at = getattr(self.world.comm, "turn", rank)
            self._abort(self._sentence([at], {at: mine}))
            return
        if rank:
            self._comm.Isend(mine, 0, self._tag)
            # Rank 0 needs this time to notice by itself and to call the roll; after that the lowest rank speaks.
            if self._stopped.wait(2 * ROLL_CALL_S + PAUSE + min(0.5 * (rank - 1), ROLL_CALL_S)):
                return
            self._abort(f"rank 0 gave no sign of life; {self._too_long(mine[0])}")
            return
        answers = {0: mine}
        boxes = {other: np.zeros(2, np.int64) for other in range(1, size)}
        requests = {other: self._comm.Irecv(box, other, self._tag) for other, box in boxes.items()}
        deadline = time.monotonic() + ROLL_CALL_S
        while requests and time.monotonic() < deadline:
            for other in [other for other, request in requests.items() if request.Test()]:
                answers[other] = boxes[other]
                del requests[other]
            time.sleep(0.01)
        if not self._stopped.is_set():
            self._abort(self._sentence(list(requests), answers))

    def _sentence(self, silent: list[int], answers: dict[int, Any]) -> str:
        iteration = max(int(answer[0]) for answer in answers.values())
        busy = [rank for rank, answer in answers.items() if answer[1]]
        if len(silent) == 1 and silent[0] in answers:
            return f"rank {silent[0]}: {self._too_long(iteration)}"
        if silent:
            return f"{_ranks(silent)} gave no sign of life; {self._too_long(iteration)}"
        if busy:
            return f"{_ranks(busy)} did not come to the end of the gradient; {self._too_long(iteration)}"
        return f"all ranks wait for each other; {self._too_long(iteration)}"

    def _too_long(self, iteration: int) -> str:
        if self._limit_s > self.timeout_s:
            return f"setting up takes longer than {self._limit_s:g} s"
        if self._stage:
            return f"{self._stage} takes longer than {self.timeout_s:g} s"
        return f"iteration {iteration} takes longer than --timeout {self.timeout_s:g} s"

    def _abort(self, message: str) -> None:
        abandon()
        say(f"mpisqueeze: {message}")
        MPI.COMM_WORLD.Abort(ExitCode.FAILED)


@contextmanager
def watched(world: World, stage: str) -> Iterator[Callable[[], None]]:
    """End all ranks when a stage takes half an hour. Yields a function to call when a stage begins. Collective."""
    watchdog = Watchdog(world, STAGE_S, stage)
    watchdog.beat()
    try:
        yield watchdog.beat
    finally:
        watchdog.close()


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
